"""Batches of any size in bounded memory: the rows are worked off in chunks, halved where memory runs out."""

import torch


def default_chunk(x):
    """Rows per forward pass for images like x: 10 at 224 x 224 on a CPU, whose caches like small batches, 83 on a GPU."""
    pixels = 2**19 if x.device.type == "cpu" else 2**22
    return max(1, pixels // (x.shape[-1] * x.shape[-2]))


def in_chunks(function, rows, chunk):
    """Concatenate function(slice) over consecutive slices of at most `chunk` of the rows.

    Raises ValueError for a chunk below 1, and the out-of-memory error where a single row does not fit.
    """
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}; a whole number of rows per forward pass is needed, at least 1")
    parts, done = [], 0
    while done < rows:
        try:
            parts.append(function(slice(done, min(done + chunk, rows))))
            done += chunk
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
            chunk //= 2
    return torch.cat(parts)


def predict(model, x, chunk=None):
    """Logits [B,C] of images [B,3,H,W], in eval mode, without a graph, in chunks."""
    from xai_repro.split import evaluating, logits_of

    chunk = default_chunk(x) if chunk is None else chunk
    with evaluating(model), torch.no_grad():
        return in_chunks(lambda rows: logits_of(model(x[rows].clone())), len(x), chunk)  # a clone: models may write in place

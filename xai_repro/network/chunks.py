"""Batches of any size in bounded memory: the rows are worked off in chunks, halved where memory runs out."""

import torch

from xai_repro.errors import whole_number


def default_chunk(x):
    """Rows per forward pass for images like x: 16 at 224 x 224 on a CPU, 83 on a GPU; fewer of larger images, at least one.

    A CPU's caches like small batches, but torch runs 1x1 convolutions of fewer than 16 images by a slower algorithm.
    """
    size = x.shape[-1] * x.shape[-2]
    if x.device.type != "cpu":
        return max(1, 2**22 // size)
    return max(1, 2**18 // size, min(16, 2**20 // size))


def gradient_chunk(model, x):
    """Rows per forward and backward pass: the default, and on a CPU at most 16 and at least 8 for depthwise convolutions.

    A backward pass keeps what the forward pass made; depthwise convolutions make much and compute little, so that they wait for
    the memory as soon as the caches are full.
    """
    depthwise = any(module.groups == module.in_channels > 1 for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    if not depthwise or x.device.type != "cpu":
        return default_chunk(x)
    return min(default_chunk(x), max(8, min(16, 2**18 // (x.shape[-1] * x.shape[-2]))))


def in_chunks(function, rows, chunk):
    """Concatenate function(slice) over consecutive slices of at most `chunk` of the rows.

    Raises ValueError for a chunk below 1, and the out-of-memory error where a single row does not fit.
    """
    chunk, parts, done = whole_number("chunk", chunk, most=2**62), [], 0
    while done < rows:
        try:
            parts.append(function(slice(done, min(done + chunk, rows))))
            done += chunk
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
            chunk //= 2
    return torch.cat(parts)

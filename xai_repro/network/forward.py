"""A forward pass that leaves the model as it was: eval mode for a while, and the logits in chunks."""

from contextlib import contextmanager

import torch

from xai_repro.network.chunks import default_chunk, in_chunks


@contextmanager
def outside_inference():
    """Run outside a caller's inference mode, with gradients on or off as the caller has them (off in inference mode)."""
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):  # inference_mode(False) alone turns gradients on
        yield


@contextmanager
def evaluating(model):
    """Run in eval mode and outside a caller's inference mode; every module's own train flag comes back, also after an error."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with outside_inference():
            yield
    finally:
        for module in training:
            module.training = True


def logits_of(output):
    """The logits among what a model returns (torchvision's auxiliary heads come as named tuples in train mode only)."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the model gives {got}; logits [B,C] are needed")
    return logits


def top1(model, x, y=None, chunk=None):
    """Class indices [B]: y itself where given, else the model's top-1, which costs a forward pass."""
    return predict(model, x, chunk).argmax(1) if y is None else y


def predict(model, x, chunk=None):
    """Logits [B,C] of images [B,3,H,W], in eval mode, without a graph, in chunks."""
    chunk = default_chunk(x) if chunk is None else chunk
    with evaluating(model), torch.no_grad():
        return in_chunks(lambda rows: logits_of(model(x[rows].clone())), len(x), chunk)  # a clone: models may write in place

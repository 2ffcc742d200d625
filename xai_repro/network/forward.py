"""A forward pass that leaves the model as it was: eval mode for a while, the logits among what it returns, in chunks."""

from contextlib import contextmanager
from contextvars import ContextVar

import torch

from xai_repro.errors import NotApplicable
from xai_repro.network.borrow import CONTEXT, borrowed, change, changes
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.numerics.algebra import wide

_OUTPUT = ContextVar("output", default=None)  # a function from what the model returns to logits, as the caller gave it
CONTEXT.append(_OUTPUT)


@contextmanager
def outside_inference():
    """Run outside a caller's inference mode, with gradients on or off as the caller has them (off in inference mode)."""
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):  # inference_mode(False) alone turns gradients on
        yield


@contextmanager
def evaluating(model):
    """Run in eval mode, uncompiled and outside a caller's inference mode; every module is as before afterwards, also after an error."""
    with changes():
        for module in model.modules():
            if module.training:
                change(module, "training", False)
            if module.__dict__.get("_compiled_call_impl"):  # of model.compile(): hooks and replaced forwards would not be seen
                change(module, "_compiled_call_impl", None)
        with outside_inference():
            yield


def check_unscripted(model, what):
    """Refuse a model that is TorchScript in part, whose calls are not made from Python: what names what they are looked at for."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise NotApplicable(f"the {what} of a TorchScript model cannot be reached: explain the model that it was made from")


def check_differentiable(model):
    """Refuse a model whose quantised layers pass no gradient, which torch would take for a gradient of zero."""
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__:
            raise NotApplicable(f"no gradient reaches the images through '{name}', a quantised layer: explain the model before it is quantised")


@contextmanager
def reading(output):
    """Read logits from what a model returns by a function of the caller's; None: as they come."""
    before = _OUTPUT.set(output if output is not None else _OUTPUT.get())
    try:
        yield
    finally:
        _OUTPUT.reset(before)


def logits_of(output, images):
    """The logits [B,C] among what a model returns for so many images: itself, its field `logits`, or what the caller's function makes of it.

    (torchvision's auxiliary heads come as named tuples in train mode only.)
    """
    function = _OUTPUT.get()
    logits = getattr(output, "logits", output) if function is None else function(output)
    if isinstance(logits, dict) and isinstance(logits.get("logits"), torch.Tensor):
        logits = logits["logits"]
    if isinstance(logits, torch.Tensor) and logits.dim() == 2 and (len(logits) != images or not logits.shape[1] or logits.is_complex()):
        kind = "complex " if logits.is_complex() else ""
        raise ValueError(f"the model gives {kind}{list(logits.shape)} for {images} images; real logits [B,C] are needed, a row for each image")
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise ValueError(f"the model gives {_said(logits)}; logits [B,C] are needed: say with output=... how they come from it, as in {_advice(logits)}")
    return logits


def _said(output):
    if isinstance(output, torch.Tensor):
        return str(list(output.shape))
    if isinstance(output, dict):
        return f"a dictionary of {', '.join(map(repr, list(output)[:6]))}"
    return f"a {type(output).__name__} of {len(output)}" if isinstance(output, (list, tuple)) else type(output).__name__


def _advice(output):
    if isinstance(output, torch.Tensor):
        return "lambda out: out.mean((2, 3))" if output.dim() == 4 else "lambda out: out[:, 0]" if output.dim() == 3 else "lambda out: out[:, None]"
    if isinstance(output, dict) and output:
        return f"lambda out: out[{next(iter(output))!r}]"
    return "lambda out: out[0]"


def predict(model, x, chunk=None):
    """Logits of images [B,...], in eval mode, without a graph, in chunks; in float32 at least, since probabilities are made of them."""

    def of(rows):
        return wide(logits_of(model(x[rows].clone()), len(x[rows])))  # a clone: models may write in place

    def run():
        with evaluating(model), torch.no_grad():
            return in_chunks(of, len(x), chunk)

    chunk = default_chunk(x) if chunk is None else chunk
    return borrowed(model, run)


def top1(model, x, y=None, chunk=None):
    """Class indices [B]: y itself where given, else the model's top-1, which costs a forward pass."""
    return predict(model, x, chunk).argmax(1) if y is None else y

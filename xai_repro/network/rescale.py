"""DeepLIFT's rescale rule with a zero reference, through whatever lies above a layer.

Activations and their reference (zeros) run through the head as one batch; backwards, an elementwise non-linearity passes the
slope of the chord between the two instead of the derivative, and a max-pool hands on what its output differs by. Functions are
caught where they are called, so functional and reused ReLUs count like modules.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

TINY = 1e-10  # differences below this have no chord: the derivative is taken

ELEMENTWISE = {
    "relu", "relu6", "silu", "gelu", "elu", "selu", "celu", "mish", "leaky_relu", "prelu", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "softsign", "log_sigmoid", "threshold", "clamp", "clamp_min", "exp", "abs", "square",
}  # fmt: skip
POOLING = {"max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"}


class RescaleRule(TorchFunctionMode):
    """While active, backward passes through non-linearities follow the rescale rule: the first half of every batch holds the
    activations, the second half their references. What is in neither list passes its gradient."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name.strip("_") in ELEMENTWISE:
            z, *rest = args or [kwargs.pop("input")]

            def plain(z):
                return function(z.clone(), *rest, **kwargs)  # a clone, since the function may write in place

            if name.endswith("_") or kwargs.get("inplace"):
                return z.copy_(_Chord.apply(z.clone(), plain))
            return _Chord.apply(z, plain)
        if name in POOLING and not kwargs.pop("return_indices", False):
            pool = getattr(F, name.removesuffix("_with_indices"))
            return _Pool.apply(args[0], lambda z: pool(z, *args[1:6], **kwargs, return_indices=True))
        return function(*args, **kwargs)


class _Chord(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, function):
        y = function(z)
        ctx.save_for_backward(z, y)
        ctx.function = function
        return y

    @staticmethod
    def backward(ctx, g):
        z, y = ctx.saved_tensors
        (dz, dy), half = ((a - b for a, b in (t.chunk(2) for t in (z, y)))), len(z) // 2
        with torch.enable_grad():
            here = z[:half].detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(here).sum(), here)
        close = dz.abs() < TINY
        chord = torch.where(close, slope, dy / torch.where(close, 1, dz))
        return torch.cat([g[:half] * chord, torch.zeros_like(g[half:])]), None


class _Pool(torch.autograd.Function):
    """The change of a window's maximum is handed to the positions of the two maxima: from the reference up to the larger of the
    two at the actual one, the rest at the reference's."""

    @staticmethod
    def forward(ctx, z, function):
        y, index = function(z)
        ctx.save_for_backward(z, y, index)
        return y

    @staticmethod
    def backward(ctx, g):
        z, y, index = ctx.saved_tensors
        half = len(z) // 2
        (x, x0), (m, m0), (at, at0), g = z.chunk(2), y.chunk(2), index.chunk(2), g[:half]
        top = torch.maximum(m, m0)
        shares = _put(g * (top - m0), at, x) + _put(g * (m - top), at0, x)
        close = (x - x0).abs() < TINY
        multiplier = torch.where(close, _put(g, at, x), shares / torch.where(close, 1, x - x0))
        return torch.cat([multiplier, torch.zeros_like(multiplier)]), None


def _put(values, index, like):
    """Values [.., h,w] added at their positions index in a tensor like [.., H,W]."""
    return torch.zeros_like(like).flatten(2).scatter_add_(2, index.flatten(2), values.flatten(2)).view_as(like)

"""Another backward pass through rectifiers, wherever they are.

Rectifiers are caught where they are called, so modules, functions, in-place and reused ones count alike: ReLU, ReLU6 and other
ReLUs with a ceiling. Every other operation, smooth non-linearities and max-pooling among them, keeps its gradient.
"""

import torch
from torch.overrides import TorchFunctionMode


class RectifierRule(TorchFunctionMode):
    """While active, the gradient at the input of every rectifier is rule(g, own): g at its output, own what it hands back itself.

    met: how many rectifiers were called.
    """

    def __init__(self, rule):
        super().__init__()
        self.rule, self.met = rule, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        ceiling = _ceiling(name.strip("_"), args, kwargs)
        if ceiling is None:
            return function(*args, **kwargs)
        self.met += 1
        z = args[0] if args else kwargs["input"]
        return _Rectifier.apply(z, self.rule, ceiling, name.endswith("_") or kwargs.get("inplace", False))


def _ceiling(name, args, kwargs):
    """The largest value that a function called by this name gives, if it is a rectifier; else None."""
    if name == "relu":
        return torch.inf
    if name == "relu6":
        return 6
    if name == "hardtanh":
        given = dict(zip(("input", "min_val", "max_val"), args)) | kwargs
        return given.get("max_val", 1.0) if given.get("min_val", -1.0) == 0 else None
    return None


class _Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, rule, ceiling, inplace):
        ctx.rule, ctx.ceiling = rule, ceiling
        y = (z if inplace else z.clone()).clamp_(0, ceiling) if ceiling < torch.inf else z.relu_() if inplace else z.relu()
        ctx.mark_dirty(*[z] * inplace)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        own = torch.ops.aten.threshold_backward(g, y, 0)
        if ctx.ceiling < torch.inf:
            own = own * (y < ctx.ceiling)
        return ctx.rule(g, own), None, None, None

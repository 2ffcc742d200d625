"""Another backward pass through ReLUs, wherever they are.

ReLUs are caught where they are called, so modules, functions, in-place and reused ones count alike. Every other operation, other
non-linearities and max-pooling among them, keeps its gradient.
"""

import torch
from torch.overrides import TorchFunctionMode


class ReLURule(TorchFunctionMode):
    """While active, the gradient at the input of every ReLU is rule(g, y), from the gradient g at its output and the output y."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name.strip("_") != "relu":
            return function(*args, **kwargs)
        z = args[0] if args else kwargs["input"]
        return _ReLU.apply(z, self.rule, name.endswith("_") or kwargs.get("inplace", False))


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, rule, inplace):
        ctx.rule = rule
        y = z.relu_() if inplace else z.relu()
        ctx.mark_dirty(*[z] * inplace)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return ctx.rule(g, *ctx.saved_tensors), None, None

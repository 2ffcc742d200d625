"""What relevance does at each function that a network calls; that of linear layers and convolutions is for their rules to say.

A step is called with the Propagation, which catches the call, and the function's arguments, and returns what the function gives.
"""

import torch
import torch.nn.functional as F

from xai_repro.errors import NotApplicable
from xai_repro.numerics.algebra import ratio, wide

ACTIVATIONS = {  # relevance passes them unchanged
    "relu", "relu6", "silu", "gelu", "elu", "selu", "celu", "mish", "leaky_relu", "prelu", "rrelu", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "softsign", "threshold", "clamp", "clamp_min",
}  # fmt: skip
MOVING = {  # take values elsewhere, or choose among them: autograd's own backward pass moves relevance alike
    "flatten", "reshape", "view", "view_as", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "getitem", "get", "cat", "concat",
    "concatenate", "stack", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "contiguous", "clone", "to", "cpu", "cuda", "float", "double",
    "max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices", "pad", "dropout", "dropout2d",
    "feature_dropout", "alpha_dropout", "channel_shuffle", "pixel_shuffle", "unflatten", "expand", "amax", "requires_grad", "type",
}  # fmt: skip


def activation(function):
    name = function.__name__.strip("_")
    out_of_place = getattr(F, name, None) or getattr(torch, name)

    def step(mode, x, *args, **kwargs):
        return mode.step(lambda x: out_of_place(x.clone(), *args, **kwargs), lambda R, x: [R], x)

    return step


def _linear(mode, x, weight, bias=None):
    return mode.layer(x, weight, bias, None)


def _conv2d(mode, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[-2:])]
        padding = [one // 2 for one in total]
        if any(one % 2 for one in total):  # one row or column more at the end
            inner, x = getattr(x, "behind_a_layer", False), F.pad(x, (0, total[1] % 2, 0, total[0] % 2))
            x.behind_a_layer = inner
    return mode.layer(x, weight, bias, (stride, _pair(padding), dilation, groups))


def _pair(value):
    return [value] * 2 if isinstance(value, int) else [*value] * (3 - len(value))


def affine(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *_):  # noqa: A002 - torch's names
    """What F.batch_norm, called so, does to each channel: scale and shift, in float32 at least."""
    if running_mean is None or training:
        raise NotApplicable("a BatchNorm without running statistics mixes the images of a batch")
    scale = (wide(running_var) + eps).rsqrt() * (1 if weight is None else wide(weight))
    return scale, (0 if bias is None else wide(bias)) - wide(running_mean) * scale


def _batch_norm(mode, x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *_):
    scale, shift = affine(x, mean, var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = mode.step(lambda x: x * scale.view(shape) + shift.view(shape), lambda R, x: [R], x)
    layer = getattr(x, "layer", None)
    if layer is not None and mode.rules.fold:
        layer.fold(scale, shift, y.detach())
        mode._hold(layer.kept)
    return y


def _sum(mode, a, b, *, alpha=1):
    if alpha != 1:
        raise NotApplicable("relevance has no rule for a sum with another factor than 1")
    if not reads(a) or not reads(b):
        return _with_a_constant(torch.add)(mode, a, b)
    weight, branch = mode.rules.weight, mode.rules.branch

    def share(R, a, b):
        if branch:
            return [R.sum_to_size(a.shape), torch.zeros_like(b)]
        wa, wb = weight(a), weight(b)
        S = ratio(R, wa + wb)
        return [(wa * S).sum_to_size(a.shape), (wb * S).sum_to_size(b.shape)]

    return mode.step(torch.add, share, a, b)


def _with_a_constant(op):
    """Of what depends on the images and a constant, the former has all relevance."""

    def step(mode, a, b, **kwargs):
        if reads(a) and reads(b):
            raise NotApplicable(f"relevance has no rule for '{op.__name__}' of two things that depend on the images")
        if reads(a):
            return mode.step(lambda a: op(a, b, **kwargs), lambda R, a: [R.sum_to_size(a.shape)], a)
        return mode.step(lambda b: op(a, b, **kwargs), lambda R, b: [R.sum_to_size(b.shape)], b)

    return step


def _average(op):
    def step(mode, x, *args, **kwargs):
        def average(x):
            return op(x, *args, **kwargs)

        def share(R, x):
            w = mode.rules.weight(x)
            return [w * vjp(average, [w], ratio(R, average(w)))[0]]

        return mode.step(average, share, x)

    return step


LAYERS = {"linear": _linear, "conv2d": _conv2d}
STEPS = LAYERS | {
    "batch_norm": _batch_norm, "add": _sum, "sub": _with_a_constant(torch.sub), "mul": _with_a_constant(torch.mul),
    "div": _with_a_constant(torch.div), "truediv": _with_a_constant(torch.div),
    "avg_pool2d": _average(F.avg_pool2d), "adaptive_avg_pool2d": _average(F.adaptive_avg_pool2d), "mean": _average(torch.mean),
}  # fmt: skip


def reads(value):
    """Whether a value depends on the images, or on the layer where relevance ends."""
    return isinstance(value, torch.Tensor) and value.requires_grad


def vjp(function, inputs, R):
    with torch.enable_grad():
        leaves = [one.detach().requires_grad_() for one in inputs]
        return torch.autograd.grad(function(*leaves), leaves, R)

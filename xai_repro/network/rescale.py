"""DeepLIFT's rescale rule with a zero reference, through whatever lies above a layer.

Activations and their reference (zeros) run through the head as one batch. Backwards, an elementwise non-linearity passes the
slope of the chord between the two instead of the derivative, and a max-pool hands on what its output differs by. A product of
two factors that both differ shares its difference between them: d(ab) = (b + b0)/2 da + (a + a0)/2 db, the Shapley values of the
two. Divisions, normalisations, softmax and attention (scaled_dot_product_attention, not what nn.MultiheadAttention does within) are
made of these. Functions are caught where they are called, so functional and reused ones count like modules.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

TINY = 1e-10  # differences below this have no chord: the derivative is taken

ELEMENTWISE = {
    "relu", "relu6", "silu", "gelu", "elu", "selu", "celu", "mish", "leaky_relu", "prelu", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "softsign", "log_sigmoid", "threshold", "clamp", "clamp_min", "exp", "abs", "square", "rsqrt",
    "sqrt", "reciprocal",
}  # fmt: skip
POOLING = {"max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"}


class RescaleRule(TorchFunctionMode):
    """While active, backward passes through non-linearities follow the rescale rule: the first half of every batch holds the
    activations, the second half their references. What is in no list passes its gradient.

    rows: of the batch, both halves together. Parameters must not require gradients meanwhile, so that what does is known to depend
    on the activations.
    """

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        plain, inplace = name.strip("_"), bool(kwargs.get("inplace")) or name.endswith("_") and not name.endswith("__")
        if name.startswith("__i") and plain[1:] in RULES:  # a *= b
            plain, inplace = plain[1:], True
        if plain in ELEMENTWISE:
            z, *rest = args or [kwargs.pop("input")]
            if not self._differs(z):
                return function(z, *rest, **kwargs)
            made = _Chord.apply(z.clone() if inplace else z, lambda z: function(z.clone(), *rest, **kwargs))
            return z.copy_(made) if inplace else made
        if plain in POOLING and not kwargs.pop("return_indices", False):
            pool = getattr(F, plain.removesuffix("_with_indices"))
            return _Pool.apply(args[0], lambda z: pool(z, *args[1:6], **kwargs, return_indices=True))
        if plain in RULES and args and any(map(self._differs, args)):
            made = RULES[plain](self, args[0].clone() if inplace else args[0], *args[1:], **kwargs)
            if made is not NotImplemented:
                return args[0].copy_(made) if inplace else made
        return function(*args, **kwargs)

    def _differs(self, value):
        """Whether a value holds both halves, one after the other, and depends on the activations."""
        return isinstance(value, torch.Tensor) and value.requires_grad and value.dim() > 0 and len(value) % self.rows == 0

    def chord(self, function, z):
        return _Chord.apply(z, function) if self._differs(z) else function(z)

    def product(self, a, b, op=torch.mul, middle=True):
        """a b, or another bilinear operation; plainly where one factor is the same for both halves."""
        return _Product.apply(a, b, op, middle) if self._differs(a) and self._differs(b) else op(a, b)

    def normalised(self, x, dims, eps):
        """x centred and divided by its standard deviation over some dimensions.

        d(c r) = r dc + c0 dr: with a reference of zeros the scale r is kept as it is. In the middle of both values it would be
        half of 1 / sqrt(eps), the scale of nothing, and all shares huge and opposite.
        """
        c = x - x.mean(dims, keepdim=True)
        r = self.chord(lambda v: (v + eps).rsqrt(), self.chord(torch.square, c).mean(dims, keepdim=True))
        return self.product(c, r, middle=False)


def _product(op):
    def rule(self, a, b, **kwargs):
        return NotImplemented if kwargs or not (self._differs(a) and self._differs(b)) else self.product(a, b, op)

    return rule


def _quotient(self, a, b, **kwargs):
    return NotImplemented if kwargs or not self._differs(b) else self.product(a, self.chord(torch.reciprocal, b))


def _power(self, a, exponent):
    return NotImplemented if isinstance(exponent, torch.Tensor) else self.chord(lambda z: z**exponent, a)


def _layer_norm(self, x, shape, weight=None, bias=None, eps=1e-5, *_):
    y = self.normalised(x, tuple(range(-len(shape), 0)), eps)
    return _affine(y, weight, bias)


def _group_norm(self, x, groups, weight=None, bias=None, eps=1e-5, *_):
    y = self.normalised(x.unflatten(1, (groups, -1)), tuple(range(2, x.dim() + 1)), eps).flatten(1, 2)
    return _affine(y, *(None if one is None else one.view(-1, *[1] * (x.dim() - 2)) for one in (weight, bias)))


def _affine(y, weight, bias):
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _softmax(self, x, dim=None, *_, **kwargs):
    dim = kwargs.pop("dim", dim)
    if dim is None or kwargs.pop("dtype", None) is not None:
        return NotImplemented
    least = x.detach().amax(dim, keepdim=True)
    least = torch.maximum(*least.chunk(2)).repeat(2, *[1] * (x.dim() - 1))  # the same for both halves, so that it cancels
    e = self.chord(torch.exp, x - least)
    return self.product(e, self.chord(torch.reciprocal, e.sum(dim, keepdim=True)))


def _attention(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **kwargs):
    if kwargs.get("enable_gqa") or is_causal:
        return NotImplemented
    scores = self.product(q * (q.shape[-1] ** -0.5 if scale is None else scale), k.mT, torch.matmul)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return self.product(_softmax(self, scores, -1), v, torch.matmul)


RULES = {
    "mul": _product(torch.mul), "multiply": _product(torch.mul), "matmul": _product(torch.matmul), "bmm": _product(torch.bmm),
    "div": _quotient, "divide": _quotient, "true_divide": _quotient, "truediv": _quotient, "pow": _power,
    "layer_norm": _layer_norm, "group_norm": _group_norm, "softmax": _softmax, "scaled_dot_product_attention": _attention,
}  # fmt: skip


def _halves(tensor):
    return tensor.chunk(2)


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
        (dz, dy), half = ((a - b for a, b in (_halves(t) for t in (z, y)))), len(z) // 2
        with torch.enable_grad():
            here = z[:half].detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(here).sum(), here)
        close = dz.abs() < TINY
        chord = torch.where(close, slope, dy / torch.where(close, 1, dz))
        return torch.cat([g[:half] * chord, torch.zeros_like(g[half:])]), None


class _Product(torch.autograd.Function):
    """Each factor gets what it changes while the other stands in the middle of its two values; or (middle: False) the first
    while the second is as it is, the second while the first is its reference."""

    @staticmethod
    def forward(ctx, a, b, op, middle):
        ctx.save_for_backward(a, b)
        ctx.op, ctx.middle = op, middle
        return op(a, b)

    @staticmethod
    def backward(ctx, g):
        (a, a0), (b, b0) = map(_halves, ctx.saved_tensors)
        with torch.enable_grad():
            da, db = (t.detach().requires_grad_() for t in (a, b))
            change = ctx.op(da, (b + b0) / 2 if ctx.middle else b) + ctx.op((a + a0) / 2 if ctx.middle else a0, db)
            found = torch.autograd.grad(change, (da, db), g[: len(a)])
        return *(torch.cat([one, torch.zeros_like(one)]) for one in found), None, None


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
        (x, x0), (m, m0), (at, at0), g = _halves(z), _halves(y), _halves(index), g[:half]
        top = torch.maximum(m, m0)
        shares = _put(g * (top - m0), at, x) + _put(g * (m - top), at0, x)
        close = (x - x0).abs() < TINY
        multiplier = torch.where(close, _put(g, at, x), shares / torch.where(close, 1, x - x0))
        return torch.cat([multiplier, torch.zeros_like(multiplier)]), None


def _put(values, index, like):
    """Values [.., h,w] added at their positions index in a tensor like [.., H,W]."""
    return torch.zeros_like(like).flatten(2).scatter_add_(2, index.flatten(2), values.flatten(2)).view_as(like)

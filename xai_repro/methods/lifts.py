"""Lifts: a method is written in its short form, and a lift turns that into `(model, x, y, *, ...) -> map`.

Over several layers (`layers`: names, or the last n ends of stages, or "all") a map is made of the maps of each.
"""

import inspect
import warnings

import torch
import torch.nn.functional as F

from xai_repro.errors import short
from xai_repro.network.layers import stages
from xai_repro.network.pyramid import pyramid
from xai_repro.network.split import Split
from xai_repro.numerics.algebra import wide

GAMMA = 2  # of the shallow maps' scaling [Jiang et al. 2021, eq. 9]


def upsample(maps, size):
    """Maps [B,h,w] at the resolution (H,W) of the input: bilinear, align_corners=False."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def weighted(alpha, A):
    """ReLU(sum_k alpha_k A_kij), [B,h,w]."""
    return torch.einsum("bk,bkij->bij", alpha.to(wide(A)), wide(A)).relu()


def say_what_is_empty(small, split):
    """Warn where nothing is left of a map whose activations are negative in part: a positive share then counts against its place."""
    empty = (small.amax((1, 2)) == 0) & (split.A.amin((1, 2, 3)) < 0)
    if empty.any():
        warnings.warn(
            f"the map of image(s) {empty.nonzero()[:8, 0].tolist()} is empty: activations of '{split.layer}' are negative, as before a ReLU, and "
            "class activation maps expect those after one",
            stacklevel=2,
        )


def average(maps):
    """The mean over layers of maps [B,H,W], each divided by its maximum: how lists of target layers are commonly merged."""
    return torch.stack([_by_maximum(one) for one in maps]).mean(0)


def strongest(maps):
    """The largest over layers of maps [B,H,W], those but the last scaled by tanh(2 M / max M)   [Jiang et al. 2021, eq. 9]."""
    *shallow, last = [_by_maximum(one) for one in maps]
    return torch.stack([*((GAMMA * one).tanh() for one in shallow), last]).amax(0)


def _by_maximum(maps):
    top = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(top > 0, top, 1)


def coefficients(alpha, head=True):
    """Lift `alpha(split, y) -> [B,K]`: M_ij = ReLU(sum_k alpha_k A_kij), upsampled; over several layers the `average`."""

    def weights(model, x, y=None, *, layer=None, layers=None, layout=None, **hyper):
        if layers is not None:
            raise ValueError("coefficients belong to the channels of one layer: name it with layer=...")
        split = Split(model, x, layer, head, layout)
        return alpha(split, split.target(y), **hyper)

    def explain(model, x, y=None, *, layer=None, layers=None, layout=None, **hyper):
        maps = []
        for name in _one_or_several(model, x, layer, layers):
            split = Split(model, x, name, head, layout)
            y = split.target(y)
            small = weighted(alpha(split, y, **hyper), split.A)
            say_what_is_empty(small, split)
            maps.append(upsample(small, x.shape[-2:]))
        return maps[0] if layers is None else average(maps)

    return _like(alpha, explain), _like(alpha, weights)


def gradients(alpha):
    """Lift as `coefficients` an `alpha` that asks its split for activations, logits and gradients only: the head is not kept."""
    return coefficients(alpha, head=False)


def pixels(combine):
    """Lift `combine(A, G) -> [B,h,w]` of activations A and the gradients G of the logit, both [B,K,h,w]; upsampled.

    Over several layers the `strongest`; all their gradients come from one backward pass.
    """

    def explain(model, x, y=None, *, layer=None, layers=None, layout=None, **hyper):
        names = _one_or_several(model, x, layer, layers)
        if layers is None:
            split = Split(model, x, names[0], head=False, layout=layout)
            pairs = [(split.A, split.grad(split.target(y)))]
        else:
            pairs, _ = pyramid(model, x, y, names, layout)
        maps = [upsample(combine(*map(wide, pair), **hyper), x.shape[-2:]) for pair in pairs]
        return maps[0] if layers is None else strongest(maps)

    return _like(combine, explain), None


def _one_or_several(model, x, layer, layers):
    if layers is None:
        return [layer]
    if layer is not None:
        raise ValueError(f"layer is {short(repr(layer))} and layers is {short(repr(layers))}: give one of them")
    return stages(model, layers, x)


def _like(short, whole):
    """Give the lifted function the name, the text and the hyper-parameters of its short form."""
    own = inspect.signature(whole).parameters
    hyper = [p for p in inspect.signature(short).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    kept = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    whole.__signature__ = inspect.Signature(kept + hyper)
    whole.__name__, whole.__doc__, whole.__module__, whole.__wrapped__ = short.__name__, short.__doc__, short.__module__, short
    return whole

"""Lifts: a method is written in its short form, and a lift turns that into `(model, x, y, *, ...) -> map`."""

import inspect

import torch
import torch.nn.functional as F

from xai_repro.split import Split


def upsample(maps, size):
    """Maps [B,h,w] at the resolution (H,W) of the input: bilinear, align_corners=False."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def coefficients(alpha):
    """Lift `alpha(split, y) -> [B,K]`: M_ij = ReLU(sum_k alpha_k A_kij), upsampled."""

    def weights(model, x, y=None, *, layer=None, **hyper):
        split = Split(model, x, layer)
        return alpha(split, split.target(y), **hyper)

    def explain(model, x, y=None, *, layer=None, **hyper):
        split = Split(model, x, layer)
        a = alpha(split, split.target(y), **hyper)
        return upsample(torch.einsum("bk,bkij->bij", a, split.A).relu(), x.shape[-2:])

    return _like(alpha, explain), _like(alpha, weights)


def pixels(combine):
    """Lift `combine(A, G) -> [B,h,w]` of activations A and the gradients G of the logit, both [B,K,h,w]; upsampled."""

    def explain(model, x, y=None, *, layer=None, **hyper):
        split = Split(model, x, layer)
        return upsample(combine(split.A, split.grad(split.target(y)), **hyper), x.shape[-2:])

    return _like(combine, explain), None


def _like(short, whole):
    """Give the lifted function the name, the text and the hyper-parameters of its short form."""
    own = inspect.signature(whole).parameters
    hyper = [p for p in inspect.signature(short).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    kept = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    whole.__signature__ = inspect.Signature(kept + hyper)
    whole.__name__, whole.__doc__, whole.__module__, whole.__wrapped__ = short.__name__, short.__doc__, short.__module__, short
    return whole

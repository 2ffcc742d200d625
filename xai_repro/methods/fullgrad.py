"""FullGrad: the logit, shared out among the image and every bias that was added on the way."""

from functools import partial

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from xai_repro.network.borrow import borrowed, changes, freeze, using
from xai_repro.network.forward import check_unscripted, evaluating, logits_of
from xai_repro.network.steps import affine
from xai_repro.network.target import target_logit
from xai_repro.numerics.algebra import normalize, wide
from xai_repro.registry import method


class Biases(TorchFunctionMode):
    """While active, notes what is added as a bias and where: (output, bias of each channel) of convolutions, linear layers and BatchNorms."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        made = function(*args, **kwargs)
        if name in ("conv2d", "linear"):
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
        elif name == "batch_norm":
            _, bias = affine(*args, **kwargs)
        else:
            return made
        if bias is None or not made.requires_grad:
            return made
        self.found.append((made, bias.detach()))
        return made.clone()  # which the next function may write to


def shares(model, x, y):
    """x g [B,C,H,W] and b g of every bias, [B,K,h,w] or [B,K]: together they sum to the logit where the network is piecewise linear.

    g: the gradient of the logit at the image, or where the bias is added. Costs one forward and one backward pass.
    """
    return borrowed(model, partial(_shares, model, x, y))


def _shares(model, x, y):
    check_unscripted(model, "biases")
    with evaluating(model), torch.enable_grad(), changes():
        freeze(model)
        leaf = x.detach().clone().requires_grad_()
        with using(Biases()) as biases:
            S = target_logit(logits_of(model(leaf.clone()), len(x)), y)
        g, *others = torch.autograd.grad(S.sum(), [leaf, *(made for made, _ in biases.found)], allow_unused=True)
    terms = [wide(one) * wide(bias).view(-1, *[1] * (one.dim() - 2)) for one, (_, bias) in zip(others, biases.found) if one is not None]
    return wide(x) * wide(g), terms


@method("fullgrad", family="gradient", cite="srinivas2019fullgrad", needs="layers called from Python (no TorchScript)")
def fullgrad(model, x, y=None):
    """How much every pixel, and every bias above it, matters for the logit, added up over the layers.

    M_ij = psi(sum_c |x_cij g_cij|) + sum_l sum_k psi(|b_lk g_lkij|), psi: scaled to [0,1], at the size of the image   [Srinivas & Fleuret 2019, eq. 5]

    M [B,H,W] >= 0; it hardly depends on the class. Biases: of convolutions, and what BatchNorms add, beta - mean gamma / sigma; those of
    linear layers belong to no place. Without psi, image and biases sum to the logit (the paper's completeness). No hyper-parameters.
    Costs one forward and one backward pass. Raises NotApplicable for a TorchScript model.
    *Deviation*: absolute values are scaled over all channels of a layer together, as released; upsampling is bilinear without aligned corners.
    """
    own, terms = shares(model, x, y)
    M = _psi(own, x.shape[-2:])
    for term in terms:
        if term.dim() == 4:
            M = M + _psi(term, x.shape[-2:])
    return M


def _psi(term, size):
    M = normalize(term.abs().flatten(1, 2)).view_as(term).sum(1, keepdim=True)  # before it is upsampled, which is linear
    return (F.interpolate(M, size=size, mode="bilinear", align_corners=False) if term.shape[-2:] != size else M)[:, 0]

"""The maps of networks that were trained with attention: what they multiply their features by, for no class in particular."""

import torch

from xai_repro.errors import NotApplicable
from xai_repro.methods.lifts import upsample
from xai_repro.models.attention import ABN, LFICAM
from xai_repro.network.forward import evaluating
from xai_repro.registry import method


def own_map(model, x, kind, name):
    """The map of a network of a kind, at the images' size. Raises NotApplicable for another network."""
    if not isinstance(model, kind):
        raise NotApplicable(f"{name} is the map of a network that was trained with it; this is {type(model).__name__}")
    with evaluating(model), torch.no_grad():
        return upsample(model.map(x), x.shape[-2:])


@method("lfi-cam", family="attention", cite="lfi_cam", needs="a network trained with it: lfi-NAME or mini-lfi")
def lfi_cam(model, x, y=None):
    """The attention map of LFI-CAM: the features of the last stage, weighted by the Feature Importance Network.

    M = up(minmax(ReLU(sum_k w_k A_k))), w [K] of sum 1   [LFI-CAM, supplement, table 1; released code]

    M [B,H,W] in [0,1], or constant as it is. It is for no class: y changes nothing. Costs one forward pass. See `models.attention.LFICAM`. Raises NotApplicable for other networks.
    """
    return own_map(model, x, LFICAM, "lfi-cam")


@method("abn", family="attention", cite="fukui2019abn", needs="a network trained with it: abn-NAME or mini-abn")
def abn(model, x, y=None):
    """The attention map of the attention branch network: the evidence for all classes in one map.

    M = up(sigmoid(BN(conv3x3(h)))), h: evidence of each class   [Fukui et al. 2019]

    M [B,H,W] in (0,1). It is for no class: y changes nothing. Costs one forward pass. See `models.attention.ABN`. Raises NotApplicable for other networks.
    """
    return own_map(model, x, ABN, "abn")

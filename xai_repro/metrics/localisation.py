"""Localisation: where the map lies relative to the annotated object."""

import torch

from xai_repro.explain import check_range
from xai_repro.registry import metric
from xai_repro.store.sharing import shared

in_range = shared(check_range)  # these metrics look at no logits, so that a class that does not exist would pass

@metric("proportion", higher_is_better=True, cite="wang2020scorecam", truth="box")
def proportion(model, x, y, maps, truth):
    """The share of the map's energy that falls inside the object's boxes (energy-based pointing game).

    sum_{ij in box} M_ij / sum_ij M_ij   [LIFT-CAM supplement, table 10; Collection-CAM, table 4]

    In [0,1] per image; NaN for a map of zeros or an image without a box. Several boxes count as their union.
    """
    in_range(model, x, y)
    total = maps.sum((1, 2))
    share = (maps * truth).sum((1, 2)) / total
    return share.where((total > 0) & truth.any((1, 2)), torch.nan)


@metric("pointing-game", higher_is_better=True, cite="zhang2018excitation", truth="mask")
def pointing_game(model, x, y, maps, truth, *, tolerance=0.03):
    """Whether the map's highest point hits the object, give or take a tolerance.

    1[min_{ij in object} |(i,j) - argmax M| < tolerance max(H,W)]   [Gradient Hedging, section 5.2]

    0 or 1 per image; NaN for an image without the object. Of several highest points the first in reading order counts.
    tolerance: radius as a fraction of the longer side. *Deviation*: TorchRay's 15 pixels are taken at the original size of
    the image, 500 pixels on VOC, hence the 3 %.
    """
    in_range(model, x, y)
    B, H, W = maps.shape
    flat = maps.flatten(1)
    index = torch.arange(H * W, device=maps.device)
    point = torch.where(flat == flat.amax(1, keepdim=True), index, H * W).amin(1)
    rows, columns = (point // W)[:, None], (point % W)[:, None]
    near = (index // W - rows) ** 2 + (index % W - columns) ** 2 < (tolerance * max(H, W)) ** 2
    near = near | (index == point[:, None])  # the point itself counts at any tolerance
    hit = (near & truth.flatten(1)).any(1).to(x.dtype)
    return hit.where(truth.any(2).any(1), torch.nan)


@metric("positive-ratio", higher_is_better=False, cite="gradient_hedging", maps="raw")
def positive_ratio(model, x, y, maps, truth=None):
    """The share of pixels to which the map gives positive evidence; class-specific maps are sparse.

    (1/HW) sum_ij 1[M_ij > 0]   [Gradient Hedging, table 1]

    In [0,1] per image, on the raw map at input resolution (for a class activation map: after ReLU and upsampling).
    """
    in_range(model, x, y)
    return (maps > 0).to(x.dtype).mean((1, 2))

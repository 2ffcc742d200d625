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

    *Misleads*: The box is the truth, not what the network looks at: a map that lies in the box has 1, on whatever part it lies. The larger
    the box, the better maps that know nothing of the network.
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

    *Misleads*: One pixel decides, and the rest of the map may show anything. Where objects are large, or in the middle of the image, a map
    that knows nothing hits them. The object is the truth, not what the network looks at.
    """
    in_range(model, x, y)
    B, H, W = maps.shape
    index, point = torch.arange(H * W, device=maps.device), _highest(maps)
    rows, columns = (point // W)[:, None], (point % W)[:, None]
    near = (index // W - rows) ** 2 + (index % W - columns) ** 2 < (tolerance * max(H, W)) ** 2
    near = near | (index == point[:, None])  # the point itself counts at any tolerance
    hit = (near & truth.flatten(1)).any(1).to(x.dtype)
    return hit.where(truth.any(2).any(1), torch.nan)


@metric("pointing-game-pixels", higher_is_better=True, cite="zhang2018excitation", truth="near")
def pointing_game_pixels(model, x, y, maps, truth):
    """Whether the map's highest point lies less than 15 pixels of the photograph from the object, as TorchRay counts.

    1[argmax M in near], near = {p : min_{q in object} |p - q| < 15}   [Gradient Hedging, section 5.2, as released]

    0 or 1 per image; NaN for an image without the object. Of several highest points the first in reading order counts. truth: the pixels of `near`
    (`Sample.near`), so that distances are measured on the photograph, whatever the network sees of it. *Deviation*: the point is the highest of the
    network's pixels, where TorchRay first brings the map to the size of the photograph.

    *Misleads*: As in the pointing game, one pixel decides, and the object is the truth, not what the network looks at. Around a small object,
    or in a small photograph, most of what counts as a hit is background.
    """
    in_range(model, x, y)
    hit = truth.flatten(1).gather(1, _highest(maps)[:, None])[:, 0].to(x.dtype)
    return hit.where(truth.any(2).any(1), torch.nan)


def _highest(maps):
    """The place of the highest value of each map [B,H,W] in reading order, the first of several: [B]."""
    flat = maps.flatten(1)
    index = torch.arange(flat.shape[1], device=maps.device)
    return torch.where(flat == flat.amax(1, keepdim=True), index, flat.shape[1]).amin(1)


@metric("positive-ratio", higher_is_better=False, cite="gradient_hedging", maps="raw")
def positive_ratio(model, x, y, maps, truth=None):
    """The share of pixels to which the map gives positive evidence; class-specific maps are sparse.

    (1/HW) sum_ij 1[M_ij > 0]   [Gradient Hedging, table 1]

    In [0,1] per image, on the raw map at input resolution (for a class activation map: after ReLU and upsampling).

    *Misleads*: How much is marked, not what: a map with a single positive pixel, wherever it is, has the best value.
    """
    in_range(model, x, y)
    return (maps > 0).to(x.dtype).mean((1, 2))

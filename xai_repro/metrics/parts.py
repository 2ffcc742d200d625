"""Known truth by parts: what a part is worth to the model is measured by giving it its other shapes, and maps are compared with that.

A data set that draws its pictures can draw one again with a single part changed and nothing else (`xai_repro.data.counterfactuals`).
The truth of these metrics, V [B,P,H,W], holds e_p, the worth of part p, on the pixels where p is seen, and NaN on all others.
"""

from dataclasses import dataclass

import torch

from xai_repro.errors import unknown
from xai_repro.explain import check_range
from xai_repro.network.forward import predict
from xai_repro.network.target import of_class
from xai_repro.registry import metric
from xai_repro.store.sharing import shared

in_range = shared(check_range)  # these metrics look at no logits, so that a class that does not exist would pass


@dataclass(frozen=True)
class Worth:
    """What the parts of some images are worth to a model. P: the parts that decide, of the image that has the most."""

    effect: torch.Tensor  # [B,P], in units of the logit; NaN where there is no such part
    truth: torch.Tensor  # [B,P,H,W]: the effect where the part is seen, NaN elsewhere
    oracle: torch.Tensor  # [B,H,W] >= 0: the effect on exactly the pixels that the swaps change
    flips: torch.Tensor  # [B,P]: share of the part's swaps after which another class is on top


def worth(model, x, y, samples):
    """What the parts of images x are worth for classes y: how much of the logit is lost when a part takes another of its shapes.

    e_p = (1/S_p) sum_s (f_y(x) - f_y(x_ps)), x_ps: the picture with part p in its s-th other shape, all other parts as they are.
    Oracle: M_ij = max(0, max_p (1/S_p) sum_s (f_y(x) - f_y(x_ps)) 1[x_ps differs from x at ij]).

    samples: the `Sample` of each image; without counterfactuals its effects are NaN and its oracle is zero. Where parts interact, the effect
    of one alone is not the whole story: `xai_repro.study.known_truth.together` changes several at once.
    """
    drawn = [None if one.counterfactuals is None else one.counterfactuals.images(one.counterfactuals.swaps()).to(x) for one in samples]
    images = [x, *(one for one in drawn if one is not None)]
    found = predict(model, torch.cat(images))
    of_class(found[: len(x)], y)  # refuses a class that the model does not have
    most = max((len(one.counterfactuals.shapes) for one in samples if one.counterfactuals is not None), default=1)
    effect, flips = (x.new_full((len(x), most), torch.nan) for _ in range(2))
    truth, oracle = x.new_full((len(x), most, *x.shape[-2:]), torch.nan), x.new_zeros(len(x), *x.shape[-2:])
    start = len(x)
    for b, (sample, swapped) in enumerate(zip(samples, drawn)):
        if swapped is None:
            continue
        logits = found[start : start + len(swapped)]
        start += len(swapped)
        sizes = [len(shapes) - 1 for shapes in sample.counterfactuals.shapes.values()]
        loss = (found[b, y[b]] - logits[:, y[b]]).to(x).split(sizes)
        changed = (swapped != x[b]).any(1).split(sizes)
        flipped = (logits.argmax(1) != found[b].argmax()).to(x).split(sizes)
        for p, part in enumerate(sample.counterfactuals.shapes):
            effect[b, p], flips[b, p] = loss[p].mean(), flipped[p].mean()
            if part in sample.parts:
                truth[b, p, sample.parts[part].to(x.device)] = effect[b, p]
            oracle[b] = torch.maximum(oracle[b], (loss[p][:, None, None] * changed[p]).mean(0))
    return Worth(effect, truth, oracle, flips)


@metric("part-hit", higher_is_better=True, cite="", truth="parts")
def part_hit(model, x, y, maps, truth):
    """Whether the map's highest point lies on the part that the model's logit depends on most.

    |{ij : M_ij = max M, ij in p*}| / |{ij : M_ij = max M}|, p* = argmax_p e_p over the parts that are seen

    0 or 1 per image, and between them where several points are highest. NaN for a map of zeros, and where no part that is seen speaks
    for the class (e_p > 0). No tolerance: a part is what is seen of it.

    *Misleads*: One pixel decides, and the rest of the map may lie beside the object. Parts are changed one at a time: where two can stand in
    for each other, neither seems to be worth much.
    """
    in_range(model, x, y)
    seen, effect = _seen(truth)
    best = effect.amax(1)
    target = (seen & (effect == best[:, None])[:, :, None, None]).any(1)
    top = maps.amax((1, 2))
    highest = maps == top[:, None, None]
    hit = (highest & target).sum((1, 2)).to(x.dtype) / highest.sum((1, 2))
    return hit.where((top > 0) & (best > 0), torch.nan)


@metric("part-share", higher_is_better=True, cite="", truth="parts")
def part_share(model, x, y, maps, truth):
    """The share of the map's energy that falls on the parts that decide: the class is told by them and by nothing else.

    sum_{ij in any p} M_ij / sum_ij M_ij

    In [0,1] per image; NaN for a map of zeros or an image of which no deciding part is seen. A map that is the same everywhere has the
    share of the image that the parts cover.

    *Misleads*: Which part it is does not count: a map on the part that matters least has 1. And pixels beside a part, where another of its
    shapes would be, count as wrong, though the network looks there, too.
    """
    in_range(model, x, y)
    seen, _ = _seen(truth)
    parts, total = seen.any(1), maps.sum((1, 2))
    return ((maps * parts).sum((1, 2)) / total).where((total > 0) & parts.any(2).any(1), torch.nan)


@metric("part-correlation", higher_is_better=True, cite="", truth="parts")
def part_correlation(model, x, y, maps, truth, *, of="density"):
    """Whether the map is higher on parts that the model depends on more: the rank correlation over the parts that are seen.

    Spearman's rho of (d_p, e_p) over p, d_p = (1/|p|) sum_{ij in p} M_ij

    In [-1,1] per image, ties by their mean rank; NaN for fewer than three parts or where all d_p, or all e_p, are equal. of: "density", the
    mean of the map on a part, or "mass", its sum. The mass of any map grows with the area of a part, and where large parts are the ones
    that matter a map that knows nothing correlates with the truth; shuffling the parts of a picture does not show it, since the mean over
    shuffles is 0 for every map. The density of a map that is the same everywhere does not depend on the area. Raises UnknownName for
    anything else.

    *Misleads*: The order of the parts alone counts: nearly all of a map may lie beside the object. There are few parts, so that one exchange
    of two changes the value a lot.
    """
    in_range(model, x, y)
    if of not in ("density", "mass"):
        raise unknown("quantity", of, ("density", "mass"))
    seen, effect = _seen(truth)
    mass, area = (maps[:, None] * seen).sum((2, 3)), seen.sum((2, 3))
    there = area > 0
    height = mass / area.clamp(min=1) if of == "density" else mass
    a, b = (_centred_ranks(values, there) for values in (height, effect))
    length = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / length).where((length > 0) & (there.sum(1) >= 3), torch.nan)


def _seen(truth):
    """Where each part is seen, bool [B,P,H,W], and its effect [B,P], -inf for a part that is not seen."""
    seen = ~truth.isnan()
    return seen, truth.masked_fill(~seen, -torch.inf).amax((2, 3))


def _centred_ranks(values, there):
    """Ranks [B,P] among the entries that are there, ties by their mean rank, less their mean; 0 for the others."""
    values = torch.round(values, decimals=6)  # what is equal by algebra differs by rounding
    below = (values[:, None] < values[:, :, None]).to(values.dtype) + (values[:, None] == values[:, :, None]).to(values.dtype) / 2
    ranks = (below * there[:, None]).sum(2)
    mean = (ranks * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    return (ranks - mean) * there

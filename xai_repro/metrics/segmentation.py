"""Segmentation: how well the map, with its sign, tells the object's pixels from the others."""

import torch

from xai_repro.errors import unknown
from xai_repro.metrics.localisation import in_range
from xai_repro.numerics.algebra import exact, normalize
from xai_repro.registry import metric

READINGS = ("ranking", "binary", "two-channel")


@metric("outside-inside-ratio", higher_is_better=False, cite="gradient_hedging", maps="raw", truth="mask")
def outside_inside_ratio(model, x, y, maps, truth, *, positive=False):
    """How much relevance a pixel outside the object has on average, as a share of what a pixel inside has.

    (sum_{ij out} N_ij / |out|) / (sum_{ij in} N_ij / |in|), N = (M - min M) / (max M - min M)   [Gradient Hedging, eq. 14]

    At least 0 per image, and 1 for a constant map; M and c M + d with c > 0 have the same ratio. NaN for an image without the object or
    with nothing else, and where N is 0 on the whole object but not outside: the ratio would be infinite. positive: N is the positive
    part of M, so that relevance 0 stays 0, as in the metric that the paper starts from.

    *Misleads*: The object is the truth, not what the network looks at. Of a map with negative values the least becomes 0: one pixel far below
    all others lifts these to nearly the same height, and the ratio to 1.
    """
    in_range(model, x, y)
    M, truth = exact(maps), truth.cpu()
    N = M.clamp(min=0) if positive else normalize(M)
    outside, inside = ((N * where).sum((1, 2)) / where.sum((1, 2)) for where in (~truth, truth))
    ratio = (outside / inside).where(inside > 0, torch.where(outside > 0, torch.nan, 1.0))
    return ratio.where(truth.any(2).any(1) & ~truth.all(2).all(1), torch.nan).to(x)


@metric("segmentation-ap", higher_is_better=True, cite="gradient_hedging", maps="raw", truth="mask")
def segmentation_ap(model, x, y, maps, truth, *, reading="ranking"):
    """The average precision of the map as a ranking of pixels, the object's pixels being those to find.

    (1/|in|) sum_{ij in} |{in : M >= M_ij}| / |{M >= M_ij}|   [Gradient Hedging, table 3]

    In [0,1] per image; NaN for an image without the object. A map that is the same everywhere has the object's share of the image: say
    it beside the numbers. reading: what is ranked. "ranking": M with its sign. "binary": 1[M > 0], a set of pixels and the rest.
    "two-channel": the scores 1[M > 0] for the object and 1[M <= 0] for the background in one list; where a is the share of pixels
    that are told rightly this is a^2 + (1 - a) / 2. There M is less its mean if no M_ij is negative. Raises UnknownName for
    another reading.
    *Deviation*: the paper says "mean average precision" and no more. The script released with AGF, whose numbers it compares
    with, has "two-channel", which never gives less than .4375; the paper prints .353, so that it cannot have used it.

    *Misleads*: The object is the truth, not what the network looks at: a map of the one part that decides finds most of the object's pixels
    late, and the object's own mask has 1. Large objects make every map look good.
    """
    if reading not in READINGS:
        raise unknown("reading", reading, READINGS)
    in_range(model, x, y)
    M, truth = exact(maps).flatten(1), truth.cpu().flatten(1)
    if reading == "two-channel":
        found = torch.where((M < 0).any(1, keepdim=True), M > 0, above_mean(M))
        right = (found == truth).double().mean(1)
        value = right.square() + (1 - right) / 2
    else:
        value = average_precision(M if reading == "ranking" else (M > 0).double(), truth)
    return value.where(truth.any(1), torch.nan).to(x)


@metric("iou", higher_is_better=True, cite="lee2021relevancecam", maps="raw", truth="mask")
def iou(model, x, y, maps, truth, *, deviations=1.0):
    """How much the map's highest part and the object have in common, as a share of what they cover together.

    |S and in| / |S or in|, S = {ij : M_ij > m + d s}, m and s: mean and standard deviation of the HW values of M   [CLAM, table 4]

    In [0,1] per image, 0 for a constant map; NaN for an image without the object. M with its sign; M and c M + e with c > 0 have
    the same value. deviations: d. s divides by HW.
    *Deviation*: the released code adds 1e-6 to both numbers of pixels, and for LRP and CLAM takes every value but 0 as S; here all
    maps are cut in the same way.

    *Misleads*: The object is the truth, not what the network looks at: a map of the one part that decides has little in common with a large
    object. The cut suits smooth maps; of one with a few high peaks it keeps next to nothing.
    """
    in_range(model, x, y)
    M, truth = exact(maps).flatten(1), truth.cpu().flatten(1)
    S = above_mean(M, deviations)
    return ((S & truth).sum(1) / (S | truth).sum(1).double()).where(truth.any(1), torch.nan).to(x)


def above_mean(M, deviations=0.0):
    """Where values [B,N] lie above their mean by so many standard deviations, and by more than rounding."""
    M = M - M.amin(1, keepdim=True)
    cut = M.mean(1, keepdim=True) + deviations * M.std(1, correction=0, keepdim=True)
    return M - cut > 1e-9 * M.amax(1, keepdim=True)


def average_precision(scores, wanted):
    """The average precision [B] of scores [B,N] for entries [B,N] that are wanted; equal scores are found together."""
    scores, order = scores.sort(1, descending=True)
    hits = wanted.gather(1, order).double()
    found = torch.searchsorted(-scores, -scores, right=True)
    precision = hits.cumsum(1).gather(1, found - 1) / found
    return (precision * hits).sum(1) / hits.sum(1)

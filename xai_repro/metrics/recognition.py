"""Recognition: whether the model still puts the class first while pixels appear or vanish in the order of the map.

r(x) = 1 where y is the model's top-1 for x, of a multi-label model where p_y(x) >= 1/2; otherwise 0. Step t = 1, ..., T changes
k_t = t s HW / T pixels, rounded, s: the share of all pixels that the last step changes. Equal pixels go in reading order.
"""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from xai_repro.errors import unknown, whole_number
from xai_repro.metrics.curves import blur, replacing
from xai_repro.metrics.faithfulness import logits
from xai_repro.network.target import of_class, probabilities
from xai_repro.registry import metric

REMOVED = 100 * 200 / 224**2  # CLAM: 100 steps of 200 pixels
ERASED = 4000 / 224**2  # Gradient Hedging, figure 8
CANVASES, REPORTS = ("blur", "mean"), ("mean", "last")


@metric("morf-insertion", higher_is_better=True, cite="gradient_hedging", maps="raw")
def morf_insertion(model, x, y, maps, truth=None, *, steps=20, share=0.2, canvas="blur", sigma=5.0, kernel=11, chunk=None):
    """How often the class is recognised when only the most relevant pixels are shown, on a blurred copy of the image.

    (1/T) sum_t r(x on the k_t pixels of highest M_ij, the canvas elsewhere)   [Gradient Hedging, section 5.3.2, figure 9]

    In [0,1] per image; over images and one step it is the top-1 accuracy. M with its sign. steps T and share s: 20 and 0.2, the
    top 1 %, 2 %, ..., 20 % as in the paper. canvas: "blur", or "mean", the mean colour. sigma and kernel, in pixels: of the blur,
    by default that of `insertion` (RISE's at 224 x 224). NaN where the model gives NaN. Costs T forward passes. Raises UnknownName for
    another canvas, ValueError for a kernel of even length, a sigma of 0, a share above 1.
    *Deviation*: the paper inserts into "a blank image to which a Gaussian filter is applied" and gives no numbers of the filter; a
    blank image stays blank under any filter, so the same image, blurred, is taken. Its figure shows the steps one by one; this is their mean.

    *Misleads*: A blurred copy keeps colours and rough outlines: where the network still recognises the class in it, every map has 1. As for
    insertion, what is connected is recognised before what is right and scattered.
    """
    if canvas not in CANVASES:
        raise unknown("canvas", canvas, CANVASES)
    line = gaussian(kernel, sigma)
    start = blur(x, line) if canvas == "blur" else torch.zeros_like(x)
    return replacing(model, start, x, y, maps, counts_of(x, steps, share), chunk, recognised).mean(1).to(x)


@metric("lerf-perturbation", higher_is_better=True, cite="clam", maps="raw")
def lerf_perturbation(model, x, y, maps, truth=None, *, steps=100, share=REMOVED, report="mean", chunk=None):
    """How long the class is still recognised while the least relevant pixels are removed.

    (1/T) sum_t r(zero on the k_t pixels of lowest M_ij, x elsewhere); r after the last step alone for report="last"
    [CLAM, section 4.3.2, table 2]

    In [0,1] per image; NaN where the class is not recognised in the image as it is. M with its sign: evidence against the class goes
    first. Zero is the mean colour, since images are normalised. steps T and share s: 100 and 0.3986, the paper's 200 pixels a step
    at 224 x 224. report: "mean" over the steps, or "last". Costs T + 1 forward passes, 2 for "last". Raises UnknownName for another
    report, ValueError for a share above 1.

    *Misleads*: What lies outside the object can go first without harm: a map of the whole object does well, whatever part of it the network
    needs.
    """
    return _without(model, x, y, -maps, steps, share, report, chunk)


@metric("morf-perturbation", higher_is_better=False, cite="samek2017evaluating", maps="raw")
def morf_perturbation(model, x, y, maps, truth=None, *, steps=1, share=ERASED, report="mean", chunk=None):
    """How often the class is still recognised when the most relevant pixels are removed.

    (1/T) sum_t r(zero on the k_t pixels of highest M_ij, x elsewhere)   [Gradient Hedging, section 5.3.2, figure 8]

    In [0,1] per image; NaN where the class is not recognised in the image as it is. M with its sign. By default one step: the share s is
    that of the paper's 4,000 pixels at 224 x 224. report, costs and errors are those of `lerf-perturbation`. The paper shows it as a
    metric *not* to trust: scattered pixels of noise are said to change the decision sooner than the object's own.

    *Misleads*: Scattered pixels, even of noise, can change the decision sooner than the parts that decide, since few networks were trained on
    images with such holes.
    """
    return _without(model, x, y, maps, steps, share, report, chunk)


def _without(model, x, y, maps, steps, share, report, chunk):
    """How often the class is recognised [B] when the pixels of highest value are gone, of images where it is at first; NaN for others."""
    if report not in REPORTS:
        raise unknown("report", report, REPORTS)
    counts = counts_of(x, steps, share)
    value, known = x.new_full((len(x),), torch.nan), recognised(model, logits(model, x), y) == 1
    if known.any():
        some = x[known]
        asked = counts if report == "mean" else counts[-1:]
        value[known] = replacing(model, some, torch.zeros_like(some), y[known], maps[known], asked, chunk, recognised).mean(1).to(x)
    return value


def recognised(model, logits, y):
    """r [B] of logits [B,C]: 1 or 0, NaN where the model gives NaN."""
    p = of_class(probabilities(model, logits), y)
    each = logits.shape[1] == 1 or getattr(model, "multi_label", False)
    hit = p >= 0.5 if each else logits.argmax(1) == y
    return hit.to(p.dtype).where(~p.isnan(), torch.nan)


def counts_of(x, steps, share):
    """k_t [T], t = 1, ..., T: t s HW / T, rounded to whole pixels."""
    pixels, steps = x.shape[-2] * x.shape[-1], whole_number("steps", steps)
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; a share of the image's pixels is needed, from 0 to 1")
    return torch.tensor([math.floor(t * share * pixels / steps + 0.5) for t in range(1, steps + 1)], device=x.device)


def gaussian(kernel, sigma):
    """The weights [kernel] of a Gaussian blur, made as RISE's: a delta that is smoothed, reflected at its ends."""
    if whole_number("kernel", kernel, most=10_001) % 2 == 0:
        raise ValueError(f"kernel is {kernel}; an odd number of pixels is needed")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; more than 0 pixels are needed")
    return gaussian_filter1d(np.eye(1, kernel, kernel // 2)[0], sigma)

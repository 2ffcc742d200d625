"""Insertion and deletion: the model's probability while pixels appear or vanish in the order of the map.

Point t = 0, ..., n-1 of a curve is p_y of an image whose k_t most salient pixels have been replaced, k_t = t HW / (n-1) rounded;
p: softmax probability (sigmoid for a multi-label model). Equally salient pixels go in reading order.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from xai_repro.errors import whole_number
from xai_repro.metrics.faithfulness import probability
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.network.forward import predict
from xai_repro.network.target import of_class, probabilities
from xai_repro.registry import metric
from xai_repro.store.sharing import shared, sharing

KERNEL = gaussian_filter1d(np.eye(11)[5], sigma=5)  # reflected at its ends, so nearly a box and of sum 1, as RISE's code has it


@metric("insertion", higher_is_better=True, cite="petsiuk2018rise")
def insertion(model, x, y, maps, truth=None, *, steps=29, baseline="blur", chunk=None):
    """The area under the probability while the image's pixels appear on a baseline, the most salient first.

    (1/(n-1)) sum_t (I_t + I_{t+1}) / 2, I_t = p_y(x on the first k_t pixels, the baseline elsewhere)
    [RISE; Collection-CAM, table 3]

    In [0,1] per image; the trapezoid rule on [0,1]. steps: points n of the curve, both ends included; 29 as in Collection-CAM,
    which changes 224*8 of 224*224 pixels at a time. baseline: "blur" as in RISE, the image blurred by an 11 x 11 kernel of
    sigma 5 with zeros around it, or "zero", the mean colour. Costs n forward passes. Raises ValueError for fewer than 2 steps
    or another baseline. *Deviation*: Collection-CAM inserts into "the baseline matrix" and cites RISE; its baseline is taken
    to be RISE's. RISE's ties go by a sort that is not stable, here in reading order.

    *Misleads*: An image of which a few pixels stand on a blur is unlike those that most networks are trained on. What is connected is
    recognised early: a map of the whole object can do better than one of the part that decides.
    """
    return area(insertion_curve(model, x, y, maps, steps=steps, baseline=baseline, chunk=chunk))


@metric("deletion", higher_is_better=False, cite="petsiuk2018rise")
def deletion(model, x, y, maps, truth=None, *, steps=29, chunk=None):
    """The area under the probability while the image's pixels vanish, the most salient first.

    (1/(n-1)) sum_t (D_t + D_{t+1}) / 2, D_t = p_y(zero on the first k_t pixels, x elsewhere)   [RISE; Collection-CAM, table 3]

    In [0,1] per image; zero is the mean colour, since images are normalised. steps: points n of the curve, both ends included,
    29 as in Collection-CAM. Costs n forward passes. Raises ValueError for fewer than 2 steps.

    *Misleads*: An image with holes is unlike those that most networks are trained on. Scattered pixels, even of noise, can bring the
    probability down sooner than the parts that decide.
    """
    return area(deletion_curve(model, x, y, maps, steps=steps, chunk=chunk))


@metric("overall", higher_is_better=True, cite="collection_cam")
def overall(model, x, y, maps, truth=None, *, steps=29, baseline="blur", chunk=None):
    """The area under the insertion curve minus that under the deletion curve.

    AUC(insertion) - AUC(deletion)   [Collection-CAM, eq. 28]

    In [-1,1] per image. steps and baseline: as for insertion and deletion. Costs 2n - 1 forward passes, since both curves
    meet at the image itself.

    *Misleads*: What misleads insertion and what misleads deletion. A map that is good in one of them can be bad in the other, and the
    difference does not show it.
    """
    with sharing():
        inserted = insertion(model, x, y, maps, steps=steps, baseline=baseline, chunk=chunk)
        return inserted - deletion(model, x, y, maps, steps=steps, chunk=chunk)


@shared
def insertion_curve(model, x, y, maps, *, steps=29, baseline="blur", chunk=None):
    """The points I_t [B,steps] of `insertion`, whose last is the image itself; arguments as there."""
    if baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; possible: {', '.join(BASELINES)}")
    points = replacing(model, BASELINES[baseline](x), x, y, maps, pixel_counts(x, steps)[:-1], chunk)
    return torch.cat([points, probability(model, x, y)[:, None]], 1)


@shared
def deletion_curve(model, x, y, maps, *, steps=29, chunk=None):
    """The points D_t [B,steps] of `deletion`, whose first is the image itself; arguments as there."""
    points = replacing(model, x, torch.zeros_like(x), y, maps, pixel_counts(x, steps)[1:], chunk)
    return torch.cat([probability(model, x, y)[:, None], points], 1)


def area(curve):
    """The area under curves [B,n] over [0,1], [B]: trapezoids of equal width."""
    return torch.trapezoid(curve) / (curve.shape[1] - 1)


def class_probability(model, logits, y):
    """p_y [B] of logits [B,C]."""
    return of_class(probabilities(model, logits), y)


def replacing(model, old, new, y, maps, counts, chunk=None, read=class_probability):
    """What `read` makes of the logits, p_y [B,T], for the images old whose counts[t] most salient pixels are taken from new."""
    rank = ranks(maps)

    def points(rows):
        row = torch.arange(rows.start, rows.stop, device=old.device)
        b, t = row // len(counts), row % len(counts)
        replaced = rank[b] < counts[t, None, None]
        images = torch.where(replaced[:, None], new[b], old[b])
        return read(model, predict(model, images, len(b)), y[b])

    return in_chunks(points, len(old) * len(counts), default_chunk(old) if chunk is None else chunk).view(len(old), -1)


def ranks(maps):
    """How many pixels of its map [B,H,W] are more salient than a pixel, or as salient and before it in reading order."""
    saliency = maps.flatten(1) + 0.0  # -0.0 becomes 0.0: the two are a tie, whatever a device's sort thinks of them
    order = saliency.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank).view_as(maps)


def pixel_counts(x, steps):
    """k_t = t HW / (steps - 1), rounded to whole pixels: from none of an image's pixels to all of them."""
    pixels, width = x.shape[-2] * x.shape[-1], whole_number("steps", steps, 2) - 1
    return (2 * pixels * torch.arange(steps, device=x.device) + width) // (2 * width)


def blur(x, kernel=KERNEL):
    """The images as insertion starts from them in RISE: every colour blurred by a kernel of odd length in both directions, zeros around it."""
    kernel = torch.as_tensor(kernel).to(x).view(1, 1, -1, 1)
    half = kernel.shape[2] // 2
    rows = F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=(half, 0))
    return F.conv2d(rows, kernel.mT, padding=(0, half)).view_as(x)


BASELINES = {"blur": blur, "zero": torch.zeros_like}

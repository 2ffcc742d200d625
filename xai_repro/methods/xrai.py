"""XRAI: integrated gradients, averaged over the regions of the image in the order of their strength."""

from functools import lru_cache

import numpy as np
import torch

from xai_repro.methods.gradient import path_integral
from xai_repro.network.forward import top1
from xai_repro.registry import method

SCALES = (50, 100, 150, 250, 500, 1200)  # of Felzenszwalb's segmentation, from fine to coarse
SIGMA, SMALLEST, SIDE = 0.8, 150, 224  # its blur and smallest segment, on an image of 224 x 224
RADIUS = 5  # by which a segment is dilated, in pixels
NEW = 50  # fewer new pixels make no region


@method("xrai", family="gradient", cite="kapishnikov2019xrai", signed=True)
def xrai(model, x, y=None, *, steps=100, chunk=None):
    """Segments of the image are ranked by their mean attribution, and every pixel gets the mean of the first one that holds it.

    M_ij = mean of a over R_r for (i,j) in R_r, R_r = the new pixels of the segment with the largest mean of a over its new pixels,
    a_ij = max_c of the mean over two baselines of IG_cij   [Kapishnikov et al. 2019, algorithm 1]

    M [B,H,W], signed, in logits; sum_ij M_ij = sum_ij a_ij. IG: `integrated-gradients` from images of one value, the smallest and
    the largest of x (the paper: black and white). Segments: Felzenszwalb's at six scales, on the image in [-1,1] resized to
    224 x 224, dilated by a disk of 5 pixels. A segment with fewer than 50 new pixels is dropped; what none covers is the last
    region. These numbers are the released code's, and so are steps: n for each baseline, 100. chunk: rows per forward pass, images
    times steps. Costs 2n forward and 2n backward passes and, where y is not given, one forward pass more; segments and regions are
    found on the CPU, image by image. Raises ValueError for fewer than one step.
    *Deviation*: the steps are those of `integrated-gradients`; the released code takes points from 0 to 1, both ends included. An
    image of one value is one segment; there the released code divides by zero.
    """
    y = top1(model, x, y, chunk)
    ends = [end(x, dim=(1, 2, 3), keepdim=True).expand_as(x) for end in (torch.amin, torch.amax)]
    a = sum(path_integral(model, x, end, y, steps, chunk) for end in ends).amax(1) / 2
    return torch.stack([by_regions(one.double().cpu(), segments(image)).to(x) for one, image in zip(a, x)])


def by_regions(a, masks):
    """The means of a [H,W] over the regions that masks [S,H,W] make, in place of a: [H,W]."""
    a, masks, shape = a.flatten(), masks.flatten(1), a.shape
    out, left = torch.empty_like(a), torch.ones_like(a, dtype=torch.bool)
    count, total = masks.sum(1), _sums(masks, a)  # of the pixels that a segment would add
    while (count >= NEW).any():
        best = torch.where(count >= NEW, total / count, -torch.inf).argmax()
        new = (masks[best] & left).nonzero()[:, 0]
        out[new], left[new] = a[new].mean(), False
        within = masks[:, new]
        count, total = count - within.sum(1), total - _sums(within, a[new])
    out[left] = a[left].mean()
    return out.view(shape)


def _sums(masks, a):
    """Sums [S] of a [n] over masks [S,n]; some masks at a time, since bits become floats."""
    return torch.cat([some.to(a) @ a for some in masks.split(16)])


def segments(image):
    """Segments of an image [C,H,W] at all scales, dilated: bool [S,H,W] on the CPU."""
    H, W = image.shape[1:]
    pixels = image.permute(1, 2, 0).double().cpu().contiguous().numpy()
    labels = _labels(pixels.tobytes(), H, W)
    # A dilated segment holds a pixel where its label occurs within the disk; beyond the border, the nearest pixel is no farther.
    around = np.pad(labels, ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)), mode="edge")
    masks, (i, j) = np.zeros((labels.max() + 1, H, W), dtype=bool), np.ogrid[:H, :W]
    for u in range(-RADIUS, RADIUS + 1):
        for v in range(-RADIUS, RADIUS + 1):
            if u**2 + v**2 <= RADIUS**2:
                masks[around[:, RADIUS + u : RADIUS + u + H, RADIUS + v : RADIUS + v + W], i, j] = True
    return torch.from_numpy(masks)


@lru_cache(maxsize=16)  # an image may be explained for several classes in a row
def _labels(pixels, H, W):
    """The segment [6,H,W] of every pixel at every scale, numbered through."""
    from skimage.segmentation import felzenszwalb  # here, since their import takes a second
    from skimage.transform import resize

    image = np.frombuffer(pixels).reshape(H, W, -1)
    spread = image.max() - image.min()
    image = 2 * (image - image.min()) / (spread if spread else 1) - 1
    small = resize(image, (SIDE, SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    labels, first = np.empty((len(SCALES), H, W), dtype=np.int32), 0
    for i, scale in enumerate(SCALES):
        found = felzenszwalb(small, scale=scale, sigma=SIGMA, min_size=SMALLEST)
        labels[i] = first + resize(found, (H, W), order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        first += found.max() + 1
    return labels

"""A CLA-layer of CLAM: attributes of classes, learnt from patches of a layer's features, and how far from them each place of an image is.

Features F [B,K,H,W] get the class's pattern as one channel more, are normalised place by place, and are embedded by two 1x1 convolutions:
E [B,K+1,H,W]. An attribute A_i [K+1,a,a] is compared with the q x q windows of a patch of p x p, q = p - a + 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xai_repro.errors import unknown

TINY = 1e-4  # what is added to the length of a place's features, as released
DECAY = 0.95  # of a mask, from ring to ring
LARGE = 8  # sides of kernels from which Fourier transforms pay
MASKS = ("corner", "patch")
NORMALISERS = ("size", "count")


@dataclass(frozen=True)
class CLA:
    """What a CLA-layer has learnt. attributes: A [N,K+1,a,a]; first, second: (weight [K+1,K+1], bias [K+1]) of the 1x1 convolutions; patterns:
    C [classes,p,p] of 0 and 1, the intrinsic pattern of each class; strength: of its mask."""

    attributes: Tensor
    first: tuple
    second: tuple
    patterns: Tensor
    strength: float

    p = property(lambda self: self.patterns.shape[-1])
    a = property(lambda self: self.attributes.shape[-1])
    q = property(lambda self: self.p - self.a + 1)


def class_patterns(classes, p, generator):
    """Patterns [classes,p,p] of 0 and 1 drawn at random, no two alike. Raises ValueError where there are not so many."""
    if classes > 2 ** min(p * p, 62):
        raise ValueError(f"{classes} classes need {classes} patterns, and {p} x {p} places have {2 ** (p * p)}")
    found = torch.zeros(0, p * p)
    while len(found) < classes:  # drawn anew where one was there already
        found = torch.cat([found, torch.randint(2, (classes, p * p), generator=generator).float()])
        kept = torch.tensor([n for n, one in enumerate(found) if not (found[:n] == one).all(1).any()])
        found = found[kept]
    return found[:classes].view(classes, p, p)


def embedded(features, bits, cla):
    """E [B,K+1,H,W] = AoL(x / (|x| + 1e-4)), x = [features; bits] place by place, AoL: conv-SiLU-conv-SiLU   [CLAM, eq. 2].

    bits: the values of the pattern, [B,H,W] or a number.
    """
    bits = bits[:, None] if isinstance(bits, Tensor) else torch.full_like(features[:, :1], bits)
    x = torch.cat([features, bits], 1)
    x = x / (x.norm(dim=1, keepdim=True) + TINY)
    for weight, bias in (cla.first, cla.second):
        x = F.silu(F.conv2d(x, weight[:, :, None, None], bias))
    return x


def top_places(R, p, number):
    """Corners [B,N,2] of the p x p patches that hold the most relevance on average, of its largest value over channels   [CLAM, eq. 1].

    They may overlap, as released. A small map has fewer places than are asked for: then they come again.
    """
    means = F.avg_pool2d(R.amax(1, keepdim=True), p, stride=1)[:, 0]
    flat = means.flatten(1).topk(min(number, means[0].numel()), 1).indices
    flat = flat[:, torch.arange(number) % flat.shape[1]]
    return torch.stack([flat // means.shape[-1], flat % means.shape[-1]], 2)


def cut(A, corners, p):
    """The patches [B,N,K,p,p] of features A [B,K,H,W] at corners [B,N,2]."""
    steps = torch.arange(p, device=A.device)
    rows, columns = (corners[..., d, None] + steps for d in (0, 1))
    batch = torch.arange(len(A), device=A.device)[:, None, None, None]
    return A[batch, :, rows[..., :, None], columns[..., None, :]].permute(0, 1, 4, 2, 3)


def embedded_patches(patches, patterns, cla):
    """E [B,N,K+1,p,p] of patches [B,N,K,p,p] with the patterns [B,p,p] of their images' classes."""
    B, N = patches.shape[:2]
    return embedded(patches.flatten(0, 1), patterns.repeat_interleave(N, 0), cla).view(B, N, -1, *patches.shape[-2:])


def distances(E, A):
    """Squared distances D [B,N,q,q] of the windows of patch i, E [B,N,K+1,p,p], to attribute i, A [N,K+1,a,a]   [CLAM, eq. 3]."""
    a = A.shape[-1]
    energy = F.avg_pool2d(E.square().sum(2), a, stride=1) * a * a
    cross = F.conv2d(E.flatten(1, 2), A, groups=len(A))
    return (energy - 2 * cross + A.square().sum((1, 2, 3))[:, None, None]).clamp(min=0)  # rounding


def contrastive(positive, negative, a, alpha=0.1, beta=0.6, normaliser="size"):
    """log(1 + exp(alpha (beta max_i d+_i - (1 - beta) mean_i d-_i))) of each image [B], d_i: mean of D_i over windows, normalised   [CLAM, eq. 4, 5].

    positive, negative: D [B,N,q,q]. normaliser: "size", a, as released; "count", N, as the text has it. They differ in what alpha means.
    Raises UnknownName for another.
    """
    if normaliser not in NORMALISERS:
        raise unknown("normaliser", normaliser, NORMALISERS)
    scale = a if normaliser == "size" else positive.shape[1]
    up, down = (one.mean((2, 3)) / scale for one in (positive, negative))
    return F.softplus(alpha * (beta * up.amax(1) - (1 - beta) * down.mean(1)))


def mean_distances(features, y, cla):
    """Mean over its windows of the distance of the patch at every place to every attribute, [B,N,H-p+1,W-p+1], with the pattern of class y [B].

    With E0, E1: E without and with the pattern's bit, B_i: A_i summed over q x q shifts, n(o): in how many windows an offset o of the patch is,
    d_i(s) = |A_i|^2 + (1/q^2) sum_o n(o) |E_b(o)(s+o)|^2 - 2 <E_b(o)(s+o), B_i(o)>. The part of E0 is an a x a correlation, summed over the
    windows; only that of E1 - E0, where the pattern is 1, needs p x p. So two embeddings serve every patch.
    """
    A, p, a, q = cla.attributes, cla.p, cla.a, cla.q
    E0, E1 = embedded(features, 0.0, cla), embedded(features, 1.0, cla)
    box = A.new_ones(1, 1, q, q)
    spread = F.conv2d(A.view(-1, 1, a, a), box, padding=q - 1).view(len(A), -1, p, p)
    covered = F.conv2d(A.new_ones(1, 1, a, a), box, padding=q - 1)
    cross = q * q * F.avg_pool2d(F.conv2d(E0, A), q, stride=1)
    energies = [one.square().sum(1, keepdim=True) for one in (E0, E1)]
    found = F.conv2d(energies[0], covered) - 2 * cross
    rise, change = E1 - E0, energies[1] - energies[0]
    for label in y.unique().tolist():
        own, pattern = y == label, cla.patterns[label]
        found[own] += F.conv2d(change[own], covered * pattern) - 2 * correlated(rise[own], spread * pattern)
    return A.square().sum((1, 2, 3))[:, None, None] + found / (q * q)


def correlated(x, kernels):
    """F.conv2d(x, kernels), by Fourier transforms where the kernels [N,K,p,p] are large: p x p products a place become a few."""
    if kernels.shape[-1] < LARGE:
        return F.conv2d(x, kernels)
    size, p = x.shape[-2:], kernels.shape[-1]
    product = torch.einsum("bkij,nkij->bnij", torch.fft.rfft2(x), torch.fft.rfft2(kernels, s=size).conj())
    return torch.fft.irfft2(product, s=size)[..., : size[0] - p + 1, : size[1] - p + 1]


def nearest(d):
    """Where each attribute finds its nearest patch: the corner (row, column) of the least d [B,N,h,w], long [B,N,2]; the first of several."""
    flat = d.flatten(2).argmin(2)
    return torch.stack([flat // d.shape[-1], flat % d.shape[-1]], 2)


def strengthened(corners, p, size, strength, kind="corner"):
    """By how much relevance is multiplied, [B,1,H,W]: the product over attributes of max(1, s 0.95^k) at distance k from where each was found.

    corners: of `nearest`. k: the larger of the distances in rows and columns. kind: "corner", k from the corner of the patch, up to p - 1,
    as released: it lies (p - 1) / 2 off, towards the top left; "patch", k from the middle of the patch, within it.
    Raises UnknownName for another kind.
    """
    if kind not in MASKS:
        raise unknown("mask", kind, MASKS)
    H, W = size
    reach = p - 1 if kind == "corner" else (p - 1) / 2
    middle = corners + (0 if kind == "corner" else reach)
    rows, columns = (torch.arange(n, device=corners.device) for n in (H, W))
    k = torch.maximum((rows[:, None] - middle[..., 0, None, None]).abs(), (columns - middle[..., 1, None, None]).abs())
    ring = (strength * DECAY ** k.double()).clamp(min=1)
    return torch.where(k <= reach, ring, 1.0).prod(1, keepdim=True)

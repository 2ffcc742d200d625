"""XRAI against its greedy rule by loops, segments dilated one by one, and pictures whose regions are known."""

import numpy as np
import pytest
import torch
import xai_repro as xr
from toys import TOYS, GapLinear, flops, images, seeded, Y

from xai_repro.methods.gradient import path_integral
from xai_repro.methods.xrai import by_regions, segments

def by_loops(a, masks):
    """The region of every step by sets of pixels, everything counted again each time."""
    value = {(i, j): a[i, j].item() for i in range(a.shape[0]) for j in range(a.shape[1])}
    candidates = [{tuple(pixel) for pixel in mask.nonzero().tolist()} for mask in masks]
    left, out = set(value), {}

    def mean(pixels):
        return sum(value[pixel] for pixel in pixels) / len(pixels)

    while candidates := [pixels for pixels in candidates if len(pixels & left) >= 50]:
        best = max(candidates, key=lambda pixels: mean(pixels & left))
        new = best & left
        out |= dict.fromkeys(new, mean(new))
        left -= new
        candidates.remove(best)
    out |= dict.fromkeys(left, mean(left) if left else 0)
    return torch.tensor([[out[i, j] for j in range(a.shape[1])] for i in range(a.shape[0])], dtype=a.dtype)


def blobs(n, H=20, W=26, seed=0):
    """n ellipses of all sizes, some too small, in masks [n,H,W], which leave something out."""
    rng = torch.Generator().manual_seed(seed)
    centre, radius = torch.rand(n, 2, 1, 1, generator=rng), 0.05 + 0.4 * torch.rand(n, 2, 1, 1, generator=rng)
    u, v = torch.arange(H).view(1, -1, 1) / H, torch.arange(W).view(1, 1, -1) / W
    masks = ((u - centre[:, 0]) / radius[:, 0]) ** 2 + ((v - centre[:, 1]) / radius[:, 1]) ** 2 < 1
    masks[:, :3] = False
    return masks


@pytest.mark.parametrize("seed", range(6))
def test_regions_by_loops(seed):
    masks = blobs(n=3 + 7 * seed, seed=seed)
    a = torch.randn(20, 26, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0).cumsum(1)
    got = by_regions(a - a.mean(), masks)
    torch.testing.assert_close(got, by_loops(a - a.mean(), masks), rtol=0, atol=1e-12)
    assert len(got.unique()) > 2


def test_a_region_takes_at_least_50_new_pixels():
    a = torch.arange(200, dtype=torch.float64).view(10, 20)
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[0, 7:], masks[1, 6:, :10], masks[2, :2, :15] = True, True, True  # 60 pixels; 40, 10 of them new; 30
    got = by_regions(a, masks)
    assert (got[7:] == 169.5).all() and (got[:7] == 69.5).all()  # the rest has its own mean
    masks[1, 2:] = True  # 160 pixels, 100 of them new
    got = by_regions(a, masks)
    assert (got[7:] == 169.5).all() and (got[2:7] == 89.5).all() and (got[:2] == 19.5).all()


def test_fifty_pixels_are_enough_for_a_region():
    a = torch.arange(200, dtype=torch.float64).view(10, 20)
    masks = torch.zeros(1, 10, 20, dtype=torch.bool)
    masks[0, :5, 10:] = True
    assert (by_regions(a, masks)[masks[0]] == a[masks[0]].mean()).all()
    masks[0, 0, 10] = False
    assert (by_regions(a, masks) == a.mean()).all()


@pytest.mark.parametrize("name", TOYS)
def test_the_map_sums_to_the_attributions(name):
    model, x = seeded(TOYS[name].build), images(2, size=48)
    ends = [value.view(2, 1, 1, 1).expand_as(x) for value in (x.flatten(1).min(1).values, x.flatten(1).max(1).values)]
    if name == "vgg":
        model.avgpool = torch.nn.AdaptiveAvgPool2d((4, 4))
    a = ((path_integral(model, x, ends[0], Y[:2], 4) + path_integral(model, x, ends[1], Y[:2], 4)) / 2).max(1).values
    maps = xr.explain(model, x, Y[:2], "xrai", steps=4)
    torch.testing.assert_close(maps.sum((1, 2)), a.sum((1, 2)), rtol=1e-10, atol=1e-12)
    for b in range(2):
        assert 1 < len(maps[b].unique()) < 100
        torch.testing.assert_close(maps[b], by_loops(a[b], segments(x[b])), rtol=0, atol=1e-12)


def test_one_segment_gives_the_mean_attribution_everywhere():
    a = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    everything = torch.ones(1, 20, 30, dtype=torch.bool)
    torch.testing.assert_close(by_regions(a, everything), a.mean().expand(20, 30), rtol=0, atol=1e-14)
    torch.testing.assert_close(by_regions(a, everything[:0]), a.mean().expand(20, 30), rtol=0, atol=1e-14)


def test_an_image_of_one_value():
    x = torch.full((2, 3, 16, 24), 0.7, dtype=torch.float64)
    assert segments(x[0]).all()
    assert (xr.explain(seeded(GapLinear), x, 1, "xrai", steps=2) == 0).all()  # the image is its own baseline


class Plane(torch.nn.Module):
    """S = sum w x, and another logit."""

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(w)

    def forward(self, x):
        S = (self.w * x).flatten(1).sum(1)
        return torch.stack([S, -S], 1)


@pytest.mark.parametrize("steps", [1, 3])
def test_attributions_of_a_plane(steps):
    """IG of a plane is w (x - x0), whatever the steps; its mean over both baselines is w (x - (min + max) / 2)."""
    w, x = images(1, size=40, seed=7), images(2, size=40)
    maps = xr.explain(Plane(w), x, 0, "xrai", steps=steps)
    for b in range(2):
        a = w[0] * (x[b] - (x[b].min() + x[b].max()) / 2)
        strongest = torch.maximum(torch.maximum(a[0], a[1]), a[2])
        torch.testing.assert_close(maps[b], by_loops(strongest, segments(x[b])), rtol=0, atol=1e-12)


def test_a_picture_of_two_halves():
    """The left half has value 1 and counts, the right one -1 and does not. Blurred before the segmentation, the segments end 3 pixels
    before the middle and are dilated by 5; between them are strips of a pixel, dilated too."""
    x = torch.ones(1, 3, 224, 224, dtype=torch.float64)
    x[..., 112:] = -1
    w = (x > 0).double()
    columns = [mask.any(0).nonzero()[:, 0] for mask in segments(x[0])]
    assert {(c[0].item(), c[-1].item()) for c in columns} == {(0, 113), (110, 223), *((c, c + 10) for c in range(104, 110))}
    expected = torch.zeros(224, 224, dtype=torch.float64)
    expected[:, :114] = 112 / 114
    torch.testing.assert_close(xr.explain(Plane(w), x, 0, "xrai", steps=2)[0], expected, rtol=0, atol=1e-12)
    expected[:, :110], expected[:, 110:] = -1, -2 / 114  # of the other class: what speaks least against it comes first
    torch.testing.assert_close(xr.explain(Plane(w), x, 1, "xrai", steps=2)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(224, 224), (40, 56)])
def test_segments_one_by_one(size):
    """At 224 x 224 nothing is resized; every segment is dilated by itself."""
    from skimage.morphology import dilation, disk
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    image = torch.nn.functional.interpolate(images(1, size=16), size=size, mode="bicubic")[0]
    picture = image.permute(1, 2, 0).numpy()
    picture = (picture - picture.min()) / (picture.max() - picture.min()) * 2 - 1
    if size != (224, 224):
        picture = resize(picture, (224, 224), order=3, mode="constant", anti_aliasing=True)
    expected = []
    for scale in (50, 100, 150, 250, 500, 1200):
        labels = felzenszwalb(picture, scale=scale, sigma=0.8, min_size=150)
        number = labels.max() + 1
        labels = resize(labels, size, order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        expected += [dilation(labels == label, disk(5)) for label in range(number)]
    got = segments(image)
    assert got.dtype == torch.bool and len(got) > 12
    assert np.array_equal(got.numpy(), np.stack(expected))


def test_the_steps_for_both_baselines_are_paid_once():
    model, x = seeded(GapLinear), images(1, size=32)

    def spent(y, steps):
        return flops(lambda: xr.explain(model, x, y, "xrai", steps=steps))

    step = spent(1, 3) - spent(1, 2)
    assert spent(1, 3) == 3 * step  # a forward and a backward pass for each of the baselines
    assert 0 < spent(None, 3) - spent(1, 3) <= step / 4 + 1e-9 * step

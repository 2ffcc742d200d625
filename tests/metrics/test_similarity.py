"""Similarities of maps against loops over pixels, windows and cells, and on cases worked out by hand."""

import math

import pytest
import torch
import xai_repro as xr
from scipy.stats import spearmanr
from toys import images, seeded, TOYS

from xai_repro.errors import NotApplicable
from xai_repro.metrics.similarity import hog, overlap, overlap_of_rows, SIMILARITIES, spearman, ssim


def noise(B=3, H=20, W=24, seed=0, dtype=torch.float64):
    return torch.randn(B, H, W, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def row(*values):
    return torch.tensor([[values]], dtype=torch.float64)


def ranks(values):
    """The rank of a value is the number of smaller ones and half the number of equal ones, itself and one more included."""
    return [sum(v < u for v in values) + (sum(v == u for v in values) + 1) / 2 for u in values]


def correlation(a, b):
    n = len(a)
    da, db = [u - sum(a) / n for u in a], [v - sum(b) / n for v in b]
    return sum(u * v for u, v in zip(da, db)) / math.sqrt(sum(u * u for u in da) * sum(v * v for v in db))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_I22_identical_maps_are_exactly_alike(name, dtype):
    plain = noise(dtype=dtype)
    for maps in (plain, plain.relu(), 1e-20 * plain, plain.round(), noise(2, 60, 49, dtype=dtype)):
        got = SIMILARITIES[name](maps, maps.clone())
        assert got.dtype == dtype and got.tolist() == [1] * len(maps)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_image_by_itself_both_ways_and_within_bounds(name):
    a, b = noise(), noise(seed=1)
    got = SIMILARITIES[name](a, b)
    assert torch.equal(torch.cat([SIMILARITIES[name](a[i : i + 1], b[i : i + 1]) for i in range(3)]), got)
    torch.testing.assert_close(SIMILARITIES[name](b, a), got, rtol=0, atol=1e-12)
    assert (got.abs() < 0.5).all() and not got.isnan().any()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_undefined_where_a_map_is_constant(name):
    a, b = noise(4), noise(4, seed=1)
    a[0], b[1], a[2], b[2] = 0, 3, 7, 7
    assert SIMILARITIES[name](a, b).isnan().tolist() == [True, True, True, False]


# -- rank correlation -------------------------------------------------------------------------------------------------------


def test_spearman_by_hand_with_ties():
    # ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 4, 3: products 1.5 + 0.75 over sqrt(4.5 4.5)
    assert spearman(row(1, 2, 2, 3), row(10, 10, 30, 20)).tolist() == [0.5]
    # ranks 1.5, 1.5, 3.5, 3.5 and 1, 2, 3, 4: products 4 over sqrt(4 5)
    assert spearman(row(0, 0, 1, 1), row(-5, -4, 0, 9)).item() == pytest.approx(4 / math.sqrt(20), abs=1e-15)


def test_spearman_sees_order_and_sign_alone():
    a = noise()
    assert spearman(a, a.exp()).tolist() == [1, 1, 1] and spearman(a, -a).tolist() == [-1, -1, -1]
    assert spearman(row(-3, -2, 0, 1), row(3, 2, 0, 1)).item() == pytest.approx(-0.8, abs=1e-15)  # 1 - 6 18 / (4 15)


def test_spearman_by_counting():
    a, b = noise(H=6, W=7), noise(H=6, W=7, seed=1)
    a, b = (a + 0.5 * b).round(decimals=1).relu(), b.round(decimals=1)
    for i in range(3):
        one, other = a[i].flatten().tolist(), b[i].flatten().tolist()
        assert spearman(a, b)[i].item() == pytest.approx(correlation(ranks(one), ranks(other)), abs=1e-12)
        assert spearman(a, b)[i].item() == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


# -- structural similarity --------------------------------------------------------------------------------------------------


def scaled(plane):
    return (plane - plane.min()) / (plane.max() - plane.min())


def test_ssim_window_by_window():
    a = noise(2, 13, 14)
    b = a + 0.7 * noise(2, 13, 14, seed=1)
    bell = torch.tensor([math.exp(-(u**2) / (2 * 1.5**2)) for u in range(-5, 6)], dtype=torch.float64)
    weight = bell[:, None] * bell / (bell[:, None] * bell).sum()
    for one, other, got in zip(a, b, ssim(a, b)):
        one, other, total = scaled(one), scaled(other), 0
        for i in range(3):
            for j in range(4):
                p, q = one[i : i + 11, j : j + 11], other[i : i + 11, j : j + 11]
                mp, mq = (weight * p).sum(), (weight * q).sum()
                vp, vq, vpq = ((weight * s * t).sum() - m for s, t, m in ((p, p, mp**2), (q, q, mq**2), (p, q, mp * mq)))
                top = (2 * mp * mq + 1e-4) * (2 * 121 / 120 * vpq + 9e-4)
                total += top / ((mp**2 + mq**2 + 1e-4) * (121 / 120 * (vp + vq) + 9e-4))
        assert got.item() == pytest.approx(total.item() / 12, abs=1e-12)


def test_ssim_knows_no_scale_and_needs_a_window():
    a, b = noise(), noise(seed=1)
    torch.testing.assert_close(ssim(5 * a + 3, b), ssim(a, b))
    assert not torch.allclose(ssim(a.abs(), b), ssim(a, b))
    with pytest.raises(ValueError, match="windows of 11x11 pixels; the maps have 10x24"):
        ssim(a[:, :10], b[:, :10])


# -- histograms of oriented gradients ---------------------------------------------------------------------------------------


def histograms(plane, cell):
    """Nine orientations of the gradient per cell, weighted by its length; blocks of 3x3 cells normalised, clipped, normalised."""
    H, W = plane.shape
    cells = torch.zeros(H // cell, W // cell, 9, dtype=torch.float64)
    for i in range(H // cell * cell):
        for j in range(W // cell * cell):
            down = (plane[i + 1, j] - plane[i - 1, j]).item() if 0 < i < H - 1 else 0
            right = (plane[i, j + 1] - plane[i, j - 1]).item() if 0 < j < W - 1 else 0
            angle = math.degrees(math.atan2(down, right)) % 180
            cells[i // cell, j // cell, int(angle // 20) % 9] += math.hypot(down, right) / cell**2
    found = []
    for i in range(len(cells) - 2):
        for j in range(cells.shape[1] - 2):
            block = cells[i : i + 3, j : j + 3].flatten()
            block = (block / (block.square().sum() + 1e-10).sqrt()).clamp(max=0.2)
            found += (block / (block.square().sum() + 1e-10).sqrt()).tolist()
    return found


@pytest.mark.parametrize("H, W, cell", [(50, 70, 16), (16, 16, 5), (20, 200, 6)])
def test_hog_cell_by_cell(H, W, cell):
    a = noise(2, H, W)
    b = a + 0.5 * noise(2, H, W, seed=1)
    for one, other, got in zip(a, b, hog(a, b)):
        h, g = (histograms(scaled(plane), cell) for plane in (one, other))
        assert got.item() == pytest.approx(correlation(ranks(h), ranks(g)), abs=1e-6)


def test_hog_sees_edges_wherever_they_point():
    across = torch.arange(48.0).expand(1, 48, 48)
    wave = torch.sin(across / 5)
    assert hog(wave, 3 - 2 * wave).item() == pytest.approx(1, abs=1e-3)  # an edge and its negative have one orientation
    assert hog(wave, wave.mT) < 0.5
    assert torch.equal(hog(2.0**-30 * noise(), noise(seed=1)), hog(noise(), noise(seed=1)))  # however faint
    with pytest.raises(ValueError, match="the maps have 2x9 pixels"):
        hog(noise(1, 2, 9), noise(1, 2, 9))


# -- where the largest values are ------------------------------------------------------------------------------------------------


def plain_rows(a, b, threshold):
    """The released code's measure, pixel by pixel: bytes of 256 times the map in three equal channels, and the mean over rows."""
    rows = []
    for i in range(a.shape[0]):
        both = either = 0
        for j in range(a.shape[1]):
            for _ in range(3):
                u, v = ((int(m[i, j] * 256) % 256) > threshold * 255 for m in (a, b))
                both, either = both + (u and v), either + (u or v)
        rows.append((both + 1e-6) / (either + 1e-6))
    return sum(rows) / len(rows)


def test_overlap_by_hand_and_by_loops():
    a, b = torch.zeros(2, 8, 8, dtype=torch.float64), torch.zeros(2, 8, 8, dtype=torch.float64)
    a[0, :2], b[0, 1:3] = 3.0, 5.0  # two rows each, one in common
    a[1, :2], b[1, 6:] = 1.0, 1.0  # none
    torch.testing.assert_close(overlap(a, b), torch.tensor([1 / 3, 0], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 9, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    a, b = xr.normalize(a), xr.normalize(b)
    for threshold in (100 / 255, 0.7):
        sets = [[{(i, j) for i in range(9) for j in range(7) if m[i, j] > threshold} for m in (u, v)] for u, v in zip(a, b)]
        torch.testing.assert_close(overlap(a, b, threshold), torch.tensor([len(u & v) / len(u | v) for u, v in sets], dtype=torch.float64))
        torch.testing.assert_close(overlap_of_rows(a, b, threshold), torch.tensor([plain_rows(u, v, threshold) for u, v in zip(a, b)], dtype=torch.float64))


def test_overlap_of_rows_rewards_maps_that_show_little():
    """Two spots that share no pixel: nothing in common, and .75 by the mean over rows."""
    a, b = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    a[0, 0, :2], b[0, 7, :2] = 0.9, 0.9
    a[0, 0, 7], b[0, 7, 7] = 1.0, 1.0  # the largest, which is lost as a byte
    assert overlap(a, b).tolist() == [0] and overlap_of_rows(a, b).tolist() == pytest.approx([0.75], abs=1e-4)
    assert overlap(a, a).tolist() == [1] and torch.isnan(overlap(a, torch.ones_like(a))).all()


def test_stability_iou_is_the_overlap_with_the_other_maps():
    a, b = (torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2))
    model, x, y = seeded(TOYS["gap"].build), images(2), torch.tensor([0, 1])
    torch.testing.assert_close(xr.score("stability-iou", model, x, y, a, others=b), overlap(a, b))
    torch.testing.assert_close(xr.score("stability-iou", model, x, y, a, others=b, rows=True, threshold=0.5), overlap_of_rows(a, b, 0.5))
    torch.testing.assert_close(xr.score("stability-iou", model, x, y, a, others=b[:1]), overlap(a, b[:1].expand(2, -1, -1)))
    with pytest.raises(ValueError, match=r"others are maps \[2, 8, 16\]; \[2, 16, 16\] are needed"):
        xr.score("stability-iou", model, x, y, a, others=b[:, :8])
    with pytest.raises(NotApplicable, match="compares maps with those of another training"):
        xr.score("stability-iou", model, x, y, a)

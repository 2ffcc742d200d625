"""Outside-inside ratio, average precision and IoU: by hand, against loops and scikit-learn, and their invariances."""

import math
import statistics

import pytest
import torch
import xai_repro as xr
from sklearn.metrics import average_precision_score
from toys import seeded, VGGLike

from xai_repro.errors import UnknownName

F64 = torch.float64
METRICS = ("outside-inside-ratio", "segmentation-ap", "iou")


def measure(name, maps, truth, **options):
    x = torch.zeros(len(maps), 3, *maps.shape[1:], dtype=maps.dtype)
    return xr.score(name, seeded(VGGLike, dtype=maps.dtype), x, 0, maps, truth, **options)


def drawn(B=6, seed=3, levels=None):
    """Signed maps [B,16,16], with levels full of ties, and objects of 10 to 60 % of the image that the maps tell a little."""
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(B, 16, 16, generator=draw, dtype=F64)
    truth = maps + 2 * torch.randn(B, 16, 16, generator=draw, dtype=F64) > torch.linspace(-0.5, 2.5, B, dtype=F64)[:, None, None]
    return (maps if levels is None else (maps * levels / 3).round()), truth


def row(*values, rest=0.0):
    """One image of 16 x 16 pixels: these first, the rest all the same."""
    image = torch.full((1, 256), rest, dtype=torch.bool if isinstance(rest, bool) else F64)
    image[0, : len(values)] = torch.tensor(values, dtype=image.dtype)
    return image.view(1, 16, 16)


# -- outside-inside ratio -------------------------------------------------------------------------------------------------


def plain_ratio(values, inside, positive=False):
    low, high = min(values), max(values)
    N = [max(v, 0) if positive else (v - low) / (high - low) for v in values]
    return statistics.fmean(n for n, i in zip(N, inside) if not i) / statistics.fmean(n for n, i in zip(N, inside) if i)


@pytest.mark.parametrize("positive", [False, True])
def test_ratio_against_a_loop(positive):
    maps, truth = drawn()
    expected = [plain_ratio(m, t, positive) for m, t in zip(maps.flatten(1).tolist(), truth.flatten(1).tolist())]
    assert measure("outside-inside-ratio", maps, truth, positive=positive).tolist() == pytest.approx(expected, abs=1e-12)


def test_ratio_by_hand():
    maps, truth = row(3.0, 1.0, rest=-1.0), row(True, True, rest=False)  # 1 and 1/2 inside, zero outside
    maps[0, 15, 15] = 7  # and now 1/2 and 1/4 inside, one pixel of 254 with 1 outside
    assert measure("outside-inside-ratio", maps, truth).item() == pytest.approx(1 / 254 / (3 / 8))
    assert measure("outside-inside-ratio", maps, truth, positive=True).item() == pytest.approx(7 / 254 / 2)
    assert measure("outside-inside-ratio", row(2.0, rest=1.0), row(True, True, rest=False), positive=True).item() == pytest.approx(1 / 1.5)
    assert measure("outside-inside-ratio", row(2.0, rest=1.0), row(True, True, rest=False)).item() == 0


def test_ratio_invariances():
    maps, truth = drawn()
    values = measure("outside-inside-ratio", maps, truth)
    torch.testing.assert_close(measure("outside-inside-ratio", 7.5 * maps - 30, truth), values)
    torch.testing.assert_close(measure("outside-inside-ratio", maps, ~truth), 1 / values)
    positive = measure("outside-inside-ratio", maps, truth, positive=True)
    torch.testing.assert_close(measure("outside-inside-ratio", 7.5 * maps, truth, positive=True), positive)
    assert (measure("outside-inside-ratio", maps + 1, truth, positive=True) - positive).abs().min() > 1e-3
    assert (values - positive).abs().min() > 1e-3
    torch.testing.assert_close(measure("outside-inside-ratio", maps, truth, positive=False), values)


def test_ratio_where_there_is_nothing_to_divide():
    truth, some = row(True, True, rest=False), row(0.0, 0.0, 1.0)
    for constant in (0.0, 0.1, -3.0):
        for positive in (False, True):
            assert measure("outside-inside-ratio", row(rest=constant), truth, positive=positive).item() == pytest.approx(1, abs=1e-12)
    for positive in (False, True):
        assert measure("outside-inside-ratio", some, truth, positive=positive).isnan().all()  # it would be infinite
        assert measure("outside-inside-ratio", some, ~truth, positive=positive).item() == 0
    assert measure("outside-inside-ratio", row(-1.0, 0.0, -2.0), truth, positive=True).item() == 1  # nothing positive anywhere
    for whole in (truth & False, truth | True):
        assert measure("outside-inside-ratio", some, whole).isnan().all() and measure("outside-inside-ratio", row(), whole).isnan().all()


# -- average precision ----------------------------------------------------------------------------------------------------


def plain_precision(values, inside):
    """Every value of the map as a threshold, from the highest: precision there, times the recall that it adds."""
    total, before, area = sum(inside), 0, 0.0
    for threshold in sorted(set(values), reverse=True):
        found = [i for v, i in zip(values, inside) if v >= threshold]
        area += (sum(found) - before) / total * sum(found) / len(found)
        before = sum(found)
    return area


@pytest.mark.parametrize("levels", [None, 9, 2])
def test_ranking_against_a_loop_and_scikit_learn(levels):
    maps, truth = drawn(levels=levels)
    got = measure("segmentation-ap", maps, truth, reading="ranking")
    pairs = list(zip(maps.flatten(1).tolist(), truth.flatten(1).tolist()))
    assert got.tolist() == pytest.approx([plain_precision(*pair) for pair in pairs], abs=1e-12)
    assert got.tolist() == pytest.approx([average_precision_score(t, m) for m, t in pairs], abs=1e-12)
    assert torch.equal(measure("segmentation-ap", maps, truth), got)
    assert measure("segmentation-ap", -maps, ~truth).tolist() == pytest.approx([average_precision_score([not i for i in t], [-v for v in m]) for m, t in pairs], abs=1e-12)


def test_binary_against_scikit_learn_and_by_precision_and_recall():
    maps, truth = drawn(levels=5)
    got = measure("segmentation-ap", maps, truth, reading="binary").tolist()
    for value, m, t in zip(got, maps.flatten(1).tolist(), truth.flatten(1).tolist()):
        hits = sum(v > 0 and i for v, i in zip(m, t))
        precision, recall = hits / sum(v > 0 for v in m), hits / sum(t)
        assert value == pytest.approx(precision * recall + (1 - recall) * sum(t) / len(t), abs=1e-12)
        assert value == pytest.approx(average_precision_score(t, [float(v > 0) for v in m]), abs=1e-12)


@pytest.mark.parametrize("shift", [0, 10])
def test_two_channels_as_the_released_script_scores_them(shift):
    """Both channels flattened: the scores of the background and of the object, against the background's and the object's mask."""
    maps, truth = drawn(levels=5)
    maps = maps + shift  # without negative values: less the mean
    got = measure("segmentation-ap", maps, truth, reading="two-channel").tolist()
    for value, m, t in zip(got, maps.flatten(1).tolist(), truth.flatten(1).tolist()):
        cut = statistics.fmean(m) if min(m) >= 0 else 0
        scores = [float(v <= cut) for v in m] + [float(v > cut) for v in m]
        assert value == pytest.approx(average_precision_score([not i for i in t] + t, scores), abs=1e-12)
        right = statistics.fmean((v > cut) == i for v, i in zip(m, t))
        assert value == pytest.approx(right**2 + (1 - right) / 2, abs=1e-12)


def test_two_channels_by_hand():
    half = (torch.arange(256) < 128).view(1, 16, 16)
    assert measure("segmentation-ap", half.double(), half, reading="two-channel").item() == 1
    assert measure("segmentation-ap", half.double() - 0.5, ~half, reading="two-channel").item() == 0.5
    quarter = (torch.arange(256) < 64).view(1, 16, 16)
    constant = torch.full((1, 16, 16), 0.1, dtype=F64)  # all background, though its mean is rounded
    assert measure("segmentation-ap", constant, ~quarter, reading="two-channel").item() == 0.4375
    assert measure("segmentation-ap", row(1.0, 2.0, 0.0, rest=1.0), row(False, True, rest=False), reading="two-channel").item() == 1  # 1 is the mean


def test_ranking_known_answers():
    maps, truth = drawn()
    assert torch.equal(measure("segmentation-ap", truth.double(), truth), torch.ones(6, dtype=F64))
    torch.testing.assert_close(measure("segmentation-ap", torch.zeros_like(maps), truth), truth.double().mean((1, 2)))
    torch.testing.assert_close(measure("segmentation-ap", maps.exp() * 3, truth), measure("segmentation-ap", maps, truth))
    assert torch.equal(measure("segmentation-ap", maps, truth | True), torch.ones(6, dtype=F64))
    assert measure("segmentation-ap", row(5.0, 4.0, 3.0), row(False, True, True, rest=False)).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert measure("segmentation-ap", row(5.0, 3.0, 3.0, 3.0), row(False, True, rest=False)).item() == pytest.approx(1 / 4)
    zeros = row(-0.0, 0.0, -0.0, rest=-1.0)
    assert measure("segmentation-ap", zeros, row(True, rest=False)).item() == pytest.approx(1 / 3)
    for reading in ("ranking", "binary", "two-channel"):
        assert measure("segmentation-ap", maps, truth & False, reading=reading).isnan().all()


# -- IoU ------------------------------------------------------------------------------------------------------------------


def plain_iou(values, inside, deviations):
    cut = statistics.fmean(values) + deviations * statistics.pstdev(values)
    both, either = (sum(test((v > cut, i)) for v, i in zip(values, inside)) for test in (all, any))
    return both / either


@pytest.mark.parametrize("deviations", [0.0, 0.4, 1.0, 2.5])
def test_iou_against_a_loop(deviations):
    maps, truth = drawn()
    expected = [plain_iou(m, t, deviations) for m, t in zip(maps.flatten(1).tolist(), truth.flatten(1).tolist())]
    got = measure("iou", maps, truth, deviations=deviations)
    assert got.tolist() == pytest.approx(expected, abs=1e-12) and 0 <= got.min() < got.max() < 1
    torch.testing.assert_close(measure("iou", 0.3 * maps - 5, truth, deviations=deviations), got)
    if deviations == 1:
        assert torch.equal(measure("iou", maps, truth), got)


def test_iou_by_hand():
    truth = row(True, True, True, rest=False)
    assert measure("iou", row(1.0, 1.0, 1.0), truth).item() == 1
    assert measure("iou", row(1.0, 1.0), truth).item() == pytest.approx(2 / 3)
    assert measure("iou", row(0.0, 1.0, 1.0, 1.0), truth).item() == pytest.approx(2 / 4)
    assert measure("iou", row(0.0, 0.0, 0.0, 1.0), truth).item() == 0
    assert measure("iou", row(1.0), truth & False).isnan().all() and measure("iou", row(1.0), truth | True).item() == 1 / 256


def test_what_lies_at_the_cut_is_below_it():
    half = (torch.arange(256) < 128).view(1, 16, 16)  # the mean and one deviation are the higher value itself
    for low, high in ((0.0, 1.0), (0.1, 0.3), (-7.3, 0.7), (1e-3, 1e5)):
        assert measure("iou", torch.where(half, high, low).double(), half).item() == 0
        assert measure("iou", torch.where(half, high, low).double(), half, deviations=0.999).item() == 1
    for constant in (0.0, 0.1, -1e6):
        assert measure("iou", row(rest=constant), half).item() == 0
        assert measure("iou", row(rest=constant), half, deviations=0.0).item() == 0


# -- all of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_an_image_does_not_depend_on_its_batch(name):
    maps, truth = drawn(levels=9)
    truth[2] = False
    values = measure(name, maps, truth)
    alone = torch.cat([measure(name, maps[b : b + 1], truth[b : b + 1]) for b in range(6)])
    assert torch.equal(values.nan_to_num(-1), alone.nan_to_num(-1)) and values.isnan().tolist() == [b == 2 for b in range(6)]
    single = measure(name, maps.float(), truth)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), values, rtol=0, atol=1e-6, equal_nan=True)


def test_wrong_hyper_parameters():
    maps, truth = drawn()
    with pytest.raises(UnknownName, match="unknown reading 'rank'; did you mean 'ranking'.*possible: ranking, binary, two-channel"):
        measure("segmentation-ap", maps, truth, reading="rank")
    with pytest.raises(ValueError, match="deviations of iou is -1.0; it cannot be negative"):
        measure("iou", maps, truth, deviations=-1.0)
    with pytest.raises(ValueError, match="positive of outside-inside-ratio is 1 .*true or false"):
        measure("outside-inside-ratio", maps, truth, positive=1)
    for name in METRICS:
        with pytest.raises(ValueError, match="class 9; the model has classes 0 to 4"):
            xr.score(name, seeded(VGGLike), torch.zeros(6, 3, 16, 16, dtype=F64), 9, maps, truth)
        with pytest.raises(ValueError, match=f"{name} needs truth: the object's mask"):
            measure(name, maps, None)
    assert not math.isnan(measure("iou", maps, truth).sum())

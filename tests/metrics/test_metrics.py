"""Every metric on cases computed by hand, and where it is undefined."""

import math

import pytest
import torch
import xai_repro as xr
from toys import CLASSES, VGGLike, images, seeded
from torch import nn


class Odds(nn.Module):
    """Two classes; the odds of class 0 are the product of exp over all pixels: p_0 = 1 / (1 + exp(-sum x))."""

    def __init__(self, multi_label=False):
        super().__init__()
        self.fc = nn.Linear(1, 2, bias=False)
        self.fc.weight.data = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        self.multi_label = multi_label

    def forward(self, x):
        return self.fc(x.sum((1, 2, 3))[:, None])


def photo(*pixels):
    """One image of a row of grey pixels, each worth its odds: a pixel 3 triples the odds of class 0."""
    values = torch.tensor([math.log(p) / 3 for p in pixels], dtype=torch.float64)
    return values.expand(1, 3, 1, len(pixels)).clone()


def row(*values):
    return torch.tensor([[values]], dtype=torch.float64)


def value(metric, x, maps, y=0, truth=None, model=None, **hyper):
    (got,) = xr.score(metric, model or Odds(), x, y, maps, truth, **hyper).tolist()
    return got


def mask(*values):
    return torch.tensor([[values]], dtype=torch.bool)


# -- faithfulness ---------------------------------------------------------------------------------------------------------


# the pixels make odds 3, so Y = 3/4; a kept pixel keeps its odds, a removed one has odds 1
@pytest.mark.parametrize(
    "pixels, keep, Y, O, D",
    [
        ((3, 1), (1, 0), 3 / 4, 3 / 4, 1 / 2),
        ((3, 1), (0, 1), 3 / 4, 1 / 2, 3 / 4),
        ((9, 1 / 3), (1, 0), 3 / 4, 9 / 10, 1 / 4),  # evidence against is masked: the model gains
        ((9, 1 / 3), (0, 1), 3 / 4, 1 / 4, 9 / 10),  # and here deleting it gains
        ((9, 1), (0.5, 1), 9 / 10, 3 / 4, 3 / 4),  # half of a pixel's log odds
    ],
)
def test_faithfulness_by_hand(pixels, keep, Y, O, D):  # noqa: E741
    x, maps = photo(*pixels), row(*keep)
    assert value("average-drop", x, maps) == pytest.approx(max(0, Y - O) / Y, abs=1e-12)
    assert value("average-drop-in-deletion", x, maps) == pytest.approx((Y - D) / Y, abs=1e-12)
    assert value("confidence-gain", x, maps) == pytest.approx(O - Y, abs=1e-12)
    if Y != O:
        assert value("increase-in-confidence", x, maps) == float(O > Y)


def test_faithfulness_of_the_other_class():
    x, maps = photo(9, 1 / 3), row(1, 0)  # for class 1: Y = 1/4, O = 1/10, D = 3/4
    assert value("average-drop", x, maps, y=1) == pytest.approx(0.6)
    assert value("average-drop-in-deletion", x, maps, y=1) == pytest.approx(-2)
    assert value("confidence-gain", x, maps, y=1) == pytest.approx(1 / 10 - 1 / 4)
    assert value("increase-in-confidence", x, maps, y=1) == 0
    assert value("increase-in-confidence", x, 1 - maps, y=1) == 1


def test_a_multi_label_model_has_a_sigmoid_per_class():
    class Two(Odds):
        def forward(self, x):
            s = x.sum((1, 2, 3))
            return torch.stack([s, 2 * s], 1)

    x, maps = photo(3, 3), row(1, 0)  # sigmoids: 9/10 -> 3/4 of class 0, 81/82 -> 9/10 of class 1
    many, one = Two(multi_label=True), Two(multi_label=False)
    assert value("average-drop", x, maps, 0, model=many) == pytest.approx(1 - (3 / 4) / (9 / 10))
    assert value("average-drop", x, maps, 1, model=many) == pytest.approx(1 - (9 / 10) / (81 / 82))
    assert value("average-drop", x, maps, 1, model=one) == pytest.approx(1 - (3 / 4) / (9 / 10))  # softmax: odds exp(s)
    assert value("increase-in-confidence", x, maps, 0, model=one) == 1  # softmax of class 0: 1/10 -> 1/4
    assert value("increase-in-confidence", x, maps, 0, model=many) == 0


def test_I19_maps_of_ones_and_zeros():
    model, x, y = seeded(VGGLike), images(4), torch.tensor([1, 4, 0, 2])
    ones, zeros = torch.ones(4, 16, 16, dtype=torch.float64), torch.zeros(4, 16, 16, dtype=torch.float64)

    def p(images):
        z = model(images)[torch.arange(4), :].detach()
        return torch.tensor([math.exp(z[b, y[b]]) / sum(math.exp(v) for v in z[b]) for b in range(4)], dtype=torch.float64)

    Y, black = p(x), p(0 * x)
    assert xr.score("average-drop", model, x, y, ones).tolist() == [0] * 4
    assert xr.score("increase-in-confidence", model, x, y, ones).tolist() == [0] * 4  # strictly greater
    assert xr.score("average-drop-in-deletion", model, x, y, zeros).tolist() == [0] * 4
    torch.testing.assert_close(xr.score("average-drop-in-deletion", model, x, y, ones), (Y - black) / Y)
    torch.testing.assert_close(xr.score("average-drop", model, x, y, zeros), (Y - black).clamp(min=0) / Y)
    maps = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drop, deletion = xr.score("average-drop", model, x, y, maps), xr.score("average-drop-in-deletion", model, x, y, 1 - maps)
    torch.testing.assert_close(drop, deletion.clamp(min=0))  # AD(M), unclipped, is ADD(1 - M)
    torch.testing.assert_close(deletion, (Y - p(x * maps[:, None])) / Y)


def test_average_drop_is_never_negative_and_an_increase_means_no_drop():
    model, x = seeded(VGGLike), images(24)
    y = torch.arange(24) % CLASSES
    maps = torch.rand(24, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drop = xr.score("average-drop", model, x, y, maps)
    more = xr.score("increase-in-confidence", model, x, y, maps)
    assert (drop >= 0).all() and (drop <= 1).all() and 0 < more.mean() < 1
    assert torch.equal(drop == 0, more == 1)


def test_undefined_where_the_probability_is_zero():
    x, maps = torch.cat([photo(math.exp(700), math.exp(700)), photo(3, 1)]), torch.cat([row(1, 0), row(1, 0)])
    for metric in ("average-drop", "average-drop-in-deletion"):
        values = xr.score(metric, Odds(), x, 1, maps)
        assert values.isnan().tolist() == [True, False]
    assert xr.score("increase-in-confidence", Odds(), x, 1, maps)[0] in (0, 1)


def test_mask_multiplies_the_normalised_image_in_all_colours():
    class Watch(Odds):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    seen, x, maps = [], images(2), xr.normalize(images(2)[:, 0])
    xr.score("average-drop", Watch(), x, 0, maps)
    assert any(torch.equal(s, x) for s in seen)
    assert any(torch.equal(s, torch.stack([x[:, c] * maps for c in range(3)], 1)) for s in seen) and len(seen) == 2
    seen.clear()
    xr.score("average-drop-in-deletion", Watch(), x, 0, maps)
    assert any(torch.equal(s, torch.stack([x[:, c] * (1 - maps) for c in range(3)], 1)) for s in seen) and len(seen) == 2


# -- localisation -----------------------------------------------------------------------------------------------------------


def grid(H, W, *points):
    """A map of zeros with values at (i, j): value."""
    maps = torch.zeros(1, H, W, dtype=torch.float64)
    for i, j, v in points:
        maps[0, i, j] = v
    return maps


def box(H, W, i0, i1, j0, j1):
    truth = torch.zeros(1, H, W, dtype=torch.bool)
    truth[0, i0:i1, j0:j1] = True
    return truth


def blank(H, W):
    return torch.zeros(1, 3, H, W, dtype=torch.float64)


def test_proportion_by_hand():
    maps = row(0.1, 0.2, 0.3, 0.4)
    x = photo(1, 1, 1, 1)
    assert value("proportion", x, maps, truth=mask(0, 1, 0, 1)) == pytest.approx(0.6)
    assert value("proportion", x, maps, truth=mask(1, 1, 1, 1)) == pytest.approx(1)
    assert math.isnan(value("proportion", x, maps, truth=mask(0, 0, 0, 0)))
    assert math.isnan(value("proportion", x, 0 * maps, truth=mask(0, 1, 0, 1)))


def test_I21_constant_map_and_map_inside_the_box():
    truth = box(8, 10, 2, 5, 1, 9)
    assert value("proportion", blank(8, 10), torch.full((1, 8, 10), 0.7, dtype=torch.float64), truth=truth) == pytest.approx(24 / 80)
    assert value("proportion", blank(8, 10), grid(8, 10, (2, 1, 0.3), (4, 8, 1.0)), truth=truth) == 1
    assert value("proportion", blank(8, 10), grid(8, 10, (1, 1, 0.3), (5, 8, 1.0)), truth=truth) == 0


@pytest.mark.parametrize("H, W", [(100, 100), (100, 60), (60, 100)])
@pytest.mark.parametrize("radius", [1, 3, 7, 15, 29])
def test_pointing_tolerance_is_strict(H, W, radius):
    """The object begins exactly `radius` pixels away: a miss at that tolerance, a hit just above it."""
    maps, x = grid(H, W, (30, 20, 1.0)), blank(H, W)
    for truth in (box(H, W, 30 + radius, H, 20, 21), box(H, W, 30, 31, 20 + radius, W), box(H, W, 0, 31 - radius, 20, 21)):
        if truth.any():
            tolerance = radius / 100  # of the longer side, 100
            assert value("pointing-game", x, maps, truth=truth, tolerance=tolerance) == 0
            assert value("pointing-game", x, maps, truth=truth, tolerance=tolerance + 1e-4) == 1
            assert value("pointing-game", x, maps, truth=truth, tolerance=tolerance - 1e-4) == 0


def test_pointing_is_euclidean():
    maps, x = grid(100, 100, (50, 50, 1.0)), blank(100, 100)
    truth = box(100, 100, 53, 54, 54, 55)  # 3 down, 4 right: at distance 5
    assert value("pointing-game", x, maps, truth=truth, tolerance=0.05) == 0
    assert value("pointing-game", x, maps, truth=truth, tolerance=0.0501) == 1


def test_pointing_inside_the_object_hits_at_any_tolerance():
    truth, x = box(20, 30, 5, 9, 5, 9), blank(20, 30)
    assert value("pointing-game", x, grid(20, 30, (5, 8, 1.0)), truth=truth, tolerance=0) == 1
    assert value("pointing-game", x, grid(20, 30, (5, 9, 1.0)), truth=truth, tolerance=0) == 0
    assert value("pointing-game", x, grid(20, 30, (5, 9, 1.0)), truth=truth, tolerance=1 / 30) == 0
    assert value("pointing-game", x, grid(20, 30, (5, 9, 1.0)), truth=truth) == 0  # 3 % of 30 is 0.9
    assert math.isnan(value("pointing-game", x, grid(20, 30, (5, 8, 1.0)), truth=truth & False))


def test_pointing_with_pixels_of_the_photograph_takes_the_place_as_it_is():
    """The pixels near the object are given: no tolerance is added, and of several highest points the first counts."""
    near = torch.zeros(3, 6, 6, dtype=torch.bool)
    near[:2, 1, 2] = True
    maps = torch.zeros(3, 6, 6)
    maps[0, 1, 2] = maps[1, 1, 3] = maps[2, 1, 2] = 1
    maps[0, 5, 5] = maps[1, 1, 2] = 1
    maps[1, 0, 0] = 1
    x, net = torch.rand(3, 3, 6, 6), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 2)).eval()
    assert xr.score("pointing-game-pixels", net, x, 0, maps, near).tolist()[:2] == [1, 0]
    assert xr.score("pointing-game-pixels", net, x, 0, maps, near).isnan().tolist() == [False, False, True]


def test_of_several_highest_points_the_first_in_reading_order_counts():
    x, maps = blank(40, 40), grid(40, 40, (10, 30, 0.9), (30, 5, 0.9), (35, 35, 0.8))
    assert value("pointing-game", x, maps, truth=box(40, 40, 10, 11, 30, 31)) == 1
    assert value("pointing-game", x, maps, truth=box(40, 40, 30, 31, 5, 6)) == 0
    same_row = grid(40, 40, (10, 30, 0.9), (10, 5, 0.9))
    assert value("pointing-game", x, same_row, truth=box(40, 40, 10, 11, 5, 6)) == 1
    assert value("pointing-game", x, 0 * maps, truth=box(40, 40, 0, 1, 0, 1)) == 1  # a constant map points at the corner


def test_pointing_against_the_distance_to_every_pixel():
    torch_rng = torch.Generator().manual_seed(2)
    maps = torch.rand(30, 12, 17, generator=torch_rng, dtype=torch.float64)
    truth = torch.rand(30, 12, 17, generator=torch_rng) > 0.985
    got = xr.score("pointing-game", Odds(), torch.zeros(30, 3, 12, 17, dtype=torch.float64), 0, maps, truth, tolerance=0.2)
    for b in range(30):
        i, j = divmod(int(maps[b].argmax()), 17)
        distances = [math.dist((i, j), place) for place in truth[b].nonzero().tolist()]
        expected = float(min(distances) < 0.2 * 17) if distances else math.nan
        assert got[b].item() == expected or (math.isnan(expected) and got[b].isnan())
    assert 0 < got.nanmean() < 1


def test_positive_ratio_takes_raw_maps():
    x = photo(1, 1, 1, 1)
    assert value("positive-ratio", x, row(-3, 0, 7, 1e-9)) == 0.5
    assert value("positive-ratio", x, row(0, 0, 0, 0)) == 0
    assert value("positive-ratio", x, row(5, 5, 5, 5)) == 1
    assert xr.metric_info("positive-ratio").maps == "raw"


def test_directions():
    higher = {name: xr.metric_info(name).higher_is_better for name in xr.metrics()}
    stated = {
        "increase-in-confidence": True, "average-drop": False, "average-drop-in-deletion": True, "insertion": True, "deletion": False,
        "overall": True, "proportion": True, "pointing-game": True, "pointing-energy": True, "positive-ratio": False,
        "iou": True, "confidence-gain": True, "segmentation-ap": True, "outside-inside-ratio": False,
        "morf-insertion": True, "lerf-perturbation": True,
    }  # fmt: skip
    assert {name: higher[name] for name in higher if name in stated} == {name: stated[name] for name in higher if name in stated}

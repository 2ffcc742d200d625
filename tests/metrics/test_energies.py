"""The pointing game by energy: by hand, against the definition written out, and its invariances."""

import math

import numpy as np
import pytest
import torch
import xai_repro as xr
from toys import seeded, VGGLike

from xai_repro.errors import UnknownName

F64 = torch.float64
ENERGIES, RANGES = ("count", "quantile", "mass"), ("all", "lower", "higher")


def energy(maps, truth, **options):
    x = torch.zeros(len(maps), 3, *maps.shape[1:], dtype=F64)
    return xr.score("pointing-energy", seeded(VGGLike), x, 0, maps, truth, **options)


def row(*values, kind=F64):
    """One image of 16 x 16 pixels, these in its first row; all others are negative, or no object."""
    image = torch.full((1, 16, 16), 0 if kind == torch.bool else -1, dtype=kind)
    image[0, 0, : len(values)] = torch.tensor(values, dtype=kind)
    return image


def plain(values, inside, kind, share):
    """One threshold for one image: the highest value whose pixels make up the share, by trying every value of the map."""
    n, total = len([v for v in values if v > 0]), sum(v for v in values if v > 0)
    if kind == "quantile":
        tau = np.quantile(np.array(values), 1 - share)
    else:
        for tau in sorted({v for v in values if v > 0}, reverse=True):
            over = [v for v in values if v >= tau]
            if (len(over) / n if kind == "count" else sum(over) / total) >= share - 1e-9:
                break
    kept = [i for i, v in enumerate(values) if v >= tau and v > 0]
    return sum(inside[i] for i in kept) / len(kept)


@pytest.mark.parametrize("kind", ENERGIES)
@pytest.mark.parametrize("levels", [None, 9])
def test_against_the_definition(kind, levels):
    draw = torch.Generator().manual_seed(4)
    maps = torch.randn(6, 16, 16, generator=draw, dtype=F64) - torch.linspace(-1, 2, 6, dtype=F64)[:, None, None]  # fewer and fewer are positive
    maps = maps if levels is None else (maps * levels / 3).round()
    truth = torch.rand(6, 16, 16, generator=draw) > 0.6
    flat, inside = maps.flatten(1).tolist(), truth.flatten(1).tolist()
    every = [[plain(flat[b], inside[b], kind, t / 20) for t in range(1, 21)] for b in range(6)]
    for part, chosen in (("all", slice(0, 20)), ("lower", slice(0, 10)), ("higher", slice(10, 20))):
        expected = [float(np.mean(values[chosen])) for values in every]
        assert energy(maps, truth, energy=kind, range=part).tolist() == pytest.approx(expected, abs=1e-12)
    assert len({tuple(energy(maps, truth, energy=kind, range=part).tolist()) for part in RANGES}) == 3


def test_by_hand():
    """Positive: 8, 4, 2, 2, the first and the last inside."""
    maps, truth = row(4.0, 8.0, 2.0, 0.0, 2.0), row(False, True, False, True, True, kind=torch.bool)
    # by count: 5 thresholds keep 8, 5 keep 8 and 4; from .55 on the first 2 is needed, and its equal comes with it
    assert energy(maps, truth).item() == pytest.approx((5 * 1 + 5 / 2 + 10 * 2 / 4) / 20)
    assert energy(maps, truth, range="lower").item() == pytest.approx((5 * 1 + 5 / 2) / 10)
    assert energy(maps, truth, range="higher").item() == pytest.approx(2 / 4)
    # by mass: 8 of 16 up to .5, 8 and 4 up to .75
    assert energy(maps, truth, energy="mass").item() == pytest.approx((10 * 1 + 5 / 2 + 5 * 2 / 4) / 20)
    assert energy(maps, truth, energy="mass", range="lower").item() == 1
    # by quantile: 5 % of 256 pixels are more than all positive ones
    assert energy(maps, truth, energy="quantile").item() == pytest.approx(2 / 4)
    assert energy(maps, truth).item() == energy(maps, truth, energy="count", range="all").item()


def test_sums_of_relevance_that_are_equal_by_algebra_or_too_small_to_add():
    first = row(True, kind=torch.bool)
    assert energy(row(0.9, 0.2, 0.1), first, energy="mass").item() == pytest.approx((15 * 1 + 3 / 2 + 2 / 3) / 20)  # .9 is .75 of 1.2
    assert energy(row(1.0, 1e-20), first, energy="mass").item() == pytest.approx((19 * 1 + 1 / 2) / 20)


def test_the_quantile_keeps_what_is_not_below_it():
    values = torch.arange(1.0, 257, dtype=F64)[torch.randperm(256, generator=torch.Generator().manual_seed(0))].view(1, 16, 16)
    kept = [257 - math.ceil(1 + (1 - t / 20) * 255 - 1e-9) for t in range(1, 21)]
    assert kept[0] == 13 and kept[-1] == 256
    for best in (13, 14):  # inside: so many of the highest
        expected = sum(min(best, k) / k for k in kept) / 20
        assert energy(values, values > 256 - best, energy="quantile").item() == pytest.approx(expected)


@pytest.mark.parametrize("part", RANGES)
@pytest.mark.parametrize("kind", ENERGIES)
def test_known_answers_and_invariances(kind, part):
    draw = torch.Generator().manual_seed(7)
    maps, truth = torch.randn(5, 16, 16, generator=draw, dtype=F64), torch.rand(5, 16, 16, generator=draw) > 0.7
    options = {"energy": kind, "range": part}
    values = energy(maps, truth, **options)
    assert torch.equal(energy(maps, truth | True, **options), torch.ones(5, dtype=F64))
    assert torch.equal(energy(maps, maps > 0, **options), torch.ones(5, dtype=F64))
    assert torch.equal(energy(maps, maps <= 0, **options), torch.zeros(5, dtype=F64))
    area = truth.double().mean((1, 2))
    torch.testing.assert_close(energy(torch.full_like(maps, 0.1), truth, **options), area)
    torch.testing.assert_close(energy(maps * 1024, truth, **options), values)
    torch.testing.assert_close(energy(maps, truth, **options) + energy(maps, ~truth, **options), torch.ones(5, dtype=F64))
    alone = torch.cat([energy(maps[b : b + 1], truth[b : b + 1], **options) for b in range(5)])
    assert torch.equal(alone, values)
    shuffle = torch.randperm(256, generator=draw)
    moved = energy(*(t.flatten(1)[:, shuffle].view(5, 16, 16) for t in (maps, truth)), **options)
    torch.testing.assert_close(moved, values)
    below = torch.where(maps > 0, maps, -maps.square())  # what is negative does not count, only how much of it there is
    torch.testing.assert_close(energy(below, truth, **options), values)


def test_only_the_positive_part_counts_and_for_positive_maps_counting_is_ranking():
    draw = torch.Generator().manual_seed(9)
    maps, truth = torch.rand(4, 16, 16, generator=draw, dtype=F64), torch.rand(4, 16, 16, generator=draw) > 0.8
    torch.testing.assert_close(energy(maps, truth), energy(maps**3, truth))
    torch.testing.assert_close(energy(maps, truth), energy(maps, truth, energy="quantile"), rtol=0.2, atol=0.02)
    assert (energy(maps, truth, energy="mass") - energy(maps**3, truth, energy="mass")).abs().min() > 1e-4
    assert torch.equal(energy(maps - 0.9, truth, energy="quantile", range="higher"), energy((maps - 0.9).clamp(min=0), truth, energy="quantile", range="higher"))


@pytest.mark.parametrize("kind", ENERGIES)
def test_undefined(kind):
    truth = row(True, kind=torch.bool)
    assert energy(row(-1.0, 0.0), truth, energy=kind).isnan().all() and energy(row(), truth, energy=kind).isnan().all()
    assert energy(row(1.0), truth & False, energy=kind).isnan().all()
    assert energy(row(1.0), truth, energy=kind).tolist() == [1] and energy(row(0.0, 1.0), truth, energy=kind).tolist() == [0]
    both = energy(torch.cat([row(0.0), row(1.0)]), torch.cat([truth, truth]), energy=kind)
    assert both.isnan().tolist() == [True, False] and both[1] == 1


def test_wrong_hyper_parameters():
    maps, truth = row(1.0), row(True, kind=torch.bool)
    with pytest.raises(UnknownName, match="unknown energy 'counts'; did you mean 'count'.*possible: count, quantile, mass"):
        energy(maps, truth, energy="counts")
    with pytest.raises(UnknownName, match="unknown range 'low'; did you mean 'lower'.*possible: all, lower, higher"):
        energy(maps, truth, range="low")
    with pytest.raises(ValueError, match="range of pointing-energy is 3"):
        energy(maps, truth, range=3)
    with pytest.raises(ValueError, match="class 9; the model has classes 0 to 4"):
        xr.score("pointing-energy", seeded(VGGLike), torch.zeros(1, 3, 16, 16, dtype=F64), 9, maps, truth)

"""Worth of parts and the metrics that compare maps with it: plain loops, a network that reads one part, and all shuffles of five parts."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xai_repro as xr
from scipy.stats import spearmanr

from xai_repro.data import load_data
from xai_repro.errors import UnknownName
from xai_repro.metrics import parts

SIZE = 12
BIRDS = load_data("mini-birds", "val", limit=6)
NAMES = ["beak", "crest", "wing", "tail", "legs"]


class Reads(torch.nn.Module):
    """Logits of 16 classes, those of class 3 a weighted sum of the pixels, the others constant."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        logits = torch.arange(16.0, dtype=x.dtype).repeat(len(x), 1) / 100
        logits[:, 3] = (x * self.weight).sum((1, 2, 3))
        return logits


def setting(values, areas, seed=0):
    """(truth [1,P,H,W], maps [1,H,W]): parts as runs of so many pixels, of these effects, and noise."""
    truth, start = torch.full((1, len(values), SIZE * SIZE), torch.nan, dtype=torch.float64), 5
    for p, (value, area) in enumerate(zip(values, areas)):
        truth[0, p, start : start + area] = value
        start += area + 2
    noise = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return truth.view(1, -1, SIZE, SIZE), noise


def measure(name, maps, truth, **hyper):
    x = torch.zeros(len(maps), 3, *maps.shape[1:], dtype=maps.dtype)
    return xr.score(name, Reads(torch.ones(3, *maps.shape[1:], dtype=maps.dtype)), x, 3, maps, truth, **hyper)


# -- the metrics --------------------------------------------------------------------------------------------------------


def plain(maps, truth, of):
    """(hit, share, correlation) of one map by loops over pixels."""
    on, peak, inside, total = {}, [], 0.0, 0.0
    for i in range(SIZE):
        for j in range(SIZE):
            value = float(maps[i, j])
            at = [p for p in range(len(truth)) if not np.isnan(truth[p, i, j])]
            for p in at:
                on.setdefault(p, []).append(value)
            total, inside = total + value, inside + value * bool(at)
            peak.append((value, at))
    effect = {p: float(np.nanmax(truth[p])) for p in on}
    best = max(effect, key=effect.get)
    highest = [at for value, at in peak if value == max(value for value, _ in peak)]
    height = [np.sum(on[p]) if of == "mass" else np.mean(on[p]) for p in on]
    return sum(best in at for at in highest) / len(highest), inside / total, spearmanr(height, [effect[p] for p in on]).statistic


@pytest.mark.parametrize("of", ["density", "mass"])
def test_metrics_by_plain_loops(of):
    for seed in range(20):
        g = np.random.default_rng(seed)
        truth, maps = setting(g.normal(size=5).round(1) + 1, g.integers(0, 9, 5) * g.integers(0, 3, 5).clip(max=1) + (np.arange(5) < 3), seed)
        maps = maps.mul(8).round() / 8 if seed % 2 else maps  # several highest points
        hit, share, correlation = plain(maps[0].numpy(), truth[0].numpy(), of)
        if np.nanmax(truth) > 0:
            assert measure("part-hit", maps, truth).item() == pytest.approx(hit, abs=1e-12)
        assert measure("part-share", maps, truth).item() == pytest.approx(share, abs=1e-12)
        assert measure("part-correlation", maps, truth, of=of).item() == pytest.approx(correlation, abs=1e-9, nan_ok=True)


def test_the_mean_over_all_shuffles_of_five_parts_is_zero_and_density_alone_ignores_area():
    effects, areas = [4.0, 1.0, 2.0, 0.5, -0.2], [20, 8, 12, 6, 4]
    truth, noise = setting(effects, areas)
    for of in ("density", "mass"):
        shuffled = [measure("part-correlation", noise, setting(order, areas)[0], of=of).item() for order in permutations(effects)]
        assert len(shuffled) == 120 and np.mean(shuffled) == pytest.approx(0, abs=1e-12) and np.std(shuffled) == pytest.approx(0.5, abs=1e-9)
    flat = torch.full_like(noise, 0.5)
    assert measure("part-correlation", flat, truth, of="mass").item() == pytest.approx(1)  # which shuffling does not take away
    assert measure("part-correlation", flat, truth).isnan().all()
    several = torch.cat([setting(effects, areas, seed)[1] for seed in range(400)])
    truths = truth.expand(400, -1, -1, -1)
    assert abs(measure("part-correlation", several, truths).mean()) < 0.08 and measure("part-correlation", several, truths, of="mass").mean() > 0.8


def test_known_values():
    truth, _ = setting([1.0, 3.0, -2.0], [4, 2, 6])
    at = [(~truth[0, p].isnan()).nonzero()[0].tolist() for p in range(3)]
    maps = torch.zeros(1, SIZE, SIZE, dtype=torch.float64)
    maps[0][tuple(at[1])] = 1
    assert measure("part-hit", maps, truth).item() == 1 and measure("part-share", maps, truth).item() == 1
    assert measure("part-correlation", maps, truth).item() == pytest.approx(spearmanr([0, 1, 0], [1, 3, -2]).statistic)
    maps[0][tuple(at[2])] = 1
    assert measure("part-hit", maps, truth).item() == 0.5
    maps[0, 0, 0] = 1
    assert measure("part-hit", maps, truth).item() == pytest.approx(1 / 3) and measure("part-share", maps, truth).item() == pytest.approx(2 / 3)


def test_undefined_values():
    truth, noise = setting([1.0, 3.0, 2.0], [4, 2, 6])
    nothing, flat = torch.full_like(truth, torch.nan), torch.zeros_like(noise)
    for name in ("part-hit", "part-share", "part-correlation"):
        assert measure(name, flat, truth).isnan().all() and measure(name, noise, nothing).isnan().all()
    two = truth.clone()
    two[:, 0] = torch.nan
    assert measure("part-correlation", noise, two).isnan().all() and not measure("part-hit", noise, two).isnan().any()
    against = setting([-1.0, -3.0, 0.0], [4, 2, 6])[0]  # no part speaks for the class
    assert measure("part-hit", noise, against).isnan().all() and not measure("part-correlation", noise, against).isnan().any()
    assert measure("part-correlation", noise, setting([2.0, 2.0, 2.0], [4, 2, 6])[0]).isnan().all()
    both = measure("part-share", torch.cat([noise, flat]), torch.cat([truth, truth]))
    assert both.isnan().tolist() == [False, True]
    with pytest.raises(UnknownName, match="unknown quantity 'densty'; did you mean 'density'"):
        measure("part-correlation", noise, truth, of="densty")


# -- worth --------------------------------------------------------------------------------------------------------------


def reading_part(sample, name):
    """A network whose logit reads the pixels that the swaps of one part change, and so much more where the part is as drawn."""
    own, swaps = sample.counterfactuals, [{name: shape} for shape in sample.counterfactuals.shapes[name][1:]]
    images = own.images(swaps)
    return Reads((sample.image - images.mean(0)) / 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_reads_one_part(name):
    for sample in BIRDS[:3]:
        if name not in sample.parts:
            continue
        found = parts.worth(reading_part(sample, name), sample.image[None], torch.tensor([3]), [sample])
        others = [n for n in range(5) if n != NAMES.index(name)]
        mine, rest = found.effect[0, NAMES.index(name)], found.effect[0, others]
        assert mine > 0 and (rest.abs() < 0.35 * mine).all()  # not 0 where drawings overlap
        alone = [n for n in others if not overlaps(sample, name, NAMES[n])]
        assert (found.effect[0, alone].abs() < 1e-4 * mine).all() and alone
        maps = xr.normalize(found.oracle)
        changed = (sample.counterfactuals.images([{name: s} for s in sample.counterfactuals.shapes[name][1:]]) != sample.image).any(1)
        top = maps[0] == maps.max()
        assert (changed.all(0) | ~top)[~others_changed(sample, name)].all() and measured(sample, maps, found) > 0.1  # not 1: other shapes of a part reach beyond it


def measured(sample, maps, found):
    return xr.score("part-hit", Reads(torch.ones(3, 96, 96)), sample.image[None], 3, maps, found.truth).item()


def changes_of(sample, name):
    shapes = sample.counterfactuals.shapes[name][1:]
    return (sample.counterfactuals.images([{name: shape} for shape in shapes]) != sample.image).any((0, 1))


def others_changed(sample, name):
    return torch.stack([changes_of(sample, other) for other in NAMES if other != name]).any(0)


def overlaps(sample, one, other):
    return bool((changes_of(sample, one) & changes_of(sample, other)).any())


def test_worth_by_plain_loops():
    samples = [BIRDS[0], SimpleNamespace(counterfactuals=None, parts={}), BIRDS[2]]
    x, y = torch.stack([BIRDS[n].image for n in (0, 1, 2)]).double(), torch.tensor([5, 0, 9])
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 16), torch.nn.Tanh()).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=generator)
    found = parts.worth(model, x, y, samples)
    for b in (0, 2):
        own, oracle = samples[b].counterfactuals, torch.zeros(96, 96, dtype=torch.float64)
        clean = model(x[b : b + 1])[0].detach()
        for p, name in enumerate(NAMES):
            losses, flips, weight = [], [], torch.zeros(96, 96, dtype=torch.float64)
            for shape in own.shapes[name][1:]:
                image = own.images([{name: shape}])[0].double()
                logits = model(image[None])[0].detach()
                losses.append(float(clean[y[b]] - logits[y[b]]))
                flips.append(float(logits.argmax() != clean.argmax()))
                weight += losses[-1] * (image != x[b]).any(0).double() / 3
            oracle = torch.maximum(oracle, weight)
            assert found.effect[b, p].item() == pytest.approx(np.mean(losses), abs=1e-12) and found.flips[b, p].item() == pytest.approx(np.mean(flips))
            seen = samples[b].parts.get(name, torch.zeros(96, 96, dtype=torch.bool))
            assert (found.truth[b, p].isnan() == ~seen).all() and (found.truth[b, p][seen] == found.effect[b, p]).all()
        torch.testing.assert_close(found.oracle[b], oracle, rtol=0, atol=1e-12)
    assert found.effect[1].isnan().all() and found.truth[1].isnan().all() and not found.oracle[1].any()
    nothing = parts.worth(model, x, y, [samples[1]] * 3)
    assert nothing.truth.shape == (3, 1, 96, 96) and nothing.truth.isnan().all()
    with pytest.raises(ValueError, match="y holds class 16"):
        parts.worth(model, x, torch.tensor([16, 0, 0]), samples)


def test_evaluate_takes_them_and_leaves_other_data_undefined():
    model = Reads(BIRDS[0].image + BIRDS[1].image)  # class 3 is on top
    rows = xr.evaluate({"reads": model}, {"birds": BIRDS[:2], "bare": [(BIRDS[0].image, 3)]}, ["center"], ["part-share", "part-correlation"])
    birds = rows[rows["dataset"] == "birds"]
    assert (birds["status"] == "ok").all() and len(birds) == 4 and (rows[rows["dataset"] == "bare"]["status"] == "undefined").all()
    x = torch.stack([sample.image for sample in BIRDS[:2]])
    y = model(x).argmax(1)
    maps = xr.normalize(xr.explain(model, x, y, "center"))
    expected = xr.score("part-share", model, x, y, maps, parts.worth(model, x, y, list(BIRDS[:2])).truth)
    assert birds[birds["metric"] == "part-share"]["value"].tolist() == pytest.approx(expected.tolist())

"""The sanity checks' scores."""

import pytest
import torch
import xai_repro as xr
from scipy.stats import spearmanr
from torch import nn
from toy_randomised import METRICS, plainly, values
from toys import TOYS, GapLinear, VGGLike, images, seeded, Y

from xai_repro.errors import UnknownName
from xai_repro.metrics import randomise, sanity
from xai_repro.metrics.randomise import ORDERS, randomised


# -- scores -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("similarity", ["spearman", "ssim", "hog"])
def test_I22_nothing_randomised_scores_one(order, similarity, monkeypatch):
    model, x = seeded(VGGLike), images()
    maps = xr.explain(model, x, Y, "grad-cam", "features.1")
    options = {"layer": "features.1", "similarity": similarity}
    assert (xr.score(METRICS[order], model, x, Y, maps, **options) < 1).all()
    monkeypatch.setattr(randomise, "_drawn", lambda module, key: {k: p.clone() for k, p in module._parameters.items()})
    assert xr.score(METRICS[order], model, x, Y, maps, **options).tolist() == [1, 1, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("similarity", ["spearman", "ssim", "hog"])
@pytest.mark.parametrize("toy", ["vgg", "residual"])
def test_a_map_that_ignores_the_model_scores_one(toy, order, similarity):
    model, x = seeded(TOYS[toy].build), images()
    maps = xr.explain(model, x, Y, "edges")
    assert xr.score(METRICS[order], model, x, Y, maps, method="edges", similarity=similarity).tolist() == [1, 1, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("toy", TOYS)
def test_score_is_the_mean_over_the_blocks(toy, order):
    model, x = seeded(TOYS[toy].build), images()
    maps = xr.explain(model, x, Y, "linear-approximation")
    each = [others for _, others in plainly(model, x, Y, "linear-approximation", order, {}, seed=6)]
    got = xr.score(METRICS[order], model, x, Y, maps, method="linear-approximation", seed=6)
    for b in range(3):
        similar = [spearmanr(maps[b].flatten(), others[b].flatten()).statistic for others in each]
        assert got[b].item() == pytest.approx(sum(similar) / len(similar), abs=1e-12)
    assert not torch.equal(got, xr.score(METRICS[order], model, x, Y, maps, method="linear-approximation", seed=7))


@pytest.mark.parametrize("order", ORDERS)
def test_the_score_may_start_at_the_last_convolution(order):
    model, x = seeded(VGGLike), images()
    maps = xr.explain(model, x, Y, "gradient")
    each = [others for _, others in randomised(model, x, Y, "gradient", order, start="last-convolution")]
    got = xr.score(METRICS[order], model, x, Y, maps, method="gradient", start="last-convolution")
    for b in range(3):
        similar = [spearmanr(maps[b].flatten(), others[b].flatten()).statistic for others in each]
        assert got[b].item() == pytest.approx(sum(similar) / 2, abs=1e-12)  # two convolutions, of five blocks


def test_a_map_that_goes_blank_has_kept_nothing(monkeypatch):
    x, maps = images(), images()[:, 0]
    blank, given = torch.zeros_like(maps), maps.clone()
    half = torch.stack([maps[0], -maps[1], maps[2]])
    given[2] = 5
    for similarity in ("spearman", "ssim", "hog"):
        monkeypatch.setattr(sanity, "randomised", lambda *_: iter([("a", half), ("b", blank)]))
        values = xr.score("sanity-cascading", GapLinear().double(), x, 0, given, similarity=similarity)
        assert values[0] == 0.5 and values[2].isnan()  # (1 + 0) / 2; a given map that is constant cannot be scored
        assert similarity != "spearman" or values[1] == -0.5


@pytest.mark.parametrize("order", ORDERS)
def test_errors(order):
    model, x, maps = seeded(VGGLike), images(), images()[:, 0]

    def refused(given, kind=UnknownName, model=model, **options):
        with pytest.raises(kind, match=given):
            xr.score(METRICS[order], model, x, Y, maps, **options)

    refused("unknown similarity 'spearmen'; did you mean 'spearman'", similarity="spearmen")
    refused("unknown method 'grad-cams'; did you mean 'grad-cam'", method="grad-cams")
    refused("unknown hyper-parameter of gradient 'step'", method="gradient", settings={"step": 3})
    refused("unknown hyper-parameter of gradient 'layer'", method="gradient", layer="features.4")
    refused("unknown layer 'features.9'", layer="features.9")

    class Bare(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    refused("Bare has no part whose parameters", kind=ValueError, model=Bare(), method="gradient")
    with pytest.raises(UnknownName, match="unknown order 'cascade'; did you mean 'cascading'"):
        randomised(model, x, Y, order="cascade")
    with pytest.raises(ValueError, match=r"got \[3, 1, 16, 16\]"):
        randomised(model, x[:, :1], Y)

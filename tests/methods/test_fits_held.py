"""What the fits promise: units, defaults, pairs of coalitions, games of order two."""

import math

import pytest
import torch
import xai_repro as xr
from toy_heads import Net, Y, activations, played, same, setting
from toy_shapley import all_coalitions, alphas, CURVED, exact, shapley_values
from torch import nn
from toys import CLASSES, images, seeded

from xai_repro.registry import method_info


def test_the_constants_are_those_of_the_paper():
    """LIFT-CAM's supplement: sigma (gamma) 0.5, lambda (beta) 0.01; 512 samples are the library's."""
    hyper = {name: method_info(name).hyper for name in ("lime-cam", "kshap-cam", "shap-cam")}
    assert {key: hyper["lime-cam"][key] for key in ("beta", "gamma", "samples", "units")} == {"beta": 0.01, "gamma": 0.5, "samples": 512, "units": "logit"}
    assert hyper["kshap-cam"]["samples"] == 512 and hyper["kshap-cam"]["sampling"] == hyper["shap-cam"]["sampling"] == "plain"
    for name, options in (("vgg", {}), ("residual, between blocks", {})):
        assert torch.equal(alphas(name, "lime-cam"), alphas(name, "lime-cam", beta=0.01, gamma=0.5, samples=512, units="logit", seed=0, **options))
    assert not torch.equal(alphas("vgg", "lime-cam"), alphas("vgg", "lime-cam", seed=1))


def scaled_setting(factor):
    """The VGG-like toy with logits a factor larger."""
    import copy

    model, x, layer = setting("vgg")
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.classifier[6].weight *= factor
        model.classifier[6].bias *= factor
    return model, x, layer


@pytest.mark.parametrize("factor", [1e-3, 0.1, 50, -1])
def test_lime_cam_by_shares_depends_on_no_unit_of_the_logit(factor):
    model, x, layer = scaled_setting(factor)
    got, plain = xr.coefficients(model, x, Y, "lime-cam", layer=layer, units="share"), alphas("vgg", "lime-cam", units="share")
    assert (plain != 0).any(1).all()
    torch.testing.assert_close(got, factor * plain, rtol=1e-6, atol=1e-9 * abs(factor))
    by_logit = xr.coefficients(model, x, Y, "lime-cam", layer=layer)
    if factor == 1e-3:
        assert not by_logit.any(), "what the text's reading does to a network of small logits"


def test_wrong_units():
    with pytest.raises(ValueError, match="units is 'probability'; possible: share, logit"):
        alphas("vgg", "lime-cam", units="probability")


# -- kshap-cam by pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVED)
def test_all_pairs_give_the_shapley_values(name):
    model, x, layer = setting(name)
    K = activations(model, x, layer).shape[1]
    for samples in (2**K - 2, 2**K + 100):
        same(alphas(name, "kshap-cam", samples=samples, sampling="paired", seed=3), exact(name)[0], 1e-9)


@pytest.mark.parametrize("name", CURVED)
def test_pairs_share_out_the_gain_and_come_nearer_with_more(name):
    few = alphas(name, "kshap-cam", samples=6, sampling="paired", seed=3)
    same(few.sum(1), exact(name)[1])


class Quadratic(Net):
    """A game of order two: products of two linear functions of the channels' means, and a linear one. Eight channels."""

    def build(self):
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.left, self.right, self.straight = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, CLASSES)
        self.last = nn.Linear(6, CLASSES)

    def head(self, a, h):
        p = a.mean((2, 3))
        return self.last(self.left(p) * self.right(p)) + self.straight(p)


@pytest.fixture(scope="module")
def quadratic():
    model, x = seeded(Quadratic), images()
    return model, x, shapley_values(played(model, x, Y, "act", all_coalitions(8)), 8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("permutations", [2, 4, 10])
def test_antithetic_pairs_are_exact_for_games_of_order_two(quadratic, permutations, seed):
    """A permutation and its reverse: each of two channels joins the other once, so their common term is halved exactly."""
    model, x, truth = quadratic
    options = {"layer": "act", "permutations": permutations, "seed": seed}
    same(xr.coefficients(model, x, Y, "shap-cam", sampling="antithetic", **options), truth, 1e-9)
    for other in ("plain", "sobol"):
        assert (xr.coefficients(model, x, Y, "shap-cam", sampling=other, **options) - truth).abs().max() > 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_paired_coalitions_are_exact_for_games_of_order_two(quadratic, seed):
    """v(S) - v(not S) of a product is linear in S, and a paired fit sees no more than these differences."""
    model, x, truth = quadratic
    options = {"layer": "act", "samples": 60, "seed": seed}
    same(xr.coefficients(model, x, Y, "kshap-cam", sampling="paired", **options), truth, 1e-9)
    assert (xr.coefficients(model, x, Y, "kshap-cam", **options) - truth).abs().max() > 1e-4


def test_the_weight_of_shares():
    """alpha of a game by hand, to which every fit comes: v = |a'|^2 of three channels gives 3 each."""
    from xai_repro.numerics.coalitions import coalitions
    from xai_repro.numerics.regression import shapley_regression

    X, weights = coalitions(3, 6, "paired", 0)
    got = shapley_regression(X, X.double().sum(1)[None] ** 2, torch.zeros(1), torch.tensor([9.0]), weights)
    same(got, torch.full((1, 3), 3.0).double())
    assert math.isclose(weights.max().item(), weights.min().item())


@pytest.mark.parametrize("options, said", [
    ({"sampling": "antithetic"}, "sampling is 'antithetic'; possible: plain, paired"), ({"sampling": "paired", "samples": 1}, "samples is 1; at least 2"),
])  # fmt: skip
def test_wrong_sampling(options, said):
    with pytest.raises(ValueError, match=said):
        alphas("vgg", "kshap-cam", **options)

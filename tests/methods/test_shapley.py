"""SHAP-CAM and Ablation-CAM against enumeration over all coalitions."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toy_heads import CASES, Net, Y, activations, drawn, game_of, played, same, setting
from torch import nn
from toy_shapley import all_coalitions, alphas, CURVED, exact, shapley_values
from toys import CLASSES, GapLinear, Residual, images, seeded

from xai_repro.methods import shapley

SAMPLINGS = ["plain", "antithetic", "sobol"]

LINEAR = [name for name in CASES if CASES[name].kind == "linear"]


def test_the_enumeration_by_hand():
    """v = 3 a + a b, two players: a gets 3.5, b gets 0.5."""
    v = torch.tensor([[0.0, 0, 3, 4]])
    assert shapley_values(v, 2).tolist() == [[3.5, 0.5]]


# -- shap-cam -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].kind != "linear" and activations(*setting(n)).shape[1] <= 4])
def test_all_permutations_give_the_shapley_value(name):
    game = game_of(*setting(name))
    permutations = torch.tensor(list(itertools.permutations(range(game.channels))))
    same(game.marginals(permutations) / len(permutations), exact(name)[0])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", CURVED)
def test_shap_cam_is_unbiased(name, sampling):
    runs = torch.stack([alphas(name, "shap-cam", permutations=8, sampling=sampling, seed=seed) for seed in range(60)])
    error, spread = runs.mean(0) - exact(name)[0], runs.std(0) / 60**0.5
    assert (error.abs() <= 4.5 * spread + 1e-9).all()
    assert spread.max() > 1e-6


class Wide(Net):
    """Twelve channels."""

    def build(self):
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.Linear(48, 8), nn.Linear(8, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(F.max_pool2d(a, 4).flatten(1)).relu())


@pytest.mark.slow
def test_twelve_channels():
    model, x = seeded(Wide), images(1)
    game = game_of(model, x, "act", y=Y[:1])
    truth = shapley_values(game.values(all_coalitions(12)), 12)
    probe = all_coalitions(12)[:: 2**12 // 50]
    same(game.values(probe), played(model, x, Y[:1], "act", probe))
    got = xr.coefficients(model, x, Y[:1], "shap-cam", layer="act", permutations=4_000)
    assert (got - truth).abs().max() < 0.04 * truth.abs().max()
    assert xr.score("cosine-to", model, x, Y[:1], truth, layer="act").item() > 0.9995


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("permutations", [1, 7])
@pytest.mark.parametrize("name", CASES)
def test_I8_the_coefficients_sum_to_the_gain_for_any_number_of_permutations(name, permutations, sampling):
    alpha = alphas(name, "shap-cam", permutations=permutations, sampling=sampling, seed=3)
    same(alpha.sum(1), exact(name)[1])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 13])
def test_permutations_are_permutations(sampling, n):
    drawn = shapley.draw_permutations(6, n, sampling, 0)
    assert drawn.shape == (n, 6) and all(sorted(row) == list(range(6)) for row in drawn.tolist())
    assert torch.equal(drawn, shapley.draw_permutations(6, n, sampling, 0))
    if sampling == "antithetic" and n > 1:
        assert torch.equal(drawn[1], drawn[0].flip(0))


def test_permutations_are_uniform():
    for sampling in SAMPLINGS:
        rows = torch.cat([shapley.draw_permutations(3, 6, sampling, seed) for seed in range(1000)])
        counts = torch.bincount(rows @ torch.tensor([9, 3, 1]), minlength=27)
        assert (counts > 0).sum() == 6 and (counts[counts > 0] - 1000).abs().max() < 200


def test_better_permutations_have_less_error():
    errors = {}
    for sampling in SAMPLINGS:
        runs = torch.stack([alphas("vgg", "shap-cam", permutations=12, sampling=sampling, seed=seed) for seed in range(100)])
        errors[sampling] = (runs - exact("vgg")[0]).square().mean().item()
    assert errors["antithetic"] < 0.6 * errors["plain"], errors
    assert errors["sobol"] < 0.8 * errors["plain"], errors


def test_I13_two_runs_come_nearer_in_proportion_to_the_permutations():
    game, numbers = game_of(*setting("vgg")), [2, 8, 32, 128, 512]
    apart = []
    for n in numbers:
        gaps = []
        for seed in range(60):
            a, b = (game.marginals(drawn(n, game.channels, 2 * seed + i)) for i in (0, 1))
            gaps.append(1 - F.cosine_similarity(a, b, dim=1))
        apart.append(torch.stack(gaps).mean().item())
    slope = np.polyfit(np.log(numbers[1:]), np.log(apart[1:]), 1)[0]
    assert -1.1 < slope < -0.9, (slope, apart)


def test_seeds():
    first = alphas("vgg", "shap-cam", permutations=5)
    assert torch.equal(alphas("vgg", "shap-cam", permutations=5, seed=0), first)
    assert not torch.equal(alphas("vgg", "shap-cam", permutations=5, seed=1), first)


@pytest.mark.parametrize("method, options", [("shap-cam", {"permutations": 4}), ("lime-cam", {"beta": 1e-4}), ("kshap-cam", {})])
@pytest.mark.parametrize("name", ["vgg", "residual", "residual, between blocks"])
def test_rows_do_not_see_each_other(name, method, options):
    model, x, layer = setting(name)
    whole = alphas(name, method, **options)
    for i in range(3):
        same(xr.coefficients(model, x[i : i + 1], Y[i : i + 1], method, layer=layer, **options), whole[i : i + 1], 1e-9)


@pytest.mark.parametrize("options, message", [
    ({"sampling": "halton"}, "sampling is 'halton'; possible: plain, antithetic, sobol"),
    ({"permutations": 0}, "permutations is 0; at least 1"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["vgg", "gap"])
def test_wrong_arguments_of_shap_cam(name, options, message):
    with pytest.raises(ValueError, match=message):
        alphas(name, "shap-cam", **options)


@pytest.mark.parametrize("method", ["lime-cam", "kshap-cam"])
@pytest.mark.parametrize("name", ["vgg", "gap"])
def test_no_samples(name, method):
    with pytest.raises(ValueError, match="samples is 0; at least 1"):
        alphas(name, method, samples=0)


# -- linear heads -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("method", ["ablation-cam", "shap-cam"])
def test_I5_ablation_and_shap_are_exact_where_the_head_is_linear(name, method):
    same(alphas(name, method), exact(name)[0])
    same(alphas(name, method, chunk=1), exact(name)[0])


@pytest.mark.parametrize("build, layer", [(GapLinear, "features.3"), (lambda: GapLinear(bias=False), "features.3"), (Residual, "layer1")])
@pytest.mark.parametrize("method", ["ablation-cam", "shap-cam", "lift-cam", "lrp-cam"])
def test_I4_I5_I6_one_closed_form(build, layer, method):
    """alpha_k = w_yk mean_ij A_kij, with factor 1 and not in proportion only; and not what CAM weighs with."""
    model, x = seeded(build), images()
    A = activations(model, x, layer)
    expected = torch.tensor([[model.fc.weight[y, k].item() * A[b, k].mean().item() for k in range(A.shape[1])] for b, y in enumerate(Y)])
    got = xr.coefficients(model, x, Y, method, layer=layer)
    torch.testing.assert_close(got, expected.double(), rtol=1e-5, atol=1e-6)
    same(got, model.fc.weight.detach()[Y] * A.mean((2, 3)))
    cam = xr.coefficients(model, x, Y, "cam", layer=layer)
    assert F.cosine_similarity(got, cam).max() < 0.999


def test_kshap_is_exact_where_the_head_is_linear():
    for name in LINEAR:
        same(alphas(name, "kshap-cam", samples=200), exact(name)[0])


def test_ablation_of_a_head_that_is_not_linear():
    model, x, layer = setting("vgg")
    A = activations(model, x, layer)
    K = A.shape[1]
    v = played(model, x, Y, layer, torch.cat([torch.ones(1, K), 1 - torch.eye(K)]))
    got = alphas("vgg", "ablation-cam")
    same(got, v[:, :1] - v[:, 1:])
    logit = v[:, 0]
    assert (logit < 0).any(), "the paper's division would turn that map upside down"
    assert (got.sum(1) - exact("vgg")[1]).abs().max() > 1e-3, "not efficient"

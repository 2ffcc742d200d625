"""LIME-CAM and KSHAP-CAM: the fits, against scikit-learn and by the conditions of the minimum."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from toy_heads import Y, activations, played, same, setting
from toy_shapley import all_coalitions, alphas, CURVED, exact

from xai_repro.methods import shapley
from xai_repro.numerics.regression import shapley_regression, weighted_lasso


# -- lime-cam -------------------------------------------------------------------------------------------------------------------------


def fitted(monkeypatch, function, name, method, **options):
    """Coefficients, and what the named regression was given."""
    given = []
    regression = getattr(shapley, function)
    monkeypatch.setattr(shapley, function, lambda *arguments: given.append(arguments) or regression(*arguments))
    return alphas(name, method, **options), given[0]


@pytest.mark.parametrize("units", ["share", "logit"])
@pytest.mark.parametrize("name", ["vgg", "residual, between blocks", "gap"])
@pytest.mark.parametrize("beta, gamma", [(0.01, 0.5), (0.1, 0.5), (0.003, 2.0)])
def test_lime_cam_is_scikit_learns_lasso(monkeypatch, name, beta, gamma, units):
    linear_model = pytest.importorskip("sklearn.linear_model")
    got, (X, v, weights, penalty) = fitted(monkeypatch, "weighted_lasso", name, "lime-cam", samples=150, beta=beta, gamma=gamma, units=units)
    model, x, layer = setting(name)
    ends = played(model, x, Y, layer, torch.tensor([[0.0] * X.shape[1], [1.0] * X.shape[1]]))
    g = (ends[:, 1] - ends[:, 0]).abs().tolist() if units == "share" else [1, 1, 1]
    same(torch.as_tensor(penalty, dtype=torch.float64).expand(3), beta * torch.tensor(g, dtype=torch.float64))
    assert set(X.unique().tolist()) == {0.0, 1.0} and abs(X.mean().item() - 0.5) < 0.06
    same(v, played(model, x, Y, layer, X))
    A = activations(model, x, layer)
    for b in range(3):
        psi = [math.exp(-((A[b] - A[b] * row[:, None, None]).norm() ** 2 / A[b].norm() ** 2 / gamma**2).item()) for row in X]
        same(weights[b], torch.tensor(psi, dtype=torch.float64))
        lasso = linear_model.Lasso(alpha=beta * g[b] * len(X) / (2 * sum(psi)), tol=1e-14, max_iter=10**6)
        lasso.fit(X.numpy(), v[b].numpy(), sample_weight=np.array(psi))
        same(got[b], torch.tensor(lasso.coef_), 1e-8)
    assert (got != 0).any(1).all() or beta == 0.1


def problem(K, n, B=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.bernoulli(torch.full((n, K), 0.5), generator=generator)
    true = torch.randn(B, K, generator=generator).double() * (torch.arange(K) % 3 == 0)
    v = true @ X.T.double() + 0.3 * torch.randn(B, n, generator=generator).double() + 5
    return X, v, torch.rand(B, n, generator=generator) + 0.1


@pytest.mark.parametrize("K, n", [(1, 5), (6, 40), (40, 30), (60, 60), (30, 12), (200, 10)])
@pytest.mark.parametrize("penalty", [0.001, 0.05, 1.0, 100.0])
def test_the_lasso_meets_the_conditions_of_its_minimum(K, n, penalty):
    """The gradient of the squares is the penalty against the sign of a coefficient, and within the penalty where that is zero."""
    X, v, weights = problem(K, n)
    alpha = weighted_lasso(X, v, weights, penalty)
    for b in range(2):
        w = weights[b].double()
        rest = v[b] - X.double() @ alpha[b]
        rest = rest - (w * rest).sum() / w.sum()  # the intercept
        gradient = -2 / n * X.double().T @ (w * rest)
        on = alpha[b] != 0
        assert (gradient[on] + penalty * alpha[b][on].sign()).abs().max() < 1e-6 if on.any() else True
        assert gradient.abs().max() <= penalty + 1e-6
        if penalty == 100:
            assert not on.any()


def test_the_lasso_without_a_penalty_to_speak_of_is_least_squares():
    X, v, weights = problem(6, 40)
    alpha = weighted_lasso(X, v, weights, 1e-12)
    for b in range(2):
        root = weights[b].double().sqrt()[:, None]
        design = torch.cat([X.double(), torch.ones(40, 1).double()], 1)
        same(alpha[b], torch.linalg.lstsq(design * root, v[b][:, None] * root).solution[:6, 0], 1e-8)


# -- kshap-cam ------------------------------------------------------------------------------------------------------------------------


def kernel(K, s):
    return Fraction(K - 1, math.comb(K, s) * s * (K - s))


@pytest.mark.parametrize("name", ["vgg", "gap, before a convolution", "functional", "residual, between blocks"])
def test_I9_all_coalitions_in_proportion_to_the_kernel_give_the_shapley_values(name):
    model, x, layer = setting(name)
    K = activations(model, x, layer).shape[1]
    rows = all_coalitions(K)[1:-1]
    shares = [kernel(K, int(row.sum())) for row in rows]
    common = math.lcm(*(share.denominator for share in shares))
    repeats = torch.tensor([int(share * common) for share in shares])
    X = rows.repeat_interleave(repeats // math.gcd(*repeats.tolist()), 0)
    v = played(model, x, Y, layer, torch.cat([torch.zeros(1, K), torch.ones(1, K), rows]))
    values = v[:, 2:].repeat_interleave(repeats // math.gcd(*repeats.tolist()), 1)
    same(shapley_regression(X, values, v[:, 0], v[:, 1], torch.ones(len(X))), exact(name)[0], 1e-9)
    weights = torch.tensor([float(share) for share in shares], dtype=torch.float64)  # or once each, with the kernel as their weight
    same(shapley_regression(rows, v[:, 2:], v[:, 0], v[:, 1], weights), exact(name)[0], 1e-9)


@pytest.mark.parametrize("samples", [1, 3, 5, 40, 500])
@pytest.mark.parametrize("name", ["vgg", "residual, between blocks", "gap"])
def test_kshap_cam_is_a_constrained_least_squares_fit(monkeypatch, name, samples):
    got, (X, v, empty, full, weights) = fitted(monkeypatch, "shapley_regression", name, "kshap-cam", samples=samples)
    model, x, layer = setting(name)
    same(v, played(model, x, Y, layer, X))
    same(torch.stack([empty, full], 1), played(model, x, Y, layer, torch.stack([torch.zeros(X.shape[1]), torch.ones(X.shape[1])])))
    assert X.shape[0] == samples and (weights == 1).all() and (X.sum(1) > 0).all() and (X.sum(1) < X.shape[1]).all()
    same(got.sum(1), exact(name)[1])
    gradient = (got @ X.T.double() + empty[:, None] - v) @ X.double()  # at the constrained minimum, the same for all channels
    assert (gradient - gradient.mean(1, keepdim=True)).abs().max() < 1e-8


def test_kshap_cam_comes_to_the_shapley_values():
    for name in CURVED:
        errors = [(alphas(name, "kshap-cam", samples=n, seed=5) - exact(name)[0]).norm() / exact(name)[0].norm() for n in (50, 8_000)]
        assert errors[1] < 0.05 and errors[1] < errors[0]


def test_coalitions_are_drawn_in_proportion_to_the_kernel(monkeypatch):
    _, (X, *_) = fitted(monkeypatch, "shapley_regression", "vgg", "kshap-cam", samples=30_000)
    K = X.shape[1]
    rows = all_coalitions(K)[1:-1]
    counts = [(X == row).all(1).sum().item() for row in rows]
    total = sum(kernel(K, int(row.sum())) for row in rows)
    expected = [float(kernel(K, int(row.sum())) / total) * len(X) for row in rows]
    chi = sum((c - e) ** 2 / e for c, e in zip(counts, expected))
    assert chi < len(rows) + 4 * (2 * len(rows)) ** 0.5

"""Shares of the channels in the logit, against enumeration of all coalitions and plain algebra in float64, and other libraries."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from test_game import CASES, Net, Y, activations, drawn, game_of, played, same, setting
from torch import nn
from toys import CLASSES, GapLinear, Residual, VGGLike, images, seeded

from xai_repro.methods import shapley
from xai_repro.metrics import agreement
from xai_repro.regression import shapley_regression, weighted_lasso

SAMPLINGS = ["plain", "antithetic", "sobol"]
LINEAR = [name for name in CASES if CASES[name].kind == "linear"]
CURVED = ["vgg", "gap, before a convolution", "residual, between blocks", "functional"]


def alphas(name, method, **options):
    model, x, layer = setting(name)
    return xr.coefficients(model, x, Y, method, layer=layer, **options)


# -- the second way: every coalition ------------------------------------------------------------------------------------------


def all_coalitions(K):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=K)))


def shapley_values(v, K):
    """alpha [B,K] from v [B,2^K] in the order of all_coalitions: the textbook's sum over coalitions without k."""
    order = {tuple(map(int, row)): i for i, row in enumerate(all_coalitions(K).tolist())}
    alpha = torch.zeros(len(v), K, dtype=torch.float64)
    for without, i in order.items():
        s = sum(without)
        for k in range(K):
            if not without[k]:
                joined = order[without[:k] + (1,) + without[k + 1 :]]
                alpha[:, k] += math.factorial(s) * math.factorial(K - s - 1) / math.factorial(K) * (v[:, joined] - v[:, i])
    return alpha


@functools.cache
def exact(name):
    """(alpha [B,K], v(1) - v(0) [B]) of a case, by enumeration."""
    model, x, layer = setting(name)
    K = activations(model, x, layer).shape[1]
    v = played(model, x, Y, layer, all_coalitions(K))
    return shapley_values(v, K), v[:, -1] - v[:, 0]


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


# -- lift-cam -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("neighbours", "cosine", "around")])
def test_I7_lift_cam_is_complete(name):
    """Every head of sums, elementwise functions and max-pooling; not where activations are multiplied with each other."""
    same(alphas(name, "lift-cam").sum(1), exact(name)[1], 1e-10)


FUNCTIONS = {
    **{kind.__name__: kind() for kind in (
        nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.Hardsigmoid,
        nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid)},
    "GELU by tanh": nn.GELU("tanh"), "steep LeakyReLU": nn.LeakyReLU(0.3), "shifted Threshold": nn.Threshold(0.2, 0.1),
    "torch.relu": torch.relu, "Tensor.relu": lambda h: h.relu(), "clamp": lambda h: h.clamp(min=0.1), "clamp_min": lambda h: torch.clamp_min(h, 0),
    "Tensor.tanh": lambda h: h.tanh(), "named input": lambda h: torch.relu(input=h), "square": torch.square, "exp": torch.exp, "abs": torch.abs,
    "ReLU in place": nn.ReLU(inplace=True), "ELU in place": nn.ELU(inplace=True), "Hardswish in place": nn.Hardswish(inplace=True),
    "relu_": lambda h: h.relu_(), "F.relu in place": lambda h: F.relu(h, True),
}  # fmt: skip


class Hidden(Net):
    """Averages, a linear layer, an elementwise function, a linear layer."""

    function = None

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 9), nn.Linear(9, CLASSES)

    def head(self, a, h):
        return self.fc2(type(self).function(self.fc1(a.mean((2, 3)))))


@pytest.mark.parametrize("label", FUNCTIONS)
def test_lift_cam_takes_the_chord_of_every_elementwise_function(label):
    """alpha_k = sum_d w_yd (f(z_d) - f(b_d)) / (z_d - b_d) W_dk p_k, written out."""
    function = FUNCTIONS[label].double() if isinstance(FUNCTIONS[label], nn.Module) else FUNCTIONS[label]
    model, x = seeded(type("Head", (Hidden,), {"function": staticmethod(function)})), images()
    p = activations(model, x, "act").mean((2, 3))
    W, b = model.fc1.weight.detach(), model.fc1.bias.detach()
    z = p @ W.T + b
    slope = (function(z.clone()) - function(b.clone().expand_as(z).clone())) / (z - b)
    expected = (model.fc2.weight.detach()[Y] * slope.detach()) @ W * p
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act"), expected)


class InPlace(Net):
    """Functions that write where their input stands, their result unused or the input used again."""

    def build(self):
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, CLASSES)
        self.relu = nn.ReLU(inplace=True)

    def head(self, a, h):
        z = self.fc1(a.mean((2, 3)))
        F.relu(z, inplace=True)
        z = self.fc2(z)
        z.relu_()
        t = self.relu(z - 0.5)
        out = self.fc3(t + z)
        shared = z - 1
        return out + self.fc3(self.relu(shared) + shared)


def test_lift_cam_keeps_what_functions_in_place_do_to_their_input():
    model, x = seeded(InPlace), images()
    v = played_plainly(model, x, "act")
    alpha = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    same(alpha.sum(1), v[1] - v[0])
    for name in ("shap-cam", "ablation-cam"):
        assert torch.isfinite(xr.coefficients(model, x, Y, name, layer="act")).all()


def played_plainly(model, x, layer):
    """v(0) and v(1), in-place functions left as they are."""
    values = []
    for factor in (0, 1):
        handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: output * factor)
        values.append(model(x).gather(1, Y[:, None])[:, 0].detach())
        handle.remove()
    return values


class Pooled(Net):
    """Max-pooling behind a convolution and a ReLU, where the reference's maxima are elsewhere and not zero."""

    def build(self):
        self.conv2, self.relu, self.pool = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv3, self.relu2, self.fc = nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.Linear(96, CLASSES)

    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.pool(self.relu(self.conv2(a))))).flatten(1))


class PooledFirst(Pooled):
    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.relu(self.pool(self.conv2(a))))).flatten(1))


class Overlapping(Pooled):
    def build(self):
        super().build()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)


class Adaptive(Pooled):
    def build(self):
        super().build()
        self.pool = nn.AdaptiveMaxPool2d(4)


class FunctionalPool(Pooled):
    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(F.max_pool2d(self.conv2(a).relu_(), (2, 2), stride=(2, 2)))).flatten(1))


class Apart(Pooled):
    """No two non-linear layers next to each other: captum's multipliers are wrong there."""

    def build(self):
        super().build()
        self.conv4 = nn.Conv2d(5, 5, 1)

    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.pool(self.conv4(self.relu(self.conv2(a)))))).flatten(1))


@pytest.mark.parametrize("build", [Pooled, PooledFirst, Overlapping, Adaptive, FunctionalPool, Apart])
def test_lift_cam_is_complete_through_later_max_pools(build):
    model, x = seeded(build), images()
    v = played(model, x, Y, "act", torch.tensor([[0.0] * 4, [1.0] * 4]))
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act").sum(1), v[:, 1] - v[:, 0])


def head_alone(model, name):
    """The head of a toy as a module of its own, no function in place, one module per activation."""
    if name == "vgg":
        layers = [model.features[5], model.avgpool, nn.Flatten(), *model.classifier]
    else:
        layers = [model.conv2, model.relu, model.conv4, model.pool, model.conv3, model.relu2, nn.Flatten(), model.fc]
    fresh = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers if not isinstance(layer, nn.Dropout)]
    return nn.Sequential(*fresh).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, build, layer", [("vgg", VGGLike, "features.4"), ("apart", Apart, "act")])
def test_lift_cam_agrees_with_captums_deeplift(name, build, layer):
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(build), images()
    A = activations(model, x, layer)
    alone = head_alone(model, name)
    got = xr.coefficients(model, x, Y, "lift-cam", layer=layer)
    for i in range(3):  # captum's rule for max-pooling is wrong for more than one image
        contributions = attr.DeepLift(alone, eps=1e-10).attribute(A[i : i + 1].clone(), baselines=0.0, target=int(Y[i]))
        same(got[i], contributions.sum((0, 2, 3)).detach(), 1e-9)


@pytest.mark.filterwarnings("ignore")
def test_deepshap_over_equal_references_is_lift_cam():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(Hidden_relu), images()
    A = activations(model, x, "act")
    alone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc1, nn.ReLU(), model.fc2)
    got = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    for i in range(3):
        shap = attr.DeepLiftShap(alone).attribute(A[i : i + 1].clone(), baselines=torch.zeros(5, *A.shape[1:]).double(), target=int(Y[i]))
        same(got[i], shap.sum((0, 2, 3)).detach(), 1e-9)


class Hidden_relu(Hidden):
    function = staticmethod(torch.relu)


def test_I12_the_pooled_maps_are_enough():
    """Against a zero reference, A >= 0: cut before and after VGG's last pooling, the coefficients are the same."""
    model, x = seeded(VGGLike), images()
    for name in ("lift-cam", "shap-cam", "ablation-cam", "lrp-cam"):
        same(xr.coefficients(model, x, Y, name, layer="features.4"), xr.coefficients(model, x, Y, name, layer="features.5"))


def test_lift_cam_of_the_vgg_head_by_its_closed_form():
    """C = ((w3 m2) W2 m1) W1 p, m the slopes of the chords of the two ReLUs."""
    model, x = seeded(VGGLike), images()
    (W1, b1), (W2, b2), (W3, b3) = ((model.classifier[i].weight.detach(), model.classifier[i].bias.detach()) for i in (0, 3, 6))
    p = F.max_pool2d(activations(model, x, "features.4"), 2).flatten(1)
    z1, r1 = p @ W1.T + b1, b1.expand(3, -1)
    z2, r2 = z1.clamp(min=0) @ W2.T + b2, r1.clamp(min=0) @ W2.T + b2
    m1, m2 = ((z.clamp(min=0) - r.clamp(min=0)) / (z - r) for z, r in ((z1, r1), (z2, r2)))
    C = ((((W3[Y] * m2) @ W2) * m1) @ W1 * p).view(3, 6, -1)
    same(xr.coefficients(model, x, Y, "lift-cam", layer="features.4"), C.sum(2))


def test_lift_cam_where_nothing_differs_from_the_reference():
    model, x = seeded(VGGLike), images()
    with torch.no_grad():
        model.features[3].weight.zero_(), model.features[3].bias.fill_(-1)
    for name in ("lift-cam", "lrp-cam", "shap-cam", "ablation-cam", "kshap-cam", "lime-cam"):
        assert not xr.coefficients(model, x, Y, name, layer="features.4").abs().gt(1e-12).any(), name


# -- lrp-cam --------------------------------------------------------------------------------------------------------------------------


def test_I10_I11_lrp_cam_is_gradient_times_activation_and_misses_the_biases():
    model, x, layer = setting("vgg")
    A = activations(model, x, layer)
    got = alphas("vgg", "lrp-cam")
    same(got, alphas("vgg", "xgrad-cam") * A.sum((2, 3)))
    score = model(x)[torch.arange(3), Y]
    biases = [model.classifier[i].bias for i in (0, 3, 6)]
    rest = [sum((b * g).sum() for b, g in zip(biases, torch.autograd.grad(s, biases, retain_graph=True))) for s in score]
    same(got.sum(1) + torch.stack(rest).detach(), score.detach())


@pytest.mark.filterwarnings("ignore")
def test_lrp_cam_agrees_with_captums_lrp():
    attr = pytest.importorskip("captum.attr")
    from captum.attr._utils.lrp_rules import EpsilonRule

    model, x, layer = setting("vgg")
    A, alone = activations(model, x, layer), head_alone(model, "vgg")
    got = alphas("vgg", "lrp-cam")
    for i in range(3):
        alone[2].rule = EpsilonRule()  # captum knows none for Flatten, and forgets the one it is given
        relevance = attr.LRP(alone).attribute(A[i : i + 1].clone(), target=int(Y[i]))
        torch.testing.assert_close(got[i], relevance.sum((0, 2, 3)).detach(), rtol=1e-5, atol=1e-6)


# -- lime-cam -------------------------------------------------------------------------------------------------------------------------


def fitted(monkeypatch, function, name, method, **options):
    """Coefficients, and what the named regression was given."""
    given = []
    regression = getattr(shapley, function)
    monkeypatch.setattr(shapley, function, lambda *arguments: given.append(arguments) or regression(*arguments))
    return alphas(name, method, **options), given[0]


@pytest.mark.parametrize("name", ["vgg", "residual, between blocks", "gap"])
@pytest.mark.parametrize("beta, gamma", [(0.01, 0.5), (0.1, 0.5), (0.003, 2.0)])
def test_lime_cam_is_scikit_learns_lasso(monkeypatch, name, beta, gamma):
    linear_model = pytest.importorskip("sklearn.linear_model")
    got, (X, v, weights, penalty) = fitted(monkeypatch, "weighted_lasso", name, "lime-cam", samples=150, beta=beta, gamma=gamma)
    model, x, layer = setting(name)
    assert penalty == beta and set(X.unique().tolist()) == {0.0, 1.0} and abs(X.mean().item() - 0.5) < 0.06
    same(v, played(model, x, Y, layer, X))
    A = activations(model, x, layer)
    for b in range(3):
        psi = [math.exp(-((A[b] - A[b] * row[:, None, None]).norm() ** 2 / A[b].norm() ** 2 / gamma**2).item()) for row in X]
        same(weights[b], torch.tensor(psi, dtype=torch.float64))
        lasso = linear_model.Lasso(alpha=beta * len(X) / (2 * sum(psi)), tol=1e-14, max_iter=10**6)
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
    same(shapley_regression(X, values, v[:, 0], v[:, 1]), exact(name)[0], 1e-9)


@pytest.mark.parametrize("samples", [1, 3, 5, 40, 500])
@pytest.mark.parametrize("name", ["vgg", "residual, between blocks", "gap"])
def test_kshap_cam_is_a_constrained_least_squares_fit(monkeypatch, name, samples):
    got, (X, v, empty, full) = fitted(monkeypatch, "shapley_regression", name, "kshap-cam", samples=samples)
    model, x, layer = setting(name)
    same(v, played(model, x, Y, layer, X))
    same(torch.stack([empty, full], 1), played(model, x, Y, layer, torch.stack([torch.zeros(X.shape[1]), torch.ones(X.shape[1])])))
    assert X.shape[0] == samples and (X.sum(1) > 0).all() and (X.sum(1) < X.shape[1]).all()
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


# -- score-cam ------------------------------------------------------------------------------------------------------------------------


def through(module):
    """Images that pass a module while the list is kept, by a hook."""
    seen = []
    return seen, module.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))


@pytest.mark.parametrize("weight", ["probability", "softmax"])
@pytest.mark.parametrize("name", ["vgg", "residual", "functional"])
def test_score_cam_channel_by_channel(name, weight):
    model, x, layer = setting(name)
    A = activations(model, x, layer)
    expected = torch.zeros(A.shape[:2], dtype=torch.float64)
    with torch.no_grad():
        for b, k in itertools.product(range(3), range(A.shape[1])):
            mask = F.interpolate(A[b, k][None, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
            if A[b, k].max() == A[b, k].min():
                expected[b, k] = 0 if weight == "probability" else -math.inf
                continue
            logits = model(x[b : b + 1] * (mask - mask.min()) / (mask.max() - mask.min()))[0]
            expected[b, k] = logits[Y[b]] if weight == "softmax" else logits.softmax(0)[Y[b]]
    expected = expected.softmax(1) if weight == "softmax" else expected
    same(alphas(name, "score-cam", weight=weight), expected)
    same(alphas(name, "score-cam", weight=weight, chunk=2), expected)
    small = (expected[:, :, None, None] * A).sum(1).clamp(min=0)
    maps = F.interpolate(small[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    same(xr.explain(model, x, Y, "score-cam", layer=layer, weight=weight), maps)


@pytest.mark.parametrize("dead", [0, 1, 2, 6])
@pytest.mark.parametrize("weight", ["probability", "softmax"])
def test_score_cam_skips_constant_channels_and_runs_one_forward_per_live_one(dead, weight):
    model, x = seeded(VGGLike), images()
    with torch.no_grad():
        model.features[3].weight[:dead], model.features[3].bias[:dead] = 0, 0.7
    A = activations(model, x, "features.4")
    live = A.amax((2, 3)) > A.amin((2, 3))
    assert not live[:, :dead].any()
    seen, handle = through(model.features[0])
    alpha = xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight=weight)
    handle.remove()
    assert sum(seen) == 3 + live.sum() and not alpha[~live].any()
    if weight == "softmax" and dead < 6:
        same(alpha.sum(1), torch.ones(3, dtype=torch.float64))


class Blind(Net):
    """Logits that do not look at the image."""

    def build(self):
        self.fc = nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc(0 * a.mean((2, 3)))


@pytest.mark.parametrize("weight", ["probability", "softmax"])
def test_score_cam_of_a_model_that_ignores_its_input(weight):
    model, x = seeded(Blind), images()
    alpha = xr.coefficients(model, x, Y, "score-cam", layer="act", weight=weight)
    live = alpha != 0
    assert live.sum(1).min() > 1
    for b in range(3):
        value = 1 / live[b].sum() if weight == "softmax" else model.fc.bias.softmax(0)[Y[b]].detach()
        same(alpha[b][live[b]], value.double().expand(int(live[b].sum())))


def test_I14_the_softmax_of_score_cam_does_not_see_a_constant():
    model, x = seeded(VGGLike), images()
    before = xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight="softmax")
    with torch.no_grad():
        model.classifier[6].bias += 3.25
    same(xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight="softmax"), before)


def test_wrong_weight_of_score_cam():
    with pytest.raises(ValueError, match="weight is 'cic'; possible: probability, softmax"):
        alphas("vgg", "score-cam", weight="cic")


# -- cosine-to ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    agreement._KNOWN.clear()
    counted, plain = [], agreement.coefficients
    monkeypatch.setattr(agreement, "coefficients", lambda *a, **k: counted.append(a[3]) or plain(*a, **k))
    return counted


def test_cosine_to_itself_its_opposite_and_nothing(calls):
    model, x, layer = setting("vgg")
    options = {"layer": layer, "permutations": 20, "seed": 4}
    alpha = alphas("vgg", "shap-cam", permutations=20, seed=4)
    one = torch.ones(3, dtype=torch.float64)
    same(xr.score("cosine-to", model, x, Y, 7 * alpha, **options), one)
    same(xr.score("cosine-to", model, x, Y, -alpha, **options), -one)
    alpha[1] = 0
    values = xr.score("cosine-to", model, x, Y, alpha, **options)
    assert torch.isnan(values[1]) and not torch.isnan(values[[0, 2]]).any()
    assert calls == ["shap-cam"], "the reference is computed once"


def test_cosine_to_by_hand_and_to_other_references(calls):
    model, x, layer = setting("vgg")
    beta = alphas("vgg", "lift-cam")
    alpha = torch.randn(beta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [sum(a * b for a, b in zip(p, q)) / math.hypot(*p) / math.hypot(*q) for p, q in zip(alpha.tolist(), beta.tolist())]
    same(xr.score("cosine-to", model, x, Y, alpha, reference="lift-cam", layer=layer), torch.tensor(expected, dtype=torch.float64))
    same(xr.score("cosine-to", model, x, Y, beta, reference="lift-cam", layer=layer), torch.ones(3).double())


def test_the_reference_is_computed_anew_for_anything_new(calls):
    model, x, layer = setting("vgg")
    alpha = alphas("vgg", "lift-cam")

    def measure(model=model, x=x, y=Y, **options):
        xr.score("cosine-to", model, x, y, alpha[: len(x)], **({"layer": layer, "permutations": 3} | options))
        return len(calls)

    assert measure() == 1 == measure()
    assert measure(y=Y.flip(0)) == 2
    assert measure(x=x.flip(0)) == 3
    assert measure(permutations=4) == 4 and measure(seed=9) == 5 and measure(sampling="sobol") == 6
    assert measure(reference="ablation-cam") == 7 == measure(reference="ablation-cam", permutations=99)
    assert measure(model=seeded(VGGLike, seed=5)) == 8
    assert measure() == 8


def test_cosine_to_with_coefficients_of_another_layer(calls):
    model, x, layer = setting("vgg")
    with pytest.raises(ValueError, match="4 coefficients for a reference of 6 channels.*layer"):
        xr.score("cosine-to", model, x, Y, alphas("vgg, an earlier layer", "lift-cam"), layer=layer)
    with pytest.raises(ValueError, match="layer-cam has no coefficients"):
        xr.score("cosine-to", model, x, Y, alphas("vgg", "lift-cam"), reference="layer-cam", layer=layer)


class Birds(list):
    name, classes, multi_label, fingerprint = "toy", tuple("abcde"), False, "v1"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_evaluate_gives_coefficients_to_a_metric_of_coefficients(tmp_path):
    """Methods without coefficients get the reason; maps and coefficients end in one table, and its shards are found again."""
    from xai_repro.data import Sample

    x, nothing = images(dtype=torch.float32), torch.full((16, 16), -1)
    data = Birds(Sample(image=image, labels=(0,), boxes=torch.zeros(0, 5), mask=nothing, id=str(i)) for i, image in enumerate(x))
    model = seeded(VGGLike, dtype=torch.float32)
    methods = [(name, {"layer": "features.4"}) for name in ("lift-cam", "layer-cam", "lrp-cam")]
    metrics = [("cosine-to", {"permutations": 50, "layer": "features.4"}), "average-drop"]
    frame = xr.evaluate(model, data, methods, metrics, results=tmp_path, limit=3)
    y = model(x).argmax(1)
    for name in ("lift-cam", "lrp-cam"):
        alpha = xr.coefficients(model, x, y, name, layer="features.4")
        expected = xr.score("cosine-to", model, x, y, alpha, permutations=50, layer="features.4")
        rows = frame[(frame["method"] == name) & (frame["metric"] == "cosine-to")]
        torch.testing.assert_close(torch.tensor(rows["value"].tolist()), expected, rtol=1e-4, atol=1e-5)
    without = frame[(frame["method"] == "layer-cam") & (frame["metric"] == "cosine-to")]
    assert without["value"].isna().all() and without["status"].str.contains("no coefficients").all()
    assert (frame[frame["metric"] == "average-drop"]["status"] == "ok").all() and len(frame) == 18
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    again = xr.evaluate(model, data, methods, metrics, results=tmp_path, limit=3)
    assert again.equals(frame) and {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == times

"""LIFT-CAM through products, quotients, normalisations and attention: complete, by hand, and the Shapley value of a product."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toy_heads import Net, Y, activations, played, same
from toy_shapley import all_coalitions, shapley_values
from torch import nn
from toys import CLASSES, images, seeded


class Head(Net):
    """The class's logit is what `joins` makes of two linear functions of the channels' means."""

    joins = None

    def build(self):
        self.left, self.right, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, CLASSES)

    def head(self, a, h):
        p = a.mean((2, 3))
        return self.last(type(self).joins(self.left(p), self.right(p)))


def squeeze(a, b):
    return a * torch.sigmoid(b)


def inplace(a, b):
    a = a.clone()
    a *= b
    a.mul_(b)
    return a


def attention(a, b):
    q, k, v = (t.unflatten(1, (1, 3, 2)) for t in (a, b, a - b))
    return F.scaled_dot_product_attention(q, k, v).flatten(1)


def attention_masked(a, b):
    q, k, v = (t.unflatten(1, (1, 3, 2)) for t in (a, b, a - b))
    bias = torch.tensor([[0.1, 0.0, -0.3], [0.2, 0.1, 0.0], [0.0, 0.5, 0.1]], dtype=a.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.7).flatten(1)


JOINS = {
    "product": lambda a, b: a * b, "torch.mul": torch.mul, "product in place": inplace, "squeeze and excitation": squeeze,
    "quotient": lambda a, b: a / (2 + b.square()), "div": lambda a, b: torch.div(a, 1.5 + b.abs()),
    "matrix product": lambda a, b: (a.unflatten(1, (2, 3)) @ b.unflatten(1, (3, 2))).flatten(1).repeat(1, 2)[:, :6],
    "bmm": lambda a, b: torch.bmm(a.unflatten(1, (2, 3)), b.unflatten(1, (3, 2))).flatten(1).repeat(1, 2)[:, :6],
    "power": lambda a, b: a**2 + b**3, "root": lambda a, b: (a.square() + 0.1).sqrt() + (b.square() + 0.3).rsqrt(),
    "softmax": lambda a, b: (a - b).softmax(1) * 3, "F.softmax": lambda a, b: F.softmax(a, dim=-1) * b,
    "layer norm": lambda a, b: F.layer_norm(a, (6,)) + b, "layer norm with weights": lambda a, b: F.layer_norm(a + b, (6,), torch.arange(6.0).double(), torch.ones(6).double(), 1e-3),
    "group norm": lambda a, b: F.group_norm(a, 2, torch.arange(6.0).double(), torch.ones(6).double()) - b,
    "attention": attention, "attention with a bias": attention_masked,
}  # fmt: skip


def head(name, bias=True):
    model = seeded(type("Joined", (Head,), {"joins": staticmethod(JOINS[name])}))
    if not bias:
        for layer in (model.left, model.right):
            nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", JOINS)
def test_lift_cam_is_complete(name, bias):
    model, x = head(name, bias), images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alpha = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    v = played(model, x, Y, "act", torch.tensor([[0.0] * 4, [1.0] * 4]))
    same(alpha.sum(1), v[:, 1] - v[:, 0], 1e-9)
    assert (v[:, 1] - v[:, 0]).abs().min() > 1e-3


@pytest.mark.parametrize("name", ["product", "torch.mul", "matrix product", "bmm"])
def test_for_a_product_of_two_linear_functions_lift_cam_is_the_shapley_value(name):
    """Every pair of channels shares its term, as each does with the other in half of the permutations."""
    model, x = head(name), images()
    expected = shapley_values(played(model, x, Y, "act", all_coalitions(4)), 4)
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act"), expected, 1e-9)
    assert (xr.coefficients(model, x, Y, "lrp-cam", layer="act") - expected).abs().max() > 1e-2


def test_a_normalisation_keeps_its_scale_where_nothing_else_differs():
    """Without biases the reference is centred at zero: alpha_k = sum_d w_yd r (W_dk - mean_d W_dk) p_k, r = 1 / the deviation."""
    model, x = head("layer norm", bias=False), images()
    nn.init.zeros_(model.right.weight)
    p, W = activations(model, x, "act").mean((2, 3)), model.left.weight.detach()
    h = p @ W.T
    r = 1 / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (model.last.weight.detach()[Y] * r) @ (W - W.mean(0)) * p
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act"), expected, 1e-10)


class Unruled(Head):
    def head(self, a, h):
        p = a.mean((2, 3))
        return self.last(F.normalize(self.left(p), dim=1) * 9)


def test_what_has_no_rule_is_said_with_the_figures():
    model, x = seeded(Unruled), images()
    with pytest.warns(UserWarning, match=r"lift-cam: the shares sum to .* where the logit changes by .* \(image .\): something above 'act' has no rescale rule"):
        alpha = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    v = played(model, x, Y, "act", torch.tensor([[0.0] * 4, [1.0] * 4]))
    assert ((alpha.sum(1) - v[:, 1] + v[:, 0]).abs() > 0.01 * (v[:, 1] - v[:, 0]).abs()).any()


def test_weights_are_no_factors_of_both_halves():
    """A parameter with as many rows as the batch has is the same for both, and its gradient is asked for as before afterwards."""

    class Scaled(Head):
        def build(self):
            super().build()
            self.scale = nn.Parameter(torch.randn(6))

        def head(self, a, h):
            return self.last(self.left(a.mean((2, 3))) * self.scale.sigmoid())

    model, x = seeded(Scaled), images()
    wanted = [p.requires_grad for p in model.parameters()]
    alpha = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    v = played(model, x, Y, "act", torch.tensor([[0.0] * 4, [1.0] * 4]))
    same(alpha.sum(1), v[:, 1] - v[:, 0], 1e-9)
    assert [p.requires_grad for p in model.parameters()] == wanted


def test_empty_maps_before_a_relu_are_said():
    """Score-CAM weighs with probabilities: where activations are negative, so is their sum."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)))
    nn.init.constant_(model[0].bias, -9)
    with pytest.warns(UserWarning, match=r"the map of image\(s\) \[0, 1, 2\] is empty: activations of '0' are negative, as before a ReLU"):
        assert not xr.explain(model, images(), Y, "score-cam", layer="0").any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.explain(model, images(), Y, "score-cam", layer="1")

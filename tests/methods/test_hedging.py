"""Gradient Hedging: a second writing with loops, and what the paper and its algebra promise."""

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toys import Residual, VGGLike, Y, images, seeded

from xai_repro.errors import UnknownName
from xai_repro.methods.hedging import gradient_activation, hedged, hedging, start_layer
from xai_repro.network.propagate import Layer

PARTS = ["C", "A", "U", "Psi"]


def layer(kernel=3, stride=1, groups=1, seed=0, zeros=0.5, dtype=torch.float64):
    """A convolution of rectified inputs, about half of them 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 6, 6, generator=generator, dtype=torch.float64)
    x = (x - torch.quantile(x, zeros)).clamp(min=0).to(dtype)
    W = torch.randn(6, 4 // groups, kernel, kernel, generator=generator, dtype=torch.float64).to(dtype)
    made = Layer(W, None, ([stride, stride], [kernel // 2] * 2, [1, 1], groups), False)
    made.kept = [x, made.of(x, W)]
    return made


def random_relevance(made, seed=5):
    return torch.randn(made.z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(made.z)


def by_hand(made, R, gamma, parts=PARTS):
    """Eq. 6 to 13, image by image, output by output, input by input."""
    x, W = made.x.numpy(), made.W.abs()
    n = made.x[0].numel()
    matrix = F.conv2d(torch.eye(n, dtype=W.dtype).view(n, *made.x.shape[1:]), W, None, *made.options).flatten(1).numpy()
    found = torch.zeros_like(made.x)
    for b in range(len(x)):
        r = R[b].flatten().numpy()
        P, N = r.clip(min=0) / r.clip(min=0).sum(), r.clip(max=0) / -r.clip(max=0).sum()
        if made.W.shape[-1] == 1:
            gamma = 1

        def J(g, values):
            total = 0
            for j, value in enumerate(values):
                products = g * matrix[:, j]
                if products.sum() > 0:
                    total = total + products / products.sum() * value
            return total

        on = (x[b].flatten() > 0).astype(float)
        C = J(x[b].flatten(), gamma * P + N)
        terms = {"C": C, "A": J(on, P), "U": J(1 - on, N), "Psi": -1.0 * (C != 0) / (C != 0).sum() * (made.W.shape[-1] > 1)}
        found[b] = torch.as_tensor(sum(terms[part] for part in parts)).view_as(found[b])
    return found


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 1), (1, 1, 1), (1, 2, 1), (3, 1, 2)])
def test_the_rule_written_out(shape, gamma):
    made = layer(*shape)
    R = random_relevance(made)
    torch.testing.assert_close(hedging(gamma, PARTS)(made)(R), by_hand(made, R, gamma), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("parts", [["C"], ["C", "Psi"], ["A", "U"], ["C", "A", "U"], PARTS])
def test_the_parts_of_table_2(parts):
    made = layer()
    R = random_relevance(made)
    torch.testing.assert_close(hedging(2.0, parts)(made)(R), by_hand(made, R, 2.0, parts), rtol=1e-9, atol=1e-11)


def test_sums():
    """P 1, N -1, C gamma - 1, A 1, U -1, all gamma - 2; a 1x1 convolution 0, whatever gamma is."""
    made = layer()
    R = random_relevance(made)
    P, N = hedged(R)

    def sums(gamma, *parts):
        return hedging(gamma, parts)(made)(R).sum((1, 2, 3))

    for value, expected in ((P.sum((1, 2, 3)), 1), (N.sum((1, 2, 3)), -1), (sums(1.7, "C"), 0.7), (sums(1.7, "A"), 1), (sums(1.7, "U"), -1), (sums(1.7, "Psi"), -1), (sums(1.7, *PARTS), -0.3)):
        torch.testing.assert_close(value, torch.full((3,), float(expected), dtype=torch.float64))
    point = layer(1, zeros=0.2)
    active, inactive = (point.x > 0).any(1, keepdim=True), (point.x <= 0).any(1, keepdim=True)  # what P and N need to go on
    R = random_relevance(point)
    R = torch.where((R > 0) & active | (R < 0) & inactive, R, 0)
    for gamma in (1.0, 2.0):
        covered = hedging(gamma, PARTS)(point)(torch.where((R < 0) & ~active, 0, R)).sum((1, 2, 3))
        torch.testing.assert_close(covered, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_who_gets_what():
    """C and A go to active neurons, U to inactive ones, Psi to those that C reaches; gamma scales the positive part of C alone."""
    made = layer()
    R, on = random_relevance(made), made.x > 0
    found = {part: hedging(1.0, [part])(made)(R) for part in PARTS}
    assert (found["C"][~on] == 0).all() and (found["A"][~on] == 0).all() and (found["U"][on] == 0).all()
    assert ((found["Psi"] != 0) == (found["C"] != 0)).all() and (found["A"] >= 0).all() and (found["U"] <= 0).all() and (found["Psi"] <= 0).all()
    difference = hedging(2.0, PARTS)(made)(R) - hedging(1.0, PARTS)(made)(R)
    only = hedging(1.0, ["C"])(made)(R.clamp(min=0))
    torch.testing.assert_close(difference, only, rtol=1e-8, atol=1e-10)


def test_the_scale_of_relevance_is_nothing_and_its_sign_something():
    made = layer()
    R = random_relevance(made)
    send = hedging(1.0, PARTS)(made)
    torch.testing.assert_close(send(7.5 * R), send(R))
    assert (send(-R) + send(R)).abs().max() > 1e-3


def test_images_do_not_know_of_each_other():
    made, R = layer(), random_relevance(layer())
    whole = hedging(1.0, PARTS)(made)(R)
    for b in range(3):
        single = layer()
        single.kept = [made.x[b : b + 1], made.z[b : b + 1]]
        torch.testing.assert_close(hedging(1.0, PARTS)(single)(R[b : b + 1]), whole[b : b + 1])


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_one_sign_only_is_no_division_by_zero(sign):
    """Where one part is missing so is its sum: gamma - 1 + 1 less Psi, or -1 -1 less Psi, or nothing at all."""
    made = layer()
    found = hedging(1.5, PARTS)(made)(sign * random_relevance(made).abs())
    expected = {1: 1.5 + 1 - 1, -1: -1 - 1 - 1, 0: 0}[sign]
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.full((3,), float(expected), dtype=torch.float64), rtol=0, atol=1e-10)
    assert found.isfinite().all()


def test_the_rest_of_a_subtraction_is_no_denominator():
    """In float32, all inputs active: what is left of 1 - 1 must not stand for an inactive neuron."""
    generator = torch.Generator().manual_seed(0)
    x, W = torch.rand(2, 96, 6, 6, generator=generator) + 0.1, torch.randn(8, 96, 3, 3, generator=generator)
    made = Layer(W, None, ([1, 1], [1, 1], [1, 1], 1), False)
    made.kept = [x, made.of(x, W)]
    rest = made.of_ones(W.abs()) - made.of(torch.ones_like(x), W.abs())
    assert (rest > 0).any() and (rest < 1e-3).all(), "nothing is left, so that nothing is tested"
    assert (hedging(1.0, ["U"])(made)(random_relevance(made)) == 0).all()
    made.kept[0] = torch.where(x > 1, 0, x)
    assert (hedging(1.0, ["U"])(made)(random_relevance(made)) != 0).any()


def test_where_it_begins():
    A, G = torch.rand(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    found = gradient_activation(A, G)
    for b in range(3):
        expected = torch.stack([A[b, k] * G[b, k].mean() for k in range(4)])
        torch.testing.assert_close(found[b], expected / expected.sum().abs())
    import torchvision

    for build, name in (
        (torchvision.models.vgg16, "features.29"), (torchvision.models.alexnet, "features"), (torchvision.models.resnet18, "layer4"),
        (torchvision.models.densenet121, "features"), (torchvision.models.vgg11_bn, "features.27"),
    ):  # fmt: skip
        assert start_layer(build(weights=None), None, None) == name
    assert start_layer(torchvision.models.alexnet(weights=None), None, "features.3") == "features.3"


@pytest.mark.parametrize("gamma, total", [(1.0, -1.0), (2.0, 0.0), (1.5, -0.5)])
def test_the_map_sums_to_gamma_less_2(gamma, total):
    """On a network of 3x3 convolutions, where every output has active and inactive inputs."""
    model = seeded(VGGLike, seed=2)
    maps = xr.explain(model, images(), Y, "gradient-hedging", gamma=gamma, layer="features.4")
    assert maps.sum((1, 2)).tolist() == pytest.approx([total] * 3, abs=0.3)  # near: a window after pooling may have no inactive input


def test_a_batchnorm_makes_no_difference():
    """|W| stands in numerator and denominator: a scale of either sign cancels."""
    model = seeded(Residual)
    before = xr.explain(model, images(), Y, "gradient-hedging")
    flipped = seeded(Residual)
    with torch.no_grad():
        block = flipped.layer1[0]
        for changed in (block.bn2.weight, block.conv2.weight, block.bn2.running_mean):
            changed *= -1
    torch.testing.assert_close(flipped(images()), model(images()))
    torch.testing.assert_close(xr.explain(flipped, images(), Y, "gradient-hedging"), before)


def test_of_a_sum_the_convolutions_get_all_or_a_share():
    model = seeded(Residual)
    branch, share = (xr.explain(model, images(), Y, "gradient-hedging", skip=skip) for skip in ("branch", "proportional"))
    assert (branch - share).abs().max() > 1e-6


def test_what_is_refused():
    model = seeded(VGGLike)
    for hyper, kind, said in (
        ({"gamma": -1.0}, ValueError, "is -1.0"), ({"parts": "C B"}, UnknownName, "part 'B'"), ({"parts": " "}, ValueError, "no part"),
        ({"skip": "half"}, UnknownName, "skip 'half'"),
    ):  # fmt: skip
        with pytest.raises(kind, match=said):
            xr.explain(model, images(), Y, "gradient-hedging", **hyper)

"""Integrated Gradients and SmoothGrad: sums over points."""

import pytest
import torch
import xai_repro as xr
from scipy.special import roots_legendre
from toys import TOYS, GapLinear, VGGLike, images, seeded, Y

from xai_repro.methods.gradient import gauss_legendre, path_integral


# -- integrated gradients ------------------------------------------------------------------------------------------------------


class Formula(torch.nn.Module):
    """Two logits: what a formula gives for the image, and 0."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        S = self.formula(x).flatten(1).sum(1)
        return torch.stack([S, 0 * S], 1)


W = images(1, seed=5)


def test_integrated_gradients_of_a_plane_are_exact_with_any_number_of_steps():
    model, x = Formula(lambda x: W * x + 0.3), images()
    for steps in (1, 2, 7):
        got = xr.explain(model, x, 0, "integrated-gradients", steps=steps)
        torch.testing.assert_close(got, (W * x).sum(1), rtol=0, atol=1e-14)


def test_integrated_gradients_in_numbers():
    """S = w x^k has the gradient k w x^(k-1) along the path: n points are exact up to k = 2n, and not beyond; 1 point: x^3 (3/4)."""
    x = images()
    for n in (1, 2, 3):
        exact = xr.explain(Formula(lambda x: W * x ** (2 * n)), x, 0, "integrated-gradients", steps=n)
        torch.testing.assert_close(exact, (W * x ** (2 * n)).sum(1), rtol=1e-12, atol=1e-13)
        beyond = xr.explain(Formula(lambda x: W * x ** (2 * n + 1)), x, 0, "integrated-gradients", steps=n)
        assert not torch.allclose(beyond, (W * x ** (2 * n + 1)).sum(1), rtol=1e-5)
    cube = xr.explain(Formula(lambda x: W * x**3), x, 0, "integrated-gradients", steps=1)
    torch.testing.assert_close(cube, (W * x**3).sum(1) * 3 / 4, rtol=0, atol=1e-13)


def test_a_path_begins_at_its_baseline():
    """S = w x^3 from x0 to x: every pixel's share is w (x^3 - x0^3)."""
    x, x0 = images(), images(seed=9)
    got = path_integral(Formula(lambda x: W * x**3), x, x0, Y * 0, steps=2)
    torch.testing.assert_close(got, W * (x**3 - x0**3), rtol=1e-10, atol=1e-12)


def test_points_and_weights():
    for n in (1, 2, 50, 100, 101, 250):
        nodes, weights = gauss_legendre(n)
        assert len(nodes) == len(weights) == n and (0 < nodes).all() and (nodes < 1).all() and (nodes.diff() > 0).all()
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-14)
        for power in range(2 * min(n, 5)):
            assert (weights * nodes**power).sum().item() == pytest.approx(1 / (power + 1), abs=1e-14)


@pytest.mark.parametrize("name", TOYS)
def test_integrated_gradients_by_loops(name):
    model, x, n = seeded(TOYS[name].build), images(), 5
    expected = torch.zeros(3, 16, 16, dtype=x.dtype)
    for b in range(3):
        for node, weight in zip(*roots_legendre(n)):
            point = ((node + 1) / 2 * x[b : b + 1]).requires_grad_()
            (g,) = torch.autograd.grad(model(point.clone())[0, Y[b]], point)
            expected[b] += sum(x[b, c] * g[0, c] for c in range(3)) * weight / 2
    torch.testing.assert_close(xr.explain(model, x, Y, "integrated-gradients", steps=n), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", TOYS)
def test_integrated_gradients_sum_to_the_change_of_the_logit(name):
    model, x = seeded(TOYS[name].build), images()
    change = (model(x) - model(torch.zeros_like(x)))[torch.arange(3), Y].detach()

    def error(steps):
        return (xr.explain(model, x, Y, "integrated-gradients", steps=steps).sum((1, 2)) - change).abs().max() / change.abs().max()

    few, more, many = (error(steps) for steps in (3, 100, 3000))
    assert many < 0.3 * more < 0.1 * few and many < 3e-4


@pytest.mark.parametrize("method, steps", [("integrated-gradients", "steps"), ("smoothgrad", "samples"), ("xrai", "steps")])
def test_points_of_the_images_go_through_the_model_in_passes_of_a_chunk(method, steps):
    model, x, rows = seeded(GapLinear), images(), []
    model.fc.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    expected = xr.explain(model, x, Y, method, **{steps: 7})
    assert sum(rows) == 3 * 7 * (2 if method == "xrai" else 1)
    for chunk in (1, 2, 4, 10):
        rows.clear()
        got = xr.explain(model, x, Y, method, chunk=chunk, **{steps: 7})
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)
        assert max(rows) <= chunk and sum(rows) == 3 * 7 * (2 if method == "xrai" else 1)
    rows.clear()
    xr.explain(model, x, None, method, **{steps: 7})
    assert sum(rows) == 3 * 7 * (2 if method == "xrai" else 1) + 3  # the top-1 is looked up once


def test_passes_are_halved_where_memory_runs_out():
    model, x = seeded(GapLinear), images()
    expected = xr.explain(model, x, Y, "integrated-gradients", steps=9)

    def scarce(module, args):
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError

    model.fc.register_forward_pre_hook(scarce)
    torch.testing.assert_close(xr.explain(model, x, Y, "integrated-gradients", steps=9), expected, rtol=1e-10, atol=1e-13)


def test_integrated_gradients_agree_with_captum():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(VGGLike), images()
    expected = attr.IntegratedGradients(model).attribute(x.clone(), target=Y, n_steps=13, method="gausslegendre").sum(1)
    got = xr.explain(model, x, Y, "integrated-gradients", steps=13)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-6, atol=1e-7)  # captum's positions on the path are float32


@pytest.mark.parametrize("method, wrong, given", [
    ("integrated-gradients", {"steps": 0}, "steps is 0; at least 1"),
    ("integrated-gradients", {"steps": 2.5}, "steps.* is 2.5"),
    ("integrated-gradients", {"baseline": "blur"}, "baseline is 'blur'; possible: zero"),
    ("smoothgrad", {"samples": 0}, "samples is 0; at least 1"),
    ("smoothgrad", {"noise": -0.1}, "noise.* is -0.1; it cannot be negative"),
    ("smoothgrad", {"noise": float("nan")}, "noise.* is nan"),
    ("xrai", {"steps": 0}, "steps is 0; at least 1"),
])  # fmt: skip
def test_numbers_that_are_not_possible(method, wrong, given):
    with pytest.raises(ValueError, match=given):
        xr.explain(seeded(GapLinear), images(), 0, method, **wrong)


# -- SmoothGrad ----------------------------------------------------------------------------------------------------------------


def noisy_copies(x, **options):
    """The images [B,n,3,H,W] that reach a model."""
    seen = []
    model = Formula(lambda x: seen.append(x.detach().clone()) or x)
    xr.explain(model, x, 0, "smoothgrad", **options)
    return torch.cat(seen).view(len(x), -1, *x.shape[1:])


@pytest.mark.parametrize("name", TOYS)
def test_smoothgrad_by_loops(name):
    model, x = seeded(TOYS[name].build), images()
    copies = noisy_copies(x, samples=6)
    assert copies.shape == (3, 6, 3, 16, 16)
    expected = torch.zeros(3, 16, 16, dtype=x.dtype)
    for b in range(3):
        mean = torch.zeros_like(x[b])
        for copy in copies[b]:
            point = copy[None].requires_grad_()
            mean += torch.autograd.grad(model(point.clone())[0, Y[b]], point)[0][0] / 6
        expected[b] = torch.stack([mean[c].abs() for c in range(3)]).max(0).values
    torch.testing.assert_close(xr.explain(model, x, Y, "smoothgrad", samples=6), expected, rtol=1e-10, atol=1e-13)


def test_the_noise():
    x = torch.cat([images(2), 3 * images(1, seed=8) + 5])
    e = noisy_copies(x, samples=40) - x[:, None]
    sigma = 0.15 * (x.flatten(1).max(1).values - x.flatten(1).min(1).values)
    for b in range(3):
        assert e[b].std().item() == pytest.approx(sigma[b].item(), rel=0.02) and abs(e[b].mean()) < 0.02 * sigma[b]
        assert (e[b] > 2 * sigma[b]).double().mean().item() == pytest.approx(0.02275, rel=0.15)  # a normal distribution
    unit = (e / sigma.view(3, 1, 1, 1, 1)).flatten(2).flatten(0, 1)  # [3 * 40, 768]
    alike = unit @ unit.T / unit.shape[1] - torch.eye(120, dtype=x.dtype)
    assert alike.abs().max() < 0.25  # of every image and sample another one
    torch.testing.assert_close(noisy_copies(x, samples=40, noise=0.3) - x[:, None], 2 * e, rtol=0, atol=1e-12)


def test_the_noise_belongs_to_the_image_and_the_seed():
    x = images()
    copies = noisy_copies(x, samples=5)
    assert torch.equal(noisy_copies(x.flip(0), samples=5), copies.flip(0))
    assert torch.equal(noisy_copies(x[1:2], samples=5), copies[1:2])
    assert torch.equal(noisy_copies(x, samples=3), copies[:, :3])
    assert torch.equal(noisy_copies(torch.cat([x, x]), samples=5), torch.cat([copies, copies]))
    assert not torch.isclose(noisy_copies(x, samples=5, seed=1), copies).any()


def test_smoothgrad_without_noise_is_the_gradient():
    model, x = seeded(VGGLike), images()
    torch.testing.assert_close(xr.explain(model, x, Y, "smoothgrad", noise=0), xr.explain(model, x, Y, "gradient"), rtol=0, atol=1e-13)
    flat = torch.full_like(x, 0.3)  # an image of one value has no range
    torch.testing.assert_close(xr.explain(model, flat, Y, "smoothgrad"), xr.explain(model, flat, Y, "gradient"), rtol=0, atol=1e-13)


def test_smoothgrad_in_numbers():
    """S = W (x + x^2): the noise leaves the slope of a plane alone and moves that of a square by 2 W times its mean."""
    x = images()
    plane = xr.explain(Formula(lambda x: W * x), x, 0, "smoothgrad", samples=3, noise=2)
    torch.testing.assert_close(plane, W.abs().amax(1).expand(3, -1, -1), rtol=0, atol=1e-13)
    mean = (noisy_copies(x, samples=9) - x[:, None]).mean(1)
    square = xr.explain(Formula(lambda x: W * x**2), x, 0, "smoothgrad", samples=9)
    torch.testing.assert_close(square, (2 * W * (x + mean)).abs().amax(1), rtol=0, atol=1e-13)

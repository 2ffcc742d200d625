"""The gradient and gradient times input."""

import pytest
import torch
import xai_repro as xr
from toys import TOYS, GapLinear, VGGLike, images, seeded, Y


def differences(model, x, y, step=1e-6):
    """dS_y/dx by central differences, one pixel and colour at a time."""
    flat = x.flatten(1)
    g = torch.zeros_like(flat)
    for b in range(len(x)):
        steps = step * torch.eye(flat.shape[1], dtype=x.dtype)
        with torch.no_grad():
            up = model((flat[b] + steps).view(-1, *x.shape[1:]))[:, y[b]]
            down = model((flat[b] - steps).view(-1, *x.shape[1:]))[:, y[b]]
        g[b] = (up - down) / (2 * step)
    return g.view_as(x)


@pytest.mark.parametrize("name", TOYS)
def test_against_finite_differences(name):
    model, x = seeded(TOYS[name].build), images(2)
    g = differences(model, x, Y)
    largest = torch.stack([g[:, 0].abs(), g[:, 1].abs(), g[:, 2].abs()]).max(0).values
    torch.testing.assert_close(xr.explain(model, x, Y[:2], "gradient"), largest, rtol=1e-5, atol=1e-7)
    product = x[:, 0] * g[:, 0] + x[:, 1] * g[:, 1] + x[:, 2] * g[:, 2]
    torch.testing.assert_close(xr.explain(model, x, Y[:2], "linear-approximation"), product, rtol=1e-5, atol=1e-7)


def test_against_dense_matrices():
    """One hidden layer: g = W2_y diag(W1 x + b1 > 0) W1."""
    torch_rng = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 20), torch.nn.ReLU(True), torch.nn.Linear(20, 5)).double()
    x = torch.randn(3, 3, 4, 4, generator=torch_rng, dtype=torch.float64)
    W1, b1, W2 = model[1].weight.detach(), model[1].bias.detach(), model[3].weight.detach()
    for b in range(3):
        g = (W2[Y[b]] @ torch.diag((W1 @ x[b].flatten() + b1 > 0).double()) @ W1).view(3, 4, 4)
        torch.testing.assert_close(xr.explain(model, x, Y, "gradient")[b], g.abs().max(0).values, rtol=0, atol=1e-14)
        torch.testing.assert_close(xr.explain(model, x, Y, "linear-approximation")[b], (g * x[b]).sum(0), rtol=0, atol=1e-14)


def test_numbers():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2, bias=False)).double()
    model[1].weight.data = torch.tensor([[1.0, -2, 0, 3, -4, 0.5], [0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    x = torch.tensor([[[[1.0, 2]], [[3, 4]], [[5, 6]]]], dtype=torch.float64)  # three colours of 1x2 pixels
    # colours of the left pixel have weights 1, 0, -4 and of the right one -2, 3, 0.5
    assert xr.explain(model, x, 0, "gradient").tolist() == [[[4, 3]]]
    assert xr.explain(model, x, 0, "linear-approximation").tolist() == [[[1 - 20, -4 + 12 + 3]]]


@pytest.mark.parametrize("build", [VGGLike, GapLinear])
def test_linear_approximation_sums_to_the_logit_without_biases(build):
    model, x = seeded(lambda: build(bias=False)), images()
    maps = xr.explain(model, x, Y, "linear-approximation")
    torch.testing.assert_close(maps.sum((1, 2)), model(x)[torch.arange(3), Y].detach(), rtol=1e-10, atol=1e-12)


def test_linear_approximation_misses_the_logit_by_the_bias_terms():
    model, x = seeded(VGGLike), images()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    score = model(x)[torch.arange(3), Y]
    rest = [sum((b * g).sum() for b, g in zip(biases, torch.autograd.grad(s, biases, retain_graph=True))) for s in score]
    maps = xr.explain(model, x, Y, "linear-approximation")
    torch.testing.assert_close(maps.sum((1, 2)) + torch.stack(rest).detach(), score.detach(), rtol=1e-10, atol=1e-12)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(VGGLike), images()
    saliency = attr.Saliency(model).attribute(x.clone(), target=Y, abs=True).amax(1)
    torch.testing.assert_close(xr.explain(model, x, Y, "gradient"), saliency.detach())
    product = attr.InputXGradient(model).attribute(x.clone(), target=Y).sum(1)
    torch.testing.assert_close(xr.explain(model, x, Y, "linear-approximation"), product.detach())


def test_an_image_of_the_mean_colour_has_no_share():
    model, x = seeded(VGGLike), images(1)
    x[:, :, :8] = 0
    assert not xr.explain(model, x, 0, "linear-approximation")[:, :8].any()
    assert xr.explain(model, x, 0, "gradient")[:, :8].any()

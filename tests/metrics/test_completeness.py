"""Completeness: maps that share out the logit, and by how much others miss it."""

import torch
import xai_repro as xr
from toys import GapLinear, VGGLike, images, seeded, Y


def test_by_hand():
    model, x = seeded(VGGLike), images()
    maps = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = (model(x) - model(torch.zeros_like(x)))[torch.arange(3), Y].detach()
    expected = torch.stack([(m.sum() - c).abs() / c.abs() for m, c in zip(maps, change)])
    torch.testing.assert_close(xr.score("completeness", model, x, Y, maps), expected)
    share = change[:, None, None].expand(3, 16, 16) / 256
    torch.testing.assert_close(xr.score("completeness", model, x, Y, share), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_more_points_miss_less_and_gauss_and_legendre_least():
    model, x = seeded(VGGLike), images()

    def missed(steps):
        return xr.score("completeness", model, x, Y, xr.explain(model, x, Y, "integrated-gradients", steps=steps)).mean()

    assert missed(400) < missed(50) < missed(5)


def test_gradient_times_input_is_complete_without_biases():
    model, x = seeded(lambda: GapLinear(bias=False)), images()
    values = xr.score("completeness", model, x, Y, xr.explain(model, x, Y, "linear-approximation"))
    torch.testing.assert_close(values, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_undefined_where_nothing_changes():
    model, x = seeded(VGGLike), images() * 0
    assert xr.score("completeness", model, x, Y, x[:, 0]).isnan().all()

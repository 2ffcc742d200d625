"""The controls against loops, and that they know nothing of the model."""

import math

import pytest
import torch
import xai_repro as xr
from toys import SIZE, VGGLike, flops, images, seeded

MODEL = seeded(VGGLike)
CONTROLS = xr.methods("random") + xr.methods("center") + xr.methods("edges")


@pytest.mark.parametrize("name", CONTROLS)
def test_knows_nothing_of_the_model_or_the_class(name):
    x = images()
    expected = xr.explain(MODEL, x, 0, name)
    assert torch.equal(xr.explain(seeded(VGGLike, seed=9), x, 3, name), expected)
    one = flops(lambda: MODEL(x[:1]))  # so many classes has the model
    assert flops(lambda: xr.explain(MODEL, x, 0, name)) <= one + 2 * 3 * 2 * 9 * SIZE**2  # and the edge filter at most
    named = seeded(VGGLike)
    named.classes = list("abcde")
    assert flops(lambda: xr.explain(named, x, 0, name)) <= 2 * 3 * 2 * 9 * SIZE**2
    for model in (MODEL, named):
        with pytest.raises(ValueError, match="class 5; the model has classes 0 to 4"):
            xr.explain(model, x, 5, name)
    assert xr.method_info(name).family == "control"


def test_center_is_a_bump():
    x, width = images(2, size=6), 0.3
    expected = [
        [math.exp(-(((i + 0.5) / 6 - 0.5) ** 2 + ((j + 0.5) / 6 - 0.5) ** 2) / (2 * width**2)) for j in range(6)] for i in range(6)
    ]
    got = xr.explain(MODEL, x, 0, "center", width=width)
    torch.testing.assert_close(got, torch.tensor([expected, expected], dtype=torch.float64))
    assert torch.equal(got, got.flip(-1)) or torch.allclose(got, got.flip(-1), atol=1e-15)
    odd = xr.explain(MODEL, images(1, size=7), 0, "center")[0]
    assert odd[3, 3] == 1 and odd.argmax() == 24


def test_center_of_an_oblong_image():
    got = xr.explain(MODEL, images(1)[..., :8], 0, "center")[0]
    assert got.shape == (16, 8)
    assert got[0, 3] == pytest.approx(math.exp(-((0.5 / 16 - 0.5) ** 2 + (3.5 / 8 - 0.5) ** 2) / (2 * 0.25**2)))


def test_edges_by_loops():
    x = images(1, size=5)
    grey = x[0].mean(0)
    kernel = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]

    def pixel(i, j):
        return grey[min(max(i, 0), 4), min(max(j, 0), 4)].item()

    expected = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            across = sum(kernel[u][v] / 8 * pixel(i + u - 1, j + v - 1) for u in range(3) for v in range(3))
            along = sum(kernel[v][u] / 8 * pixel(i + u - 1, j + v - 1) for u in range(3) for v in range(3))
            expected[i, j] = math.hypot(across, along)
    torch.testing.assert_close(xr.explain(MODEL, x, 0, "edges")[0], expected)


def test_edges_of_a_ramp_and_of_a_plain_image():
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 3, 16, 16)
    got = xr.explain(MODEL, ramp, 0, "edges")[0]
    torch.testing.assert_close(got[:, 1:-1], torch.ones(16, 14, dtype=torch.float64))  # one grey level per pixel
    torch.testing.assert_close(got[:, [0, -1]], torch.full((16, 2), 0.5, dtype=torch.float64))
    assert not xr.explain(MODEL, torch.ones(1, 3, 16, 16, dtype=torch.float64), 0, "edges").any()


def test_random_depends_on_seed_and_image_alone():
    x = images()
    maps = xr.explain(MODEL, x, 0, "random")
    assert (maps >= 0).all() and (maps <= 1).all()
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(xr.explain(MODEL, x[[1, 1]], 0, "random"), maps[[1, 1]])
    seeds = [xr.explain(MODEL, x[:1], 0, "random", seed=seed) for seed in (0, 1, 2, 2**31 - 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seeds) for b in seeds[:i])
    assert torch.equal(seeds[0], maps[:1])


def test_random_is_uniform_noise_on_the_grid():
    cells = xr.explain(MODEL, images(40), 0, "random", cells=SIZE)  # as many cells as pixels: the noise itself
    assert abs(cells.mean().item() - 1 / 2) < 0.01 and abs(cells.var().item() - 1 / 12) < 0.003
    flat = cells.flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.35  # images have noise of their own

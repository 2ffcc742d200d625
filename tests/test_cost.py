"""What methods and metrics cost, counted: floating-point operations and peak memory in units of one forward pass."""

import functools

import pytest
import torch
import torchvision
import xai_repro as xr
from toys import flops, images, peak_bytes

CAMS = ["cam", "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam"]
TWO_PASSES = ["increase-in-confidence", "average-drop", "average-drop-in-deletion"]


@functools.cache
def network(name):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None).eval()


@functools.cache
def picture():
    return images(1, size=224, dtype=torch.float32)


@functools.cache
def forward(name, instrument):
    def run():
        with torch.no_grad():
            return network(name)(picture())

    return instrument(run)


def cost(name, method, instrument):
    return instrument(lambda: xr.explain(network(name), picture(), 7, method)) / forward(name, instrument)


@pytest.mark.parametrize("name, method", [(n, m) for n in ("vgg16", "resnet50") for m in CAMS if (n, m) != ("vgg16", "cam")])
def test_gradient_cams_cost_one_forward(name, method):
    assert 1 <= cost(name, method, flops) <= 1.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
@pytest.mark.parametrize("method", ["grad-cam", "layer-cam"])
def test_gradient_cams_keep_no_more_than_a_forward_without_a_graph(name, method):
    assert cost(name, method, peak_bytes) < 1.3


@pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "resnet50"])
@pytest.mark.parametrize("method", ["gradient", "linear-approximation"])
def test_gradients_of_the_image_cost_a_forward_and_a_backward(name, method):
    assert 1.9 <= cost(name, method, flops) <= 2.05


@pytest.mark.parametrize("method", xr.methods("random") + xr.methods("center") + xr.methods("edges"))
def test_controls_cost_nothing(method):
    assert cost("resnet50", method, flops) < 0.001  # the edge filter is a convolution too


def test_coefficients_cost_what_the_map_costs():
    spent = flops(lambda: xr.coefficients(network("resnet50"), picture(), 7, "grad-cam"))
    assert spent / forward("resnet50", flops) <= 1.05


@pytest.mark.parametrize("metric", TWO_PASSES)
def test_metrics_of_two_passes(metric):
    maps = xr.normalize(picture()[:, 0])
    spent = flops(lambda: xr.score(metric, network("resnet50"), picture(), 7, maps))
    assert spent == 2 * forward("resnet50", flops)


@pytest.mark.parametrize("metric", ["proportion", "pointing-game", "positive-ratio"])
def test_metrics_that_run_no_model(metric):
    maps, truth = xr.normalize(picture()[:, 0]), picture()[:, 0] > 0
    assert flops(lambda: xr.score(metric, network("resnet50"), picture(), 7, maps, truth)) == 0


def test_the_instruments():
    a, b = torch.ones(1000, 500), torch.ones(500, 200)
    assert flops(lambda: a @ b) == 2 * 1000 * 500 * 200

    def three_then_two():
        one = a + 1
        two = one * 2
        three = two + one
        del one
        return two, three

    assert peak_bytes(three_then_two) == pytest.approx(3 * 4 * 500_000, rel=0.01)

    def graph():
        leaf = a.clone().requires_grad_()
        (leaf.exp() * 2).exp().sum().backward()

    assert peak_bytes(graph) >= 4 * 4 * 500_000

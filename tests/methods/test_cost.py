"""What methods and metrics cost, counted: floating-point operations and peak memory in units of one forward pass."""

import functools

import pytest
import torch
import torchvision
import xai_repro as xr
from toys import flops, images, peak_bytes, seeded

CAMS = ["cam", "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam"]
TWO_PASSES = ["increase-in-confidence", "confidence-gain", "average-drop", "average-drop-in-deletion"]


@functools.cache
def network(name):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
    model.classes = tuple(map(str, range(1000)))  # what is known need not be asked of a forward pass
    return model


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


# -- shares of the channels --------------------------------------------------------------------------------------------------


def spent(name, method, **options):
    return flops(lambda: xr.coefficients(network(name), picture(), 7, method, **options)) / forward(name, flops)


@pytest.mark.slow
@pytest.mark.parametrize("method, options, ceiling", [
    ("ablation-cam", {}, 1.6), ("lift-cam", {}, 1.1), ("lrp-cam", {}, 1.05), ("lime-cam", {"samples": 512}, 1.7), ("kshap-cam", {"samples": 512}, 1.7),
])  # fmt: skip
def test_shares_in_the_head_of_vgg16(method, options, ceiling):
    assert 1 <= spent("vgg16", method, **options) <= ceiling


@pytest.mark.slow
def test_a_permutation_in_the_head_of_vgg16():
    """Counted for 1, 2 and 3 permutations; every one costs the same, so that 100 follow exactly."""
    one, two, three = (spent("vgg16", "shap-cam", permutations=n) for n in (1, 2, 3))
    assert two - one == pytest.approx(three - two, rel=1e-6)
    assert two - one <= 0.56 and one + 99 * (two - one) <= 57


@pytest.mark.parametrize("method", ["ablation-cam", "lift-cam", "lrp-cam", "shap-cam", "lime-cam", "kshap-cam"])
def test_shares_in_a_linear_head(method):
    samples = {"samples": 512} if method in ("lime-cam", "kshap-cam") else {}
    assert 1 <= spent("resnet50", method, **samples) <= (1.6 if samples else 1.02)


def test_score_cam_costs_a_forward_per_live_channel_and_one():
    model, x = network("resnet18"), images(1, size=64, dtype=torch.float32)
    rows, live = [], []
    handles = [
        model.conv1.register_forward_hook(lambda module, args, output: rows.append(len(output))),
        model.layer4.register_forward_hook(lambda module, args, output: live.append((output.amax((2, 3)) > output.amin((2, 3))).sum())),
    ]
    xr.coefficients(model, x, 7, "score-cam")
    for handle in handles:
        handle.remove()
    assert 0 < live[0] < 512 and sum(rows) == live[0] + 1


@pytest.mark.slow
def test_memory_of_shap_cam_on_vgg16():
    few, many = (peak_bytes(lambda: xr.coefficients(network("vgg16"), picture(), 7, "shap-cam", permutations=n)) for n in (2, 6))
    assert many < 1.02 * few


class Head(torch.nn.Module):
    """VGG's kind of head over 32 channels, pooled to 3x3, on a trunk of one layer."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(3))
        self.classifier = nn.Sequential(nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


@pytest.mark.parametrize("chunk, numbers", [(64, (50, 300)), pytest.param(1000, (100, 10_000), marks=pytest.mark.slow)])
def test_memory_of_shap_cam_does_not_grow_with_the_permutations(chunk, numbers):
    model, x = seeded(Head, dtype=torch.float32), images(2, size=32, dtype=torch.float32)

    def peak(permutations):
        return peak_bytes(lambda: xr.coefficients(model, x, 1, "shap-cam", layer="features.1", permutations=permutations, chunk=chunk))

    few, many = (peak(n) for n in numbers)
    assert many - few < 0.1 * few + 2.1 * 8 * 32 * numbers[1]  # the permutations themselves, and what sorting them takes


@pytest.mark.parametrize("method", ["ablation-cam", "kshap-cam"])
def test_a_chunk_bounds_the_memory(method):
    model, x = network("resnet18"), images(2, size=64, dtype=torch.float32)
    options = {"samples": 300} if method == "kshap-cam" else {}

    def peak(chunk):
        return peak_bytes(lambda: xr.coefficients(model, x, 1, method, layer="layer3", chunk=chunk, **options))

    assert peak(4) < 0.5 * peak(400)


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


# -- gradients of the image over many points -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deconvnet", "guided-backprop"])
def test_other_backward_passes_cost_what_the_gradient_costs(method):
    assert 1.9 <= cost("resnet18", method, flops) <= 2.05


@pytest.mark.parametrize("method, number, passes", [
    ("integrated-gradients", "steps", 1), ("smoothgrad", "samples", 1), ("xrai", "steps", 2),
])  # fmt: skip
def test_a_forward_and_a_backward_for_each_point(method, number, passes):
    """At most 2n + 1 with n points (4n + 1 from two baselines). Counted for 1 and 2; every one costs the same, so that 100 follow."""
    model, x = network("resnet18"), picture()
    one, two, unknown = (flops(lambda: xr.explain(model, x, y, method, **{number: n})) for y, n in ((7, 1), (7, 2), (None, 1)))
    assert two == 2 * one and one <= 2 * passes * forward("resnet18", flops)
    assert unknown == one + forward("resnet18", flops)


@pytest.mark.parametrize("method, number", [("integrated-gradients", "steps"), ("smoothgrad", "samples")])
def test_memory_does_not_grow_with_the_points(method, number):
    model, x = seeded(Head, dtype=torch.float32), images(2, size=32, dtype=torch.float32)

    def peak(n, chunk=4):
        return peak_bytes(lambda: xr.explain(model, x, 1, method, chunk=chunk, **{number: n}))

    assert peak(40) < 1.05 * peak(4)
    assert peak(40) < 0.3 * peak(40, chunk=80)

"""What a profile would cost: counted without doing the arithmetic, and the same as with it."""

import re
import time
from pathlib import Path

import pytest
import torch
import xai_repro as xr
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from xai_repro.cli import app
from xai_repro.study import estimate
from xai_repro.study.asked import explains_again

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FEW = {"13", "15", "20", "23", "24", "26", "27", "34", "43", "44", "45", "46"}  # images, small networks, or times: left out, as the page says


def worked(function):
    """Forward passes of a call that does its arithmetic."""
    with FlopCounterMode(display=False) as counted:
        function()
    return counted.get_total_flops()


@pytest.fixture(scope="module")
def count():
    return estimate.counter("mini-vgg")


METHODS = ["grad-cam", "layer-cam", "gradient", "guided-backprop", "lift-cam", "ablation-cam", "lrp", "clrp", "excitation-backprop", "gradient-hedging", "agf", "rsp", "rap", "fullgrad"]


@pytest.mark.parametrize("method", METHODS)
def test_counting_needs_no_arithmetic(count, method):
    real = xr.load_model("mini-vgg", device="cpu")
    assert count.method(method, {}) == pytest.approx(worked(lambda: xr.explain(real, count.x, count.y, method)) / count.forward, rel=0.01)


def test_what_is_linear_is_counted_at_two_small_values(count):
    assert count.method("rise", {"masks": 8000}) == pytest.approx(8000, rel=0.01)
    assert count.method("integrated-gradients", {}) == pytest.approx(count.method("gradient", {}) * 50, rel=0.01)
    assert count.method("xrai", {"steps": 100}) == 2 * count.method("integrated-gradients", {"steps": 100})
    real = xr.load_model("mini-vgg", device="cpu")
    for name, hyper, near in [("shap-cam", {"permutations": 30}, 0.01), ("kshap-cam", {"samples": 300}, 0.01), ("lime-cam", {"samples": 300}, 0.05)]:
        assert count.method(name, hyper) == pytest.approx(worked(lambda: xr.explain(real, count.x, count.y, name, **hyper)) / count.forward, rel=near)
    assert count.method("score-cam", {}) == 129  # all 128 channels, and the image


def test_collection_cam_costs_at_most(count):
    real, x = xr.load_model("mini-vgg", device="cpu"), xr.load_data("mini-birds")[0].image[None]
    assert worked(lambda: xr.explain(real, x, 0, "collection-cam")) / count.forward <= count.method("collection-cam", {}) <= 5 * 10 + 2


def test_metrics(count):
    def cost(*names):
        return count.metrics(estimate.with_hyper(list(names), "metric", {}))

    assert cost("average-drop", "increase-in-confidence") == pytest.approx(1) and cost("average-drop-in-deletion", "average-drop") == pytest.approx(2)
    assert cost("insertion") == pytest.approx(28, abs=0.1) and cost("insertion", "deletion", "overall") == pytest.approx(56, abs=0.1)  # the image itself is known
    assert cost(("lerf-perturbation", {"steps": 10})) == pytest.approx(10) and cost(("lerf-perturbation", {"report": "last"})) == pytest.approx(1)


def test_metrics_of_the_notebooks_that_do_not_count_run_no_network(count):
    asked = {one.name for request in estimate.requests(xr.profile("smoke")) for one in request.metrics if not explains_again(one) and one.name not in ("cosine-to", *estimate.RUNNING)}
    model, x, maps, truth = count.model, count.x, torch.rand(1, 96, 96), torch.rand(1, 96, 96) > 0.5
    assert asked and all(worked(lambda: xr.score(name, model, x, count.y, maps, truth)) == 0 for name in asked)


def test_the_table():
    table = estimate.estimate("smoke", rate=10.0)
    assert list(table.columns) == estimate.COLUMNS and set(table["network"]) == {"mini-vgg"} and set(table["paper"]) == set(estimate.PAPERS.values())
    assert (table["hours"] * 3600 * 10e12).to_list() == pytest.approx((table["PFLOP"] * 1e15).to_list())
    assert (table["passes per image"] > 1).all() and "10 TFLOP/s" in table.attrs["assumed"]
    sums = estimate.by_paper(table)
    assert sums["paper"].to_list() == [*estimate.PAPERS.values(), "all"] and sums["PFLOP"].iat[-1] == pytest.approx(table["PFLOP"].sum())
    for rate in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="rate is"):
            estimate.estimate("smoke", rate)


def test_who_cannot_explain_costs_nothing_and_who_costs_nothing_is_scored(count):
    def cost(*methods):
        asked = estimate.with_hyper(list(methods), "method", {}), estimate.with_hyper(["average-drop"], "metric", {})
        return count.request(estimate.Request("10", "mini-vgg", "mini-birds", 1, *asked))

    assert count.method("cam", {}) is None and cost("cam") == 1 and cost("random") == pytest.approx(2) and cost("random", "center", "cam") == pytest.approx(3)


def test_every_notebook_of_a_paper_is_counted_or_known_to_be_left_out():
    there = {path.name[:2] for path in NOTEBOOKS.glob("[1-4]*.ipynb") if re.search(r"evaluate|explain", path.read_text())}
    assert there == {one.notebook for one in estimate.requests(xr.profile("smoke"))} | (FEW & there)


@pytest.mark.slow
def test_the_papers_networks():
    """The bounds of `tests/methods/test_cost.py` and `test_relevance_cost.py`, where the arithmetic is done; the command says what comes of it, in seconds."""
    for name, forward, lift in [("vgg16", 30.94e9, 1.1), ("resnet50", 8.18e9, 1.02)]:
        count = estimate.counter(name)
        assert count.forward == pytest.approx(forward, rel=0.001)
        for method, least, most in [("gradient", 1.9, 2.05), ("lift-cam", 1, lift), ("lrp", 3, 3.1), ("clrp", 3, 3.2), ("gradient-hedging", 5.9, 6.05), ("relevance-cam", 1, 1.05), ("fullgrad", 1.9, 2.05)]:
            assert least <= count.method(method, {}) <= most, (name, method)
    assert 50 < estimate.counter("vgg16").method("shap-cam", {"permutations": 100}) <= 57 and estimate.counter("vgg16").method("ablation-cam", {}) <= 1.6
    start = time.process_time()
    told = CliRunner().invoke(app, ["estimate", "--rate", "10"])
    assert told.exit_code == 0 and "assumed: profile 'paper'" in told.output and "sustains 10 TFLOP/s" in told.output and " all " in told.output
    assert time.process_time() - start < 40

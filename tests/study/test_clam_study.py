"""The study of CLAM: headings, cases by a rule, readings that differ as they say."""

import inspect

import pandas as pd
import pytest
import torch
import xai_repro as xr

from xai_repro.methods.relevance import against_logits
from xai_repro.published import published
from xai_repro.study import cases, clam, fitting, shards
from xai_repro.study.asked import with_hyper
from xai_repro.study.records import comparisons
from xai_repro.study.statistics import TIME

OTHERS = ["linear-approximation", "deconvnet", "gradient", "guided-backprop", "grad-cam", "excitation-backprop"]


def test_methods_go_by_the_headings_of_table_1():
    found = clam.methods("folder", ["edges"])
    printed = list(dict.fromkeys(published("clam", "1")["column"]))
    assert list(found) == [*printed, "center", "random", "edges"]
    assert [found[label] for label in printed[6:]] == OTHERS
    for label, base in zip(printed[:6:2], clam.BASES):
        assert found[f"{label}+C"] == ("clam", {"base": base, "attributes": "folder"})
    assert found["LRP"] == "lrp" and found["CLRP"] == ("clrp", {"contrast": "logits"}) and found["SGLRP"] == "sglrp"
    assert len(with_hyper(found, "method", {})) == len(found)


@pytest.mark.parametrize("table", ["2", "3", "4"])
def test_headings_of_other_tables_name_the_same_methods(table):
    rows = pd.DataFrame({"method": [*clam.methods()], "value": 1.0})
    renamed = clam.under_headings_of(rows, table)["method"]
    cells = published("clam", table)
    headings = dict(zip(cells["column" if table == "4" else "row"], cells["method"]))
    assert list(renamed[:12]) == list(headings) and list(renamed[12:]) == ["center", "random"]
    for before, after in zip(rows["method"][:12], renamed):
        method = clam.methods()[before]
        assert headings[after] == (method if isinstance(method, str) else method[0])


def test_cases_are_where_a_method_gains_and_loses_most():
    values = {"a": (0.1, 0.3), "b": (0.5, 0.2), "c": (0.4, 0.4), "d": (0.9, float("nan"))}
    rows = pd.DataFrame([{"image_id": name, "method": method, "value": value} for name, pair in values.items() for method, value in zip(("LRP", "LRP+C"), pair)])
    helped, harmed = cases.cases(rows, "LRP+C", "LRP", 2)
    assert helped == ["a", "c"] and harmed == ["b", "c"]
    rows = pd.DataFrame({"image_id": ["x", "x", "y", "x"], "method": ["attributes"] * 3 + ["anywhere"], "value": [0.0, 0.4, 0.3, 1.0]})
    assert clam.extremes(rows) == (["y", "x"], ["x", "y"])


def test_readings_are_arguments_of_a_fit_and_differ_from_the_default_in_nothing_else():
    defaults = {name: one.default for name, one in inspect.signature(fitting.fit_clam).parameters.items()}
    for label, options in clam.READINGS.items():
        assert options.keys() <= defaults.keys() and all(value != defaults[name] for name, value in options.items()), label
    assert clam.READINGS["as here, half of the images"] == {} and clam.READINGS["nothing learnt"] == {"epochs": 0}
    asked = clam.reading_methods({label: f"{label}.safetensors" for label in clam.READINGS})
    assert {label for label, (_, hyper) in asked.items() if hyper["mask"] == "patch"} == {"mask on the patch"}


def test_lines_of_figures_5_and_6():
    lines = pd.DataFrame([{"model": model, "method": method} for model in ("m", "n") for method in clam.methods()])
    found = {key: list(part["method"]) for key, part in clam.in_figures(lines)}
    assert list(found) == [("m", "figure 5"), ("m", "figure 6"), ("n", "figure 5"), ("n", "figure 6")]
    assert found["m", "figure 5"] == ["LRP", "LRP+C", "CLRP", "CLRP+C", "SGLRP", "SGLRP+C"]
    assert set(found["n", "figure 6"]) == {"CLRP+C", "G-BP.", "Grad-CAM", "Ex-BP.", "Gradient", "random"}


def test_energies_add_up_to_the_whole():
    x, maps = torch.zeros(2, 3, 8, 8), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.2
    truth = torch.zeros(2, 8, 8, dtype=torch.bool)
    truth[:, 2:6, 1:7] = True
    each = torch.stack([xr.score(name, torch.nn.Flatten(), x, 0, maps, truth, **hyper) for name, hyper in clam.energies().values()])
    for part, some in (("all", each), ("lower", each[:10]), ("higher", each[10:])):
        torch.testing.assert_close(xr.score("pointing-energy", torch.nn.Flatten(), x, 0, maps, truth, range=part), some.mean(0))
    for wrong in (0, 0.02, 1.05, True, "0.5"):
        with pytest.raises(ValueError, match="at is .*a share of .05"):
            xr.score("pointing-energy", torch.nn.Flatten(), x, 0, maps, truth, at=wrong)


def test_kept_values_rest_on_what_is_in_the_files_and_not_on_where_they_lie(tmp_path):
    (a := tmp_path / "a").mkdir(), (b := tmp_path / "b").mkdir()
    for folder, content in ((a, b"one"), (b, b"one")):
        (folder / "some.safetensors").write_bytes(content)

    def path(folder):
        methods, metrics = with_hyper({"C": ("clam", {"attributes": str(folder)})}, "method", {}), with_hyper("iou", "metric", {})
        return shards.rows_path("results", "data", "model", methods[0], metrics[0], 0, "source", ())

    first = path(a)
    assert path(b) == first
    (b / "some.safetensors").write_bytes(b"another")
    assert path(b) != first and path(tmp_path / "nowhere") not in (first, path(b))


def test_the_contrast_of_logits_is_nearly_none():
    """A strange consequence of the released start: other logits are of both signs and cancel, so that CLRP is nearly LRP."""
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 7] = 20
    y = torch.full((4,), 7)
    start = against_logits(logits, y)
    expected = -logits / 999
    expected[:, 7] = 20
    torch.testing.assert_close(start, expected)
    assert (start.sum(1) - 20).abs().max() < 0.1 and abs(float(xr.methods.relevance.against_all(logits, y).sum())) < 1e-9
    net, x = xr.load_model("mini-vgg", device="cpu"), xr.load_data("mini-birds")[0].image[None]
    lrp, released, alike = xr.explain(net, x, None, "lrp"), xr.explain(net, x, None, "clrp", contrast="logits"), xr.explain(net, x, None, "clrp")
    near, far = (torch.cosine_similarity(lrp.flatten(), one.flatten(), 0) for one in (released, alike))
    assert near > 0.99 and near > far


def test_claims_say_in_which_direction_a_labelled_metric_goes():
    """A label is no metric of the library: without a direction, less would count as better."""
    for record in xr.claims.all():
        for arguments in comparisons(record):
            if record["test"] in ("better", "generally_better") and arguments["metric"] not in [*xr.metrics(), TIME]:
                assert isinstance(arguments["higher"], bool), record["id"]

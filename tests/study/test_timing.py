"""What is timed, what is counted, and the cost model evaluated by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from matplotlib.figure import Figure

from xai_repro.errors import UnknownName
from xai_repro.study import claims, plots, timing
from xai_repro.study.evaluate import COLUMNS


@pytest.fixture(scope="module")
def rows():
    return timing.measure([["mini-resnet", 64]], masks=6, repeats=2, device="cpu")


def test_rows_are_those_of_evaluate(rows):
    assert set(COLUMNS) <= set(rows.columns) and len(rows) == 2 * len(timing.METHODS)
    assert (rows["seconds"] > 0).all() and (rows["status"] == "ok").all() and (rows["runs"] == 2).all()
    assert list(rows["method"].unique()) == ["grad-cam", "grad-cam++", "layer-cam", "score-cam", "rise", "collection-cam"]


def test_forward_passes_are_counted(rows):
    """RISE: its masks; Score-CAM: its live channels and one; Collection-CAM: its masks and one; the others one."""
    passes = rows.groupby("method")["value"].first()
    assert passes["grad-cam"] == passes["grad-cam++"] == passes["layer-cam"] == 1 and passes["rise"] == 6
    model = xr.load_model("mini-resnet", device="cpu")
    x = timing.picture(model, 64)
    seen = []
    handle = model.layer4.register_forward_hook(lambda module, args, output: seen.append(output))
    model(x)
    handle.remove()
    assert passes["score-cam"] == 1 + int((seen[0].amax((2, 3)) > seen[0].amin((2, 3))).sum())
    assert 1 + 4 <= passes["collection-cam"] <= 1 + 40


def test_a_slow_method_runs_once():
    once = timing.measure([["mini-resnet", 64]], masks=2, repeats=3, budget=0.0, device="cpu")
    assert (once["runs"] == 1).all() and len(once) == len(timing.METHODS)


def test_cost_model():
    parts = {"forward": 10.0, "backward_last": 3.0, "backward_first": 12.0, "mask": 0.5, "clustering": 7.0}
    predicted = timing.predict(parts, {"Score-CAM": 500, "RISE": 4000, "Collection-CAM": 20})
    assert predicted == {
        "Grad-CAM": 13.0, "Grad-CAM++": 13.0, "Layer-CAM": 22.0, "Score-CAM": 5000.0, "RISE": 42_000.0, "Collection-CAM": 219.0,
    }  # fmt: skip


def test_table_two(rows):
    """Ratios by hand, and the paper's own at 224 and 256 pixels."""
    named = pd.concat([rows.assign(model="resnet18", size=size) for size in (64, 96)])
    named.loc[named["method"] == "grad-cam", "seconds"] = 0.01
    named.loc[named["method"] == "rise", "seconds"] = 0.25
    parts = pd.DataFrame([
        {"model": "resnet18", "size": size, "forward": 5.0, "backward_last": 0.0, "backward_first": 5.0, "mask": 0.0, "clustering": 0.0} for size in (64, 96)
    ])  # fmt: skip
    found = timing.table(named, parts).set_index(["size", "method"])
    assert found.loc[(64, "RISE"), "ours"] == pytest.approx(25) and found.loc[(64, "RISE"), "cost model"] == 6
    assert found.loc[(64, "Layer-CAM"), "cost model"] == 2 and found.loc[(64, "Grad-CAM"), "ours"] == 1
    assert found.loc[(64, "Score-CAM"), "paper"] == pytest.approx(1176.12 / 13.10) and found.loc[(64, "Score-CAM"), "paper at"] == "224 px"
    assert found.loc[(96, "Collection-CAM"), "paper"] == pytest.approx(59.83 / 12.96) and found.loc[(96, "RISE"), "paper at"] == "256 px"
    masks = rows.groupby("method")["value"].first()["collection-cam"] - 1  # the unmasked pass is the gradients'
    assert found.loc[(64, "Collection-CAM"), "predicted"] == pytest.approx(masks * 5 + 5)
    assert isinstance(plots.ratios(found.reset_index()), Figure)


def test_a_network_the_paper_lacks(rows):
    found = timing.table(rows, timing.parts([["mini-resnet", 64]], repeats=1, device="cpu"))
    assert found["paper"].isna().all() and (found["ours"] > 0).all() and (found["cost model"] > 0).all()
    assert isinstance(plots.ratios(found), Figure)


def test_claims_about_time_are_tested(rows):
    every = pd.concat([rows.assign(model=name, hyper=rows["hyper"].str.replace(": 6", ": 4000")) for name in ("resnet18", "resnet101", "vgg19")])
    checked = claims.check(every, "collection_cam").set_index("id")
    assert (checked.loc[["collection-2-time-score", "collection-2-time-rise", "collection-2-time-gradient"], "outcome"] != "not run yet").all()


def test_the_model_is_left_alone():
    model = xr.load_model("mini-resnet", device="cpu")
    before = [dict(module._forward_hooks) for module in model.modules()]
    with pytest.raises(RuntimeError), timing.counting(model):
        raise RuntimeError
    assert [dict(module._forward_hooks) for module in model.modules()] == before
    with timing.counting(model) as passes, torch.no_grad():
        model(torch.zeros(3, 3, 64, 64))
    assert passes == [3]


@pytest.mark.parametrize("change, error, message", [
    ({"budget": float("nan")}, ValueError, "budget is nan; a finite number"), ({"budget": -1.0}, ValueError, "budget is -1.0"), ({"budget": "3"}, ValueError, "budget is '3'"),
    ({"budget": True}, ValueError, "budget is True"), ({"masks": 0}, ValueError, "masks is 0"), ({"masks": 2.0}, ValueError, "masks is 2.0"), ({"masks": None}, ValueError, "masks is None"),
    ({"repeats": 0}, ValueError, "repeats is 0"), ({"repeats": True}, ValueError, "repeats is True"), ({"settings": []}, ValueError, "settings is"),
    ({"settings": None}, ValueError, "settings is None"), ({"settings": "mini-resnet"}, ValueError, "settings is 'mini-resnet'"), ({"settings": {"mini-resnet": 64}}, ValueError, "settings is"),
    ({"settings": ["mini-resnet", 64]}, ValueError, "settings holds 'mini-resnet'"), ({"settings": [["mini-resnet"]]}, ValueError, "settings holds"),
    ({"settings": [["mini-resnet", 64, 3]]}, ValueError, "settings holds"), ({"settings": [["mini-resnet", "64"]]}, ValueError, "side of the images of mini-resnet is '64'"),
    ({"settings": [["mini-resnet", 0]]}, ValueError, "side of the images of mini-resnet is 0"), ({"settings": [[64, "mini-resnet"]]}, UnknownName, "model '64'"),
    ({"settings": [["mini-resnet", 64], ["mini-resent", 64]]}, UnknownName, "did you mean 'mini-resnet'"),
])  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_is_timed(monkeypatch, change, error, message):
    monkeypatch.setattr(timing, "load_model", lambda *_, **__: pytest.fail("loaded before the check"))
    with pytest.raises(error, match=message):
        timing.measure(**{"settings": [["mini-resnet", 64]], "masks": 2} | change)
    if not {"masks", "budget"} & set(change):
        with pytest.raises(error, match=message):
            timing.parts(**{"settings": [["mini-resnet", 64]]} | change)


def test_numpy_numbers_are_numbers():
    assert timing._pairs((("mini-resnet", np.int64(64)),)) == [("mini-resnet", 64)]


def test_tables_that_do_not_belong_together(rows):
    parts = pd.DataFrame([{"model": "mini-resnet", "size": 96} | dict.fromkeys(("forward", "backward_last", "backward_first", "mask", "clustering"), 1.0)])
    with pytest.raises(ValueError, match="parts has no row of mini-resnet at 64 px"):
        timing.table(rows, parts)
    for wrong in ((rows.drop(columns="size"), parts), (rows, parts.drop(columns="mask")), (None, parts), (rows, [])):
        with pytest.raises(ValueError, match="no column|a DataFrame is needed"):
            timing.table(*wrong)

"""evaluate: rows, targets, truth, failures, and shards that survive interruption, damage and change."""

import json
import os
import pickle
import sys
import warnings
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from xai_repro import evaluate as _  # noqa: F401  (loads the module behind the public function)
from xai_repro import registry
from xai_repro.data import Sample
from xai_repro.errors import UnknownName
from xai_repro.metrics.faithfulness import probability
from xai_repro.score import score

evaluation = sys.modules["xai_repro.evaluate"]
evaluate, COLUMNS = evaluation.evaluate, evaluation.COLUMNS


class Brightest(nn.Module):
    """Three classes: the mean of each colour channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


def samples(n=7, labels=None):
    """Image i has a bright square of class i % 3."""
    found = []
    for i in range(n):
        image, mask = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)) * 0.1, torch.full((8, 8), -1)
        image[i % 3, 2:5, 2:6] += 1
        mask[2:5, 2:6] = i % 3
        own = (i % 3,) if labels is None else labels[i]
        boxes = torch.tensor([[i % 3, 2, 2, 6, 5]])
        found.append(Sample(image=image, labels=own, boxes=boxes, mask=mask, id=f"toy/{i}"))
    return found


class Data(list):
    name, classes, multi_label, fingerprint = "toy", ("r", "g", "b"), False, "v1"


@pytest.fixture
def toys(monkeypatch):
    """Two methods, one that cannot, one that breaks, and two metrics, registered for one test; calls are counted."""
    registry.methods(), registry.metrics()  # the library's own are registered on first use
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    calls = {"toy-channel": 0, "toy-flat": 0, "toy-mean": 0, "toy-inside": 0, "broken": True}

    @registry.method("toy-channel", family="toy", cite="none")
    def channel(model, x, y, *, gain=1.0):
        """The target's colour channel."""
        calls["toy-channel"] += 1
        return gain * x[torch.arange(len(x)), y]

    @registry.method("toy-flat", family="toy", cite="none")
    def flat(model, x, y):
        """Ones."""
        calls["toy-flat"] += 1
        return torch.ones_like(x[:, 0])

    @registry.method("toy-unable", family="toy", cite="none")
    def unable(model, x, y):
        """Needs what no model has."""
        raise ValueError("needs a linear head")

    @registry.method("toy-broken", family="toy", cite="none")
    def broken(model, x, y):
        """Out of memory until repaired."""
        if calls["broken"]:
            raise RuntimeError("out of memory")
        return torch.ones_like(x[:, 0])

    @registry.metric("toy-mean", higher_is_better=True, cite="none")
    def mean(model, x, y, maps, truth):
        """Mean of the map."""
        calls["toy-mean"] += 1
        return maps.mean((1, 2))

    @registry.metric("toy-inside", higher_is_better=True, cite="none", maps="raw", truth="box")
    def inside(model, x, y, maps, truth, *, power=1):
        """Mean inside the truth."""
        calls["toy-inside"] += 1
        return (maps * truth).sum((1, 2)) / truth.sum((1, 2)) ** power

    return calls


def run(results=None, methods=("toy-channel", "toy-flat"), metrics=("toy-mean", "toy-inside"), data=None, **options):
    data = Data(samples()) if data is None else data
    return evaluate(Brightest(), data, list(methods), list(metrics), results=results, batch=3, **{"limit": 7} | options)


def stable(frame):
    return frame.drop(columns="seconds")


def shards(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*")}


def test_columns_order_and_values(toys):
    frame = run(paper="lift_cam")
    assert list(frame.columns) == COLUMNS and len(frame) == 2 * 2 * 7
    assert list(frame.image_id[:7]) == [f"toy/{i}" for i in range(7)]
    assert list(frame.groupby(["method", "metric"], sort=False).groups) == [
        ("toy-channel", "toy-mean"), ("toy-channel", "toy-inside"), ("toy-flat", "toy-mean"), ("toy-flat", "toy-inside"),
    ]  # fmt: skip
    assert set(frame.paper) == {"lift_cam"} and set(frame.model) == {"brightest"} and set(frame.dataset) == {"toy"}
    assert list(frame.target[:7]) == [0, 1, 2, 0, 1, 2, 0]
    assert (frame.status == "ok").all() and (frame.seconds >= 0).all()
    # a constant map has no positive evidence above its minimum: "unit" gives zeros, "raw" leaves it as it is
    assert (frame.query("method == 'toy-flat' and metric == 'toy-mean'").value == 0).all()
    assert (frame.query("method == 'toy-flat' and metric == 'toy-inside'").value == 1).all()
    pd.testing.assert_frame_equal(stable(frame), stable(run(paper="lift_cam")))


def test_maps_are_computed_once_for_all_metrics_and_top1_for_all_methods(toys):
    run()
    assert toys["toy-channel"] == 3  # batches of 3, 3, 1


def test_unit_maps_are_clamped_then_scaled():
    maps = torch.tensor([[[-1.0, 0.0], [1.0, 2.0]], [[-3.0, -2.0], [-1.0, -4.0]]])
    assert evaluation.positive(maps).tolist() == [[[0, 0], [0.5, 1]], [[0, 0], [0, 0]]]


def test_truth_of_a_misclassified_image_is_the_labelled_object(toys):
    wrong = [replace(s, labels=((s.labels[0] + 1) % 3,), boxes=torch.tensor([[(s.labels[0] + 1) % 3, 0, 0, 8, 8]])) for s in samples()]
    frame = run(data=Data(wrong), methods=["toy-flat"], metrics=["toy-inside"])
    assert list(frame.target) == [0, 1, 2, 0, 1, 2, 0] and (frame.value == 1).all()


def test_multi_label_one_row_per_image_and_class(toys):
    data = Data(samples(3, labels=[(0,), (0, 1), (0, 1, 2)]))
    data.multi_label = True
    frame = run(data=data, methods=["toy-channel"], metrics=["toy-mean"])
    assert list(zip(frame.image_id, frame.target)) == [
        ("toy/0", 0), ("toy/1", 0), ("toy/1", 1), ("toy/2", 0), ("toy/2", 1), ("toy/2", 2),
    ]  # fmt: skip


def test_a_multi_label_model_of_other_classes_is_refused(toys):
    model = Brightest()
    model.classes, model.multi_label = ("cat", "dog", "cow"), True
    with pytest.raises(ValueError, match=r"other classes \(cat, dog, cow, ...\) than 'toy' has"):
        evaluate(model, Data(samples()), "toy-flat", "toy-mean", limit=7)
    assert toys["toy-flat"] == 0


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 2.5}, {"batch": -1}])
def test_odd_sizes_are_refused(toys, wrong):
    with pytest.raises(ValueError, match="at least 1 is needed"):
        evaluate(Brightest(), Data(samples()), "toy-flat", "toy-mean", **{"limit": 7} | wrong)


def test_undefined_is_said(toys):
    blank = Data([replace(s, boxes=torch.zeros(0, 5, dtype=torch.int64)) for s in samples()])
    frame = run(data=blank, metrics=["toy-inside"])
    assert frame.value.isna().all() and set(frame.status) == {"undefined"}


def test_what_cannot_run_gives_its_reason_and_the_run_goes_on(toys, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = run(tmp_path, methods=["toy-unable", "toy-flat"], metrics=["toy-mean"])
    reasons = frame.groupby("method").status.unique()
    assert list(reasons["toy-unable"]) == ["needs a linear head"] and list(reasons["toy-flat"]) == ["ok"]
    assert frame.query("method == 'toy-unable'").value.isna().all()


def test_a_surprise_is_warned_about_and_tried_again(toys, tmp_path):
    with pytest.warns(RuntimeWarning, match="toy-broken on brightest, toy, images 0 to 6.*out of memory"):
        frame = run(tmp_path, methods=["toy-broken"], metrics=["toy-mean"])
    assert set(frame.status) == {"RuntimeError: out of memory"} and not shards_or_none(tmp_path)
    toys["broken"] = False
    assert set(run(tmp_path, methods=["toy-broken"], metrics=["toy-mean"]).status) == {"ok"}


def shards_or_none(folder):
    return list(folder.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"methods": ["toy-chanel"]}, "did you mean 'toy-channel'"),
        ({"metrics": ["toy-maen"]}, "did you mean 'toy-mean'"),
        ({"methods": [("toy-channel", {"gian": 2})]}, "did you mean 'gain'"),
        ({"profile": "mni"}, "did you mean 'mini'"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(toys, change, hint):
    with pytest.raises(UnknownName, match=hint):
        run(**change | {"limit": None})
    assert toys["toy-channel"] == 0


def test_unknown_model_and_data_set():
    with pytest.raises(UnknownName, match="mini-vgg"):
        evaluate("mini-vg", "mini-birds", "random", "proportion")
    with pytest.raises(UnknownName, match="mini-birds"):
        evaluate(Brightest(), "mini-bird", "random", "proportion")


def test_doubles_and_odd_values_are_refused(toys):
    with pytest.raises(ValueError, match="given twice"):
        run(methods=["toy-flat", "toy-flat"])
    with pytest.raises(ValueError, match="numbers, strings"):
        run(methods=[("toy-channel", {"gain": torch.ones(2)})])


def test_labels_name_the_rows_and_the_name_is_kept(toys):
    frame = evaluate(
        {"ours": Brightest()}, {"mine": Data(samples(2))}, {"twice": ("toy-channel", {"gain": 2.0})}, ("toy-inside", {"power": 2}), limit=2
    )  # fmt: skip
    assert set(frame.model) == {"ours"} and set(frame.dataset) == {"mine"} and set(frame.method) == {"twice"}
    assert json.loads(frame.hyper[0]) == {"gain": 2.0, "method": "toy-channel", "metric": {"power": 2}}


# -- what metrics share ---------------------------------------------------------------------------------------------


def rows_run(**request):
    """Images that pass through the model while a request is worked off, and its table."""
    seen = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        frame = run(**request)
    finally:
        handle.remove()
    assert (frame.status == "ok").all()
    return sum(seen), frame


FIVE = {"steps": 5}
CURVES = [("insertion", FIVE), ("deletion", FIVE), ("overall", FIVE)]


@pytest.mark.parametrize("metrics, passes", [
    (["toy-mean"], 0), (["average-drop"], 1), (["increase-in-confidence"], 1), (["average-drop-in-deletion"], 1),
    (["increase-in-confidence", "average-drop", "average-drop-in-deletion"], 2),  # O serves two metrics
    (CURVES[:1], 4), (CURVES[1:2], 4), (CURVES[2:], 8), (CURVES, 8), (CURVES[::-1], 8), ([*CURVES, "average-drop"], 9),
])  # fmt: skip
@pytest.mark.parametrize("many", [False, True])
def test_forward_passes(toys, metrics, passes, many):
    """One for the images of all methods, and per method what the metrics need beyond it."""
    data = Data(samples())
    data.multi_label = many
    for methods in (["toy-channel"], ["toy-channel", "toy-flat"]):
        rows, frame = rows_run(methods=methods, metrics=metrics, data=data)
        assert rows == 7 * (1 + len(methods) * passes)
    images = torch.stack([s.image for s in data])
    y = torch.tensor(frame.target[:7].to_numpy())
    for metric in metrics:
        name, hyper = (metric, {}) if isinstance(metric, str) else metric
        if name != "toy-mean":
            unit = evaluation.positive(images[torch.arange(7), y])
            values = frame.query("method == 'toy-channel'").query("metric == @name").value
            assert values.tolist() == pytest.approx(score(name, Brightest(), images, y, unit, **hyper).tolist(), rel=1e-5)


def test_what_metrics_share_is_forgotten_with_the_method(toys):
    alive, held = {}, []

    @registry.metric("toy-kept", higher_is_better=True, cite="none")
    def kept(model, x, y, maps, truth):
        """The probability of what the map keeps."""
        value = probability(model, x, y, maps)
        method = len(alive[maps.shape]) // 3
        alive[maps.shape].append(weakref.ref(maps))
        held.append([number // 3 for number, one in enumerate(alive[maps.shape]) if one() is not None and number // 3 < method])
        return value

    alive[3, 8, 8] = []
    methods = ["toy-channel", ("toy-channel", {"gain": 2.0}), "toy-flat"]
    frame = run(methods=methods, metrics=["toy-kept"], data=Data(samples(9)), limit=9)
    assert (frame.status == "ok").all() and held == [[]] * 9
    assert [one() for one in alive[3, 8, 8]] == [None] * 9


def test_unit_maps_are_made_once_for_all_metrics(toys, monkeypatch):
    made = []
    monkeypatch.setattr(evaluation, "normalize", lambda maps, normalize=evaluation.normalize: made.append(1) or normalize(maps))
    run(metrics=["toy-mean", "average-drop", "deletion", "toy-inside"])
    assert len(made) == 2 * 3  # methods, batches


def test_a_failing_metric_leaves_the_others_alone(toys):
    @registry.metric("toy-fails", higher_is_better=True, cite="none")
    def fails(model, x, y, maps, truth):
        """Asks for what is shared and fails."""
        probability(model, x, y, maps)
        raise ValueError("no")

    alone = run(metrics=["average-drop"])
    frame = run(metrics=["toy-fails", "average-drop"])
    assert set(frame.query("metric == 'toy-fails'").status) == {"no"}
    assert frame.query("metric == 'average-drop'").value.tolist() == alone.value.tolist()


# -- metrics that explain again -----------------------------------------------------------------------------------------


@pytest.fixture
def again(toys):
    """A metric with a method of its own, and what it was given."""
    given = []

    @registry.metric("toy-again", higher_is_better=True, cite="none", maps="raw")
    def again(model, x, y, maps, truth, *, method="grad-cam", settings=None, layer=None):
        """What it explains with."""
        given.append((method, settings, layer))
        return maps.mean((1, 2))

    @registry.method("toy-layered", family="toy", cite="none")
    def layered(model, x, y, *, layer=None, gain=1.0):
        """A method with a layer."""
        return x.mean(1)

    return given


def test_a_metric_that_explains_again_gets_the_method_at_hand(again):
    methods = ["toy-flat", ("toy-channel", {"gain": 2.0}), ("toy-layered", {"layer": "scale", "gain": 3.0})]
    frame = run(methods=methods, metrics=["toy-again"], limit=3)
    assert again == [("toy-flat", {}, None), ("toy-channel", {"gain": 2.0}, None), ("toy-layered", {"gain": 3.0, "layer": "scale"}, None)]
    assert (frame.status == "ok").all()
    assert [json.loads(text) for text in frame.hyper[::3]] == [{}, {"gain": 2.0}, {"gain": 3.0, "layer": "scale"}]  # as asked for


def test_unless_it_is_given_one(again):
    run(methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-again", {"method": "toy-flat"})], limit=3)
    run(methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-again", {"settings": {"gain": 4.0}})], limit=3)
    run(methods=[("toy-layered", {"layer": "scale"})], metrics=[("toy-again", {"layer": "other"})], limit=3)
    assert again == [("toy-flat", None, None), ("toy-channel", {"gain": 4.0}, None), ("toy-layered", {"layer": "scale"}, "other")]


def test_shards_of_a_metric_that_explains_again(again, tmp_path, monkeypatch):
    def new(method, metric="toy-again"):
        before = shards_or_none(tmp_path)
        run(tmp_path, methods=[method], metrics=[metric], limit=3)
        return len(shards_or_none(tmp_path)) - len(before)

    assert new("toy-channel") == 1
    assert new(("toy-channel", {"gain": 1.0})) == 0  # the default
    assert new(("toy-channel", {"gain": 2.0})) == 1
    assert new("toy-flat") == 1 and new("toy-flat", ("toy-again", {"method": "toy-channel"})) == 1
    assert new("toy-flat", ("toy-again", {"settings": {"gain": 2.0}})) == 1
    code = []
    monkeypatch.setattr(evaluation, "_code", lambda function: code.append(function) or "")
    new("toy-flat")
    functions = {name: registry.method_info(name).function for name in ("toy-flat", "toy-channel", "grad-cam")}
    assert [name for name, function in functions.items() if function in code] == ["toy-flat"]  # and not the metric's default


# -- the profile --------------------------------------------------------------------------------------------------------


def test_a_profile_may_hold_hyper_parameters(toys, monkeypatch, tmp_path):
    plain = run(methods=["toy-channel"], metrics=["toy-inside"])
    settings = {"images": {"other": 7}, "hyper": {"toy-channel": {"gain": 2.0}, "toy-inside": {"power": 2}, "unused": {"a": 1}}}
    monkeypatch.setattr(evaluation, "settings_of", lambda name: settings)
    frame = run(tmp_path, methods=["toy-channel", "toy-flat"], metrics=["toy-inside"], limit=None)
    assert [json.loads(text) for text in frame.hyper[::7]] == [{"gain": 2.0, "metric": {"power": 2}}, {"metric": {"power": 2}}]
    torch.testing.assert_close(torch.tensor(frame.value[:7].to_numpy()), torch.tensor(plain.value.to_numpy()) * 2 / 12)
    labelled = evaluate(Brightest(), Data(samples()), {"ours": "toy-channel"}, "toy-inside", limit=7)
    assert labelled.value.tolist() == frame.value[:7].tolist()
    by_hand = run(tmp_path, methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-inside", {"power": 2})], limit=None)
    assert by_hand.value.tolist() == frame.value[:7].tolist() and len(shards_or_none(tmp_path)) == 2
    given = run(methods=[("toy-channel", {})], metrics=[("toy-inside", {})])
    assert set(given.hyper) == {"{}"} and given.value.tolist() == plain.value.tolist()


def test_a_wrong_hyper_parameter_of_a_profile_is_refused(toys, monkeypatch):
    monkeypatch.setattr(evaluation, "settings_of", lambda name: {"images": {"other": 7}, "hyper": {"toy-channel": {"gian": 2.0}}})
    with pytest.raises(UnknownName, match="did you mean 'gain'"):
        run(methods=["toy-channel"])
    assert toys["toy-channel"] == 0


# -- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 3)


def test_done_is_done(toys, tmp_path, small_blocks):
    first = run(tmp_path)
    before, calls = shards(tmp_path), dict(toys)
    assert len(before) == 2 * 2 * 3
    pd.testing.assert_frame_equal(run(tmp_path), first)  # seconds included: nothing was computed
    assert shards(tmp_path) == before and toys == calls
    pd.testing.assert_frame_equal(stable(first), stable(run()))  # in memory, the same


def test_more_images_keep_the_full_blocks(toys, tmp_path, small_blocks):
    run(tmp_path, limit=3, methods=["toy-flat"], metrics=["toy-mean"])
    assert toys["toy-flat"] == 1
    run(tmp_path, limit=7, methods=["toy-flat"], metrics=["toy-mean"])
    assert toys["toy-flat"] == 3


def test_interrupted_then_resumed_equals_uninterrupted(toys, tmp_path, small_blocks, monkeypatch):
    write, left = evaluation._write, [5]

    def dies(table, path):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(table, path)

    monkeypatch.setattr(evaluation, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(shards(tmp_path)) == 5
    half = shards(tmp_path)
    monkeypatch.setattr(evaluation, "_write", write)
    frame = run(tmp_path)
    pd.testing.assert_frame_equal(stable(frame), stable(run()))
    assert not frame.duplicated(["dataset", "model", "image_id", "target", "method", "hyper", "metric"]).any()
    assert half.items() <= shards(tmp_path).items()


def test_maps_that_took_long_serve_metrics_asked_for_later(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    run(tmp_path, metrics=["toy-mean"], methods=["toy-channel"])
    assert toys["toy-channel"] == 3 and len(list((tmp_path / "maps").glob("*.safetensors"))) == 1
    later = run(tmp_path, methods=["toy-channel"])
    assert toys["toy-channel"] == 3 and later.groupby("metric")["seconds"].first().nunique() == 1
    pd.testing.assert_frame_equal(stable(later), stable(run(methods=["toy-channel"])))
    calls = toys["toy-channel"]
    for changed in ({"methods": [("toy-channel", {"gain": 2.0})]}, {"data": Data(samples(8)[1:])}, {"limit": 5}):
        run(tmp_path, metrics=["toy-mean"], **({"methods": ["toy-channel"]} | changed))
    assert toys["toy-channel"] > calls + 3  # none of them is the same cell


def test_maps_that_were_quick_are_not_kept(toys, tmp_path):
    run(tmp_path)
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_maps_are_made_again(toys, tmp_path, monkeypatch, content):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    run(tmp_path, metrics=["toy-mean"], methods=["toy-channel"])
    (path,) = (tmp_path / "maps").iterdir()
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.warns(RuntimeWarning, match="is damaged: its maps are made again"):
        later = run(tmp_path, methods=["toy-channel"])
    pd.testing.assert_frame_equal(stable(later), stable(run(methods=["toy-channel"])))


def test_killed_while_writing_leaves_no_shard(toys, tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not shards_or_none(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "rows missing"])
def test_damaged_shard_is_named_and_computed_again(toys, tmp_path, damage):
    first = run(tmp_path)
    path = sorted((tmp_path / "shards").glob("*toy-flat--toy-mean*"))[0]
    if damage == "rows missing":
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 3), path)
    else:
        path.write_bytes(path.read_bytes()[: 400 if damage == "truncated" else 0])
    calls = toys["toy-channel"]
    with pytest.warns(RuntimeWarning, match=f"damaged shard .*{path.name.replace('.', chr(92) + '.')}"):
        frame = run(tmp_path)
    pd.testing.assert_frame_equal(stable(frame), stable(first))
    assert toys["toy-channel"] == calls
    pd.testing.assert_frame_equal(run(tmp_path), frame)


def test_a_changed_hyper_parameter_is_a_new_shard_and_a_spelt_out_default_is_not(toys, tmp_path):
    run(tmp_path)
    before = shards(tmp_path)
    calls = dict(toys)
    run(tmp_path, methods=[("toy-channel", {"gain": 1.0}), "toy-flat"])
    assert shards(tmp_path) == before
    run(tmp_path, methods=[("toy-channel", {"gain": 3.0}), "toy-flat"])
    after = shards(tmp_path)
    new = [name for name in after if name not in before]
    assert before.items() <= after.items() and len(new) == 2 and all("toy-channel" in name for name in new)
    assert toys["toy-flat"] == calls["toy-flat"]


def test_changed_weights_or_images_are_new_shards(toys, tmp_path):
    run(tmp_path)
    n = len(shards(tmp_path))
    model, data = Brightest(), Data(samples())
    model.scale.data *= 2
    evaluate(model, data, ["toy-channel", "toy-flat"], ["toy-mean", "toy-inside"], results=tmp_path, limit=7)
    assert len(shards(tmp_path)) == 2 * n
    data.fingerprint = "v2"
    run(tmp_path, data=data)
    assert len(shards(tmp_path)) == 3 * n
    data.fingerprint = None  # a data set without one counts by its pixels
    run(tmp_path, data=data)
    run(tmp_path, data=data)
    assert len(shards(tmp_path)) == 4 * n


def test_provenance_travels_in_the_shard(toys, tmp_path):
    run(tmp_path, methods=[("toy-channel", {"gain": 2.0})], metrics=["toy-mean"], profile="smoke")
    facts = evaluation.provenance(next((tmp_path / "shards").glob("*")))
    assert facts["hyper"] == {"toy-channel": {"gain": 2.0}, "toy-mean": {}}
    assert facts["profile"] == "smoke" and facts["rows"] == 7 and facts["block"] == [0, 7]
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"] == torch.__version__
    assert {"commit", "device", "seed", "weights", "images"} <= set(facts)


# -- a cluster ------------------------------------------------------------------------------------------------------


def test_without_dask_the_error_says_what_to_install(toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'distributed"):
        evaluate("mini-vgg", "mini-birds", "toy-flat", "toy-mean", scheduler="tcp://localhost:1")


def test_a_job_is_plain_and_travels(toys, monkeypatch):
    seen = []

    class Cluster:
        """Stands in for dask.distributed: every submission goes through pickle."""

        def __init__(self, address):
            assert address == "tcp://x:1"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, job, pure):
            function, job = pickle.loads(pickle.dumps((function, job)))
            seen.append(job)
            return _Future(function(job))

    class _Future(SimpleNamespace):
        def __init__(self, value):
            self.value = value

        def result(self):
            return self.value

        def __hash__(self):
            return id(self)

        __eq__ = object.__eq__

    fake = SimpleNamespace(Client=Cluster, as_completed=lambda futures: reversed(list(futures)))
    monkeypatch.setitem(sys.modules, "dask.distributed", fake)
    data = Data(samples())
    monkeypatch.setattr(evaluation, "_load_model", lambda *_: Brightest())  # by name: no fingerprint is asked of it
    monkeypatch.setattr(evaluation, "_load_data", lambda _: data)
    monkeypatch.setattr(evaluation, "BLOCK", 3)
    asked = ["toy-channel", "toy-flat"], ["toy-mean"]
    frame = evaluate("toy", "toy", *asked, scheduler="tcp://x:1", limit=7)
    pd.testing.assert_frame_equal(stable(frame), stable(evaluate({"toy": "toy"}, "toy", *asked, limit=7)))
    assert len(seen) == 3
    with pytest.raises(ValueError, match="by name"):
        evaluate(Brightest(), "toy", *asked, scheduler="tcp://x:1")

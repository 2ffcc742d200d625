"""evaluate: rows, targets, truth, failures."""

import json
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from toy_evaluation import Brightest, COLUMNS, Data, evaluate, evaluation, run, samples, shards_or_none, stable, toys

from xai_repro.errors import UnknownName


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


def two_objects():
    """Class 0 in the left half and class 2 in the right one, each as bright as its own colour."""
    image = torch.zeros(3, 8, 8)
    image[0, :, :4], image[2, :, 4:] = 1.0, 2.0
    return replace(samples(1)[0], image=image, labels=(0, 2), boxes=torch.tensor([[0, 0, 0, 4, 8], [2, 4, 0, 8, 8]]))


def test_truth_of_an_image_with_two_classes_is_the_explained_one(toys):
    """Each class's colour inside its own box; of the first label's, class 2 would have nothing."""
    data = Data([two_objects()])
    frame = run(data=data, methods=["toy-channel"], metrics=["toy-inside"])
    assert list(zip(frame.target, frame.value)) == [(2, 2)]  # the top-1
    data.multi_label = True
    frame = run(data=data, methods=["toy-channel"], metrics=["toy-inside"])
    assert list(zip(frame.target, frame.value)) == [(0, 1), (2, 2)]


def test_truth_of_a_class_that_the_data_do_not_have_is_the_first_labels(toys):
    """Class 2 of a model of other classes is not label 2."""
    model = Brightest()
    model.classes = ("cat", "dog", "cow")
    frame = run(data=Data([two_objects()]), model=model, methods=["toy-channel"], metrics=["toy-inside"])
    assert list(zip(frame.target, frame.value)) == [(2, 0)]


def test_seconds_are_per_image(toys, monkeypatch):
    """Three batches, each of them a second long, of seven images."""
    ticks = iter(range(100))
    monkeypatch.setattr(evaluation, "_now", lambda batch: next(ticks))
    assert run(methods=["toy-flat"], metrics=["toy-mean"]).seconds.tolist() == pytest.approx([3 / 7] * 7)


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
    with pytest.raises(ValueError, match="gain of toy-channel is tensor.*a number is needed"):
        run(methods=[("toy-channel", {"gain": torch.ones(2)})])


def test_labels_name_the_rows_and_the_name_is_kept(toys):
    frame = evaluate(
        {"ours": Brightest()}, {"mine": Data(samples(2))}, {"twice": ("toy-channel", {"gain": 2.0})}, ("toy-inside", {"power": 2}), limit=2
    )  # fmt: skip
    assert set(frame.model) == {"ours"} and set(frame.dataset) == {"mine"} and set(frame.method) == {"twice"}
    assert json.loads(frame.hyper[0]) == {"gain": 2.0, "method": "toy-channel", "metric": {"power": 2}}

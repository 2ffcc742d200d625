"""evaluate on a researcher's own data and models: pairs of image and label, what a profile leaves out, broken images, broken models."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toy_evaluation import Brightest, Data, evaluate, evaluation, run, samples, shards_or_none, stable, toys

from xai_repro import registry
from xai_repro.data import Sample
from xai_repro.study import images


class Pairs:
    """A data set in torchvision's style; what its items are is set per test."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        item = self.items[number]
        if isinstance(item, Exception):
            raise item
        return item


def pictures(n=7):
    return [sample.image for sample in samples(n)]


def values(frame, method="toy-channel", metric="toy-mean"):
    return frame[(frame.method == method) & (frame.metric == metric)].set_index("image_id")


# -- (image, label) ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [
    lambda i: i % 3, lambda i: torch.tensor(i % 3), lambda i: [i % 3], lambda i: torch.tensor([i % 3]), lambda i: np.int64(i % 3),
    lambda i: "rgb"[i % 3], lambda i: {i % 3}, lambda i: np.array([i % 3], np.uint8), lambda i: ("rgb"[i % 3],),
])  # fmt: skip
def test_pairs_of_image_and_label(toys, label):
    data = Pairs(*((image, label(i)) for i, image in enumerate(pictures())))
    data.classes = ["r", "g", "b"]
    frame, named = run(data=data), run()
    assert values(frame).value.tolist() == values(named).value.tolist()
    assert list(frame.image_id[:7]) == [f"pairs/{i}" for i in range(7)] and list(frame.target) == list(named.target)
    assert set(frame[frame.metric == "toy-mean"].status) == {"ok"} and set(frame[frame.metric == "toy-inside"].status) == {"undefined"}
    assert frame[frame.metric == "toy-inside"].value.isna().all()


def test_a_plain_list_of_pairs_and_of_samples_without_truth(toys):
    pairs = [(image, i % 3) for i, image in enumerate(pictures())]
    bare = [Sample(image, (i % 3,)) for i, image in enumerate(pictures())]
    for data in (pairs, tuple(pairs), {"list": bare}, [Pairs(*pairs)]):
        frame = run(data=data)
        assert values(frame).value.tolist() == values(run()).value.tolist()
        assert set(frame[frame.metric == "toy-inside"].status) == {"undefined"}


def test_real_metrics_that_need_a_truth_are_undefined_without_one():
    frame = evaluate("mini-resnet", [(torch.rand(3, 96, 96), 1)], "grad-cam", ["proportion", "pointing-game", "average-drop"], device="cpu")
    assert list(frame.status) == ["undefined", "undefined", "ok"] and frame.value.isna().tolist() == [True, True, False]


def test_a_sample_without_boxes_or_mask_shows_no_object():
    bare = Sample(torch.zeros(3, 4, 6), (1,))
    assert bare.boxes.shape == (0, 5) and bare.mask.shape == (4, 6) and not bare.truth().any() and not bare.box_truth().any()
    assert not Sample(torch.zeros(3, 4, 6), (1,), mask=torch.ones(4, 6, dtype=torch.int64)).box_truth().any()
    boxed = Sample(torch.zeros(3, 4, 6), (1,), boxes=torch.tensor([[1, 0, 0, 2, 2]]))
    assert boxed.box_truth().sum() == 4 and not boxed.truth().any() and not boxed.difficult


def test_several_labels(toys):
    data = Pairs((pictures()[0], [2, 0]), (pictures()[1], []), (pictures()[2], None), (pictures()[3], torch.tensor([1])))
    data.multi_label = True
    frame = run(data=data, methods="toy-flat", metrics="toy-mean")
    assert list(zip(frame.image_id, frame.target)) == [("pairs/0", 0), ("pairs/0", 2), ("pairs/3", 1)]


def test_what_a_data_set_gives_belongs_to_the_fingerprint(toys, tmp_path):
    """Other shapes of the same bytes, another id, other labels, another kind of model: other shards."""
    image, counts = torch.rand(3, 4, 9), []
    for item in ((image, 0), (image.reshape(3, 6, 6), 0), (image, 1), Sample(image, (0,), id="mine")):
        run(tmp_path, data=Pairs(item), methods="toy-flat", metrics="toy-mean")
        counts.append(len(shards_or_none(tmp_path)))
    many = Pairs((image, 0))
    many.multi_label = True
    run(tmp_path, data=many, methods="toy-flat", metrics="toy-mean")
    assert [*counts, len(shards_or_none(tmp_path))] == [1, 2, 3, 4, 5]


# -- broken images --------------------------------------------------------------------------------------------------------------


def with_nan():
    image = pictures()[0].clone()
    image[0, 0, 0] = torch.nan
    return image


@pytest.mark.parametrize("broken, reason", [
    (OSError("truncated file"), "OSError: truncated file"), (KeyError("x"), "'x'"), ((with_nan(), 0), "must be finite"),
    ((torch.zeros(8, 8), 0), r"an image is a tensor \[C,H,W\].*got \[8, 8\]"), ((torch.zeros(3, 8, 0), 0), "must be"),
    ((torch.zeros(3, 8, 8, dtype=torch.uint8), 0), "floating-point"), ((np.zeros((3, 8, 8)), 0), "an image is a tensor"), ("x.png", "got str"),
    (None, "got NoneType"), ((torch.zeros(3, 8, 8), 3), "label 3 is not among the 3 classes"), ((torch.zeros(3, 8, 8), -1), "a label is -1"),
    ((torch.zeros(3, 8, 8), 1.0), "a label is 1.0"), ((torch.zeros(3, 8, 8), "green"), "class 'green'.*possible: r, g, b"),
    ((torch.zeros(3, 8, 8), torch.tensor([0, 1, 0])), "name a class twice"), ((torch.zeros(3, 8, 8), True), "a label is True"),
    (Sample(torch.zeros(3, 8, 8), (0,), mask=torch.zeros(4, 4)), "mask .*are needed"), (Sample(torch.zeros(3, 8, 8), (0,), boxes=torch.zeros(4)), "boxes"),
])  # fmt: skip
@pytest.mark.parametrize("folder", [False, True])
def test_a_broken_image_costs_its_own_row(toys, tmp_path, broken, reason, folder):
    whole = [(image, i % 3) for i, image in enumerate(pictures())]
    data, sound = Pairs(*whole[:2], broken, *whole[3:]), Pairs(*whole)
    data.classes = sound.classes = ["r", "g", "b"]
    with pytest.warns(RuntimeWarning, match=f"brightest, pairs, images 0 to 6: 1 of 7 rows have no value; the first, pairs/2: .*{reason}"):
        frame = run(tmp_path if folder else None, data=data, methods="toy-channel", metrics="toy-mean")
    assert frame.status.str.contains(reason).tolist() == [False, False, True, False, False, False, False]
    assert frame.target[2] == -1 and np.isnan(frame.value[2]) and frame.image_id[2] == "pairs/2"
    expected = run(data=sound, methods="toy-channel", metrics="toy-mean")
    assert stable(frame.drop(2)).equals(stable(expected.drop(2)))
    if folder:  # what cannot be read now may be readable next time
        assert len(shards_or_none(tmp_path)) == (not isinstance(broken, Exception))


def test_labels_are_checked_against_the_logits_where_the_data_set_names_no_classes(toys):
    data = Pairs((pictures()[0], 0), (pictures()[1], 3), (pictures()[2], 2))
    with pytest.warns(RuntimeWarning, match="label 3 is not among the model's 3 classes"):
        frame = run(data=data, methods="toy-flat", metrics="toy-mean")
    assert list(frame.target) == [0, -1, 2]
    data.multi_label = True
    with pytest.warns(RuntimeWarning, match="label 3 is not among the model's 3 classes"):
        frame = run(data=data, methods="toy-flat", metrics="toy-mean")
    assert list(frame.target) == [0, 3, 2] and list(frame.status)[1].startswith("label 3")


class Strided(Brightest):
    """Cannot take images below 8 pixels, as a network with five poolings cannot take those below 32."""

    def forward(self, x):
        return super().forward(nn.functional.max_pool2d(x, 8))


def test_an_image_too_small_for_the_network(toys):
    small = [(torch.rand(3, 1, 1), 0), (pictures()[0], 0), (torch.rand(3, 4, 4), 1), (torch.rand(3, 16, 8), 1)]
    with pytest.warns(RuntimeWarning, match="2 of 4 rows have no value; the first, list/0: RuntimeError"):
        frame = run(data=small, model={"small": Strided(), "any": Brightest()}, methods="toy-channel", metrics="toy-mean")
    assert (frame[frame.model == "any"].status == "ok").all()
    found = frame[frame.model == "small"]
    assert found.status.str.startswith("RuntimeError").tolist() == [True, False, True, False] and list(found.target)[0] == -1
    assert found.value[1] == frame[frame.model == "any"].value.iloc[1]


def test_images_of_the_wrong_channels():
    torch.manual_seed(0)
    data = [(torch.rand(channels, 96, 96), 0) for channels in (3, 1, 3, 4)]
    with pytest.warns(RuntimeWarning, match="2 of 4 rows have no value; the first, list/1: "):
        frame = evaluate("mini-resnet", data, "grad-cam", "average-drop", device="cpu")
    assert frame.value.isna().tolist() == [False, True, False, True]


def test_a_vgg_and_small_images():
    torch.manual_seed(0)
    data = [(torch.rand(3, size, size), 0) for size in (8, 64, 1)]
    with pytest.warns(RuntimeWarning, match="2 of 3 rows have no value"):
        frame = evaluate("mini-vgg", data, ["grad-cam", "gradient"], "average-drop", device="cpu")
    assert frame.value.isna().tolist() == [True, False, True] * 2 and (frame.status[[1, 4]] == "ok").all()


def test_a_method_that_fails_on_images_of_one_size_works_on_the_others(toys):
    @registry.method("toy-square", family="toy", cite="none")
    def square(model, x, y):
        """Of square images only."""
        if x.shape[2] != x.shape[3]:
            raise ValueError("not square")
        return x.mean(1)

    data = [(image, 0) for image in (*pictures(4), torch.rand(3, 8, 6), *pictures(2))]
    frame = run(data=data, methods="toy-square", metrics="toy-mean")
    assert list(frame.status) == ["ok"] * 4 + ["not square"] + ["ok"] * 2 and (frame.seconds > 0).all()


def test_a_metric_of_the_wrong_shape_gives_its_reason(toys):
    @registry.metric("toy-average", higher_is_better=True, cite="none")
    def average(model, x, y, maps, truth):
        """One number for all images."""
        return maps.mean()

    frame = run(methods="toy-channel", metrics=["toy-average", "toy-mean"])
    assert set(frame[frame.metric == "toy-average"].status) == {"toy-average gives []; one value per image is needed, [3]", "toy-average gives []; one value per image is needed, [1]"}
    assert (frame[frame.metric == "toy-mean"].status == "ok").all()


# -- broken models ---------------------------------------------------------------------------------------------------------------


class Nan(Brightest):
    """Its logits are NaN for images of class 1."""

    def forward(self, x):
        found = super().forward(x)
        return torch.where(found.argmax(1, keepdim=True) == 1, torch.nan, found)


@pytest.mark.parametrize("many", [False, True])
def test_logits_that_are_not_finite_give_no_numbers(toys, many):
    data = Data(samples())
    data.multi_label = many
    with pytest.warns(RuntimeWarning, match="2 of 7 rows have no value; the first, toy/1: the model's logits of this image are not finite"):
        frame = run(data=data, model=Nan(), methods=["toy-channel", "toy-flat"], metrics=["toy-mean", "increase-in-confidence"])
    broken = frame.image_id.isin(["toy/1", "toy/4"])
    assert frame[broken].value.isna().all() and set(frame[broken].status) == {"the model's logits of this image are not finite"}
    assert stable(frame[~broken]).equals(stable(run(data=data, methods=["toy-channel", "toy-flat"], metrics=["toy-mean", "increase-in-confidence"])[~broken]).replace("brightest", "nan"))


def test_a_network_that_is_broken_throughout(toys, tmp_path):
    model = Brightest()
    model.scale.data.fill_(float("inf"))
    with pytest.warns(RuntimeWarning, match="7 of 7 rows have no value"):
        frame = run(tmp_path, model=model)
    assert frame.value.isna().all() and frame.seconds.isna().all() and (frame.status == "the model's logits of this image are not finite").all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stable(run(tmp_path, model=model)).equals(stable(frame))  # read from the shards


class Single(nn.Module):
    """One logit: how red the image is."""

    def forward(self, x):
        return x.mean((2, 3))[:, :1]


def test_one_logit(toys):
    data = [(image, i % 2) for i, image in enumerate(pictures(4))]
    frame = run(data=data, model=Single(), methods="toy-channel", metrics=["toy-mean", "average-drop"])
    assert (frame.target == 0).all() and (frame.status == "ok").all()


def test_a_model_in_double_precision(toys):
    frame = run(model=Brightest().double(), methods="toy-channel", metrics=["toy-mean", "average-drop"])
    assert (frame.status == "ok").all() and frame.value.tolist() == pytest.approx(run(methods="toy-channel", metrics=["toy-mean", "average-drop"]).value.tolist(), abs=1e-6)


class InARecord(Brightest):
    """The same logits, within a dictionary."""

    def forward(self, x):
        return {"out": super().forward(x), "aux": None}


def test_where_the_logits_are_is_said_by_a_function(toys, tmp_path):
    model, data, asked = InARecord(), Data(samples()), (["toy-channel", "random"], ["toy-mean", "average-drop", "proportion"])
    plain = evaluate({"one": Brightest()}, {"data": data}, *asked, limit=5)
    frame = evaluate({"one": model}, {"data": data}, *asked, limit=5, output=lambda out: out["out"], results=tmp_path)
    pd.testing.assert_frame_equal(stable(frame), stable(plain))
    before = len(shards_or_none(tmp_path))
    evaluate({"one": model}, {"data": data}, *asked, limit=5, output=lambda out: -out["out"], results=tmp_path)
    assert len(shards_or_none(tmp_path)) == 2 * before, "another function, other shards"
    assert evaluate({"one": model}, {"data": data}, *asked, limit=5)["status"].str.contains("say with output=...").all()
    with pytest.raises(ValueError, match="output is 'out'; a function"):
        evaluate({"one": model}, {"data": data}, *asked, output="out")


# -- what a profile leaves out --------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(monkeypatch):
    settings = {"name": "mini", "images": {"other": 5}, "hyper": {"toy-channel": {"gain": 2.0}, "toy-flat": {}}}
    monkeypatch.setattr(evaluation, "settings_of", lambda name: settings)
    return settings


def test_what_a_profile_leaves_out_is_printed_for_own_data(toys, profile, capsys):
    frame = run(data={"mine": Data(samples())}, limit=None)
    said = "profile 'mini': 5 of 7 images of 'mine' (limit=7 takes all); toy-channel with gain=2.0 in place of 1.0 (('toy-channel', {}) takes the defaults)"
    printed = capsys.readouterr()
    assert printed.out == said + "\n" and printed.err == "" and frame.attrs["limits"] == said and len(frame) == 20
    frame = run(data={"mine": Data(samples())}, limit=7)
    assert capsys.readouterr().out.startswith("profile 'mini': toy-channel with gain=2.0") and len(frame) == 28


def test_nothing_is_said_where_nothing_is_left_out(toys, profile, capsys):
    frame = run(limit=7, methods=[("toy-channel", {}), "toy-flat"])
    assert capsys.readouterr().out == "" and frame.attrs["limits"] == ""
    run(data=Data(samples(5)), limit=None, methods="toy-flat")
    assert capsys.readouterr().out == ""


def test_of_embedded_data_it_stands_in_the_table_only(capsys):
    frame = evaluate("mini-resnet", "mini-birds", "random", "proportion", "smoke", device="cpu")
    assert capsys.readouterr().out == "" and frame.attrs["limits"] == "profile 'smoke': 4 of 2000 images of 'mini-birds' (limit=2000 takes all)"


def test_the_real_profile_says_how_many_images_and_masks(capsys, monkeypatch):
    """The case that was silent: 24 of 150 images, 200 masks in place of 4,000."""
    monkeypatch.setattr(evaluation, "run", lambda job, *_: {
        (method, metric): evaluation.shards.table_of(job, Single(), images.Block(["x"], [0], [True], [False]), method, metric, [0.0], ["ok"], 0.0, {"empty": [False], "negative": [False]})
        for method, wanted, _ in job.todo for metric, _ in wanted
    })  # fmt: skip
    evaluate({"mine": Single()}, {"my data": Pairs(*[(torch.zeros(3, 2, 2), 0)] * 150)}, ["rise", "grad-cam"], "average-drop")
    assert "24 of 150 images of 'my data' (limit=150 takes all); rise with masks=200 in place of 4000" in capsys.readouterr().out

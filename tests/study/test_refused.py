"""evaluate: requests that make no sense are refused before anything runs, with a word on what was given and what is possible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_evaluation import asked_for, Brightest, Data, evaluate, evaluation, run, samples, shards_or_none, stable, toys

from xai_repro import registry
from xai_repro.errors import UnknownName


class Layered(Brightest):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Identity(), nn.Identity())


@pytest.fixture
def layered(toys):
    @registry.method("toy-layered", family="toy", cite="none")
    def method(model, x, y, *, layer=None, layers=None):
        """Has a layer."""
        toys["toy-channel"] += 1
        return x.mean(1)

    @registry.metric("toy-layers", higher_is_better=True, cite="none")
    def metric(model, x, y, maps, truth, *, method="toy-flat", settings=None, layer=None):
        """Explains again."""
        return maps.mean((1, 2))

    return toys


def refused(toys, error, message, **request):
    with pytest.raises(error, match=message):
        evaluate(**{"models": Layered(), "datasets": Data(samples()), "methods": "toy-channel", "metrics": "toy-mean", "limit": 7} | request)
    assert toys["toy-channel"] == toys["toy-flat"] == 0


@pytest.mark.parametrize("kind", ["models", "datasets", "methods", "metrics"])
@pytest.mark.parametrize("given, message", [
    ([], "no .* is asked for"), ({}, "no .* is asked for"), ((), "no .* is asked for"), (None, "is a .*given: None"), (3, "given: 3"),
    ({"toy-flat"}, "given: {'toy-flat'}"), ([None], "given: None"), ([["toy-flat"]], "given: .'toy-flat'"), ([3.5], "given: 3.5"), ({1: "a"}, "label .*text; given: 1"),
    ({"": "a"}, "label .*text"), (Brightest, "the class Brightest; an instance is needed"), (iter(["a"]), "list_iterator"), (b"toy-flat", "bytes"),
])  # fmt: skip
def test_wrong_types(layered, kind, given, message):
    if kind == "datasets" and given == [["toy-flat"]]:
        message = "a data set is a name or a sequence"
    if kind == "datasets" and given == b"toy-flat":
        return  # a sequence; its rows say what is wrong with it
    refused(layered, ValueError, message, **{kind: given})


@pytest.mark.parametrize("given, message", [
    (torch.zeros(2, 3, 8, 8), "given: tensor"), (torch.utils.data.DataLoader([1]), "not a loader"), (torch.utils.data.TensorDataset(torch.zeros(0)), "data set 'tensordataset' has no images"),
    ([Data(samples()), Data(samples())], "'toy' is given twice"), (Data, "the class Data"),
])  # fmt: skip
def test_wrong_data(layered, given, message):
    refused(layered, ValueError, message, datasets=given)


def test_doubles_and_labels_that_mislead(layered):
    refused(layered, ValueError, "model 'layered' is given twice", models=[Layered(), Layered()])
    refused(layered, ValueError, "'toy-flat' with hyper-parameters {} is given twice", methods=["toy-flat", ("toy-flat", {})])
    refused(layered, ValueError, "toy-channel is given the label 'toy-flat', which is the name of another method", methods={"toy-flat": "toy-channel"})
    refused(layered, ValueError, "which is the name of another metric", metrics={"toy-inside": "toy-mean"})
    run(methods={"toy-flat": "toy-flat"})  # its own name says nothing wrong


@pytest.mark.parametrize("methods, error, message", [
    (("toy-channel", {"gian": 2.0}), UnknownName, "hyper-parameter of toy-channel 'gian'; did you mean 'gain'"),
    (("toy-channel", {"gain": "2"}), ValueError, "gain of toy-channel is '2'"), (("toy-channel", {"gain": None}), ValueError, "gain of toy-channel"),
    (("toy-channel", {"gain": float("nan")}), ValueError, "finite"), (("toy-channel", {3: 1}), UnknownName, "hyper-parameter of toy-channel"),
    (("toy-layered", {"layers": {1}}), ValueError, "have to be numbers, strings, lists or None"),
    (("toy-layered", {"layer": "featurs.0"}), UnknownName, "toy-layered on layered: unknown layer 'featurs.0'; did you mean 'features.0'"),
    (("toy-layered", {"layer": ""}), UnknownName, "on layered: unknown layer"), (("toy-layered", {"layer": 3}), ValueError, "layer of toy-layered is 3"),
    (("toy-layered", {"layers": ["features", "none"]}), UnknownName, "'none'"), (("toy-layered", {"layer": "features#last"}), ValueError, "names call 'last'"), (("toy-layered", {"layers": 0}), ValueError, "layers of toy-layered is 0"),
    (("toy-layered", {"layers": "some"}), ValueError, "possible: 'all'"), (("toy-layered", {"layers": True}), ValueError, "possible: 'all'"),
    ([("toy-channel", {}), ("toy-chanel", {})], UnknownName, "did you mean 'toy-channel'"), (("toy-channel", None), ValueError, "a method is a name or"),
])  # fmt: skip
def test_wrong_hyper_parameters_and_layers(layered, methods, error, message):
    refused(layered, error, message, methods=methods)


@pytest.mark.parametrize("metrics, error, message", [
    (("toy-layers", {"method": "toy-falt"}), UnknownName, "did you mean 'toy-flat'"),
    (("toy-layers", {"method": "toy-channel", "settings": {"gian": 1}}), UnknownName, "did you mean 'gain'"),
    (("toy-layers", {"layer": "feature"}), UnknownName, "did you mean 'features'"),
    (("toy-layers", {"method": "toy-layered", "settings": {"layer": "feature"}}), UnknownName, "did you mean 'features'"),
    (("toy-inside", {"power": 1.5}), ValueError, "power of toy-inside"), (("toy-mean", {"chunk": 4}), UnknownName, "hyper-parameter of toy-mean"),
])  # fmt: skip
def test_wrong_settings_of_metrics(layered, metrics, error, message):
    refused(layered, error, message, metrics=metrics)


def test_the_images_are_a_layer_to_what_sends_relevance_down_to_them(layered):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    found = run(model=model, methods=("excitation-backprop", {"layer": "input"}), metrics="toy-mean")
    assert set(found["status"]) == {"ok"}
    refused(layered, UnknownName, "unknown layer 'input'", methods=("grad-cam", {"layer": "input"}))


def test_a_layer_that_only_one_of_two_models_has(layered):
    run(model=Layered(), methods=[("toy-layered", {"layer": "features#-1"})])
    layered["toy-channel"] = 0
    refused(layered, UnknownName, "toy-layered on brightest: unknown layer 'features'", models=[Layered(), Brightest()], methods=("toy-layered", {"layer": "features"}))


@pytest.mark.parametrize("request_, error, message", [
    ({"limit": True}, ValueError, "limit is True"), ({"limit": 2.0}, ValueError, "limit is 2.0"), ({"limit": "5"}, ValueError, "limit is '5'"),
    ({"batch": False}, ValueError, "batch is False"), ({"batch": 16.0}, ValueError, "batch is 16.0"), ({"batch": np.float64(2)}, ValueError, "batch is"),
    ({"device": "gpu"}, UnknownName, "device 'gpu'"), ({"device": 0}, UnknownName, "device '0'"), ({"device": None}, UnknownName, "device 'None'"),
    ({"profile": None}, UnknownName, "profile 'None'"), ({"profile": ["mini"]}, UnknownName, "profile"), ({"profile": {"images": 3}}, UnknownName, "profile"),
    ({"paper": 3}, ValueError, "paper is 3; a text"), ({"scheduler": 8786}, ValueError, "scheduler is 8786; a text"),
    ({"results": 3}, ValueError, "results is 3"), ({"results": ""}, ValueError, "results is ''"), ({"results": True}, ValueError, "results is True"),
])  # fmt: skip
def test_wrong_options(layered, request_, error, message):
    refused(layered, error, message, **request_)


def test_numpy_numbers_are_numbers(toys):
    frame = run(limit=np.int64(4), batch=np.int32(2), methods=[("toy-channel", {"gain": np.float32(2)})], metrics=[("toy-inside", {"power": np.int64(2)})])
    plain = run(limit=4, batch=2, methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-inside", {"power": 2})])
    assert stable(frame).equals(stable(plain))


@pytest.mark.parametrize("place", ["a file", "below a file", "shards is a file"])
def test_a_folder_of_results_that_cannot_be_written(toys, tmp_path, place):
    file = {"a file": tmp_path / "file", "below a file": tmp_path / "file", "shards is a file": tmp_path / "shards"}[place]
    file.write_text("mine")
    results = {"a file": file, "below a file": file / "results", "shards is a file": tmp_path}[place]
    refused(toys, OSError, f"results '{results}' is no folder that can be written to", results=results)
    assert file.read_text() == "mine"


def test_results_that_are_read_only_can_be_read(toys, tmp_path, monkeypatch):
    first = run(tmp_path)

    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(evaluation.shards, "writable", read_only)
    assert stable(run(tmp_path)).equals(stable(first))
    with pytest.raises(OSError, match="Permission denied"):
        run(tmp_path, methods=[("toy-channel", {"gain": 2.0})])


def test_long_and_odd_labels_make_files(toys, tmp_path):
    for label in ("x" * 300, "a/b", "μ" * 200, "..", "a b", "a_b"):
        evaluate({label: Brightest()}, {label: Data(samples())}, "toy-flat", "toy-mean", limit=3, results=tmp_path)
    assert len(shards_or_none(tmp_path)) == 6 and {path.parent.name for path in shards_or_none(tmp_path)} == {"shards"}


def test_a_profile_that_names_no_method(toys, monkeypatch):
    for wrong, message in (({"hyper": {"toy-chanel": {}}}, "did you mean 'toy-channel'"), ({"costly": ["toy-chanel"]}, "did you mean 'toy-channel'")):
        monkeypatch.setattr(evaluation, "settings_of", lambda name: {"name": "mini", "images": {"other": 7}} | wrong)
        refused(toys, UnknownName, message)


# -- models and data by name ------------------------------------------------------------------------------------------------


def test_a_model_by_name_is_nobody_elses(toys, monkeypatch):
    """A method that spoils the model does so for its own call at most."""
    loaded = []
    monkeypatch.setattr(asked_for, "load_model", lambda *_, **__: loaded.append(Brightest()) or loaded[-1])

    @registry.method("toy-spoils", family="toy", cite="none")
    def spoils(model, x, y):
        """Changes a weight, against the rules."""
        with torch.no_grad():
            model.scale.fill_(-1)
        return x.mean(1)

    data = {"one": Data(samples()), "two": Data(samples())}
    before = evaluate("toy", data, "toy-channel", "average-drop", limit=3)
    assert len(loaded) == 1  # and not once per data set
    evaluate("toy", data, "toy-spoils", "toy-mean", limit=3)
    assert stable(evaluate("toy", data, "toy-channel", "average-drop", limit=3)).equals(stable(before)) and len(loaded) == 3


def test_paths_may_be_texts(toys, tmp_path):
    assert stable(run(str(tmp_path / "new" / "place"))).equals(stable(run(Path(tmp_path / "new" / "place"))))

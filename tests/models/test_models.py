"""The model zoo, the shipped weights, and the training that made them."""

import copy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import drawn
from PIL import Image
from torch import nn

from xai_repro.data import load_data
from xai_repro.errors import UnknownName
from xai_repro.models import evaluate_model, load_model, model_names, train, transform, zoo
from xai_repro.models.measure import _mean_average_precision

training = import_module("xai_repro.models.train")  # the package exports a function of that name
EMBEDDED = ["mini-vgg", "mini-resnet"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_shapes(name):
    model = load_model(name, "random", device="cpu")
    last = model.features[:-1] if name == "mini-vgg" else nn.Sequential(*list(model.children())[:-2])
    x = torch.randn(2, 3, 96, 96)
    assert last(x).shape[2:] == (6, 6) and model(x).shape == (2, 16)
    assert not model.training and next(model.parameters()).dtype == torch.float32


def test_folding_batch_norm_changes_nothing():
    net = zoo.build("mini-vgg", 16).double()
    for layer in net.features:
        if isinstance(layer, nn.BatchNorm2d):
            for positive in (layer.weight, layer.running_var):
                nn.init.uniform_(positive, 0.3, 3)
            for signed in (layer.bias, layer.running_mean):
                nn.init.uniform_(signed, -1, 1)
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    before = net.eval()(x)
    folded = zoo.for_inference(copy.deepcopy(net))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert (folded(x) - before).abs().max() <= 1e-10 * before.abs().max()


def test_random_weights_are_the_same_each_time_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = load_model("mini-vgg", "random"), load_model("mini-vgg", "random")
    assert one.fingerprint == other.fingerprint != load_model("mini-resnet", "random").fingerprint
    assert torch.equal(torch.rand(1), expected)


def test_shipped_weights_are_small():
    files = list(zoo.SHIPPED.glob("*.safetensors"))
    assert {f"{model}--{data}" for model in EMBEDDED for data in ("mini-birds", "mini-scenes")} <= {f.stem for f in files}
    assert {f"{model}--mini-birds-{seed}" for model in EMBEDDED for seed in range(1, 5)} <= {f.stem for f in files}
    assert sum(f.stat().st_size for f in files) < 32e6


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("limit", [200, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weights", ["mini-birds", *(f"mini-birds-{seed}" for seed in range(1, 5))])
def test_birds_are_told_apart_with_headroom(name, limit, weights):
    model = load_model(name, weights)
    found = evaluate_model(model, drawn("mini-birds", limit), limit)
    assert found["n"] == limit and found["accuracy"] >= (0.97 if limit == 1000 else 0.95)
    assert 0.70 <= found["median_top1_probability"] <= 0.95
    assert found["quantiles"][3] - found["quantiles"][1] > 0.1  # images differ in how sure the model is of them
    assert model.classes == load_data("mini-birds").classes


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("limit", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_scene_categories_are_found(name, limit):
    model = load_model(name, "mini-scenes")
    found = evaluate_model(model, drawn("mini-scenes", limit), limit)
    assert model.multi_label and found["mean_average_precision"] >= 0.90 and 0.70 <= found["median_top1_probability"] <= 0.95


def test_weights_survive_a_round_trip():
    shipped = load_model("mini-resnet", device="cpu")
    again = load_model("mini-resnet", zoo.SHIPPED / "mini-resnet--mini-birds.safetensors", device="cpu")
    assert again.fingerprint == shipped.fingerprint
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(again(x), shipped(x))
    with pytest.raises(ValueError, match="mini-resnet, not of mini-vgg"):
        load_model("mini-vgg", zoo.SHIPPED / "mini-resnet--mini-birds.safetensors")


def test_interrupted_training_goes_on_and_ends_the_same(tmp_path, monkeypatch, few_drawn):
    options = dict(epochs=2, images=64, seed=1, device="cpu", progress=False)
    train("mini-resnet", "mini-scenes", out=tmp_path / "whole.safetensors", **options)

    epoch, calls = training._epoch, []

    def dies_in_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return epoch(*args)

    monkeypatch.setattr(training, "_epoch", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train("mini-resnet", "mini-scenes", out=tmp_path / "cut.safetensors", **options)
    assert len(list(tmp_path.glob("cut*.part"))) == 1
    train("mini-resnet", "mini-scenes", out=tmp_path / "cut.safetensors", **options)
    assert len(calls) == 3 and not list(tmp_path.glob("*.part"))
    whole, cut = (load_model("mini-resnet", tmp_path / f"{name}.safetensors", device="cpu") for name in ("whole", "cut"))
    assert whole.classes == load_data("mini-scenes").classes and whole.multi_label
    x = torch.randn(1, 3, 96, 96)
    assert torch.allclose(whole(x), cut(x), atol=1e-3)


def test_average_precision_by_hand():
    scores = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert _mean_average_precision(scores, truth) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)


def test_torchvision_models():
    model = load_model("squeezenet1_1")
    assert model.classes is None and model.input_size == 224 and model.name in model_names()
    image = transform(model)(Image.new("RGB", (300, 260)))
    assert image.shape == (3, 224, 224)


def test_transform_of_an_embedded_model_is_that_of_the_data():
    data = load_data("mini-birds")
    image = transform(load_model("mini-vgg", "random"))(Image.fromarray(data.pixels(0)[0]))
    assert torch.allclose(image, data[0].image, atol=1e-6)
    with pytest.raises(ValueError, match="load_model"):
        transform(nn.Identity())


def test_errors_name_what_is_possible():
    with pytest.raises(UnknownName, match="did you mean 'mini-vgg'"):
        load_model("mini-vg")
    with pytest.raises(UnknownName, match="did you mean 'mini-scenes'"):
        load_model("mini-resnet", "mini-scene")
    with pytest.raises(UnknownName, match="unknown weights 'imagenett'; did you mean 'imagenet'"):
        load_model("squeezenet1_1", "imagenett")
    with pytest.raises(UnknownName, match="unknown device 'gpu'"):
        load_model("mini-vgg", "random", device="gpu")
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_model("mini-vgg", "nowhere.safetensors")
    with pytest.raises(UnknownName, match="unknown embedded model"):
        train("vgg16", "mini-birds")


@pytest.mark.parametrize("name", [["mini-vgg"], None, 3, True, b"mini-vgg", {}, np.array(["mini-vgg", "vgg16"])], ids=repr)
def test_names_of_other_types_are_unknown(name):
    with pytest.raises(UnknownName, match="unknown model"):
        load_model(name)
    with pytest.raises(UnknownName, match="unknown embedded model"):
        train(name, "mini-birds")
    with pytest.raises(UnknownName, match="unknown data set"):
        train("mini-vgg", name)


@pytest.mark.parametrize("model", ["mini-vgg", "squeezenet1_1"])
@pytest.mark.parametrize("weights", [["random"], 3, True, b"x.safetensors", {"fc": torch.ones(2)}, np.array(["a", "b"])], ids=repr)
def test_weights_of_other_types_are_unknown(model, weights):
    with pytest.raises(UnknownName, match="unknown weights"):
        load_model(model, weights)


@pytest.mark.parametrize("device", [["cpu"], 3, None, b"cpu", {}, "cuda:99", "CPU", ""], ids=repr)
def test_devices_that_there_are_not(device):
    with pytest.raises(UnknownName, match="unknown device"):
        load_model("mini-vgg", "random", device=device)
    with pytest.raises(UnknownName, match="unknown device"):
        train("mini-vgg", "mini-birds", device=device)


def test_devices_by_name_and_as_objects():
    for device in ("cpu", torch.device("cpu"), np.str_("cpu"), Path("cpu")):
        assert zoo.pick_device(device) == torch.device("cpu")


@pytest.mark.parametrize("given", [-1, True, 1.5, 2.0, "3", [3], float("nan"), np.array([1, 2])], ids=repr)
@pytest.mark.parametrize("name", ["epochs", "images", "seed"])
def test_numbers_of_a_training_that_are_none(name, given):
    with pytest.raises(ValueError, match=f"{name} is .*a whole number"):
        train("mini-vgg", "mini-birds", **{name: given})


def test_numbers_that_are_too_large_or_too_small():
    with pytest.raises(ValueError, match="epochs is 0; at least 1"):
        train("mini-vgg", "mini-birds", epochs=0)
    with pytest.raises(ValueError, match="seed is 10+; at most"):
        train("mini-vgg", "mini-birds", seed=10**30)
    with pytest.raises(ValueError, match="images is 1; at least 2"):
        train("mini-vgg", "mini-birds", images=1)
    with pytest.raises(ValueError, match="limit is 0"):
        evaluate_model(load_model("mini-vgg", "random"), load_data("mini-birds"), 0)

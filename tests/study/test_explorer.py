"""What the explorer is given: the numbers of the library, and pictures that are what the network saw."""

import base64
import json
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

import xai_repro as xr
from xai_repro.metrics.curves import blur
from xai_repro.study import explorer

METHODS = ["grad-cam", "linear-approximation", "random"]
SETTINGS = {"name": "smoke", "hyper": {}, "costly": [name for name in xr.methods() if name not in METHODS]}


def read(path):
    """The value that a script gives to a name."""
    return json.loads(path.read_text().partition(" = ")[2].rstrip(";\n"))


def opened(address):
    return np.asarray(Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))))


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Two drawn birds: the folder, data.js, the tables, the images and their likeliest classes."""
    folder = tmp_path_factory.mktemp("explorer")
    made, scores = explorer.write(folder, SETTINGS | {"models": ["mini-vgg"], "datasets": ["mini-birds"]}, {"other": 2}, photographs=0)
    model, data = xr.load_pair("mini-vgg", "mini-birds", 2)
    x = torch.stack([sample.image for sample in data])
    with torch.inference_mode():
        chances, y = model(x).softmax(1).max(1)
    return {"folder": folder, "data": read(folder / "data.js"), "made": made, "scores": scores, "model": model, "samples": data, "x": x, "y": y, "chances": chances}


def case(birds, row):
    return read(birds["folder"] / birds["data"]["networks"][0]["pictures"][row]["classes"][0]["file"])


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_library(birds, method):
    model, x, y = birds["model"], birds["x"], birds["y"]
    maps = xr.normalize(xr.explain(model, x, y, method).clamp(min=0))
    labels = [sample.labels[0] for sample in birds["samples"]]
    truth = {kind: torch.stack([getattr(s, of)(label) for s, label in zip(birds["samples"], labels)]) for kind, of in (("box", "box_truth"), ("mask", "truth"))}
    for metric, hyper in explorer.METRICS.items():
        values = xr.score(metric, model, x, y, maps, truth=truth.get(xr.metric_info(metric).truth), **hyper).tolist()
        for row, value in enumerate(values):
            shown = case(birds, row)
            assert shown["scores"][metric][shown["methods"].index(method)] == (pytest.approx(value, rel=1e-3, abs=1e-6) if value == value else None), metric


def test_ends_of_the_curves_are_the_probability(birds):
    for row, chance in enumerate(birds["chances"].tolist()):
        shown, kind = case(birds, row), birds["data"]["networks"][0]["pictures"][row]["classes"][0]
        assert kind["probability"] == pytest.approx(chance, rel=1e-3) and kind["name"] == birds["model"].classes[birds["y"][row]]
        for inserted, deleted in zip(shown["insertion"], shown["deletion"]):
            assert len(inserted) == len(deleted) == explorer.STEPS
            assert inserted[-1] == deleted[0] == kind["probability"]
            assert inserted[0] == shown["insertion"][0][0] and deleted[-1] == shown["deletion"][0][-1]  # before and after, the order plays no part


@pytest.mark.parametrize("t", [1, 4, 10])
def test_the_picture_at_a_point_of_a_curve_is_what_the_network_saw(birds, t):
    """The right half of the sprite says which pixels are replaced: the network, run on that picture, gives the probability of the curve."""
    side = birds["x"].shape[-1]
    for row, (x, y) in enumerate(zip(birds["x"], birds["y"])):
        shown = case(birds, row)
        sprite = opened(shown["sprite"])[..., 0].reshape(len(shown["methods"]), side, 2, side)
        for going, inserted, deleted in zip(sprite[:, :, 1], shown["insertion"], shown["deletion"]):
            replaced = torch.from_numpy(going <= t)
            assert abs(int(replaced.sum()) - t / (explorer.STEPS - 1) * side**2) <= 0.5
            pictures = torch.stack([torch.where(replaced, torch.zeros(()), x), torch.where(replaced, x, blur(x[None])[0])])
            with torch.inference_mode():
                chances = birds["model"](pictures).softmax(1)[:, y].tolist()
            assert [deleted[t], inserted[t]] == pytest.approx(chances, rel=1e-3, abs=1e-5)


def test_maps_are_drawn_over_their_range(birds):
    side, shown = birds["x"].shape[-1], case(birds, 1)
    sprite = opened(shown["sprite"])
    assert sprite.shape == (side * len(METHODS), 2 * side, 3) and (sprite == sprite[..., :1]).all()  # grey, and no value lost
    for row, method in enumerate(shown["methods"]):
        whole = xr.explain(birds["model"], birds["x"], birds["y"], method)[1]
        found = sprite[row * side : (row + 1) * side, :side, 0].astype(float)
        signed = xr.method_info(method).signed
        assert shown["range"][row] == pytest.approx([float(whole.min()), float(whole.max())], rel=1e-3, abs=1e-9)
        least, most = (0 if signed else float(whole.clamp(min=0).min())), float(whole.abs().max() if signed else whole.max())
        back = most * (found - 128) / 127 if signed else least + (most - least) * found / 255
        assert np.abs(back - (whole if signed else whole.clamp(min=0)).numpy()).max() <= 0.51 / (127 if signed else 255) * most


def test_bytes_of_a_map():
    assert explorer.drawn(torch.tensor([[-2.0, 0.0], [1.0, 0.5]]), signed=True).tolist() == [[1, 128], [192, 160]]
    assert explorer.drawn(torch.tensor([[-2.0, 0.0], [1.0, 0.5]]), signed=False).tolist() == [[0, 0], [255, 128]]
    for signed, nothing in ((True, 128), (False, 0)):
        assert (explorer.drawn(torch.zeros(2, 2), signed) == nothing).all()


def test_pixels_go_in_the_order_of_the_map_and_equal_ones_in_reading_order():
    steps = explorer.STEPS - 1
    falling = torch.arange(4 * steps, 0, -1).float().view(1, 4, steps)
    assert explorer.going(falling).flatten().tolist() == [1 + i // 4 for i in range(4 * steps)]
    assert explorer.going(torch.zeros(1, 4, steps)).equal(explorer.going(falling))
    assert explorer.going(-falling).flatten().tolist() == [1 + i // 4 for i in range(4 * steps)][::-1]


def test_colours_are_those_of_the_figures(birds):
    heat, signed = (np.array(list(bytes.fromhex(birds["data"]["colours"][name]))).reshape(256, 3) / 255 for name in ("heat", "signed"))
    assert np.abs(heat - mpl.colormaps["inferno"](np.arange(256))[:, :3]).max() < 0.003
    for byte, place in ((1, 0.0), (128, 0.5), (255, 1.0)):
        assert np.abs(signed[byte] - mpl.colormaps["RdBu_r"](place)[:3]).max() < 0.003
    assert signed[255][0] > 2 * signed[255][2] and signed[1][2] > 2 * signed[1][0]  # red is for the class


def test_tables_say_what_there_is(birds):
    assert birds["made"].to_dict("records")[0] | {"left out": ""} == {
        "network": "mini-vgg", "data": "mini-birds", "pictures": 2, "classes explained": 2, "methods": 3, "left out": "",
    }  # fmt: skip
    assert explorer.told(birds["made"]) == "Pictures, as a network sees them: 2. Classes that are explained in them: 2, each by 3 methods."
    assert len(birds["scores"]) == 2 * len(METHODS) * len(explorer.METRICS)
    one = birds["scores"].set_index(["picture", "method", "metric"])["value"]
    shown = birds["data"]["networks"][0]["pictures"][1]
    assert one[shown["name"], "linear-approximation", "deletion"] == case(birds, 1)["scores"]["deletion"][case(birds, 1)["methods"].index("linear-approximation")]
    assert [about["better"] for about in birds["data"]["metrics"].values()] == ["lower", "higher", "higher", "lower", "higher", "higher"]


def test_pictures_are_small_and_what_stands_for_nothing_is_the_mean_colour(birds):
    shown = birds["data"]["networks"][0]["pictures"][0]
    assert shown["width"] == shown["height"] == birds["x"].shape[-1] and opened(shown["photo"]).shape == opened(shown["blurred"]).shape
    own = birds["model"].view.colours(birds["x"][0]).permute(1, 2, 0).numpy() * 255
    assert np.abs(opened(shown["photo"]) - own).mean() < 6  # compressed
    assert np.abs(np.diff(opened(shown["blurred"]).astype(int), axis=1)).mean() < np.abs(np.diff(opened(shown["photo"]).astype(int), axis=1)).mean() / 2
    assert shown["nothing"] == [124, 116, 104]
    assert sum(path.stat().st_size for path in birds["folder"].iterdir()) < 200_000


def test_every_class_of_a_scene_is_explained(tmp_path):
    settings = SETTINGS | {"models": ["mini-resnet"], "datasets": ["mini-scenes"], "costly": [name for name in xr.methods() if name != "grad-cam"]}
    explorer.write(tmp_path, settings, {"other": 2}, photographs=0)
    data, known = read(tmp_path / "data.js"), xr.load_data("mini-scenes", limit=2)
    for picture, sample in zip(data["networks"][0]["pictures"], known):
        assert [kind["name"] for kind in picture["classes"]] == [known.classes[label] for label in sample.labels]
        for kind in picture["classes"]:
            assert read(tmp_path / kind["file"])["scores"]["pointing-game"][0] in (0, 1)


def test_what_is_not_defined_is_null():
    assert explorer._round(float("nan")) is None and explorer._round(0.123456) == 0.1235

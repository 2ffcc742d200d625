"""Photographs in an evaluation, and what is said of drawn birds and photographs together."""

import numpy as np
import pandas as pd
import pytest
import torch
import toy_trees
from scipy.stats import kendalltau

import xai_repro as xr
from xai_repro.data import Photos, View
from xai_repro.data.photographs import data_folder
from xai_repro.study import claims, photographs, tables
from xai_repro.study.asked import channels, the_data

FIVE = ["grad-cam", "lift-cam", "cam", "random", "edges"]
SLOW_TO_MAKE = 5


@pytest.fixture
def voc(tmp_path, monkeypatch):
    toy_trees.tree("voc2007", tmp_path)
    toy_trees.tree("imagenet-samples", tmp_path)
    monkeypatch.setenv("XAI_REPRO_DATA", str(tmp_path))
    return tmp_path


# -- an evaluation sees what the network sees ---------------------------------------------------------------------------


def test_photographs_are_seen_as_each_network_does(voc):
    network, images = xr.load_pair("mini-vgg", "imagenet-samples")
    assert isinstance(images, Photos) and images.view == xr.transform(network) == View(96, 96) and images[0].image.shape == (3, 96, 96)
    own = xr.load_data("imagenet-samples", transform=View(40, 32))
    assert the_data(own, network) is own and own[0].image.shape == (3, 32, 32)  # opened for a view of its own
    assert xr.load_data("imagenet-samples")[0].image.shape == (3, 224, 224)
    assert xr.load_pair("mini-vgg", "mini-birds", 3)[1].name == "mini-birds"


def test_rows_of_photographs(voc, tmp_path):
    asked = dict(results=tmp_path / "r", device="cpu")
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 20)).eval()
    net.multi_label, net.classes, net.view = True, xr.load_data("voc2007").classes, View(64, None)
    rows = xr.evaluate({"net": net}, "voc2007", ["center"], ["pointing-game-pixels", "proportion"], **asked)
    expected = [(sample.id, label) for sample in xr.load_data("voc2007") for label in sample.labels]
    assert list(zip(rows["image_id"], rows["target"])) == expected * 2 and (rows["status"] == "ok").all()
    for sample, label in ((sample, label) for sample in xr.load_data("voc2007", transform=net.view) for label in sample.labels):
        one = rows[(rows["image_id"] == sample.id) & (rows["target"] == label)].set_index("metric")["value"]
        M = xr.normalize(xr.explain(net, sample.image[None], label, "center"))
        top = int(M[0].flatten().argmax())
        assert one["pointing-game-pixels"] == float(sample.near(label).flatten()[top])
        assert one["proportion"] == pytest.approx(float((M[0] * sample.box_truth(label)).sum() / M[0].sum()))
    shards = sorted((tmp_path / "r" / "shards").iterdir())
    net.view = View(48, None)
    xr.evaluate({"net": net}, "voc2007", ["center"], ["proportion"], **asked)
    assert len(list((tmp_path / "r" / "shards").iterdir())) == len(shards) + 1  # another view, another file


def test_a_photograph_that_is_damaged_costs_its_own_row(voc):
    torn = next(iter(sorted((voc / "imagenet-samples").glob("*.JPEG"))))
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.warns(RuntimeWarning, match="1 of . rows have no value"):
        rows = xr.evaluate("mini-vgg", "imagenet-samples", "center", "positive-ratio", device="cpu")
    assert rows["value"].isna().sum() == 1 and "not a readable image" in rows[rows["value"].isna()]["status"].iat[0]


def test_where_real_data_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("XAI_REPRO_DATA", raising=False)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path))
    assert data_folder("voc2007") == tmp_path / "data" / "voc2007" and data_folder("voc2007", "here").name == "here"
    with pytest.raises(ValueError, match="an xr.View is needed, by which boxes and masks are moved"):
        xr.load_data("free-photographs", transform=lambda photo: photo)


def test_how_many_channels_a_network_has():
    assert channels("mini-vgg", "mini-birds") == 128


def test_deep_layers_exist():
    for name in ("vgg16", photographs.MODEL):
        net = xr.load_model(name, device="cpu")
        assert all(net.get_submodule(layer) is not None for layer in photographs.deep_layers(name))


# -- what carries over --------------------------------------------------------------------------------------------------


def rows_of(model, data, values, metric="average-drop", images=30, seed=0):
    """Rows whose methods have means as given."""
    noise = np.random.default_rng(seed).normal(0, 0.01, (len(values), images))
    return pd.DataFrame([
        {"paper": "", "dataset": data, "model": model, "run": 0, "image_id": f"{data}/{n}", "target": 0, "method": method, "hyper": "{}", "metric": metric,
         "value": value + noise[m, n], "seconds": 0.1, "empty": False, "negative": False, "correct": True, "difficult": False, "status": "ok"}
        for m, (method, value) in enumerate(values.items()) for n in range(images)
    ])  # fmt: skip


def both(drawn, photos):
    return (
        pd.concat([rows_of(model, "mini-birds", dict(zip(FIVE, drawn))) for model in photographs.DRAWN[1]], ignore_index=True),
        rows_of(photographs.MODEL, photographs.PHOTOS, dict(zip(FIVE, photos)), seed=1),
    )


def test_orders_of_methods():
    drawn, photos = both([0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.3, 0.2, 0.4, 0.5])
    found = photographs.orders(drawn, photos)
    assert list(found["drawn network"]) == list(photographs.DRAWN[1]) and (found["methods"] == 5).all()
    assert found["tau"].iat[0] == pytest.approx(kendalltau([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).statistic) == pytest.approx(0.8)
    assert found["low"].iat[0] == found["high"].iat[0] == pytest.approx(0.8)  # far apart: no draw changes the order
    near = photographs.orders(*both([0.1, 0.101, 0.102, 0.103, 0.104], [0.1, 0.3, 0.2, 0.4, 0.5]))
    assert near["low"].iat[0] < near["tau"].iat[0] < near["high"].iat[0]


def test_methods_that_explain_fewer_images_and_other_settings_have_no_place_in_the_order():
    drawn, photos = both([0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1])
    fewer = photos[~((photos["method"] == "cam") & (photos["image_id"] == photos["image_id"].iat[0]))]
    assert (photographs.orders(drawn, fewer)["methods"] == 4).all()
    other = photos.assign(hyper=photos["hyper"].where(photos["method"] != "edges", '{"a": 1}'))
    assert (photographs.orders(drawn, other)["methods"] == 4).all()
    assert photographs.orders(drawn, photos.assign(dataset="mini-birds")).empty


def test_outcomes_side_by_side_and_in_words():
    """LIFT-CAM below Grad-CAM on drawn birds, above it on photographs: a claim that comes back."""
    def made(model, data, lift, seed):
        values = dict.fromkeys(xr.methods(), 0.5) | {"lift-cam": 0.5 + lift}
        return rows_of(model, data, values, "average-drop", 24, seed)

    drawn, photos = made("mini-vgg", "mini-birds", 0.2, 7), made(photographs.MODEL, photographs.PHOTOS, -0.2, 3)
    found = photographs.outcomes(drawn, photos)
    assert len(found) and set(found["drawn"]) <= set(claims.OUTCOMES) and not (set(found["drawn"]) | set(found["photographs"])) & set(photographs.NOT_ASKED)
    assert ((found["drawn"] == "fails") & (found["photographs"] == "holds")).any()
    text = photographs.told(found)
    firm = found[found["drawn"].isin(photographs.FIRM) & found["photographs"].isin(photographs.FIRM)]
    assert text.startswith(f"{len(found)} claims can be asked of both.") and f"Of the {len(firm)} that both decide" in text
    turned = found.assign(drawn="holds", photographs="fails")
    assert f"{len(found)} the other way round" in photographs.told(turned) and f"Of the {len(found)} that both decide, 0 come out alike: 0 fail" in photographs.told(turned)
    assert photographs.crossed(turned).set_index("drawn").loc["holds", "fails"] == len(found)


def test_printed_orders_are_those_of_images_that_all_methods_explain():
    """A method that explains half of the images, the bad ones, is not to look bad for that."""
    every = [name for name in dict.fromkeys(xr.published("lift_cam", "4")["method"]) if name]
    photos = rows_of(photographs.MODEL, photographs.PHOTOS, {name: n / 10 for n, name in enumerate(every)}, images=40)
    half = photos["image_id"].isin(photos["image_id"].unique()[:20])
    photos.loc[half, "value"] += 5
    few = photos[half | (photos["method"] != every[0])]
    both_sides = [photographs.printed_orders(few.assign(dataset="mini-birds", model="mini-vgg"), rows) for rows in (photos, few)]
    on = [one[(one["on"] == "photographs") & (one["table"] == "4")] for one in both_sides]
    assert len(on[0]) and list(on[0]["tau"]) == list(on[1]["tau"]) and (on[1]["n"] == 20).all() and (on[0]["n"] == 40).all()


def test_orders_in_words():
    rows = [{"paper": "p", "table": "4", "group": g, "metric": "m", "on": on, "tau": tau} for g, pair in (("a", (0.1, 0.9)), ("b", (0.3, 0.5)), ("c", (0.7, None))) for on, tau in zip(("drawn birds", "photographs"), pair) if tau is not None]
    assert "In 2 columns" in (text := photographs.told_of_orders(pd.DataFrame(rows))) and "is 0.20 on drawn birds and 0.70 on photographs" in text
    assert photographs.told_of_orders(pd.DataFrame(rows[:1])) == "No table has an order on both sides."


def test_photographs_stand_in_before_drawn_birds():
    assert tables.present({"imagenet-samples", "mini-birds"}, "dataset", "imagenet", "lift_cam") == "imagenet-samples"
    assert tables.present({"mini-birds"}, "dataset", "imagenet", "lift_cam") == "mini-birds"
    assert tables.present({"efficientnet-lite0"}, "model", "vgg16", "lift_cam") == "efficientnet-lite0"
    assert tables.present({"imagenet-samples"}, "dataset", "voc2007", "lift_cam") is None  # nothing says what is in them


# -- the reference ------------------------------------------------------------------------------------------------------


def test_the_reference_is_small_and_says_how_it_was_made():
    rows = photographs.reference()
    size = sum(file.stat().st_size for file in photographs.REFERENCE.iterdir())
    assert size < 3e6 and set(rows["dataset"]) == {photographs.PHOTOS} and set(rows["model"]) == {photographs.MODEL}
    assert rows["image_id"].nunique() >= 100 and set(xr.methods()) - set(rows["method"]) <= {"lfi-cam", "abn", "clam"}
    assert not rows.duplicated(["image_id", "target", "method", "hyper", "metric"]).any()
    with pytest.raises(FileNotFoundError, match="xai-repro run --profile photos"):
        photographs.reference("nowhere")


@pytest.mark.slow
def test_five_rows_of_the_reference_are_computed_again():
    """Where the photographs are: the values that are kept, to what floating point leaves open."""
    try:
        data = xr.load_data(photographs.PHOTOS)
    except FileNotFoundError:
        pytest.skip(f"{photographs.PHOTOS} is not here: python data_scripts/fetch_imagenet_samples.py")
    kept = photographs.reference()
    names = {f"{photographs.PHOTOS}/test/{path.stem}": n for n, path in enumerate(data.reader.paths)}
    kept = kept[kept["image_id"].isin(names) & (kept["hyper"] == "{}") & (kept["status"] == "ok")]
    model = xr.load_model(photographs.MODEL, device="cpu")
    for method, metric in (("lift-cam", "average-drop"), ("grad-cam", "increase-in-confidence"), ("clrp", "average-drop-in-deletion"), ("cam", "average-drop"), ("edges", "average-drop-in-deletion")):
        row = kept[(kept["method"] == method) & (kept["metric"] == metric)].iloc[0]
        sample = data.seen_by(model.view)[names[row["image_id"]]]
        again = xr.evaluate({photographs.MODEL: model}, [sample], method, metric, "photos")
        assert again["target"].iat[0] == row["target"] and again["value"].iat[0] == pytest.approx(row["value"], abs=2e-3), (method, metric)

"""The stability study: which networks are compared, with what, and what the pages of LFI-CAM show."""

import pandas as pd
import pytest
import torch
import xai_repro as xr
from toy_attention import lfi
from toys import images, seeded

from xai_repro import claims, tables
from xai_repro.data import Sample
from xai_repro.metrics.similarity import overlap
from xai_repro.models import zoo
from xai_repro.models.reading import read_weights
from xai_repro.study import lfi_cam, stability


def samples(labels=(0, 0, 1, 2)):
    return [Sample(image=image, labels=(label,), id=f"i{n}") for n, (image, label) in enumerate(zip(images(len(labels), dtype=torch.float32), labels))]


def networks(seeds=(0, 1, 2)):
    return {f"net {seed}": seeded(lfi, seed, torch.float32) for seed in seeds}


def rows(accuracy=(0.9, 0.91, 0.95), nets=None):
    nets = nets or networks()
    maps = stability.maps_of(nets, samples(), {"lfi-cam": ("lfi-cam", {}), "grad-cam": ("grad-cam", {"layer": "attended"})})
    return maps, stability.stability(maps, samples(), dict(zip(nets, accuracy)), "toy")


def test_only_networks_of_similar_accuracy_are_compared():
    assert stability.pairs({"a": 0.90, "b": 0.92, "c": 0.95}) == [("a", "b")]
    maps, found = rows()
    assert set(found["run"]) == {"net 0&net 1"}
    assert len(found) == 2 * 4 * 12 and set(found["metric"]) == {f"{name}{more}" for name in stability.MEASURES for more in ("", "-chance", "-above-chance")}


def test_values_are_those_of_the_measures_image_by_image():
    maps, found = rows((0.9, 0.9, 0.9))
    assert found["run"].nunique() == 3
    own = maps["lfi-cam"]
    of = found[(found["method"] == "lfi-cam") & (found["run"] == "net 0&net 2")].pivot(index="image_id", columns="metric", values="value").loc[["i0", "i1", "i2", "i3"]]
    torch.testing.assert_close(torch.tensor(of["stability-iou"].to_numpy()), overlap(own["net 0"], own["net 2"]).double())
    others = own["net 2"][[2, 2, 3, 0]]  # the next image of another class
    torch.testing.assert_close(torch.tensor(of["stability-iou-chance"].to_numpy()), overlap(own["net 0"], others).double())
    assert of["stability-iou-above-chance"].tolist() == pytest.approx((of["stability-iou"] - of["stability-iou-chance"]).tolist())
    assert torch.equal(own["net 1"], xr.explain(networks()["net 1"], torch.stack([one.image for one in samples()]), 0, "lfi-cam"))


def test_one_network_twice_is_as_stable_as_can_be():
    net = seeded(lfi, 0, torch.float32)
    _, found = rows((0.9, 0.9), {"a": net, "b": net})
    means = found.groupby("metric")["value"].mean()
    assert means["stability-iou"] == means["stability-iou-rows"] == 1 and means["stability-ssim"] == pytest.approx(1) and means["stability-spearman"] == pytest.approx(1)
    assert means["stability-iou-chance"] < 1


def test_intervals_count_networks():
    _, found = rows((0.9, 0.9, 0.9))
    summary = tables.summary(found)
    assert (summary["networks"] == 3).all() and (summary["n"] == 4).all()


def test_weights_that_are_not_there_are_trained_into_a_folder(tmp_path, monkeypatch):
    asked = []

    def trains(model, data, out, **options):
        asked.append((model, data, out.name, options))
        out.write_bytes((zoo.SHIPPED / "mini-resnet--mini-birds.safetensors").read_bytes())

    monkeypatch.setattr(stability, "train", trains)
    monkeypatch.setattr(stability, "ENDINGS", {label: f"-none{n}" for n, label in enumerate(stability.CONFIGURATIONS)})
    with pytest.raises(FileNotFoundError, match="no weights mini-resnet--mini-birds-none0.safetensors: they are trained where a folder is given"):
        stability.configured("mini-resnet")
    found = stability.configured("mini-resnet", folder=tmp_path / "new")
    assert list(found) == list(stability.CONFIGURATIONS) and [one[3] for one in asked] == list(stability.CONFIGURATIONS.values())
    stability.configured("mini-resnet", folder=tmp_path / "new")
    assert len(asked) == 5  # once each


@pytest.mark.parametrize("model", ["mini-basic", "mini-lfi", "mini-abn"])
def test_shipped_trainings_differ_in_what_they_say(model):
    found = stability.configured(model)
    assert len({one.fingerprint for one in found.values()}) == 5
    usual = {"batch": "64", "rate": "0.002", "decay": "0.05", "seed": "0"}
    for label, changed in stability.CONFIGURATIONS.items():
        facts = read_weights(zoo.SHIPPED / f"{model}--mini-birds{stability.ENDINGS[label]}.safetensors")[1]
        assert {key: facts[key] for key in usual} == usual | {key: str(value) for key, value in changed.items()}


def test_two_points_behind_at_most():
    told = [{"model": model, "ways": "configurations", "trained": label, "accuracy": share} for model, shares in {"mini-basic": (0.9,) * 5, "mini-lfi": (0.88, 0.879, 0.95, 0.9, 0.9)}.items() for label, share in zip(stability.CONFIGURATIONS, shares)]
    found = stability.beside_plain(pd.DataFrame([*told, {"model": "mini-vgg", "ways": "seeds", "trained": "seed 1", "accuracy": 1.0}]))
    assert found["mini-lfi, two points behind at most"].tolist() == ["yes", "no", "yes", "yes", "yes"] and found["trained"].tolist() == list(stability.CONFIGURATIONS)


def test_the_table_of_a_measure():
    _, found = rows((0.9, 0.9, 0.9))
    table = stability.shown(tables.summary(found).assign(hyper="{}"), "stability-iou")
    assert list(table) == ["two trainings", "chance", "above chance"] and table.index.tolist() == ["lfi-cam", "grad-cam"]


def test_sentences_follow_the_rows():
    def summary(value):
        rows = [("mini-lfi", "lfi-cam", f"stability-iou{end}", value + n / 10) for n, end in enumerate(("", "-chance", "-above-chance"))]
        return pd.DataFrame(rows, columns=["model", "method", "metric", "mean"]).assign(low=0.1, high=0.9)

    text = stability.said(summary(0.5))
    assert "* LFI-CAM: 0.50 (0.10 to 0.90), by chance 0.60 (0.10 to 0.90), above chance **0.70 (0.10 to 0.90)**" in text
    assert "* ABN: (no two networks of similar accuracy)" in text and stability.said(summary(0.25)) != text


def test_the_case_that_is_shown():
    frame = pd.DataFrame({"metric": "stability-iou", "image_id": list("aabbcc"), "value": [0.1, 0.2, 0.9, 0.9, 0.4, 0.6]})
    assert stability.median_case(frame) == "c"
    maps, _ = rows((0.9, 0.9, 0.9))
    figure = stability.panel(maps, samples(), "i2")
    assert len(figure.axes) >= 2 * 4


def test_table_1_is_what_is_built_but_for_the_stride():
    found = lfi_cam.layout()
    assert set(found[found["same"] == "no"]["what"]) == {"stride"} and (found["same"] == "no").sum() == 1
    by = found.set_index(["layer", "what"])["ours"]
    layers = "convolution 1, convolution 2, convolution 3, convolution 4"
    assert by[layers, "kernel size"] == 3 and by[layers, "stride"] == by[layers, "padding"] == 1 and by[f"{layers}, pooling and softmax", "input channels"] == 2048
    narrow = lfi_cam.layout("lfi-resnet18")
    assert (narrow[narrow["what"].str.contains("channels")]["same"] == "no").all()


def test_sizes_by_the_formula():
    found = lfi_cam.sizes().set_index("network")
    for name, K in (("lfi-resnet18", 512), ("lfi-resnet50", 2048), ("lfi-densenet121", 1024)):
        assert found.loc[name, "attention"] == pytest.approx(4 * (9 * K**2 + 2 * K) / 1e6)
    assert found.loc["abn-resnet50", "attention"] < found.loc["lfi-resnet50", "attention"]


def test_the_papers_claims_are_tested_on_such_rows():
    """LFI-CAM's maps the same in three trainings, ABN's each another: the claims hold; the other way round they fail."""
    samples_, nets = samples(range(24)), networks((0, 1, 2))
    one = {label: torch.rand(24, 16, 16, generator=torch.Generator().manual_seed(7)) for label in nets}
    many = {label: torch.rand(24, 16, 16, generator=torch.Generator().manual_seed(n)) for n, label in enumerate(nets)}
    accuracy = dict.fromkeys(nets, 0.9)
    for lfi_maps, abn_maps, outcome in ((one, many, "holds"), (many, one, "fails")):
        found = [stability.stability({name: maps}, samples_, accuracy, model) for name, maps, model in (("lfi-cam", lfi_maps, "mini-lfi"), ("abn", abn_maps, "mini-abn"))]
        checked = claims.check(pd.concat(found, ignore_index=True), "lfi_cam").set_index("id")
        assert checked.loc["lfi-stability-stl10", "outcome"] == checked.loc["lfi-stability-catsdogs", "outcome"] == outcome
        assert checked.loc["lfi-stability-stl10", "n"] == 24 and checked.loc["lfi-stability-stl10", "networks"] == 3

"""Several networks trained alike: which images each explains, with which seeds, and what the rows say of it."""

import pytest
import torch
import xai_repro as xr
from toy_evaluation import Data, evaluate, evaluation, samples
from toys import seeded, VGGLike

from xai_repro.study import asked

NETS = [seeded(VGGLike, seed).float() for seed in range(3)]


def rows(models, images=7, methods="gradient", metrics="average-drop", **more):
    return evaluate(models, {"toy": Data(samples(images))}, methods, metrics, limit=images, batch=4, **more)


def test_images_are_dealt_out_in_turn():
    assert evaluation.dealt(100, 5, 1) == [(20, 40)] and evaluation.dealt(7, 1, 0) == [(0, 7)]
    assert evaluation.dealt(130, 3, 0) == [(0, 20), (60, 80), (120, 130)] and evaluation.dealt(130, 3, 2) == [(40, 60), (100, 120)]
    for size, networks in [(1, 1), (4, 2), (7, 3), (50, 3), (99, 5), (250, 1), (333, 4)]:
        parts = [range(*part) for number in range(networks) for part in evaluation.dealt(size, networks, number)]
        assert sorted(image for part in parts for image in part) == list(range(size))
        assert all(len(part) <= 20 for part in parts) or networks == 1


def test_each_run_is_what_its_network_gives_alone():
    together = rows({"family": NETS})
    assert together["run"].tolist() == [0, 0, 0, 1, 1, 1, 2] and set(together["model"]) == {"family"}
    for number, net in enumerate(NETS):
        alone = rows({"one": net})
        assert set(alone["run"]) == {0}
        mine = together[together["run"] == number]
        assert mine["value"].tolist() == pytest.approx(alone["value"][mine.index].tolist(), rel=1e-4)
        assert mine["image_id"].tolist() == alone["image_id"][mine.index].tolist()


def test_each_run_draws_from_a_seed_of_its_own():
    same = {"family": [NETS[0]] * 3}
    maps = ("random", {"seed": 5})
    found = rows(same, methods=[maps])
    for number in range(3):
        alone = rows({"one": NETS[0]}, methods=[("random", {"seed": 5 + number})])
        mine = found[found["run"] == number]
        assert mine["value"].tolist() == pytest.approx(alone["value"][mine.index].tolist(), rel=1e-4)
        assert number == 0 or mine["value"].tolist() != pytest.approx(rows({"one": NETS[0]}, methods=[maps])["value"][mine.index].tolist(), rel=1e-2)
    assert set(found["hyper"]) == {'{"seed": 5}'}  # what was asked for

    one = asked.with_hyper("sanity-cascading", "metric", {})[0]
    method = asked.with_hyper([("rise", {"masks": 3})], "method", {})[0]
    assert asked.arguments(one, method) == {"method": "rise", "settings": {"masks": 3}}
    assert asked.arguments(one, method, 2) == {"method": "rise", "settings": {"masks": 3, "seed": 2}, "seed": 2}
    assert asked.in_run(asked.with_hyper("gradient", "method", {})[0], 2) == {}


def test_runs_have_shards_of_their_own(tmp_path):
    first = rows({"family": NETS}, results=tmp_path)
    shards = sorted(tmp_path.rglob("*.parquet"))
    assert len(shards) == 3
    before = {path: path.stat().st_mtime_ns for path in shards}
    again = rows({"family": NETS}, results=tmp_path)
    assert again.equals(first) and before == {path: path.stat().st_mtime_ns for path in shards}
    rows({"family": NETS[:2] + [seeded(VGGLike, 9).float()]}, results=tmp_path)  # another third network
    assert len(set(tmp_path.rglob("*.parquet")) - set(shards)) == 1
    assert {evaluation.shards.provenance(path)["run"] for path in shards} == {0, 1, 2}


def test_maps_without_positive_values_are_told():
    dead = seeded(VGGLike).float()
    with torch.no_grad():
        dead.classifier[-1].weight.zero_()
    found = rows({"alive": NETS[0], "dead": dead}, methods=["gradient", "random"])
    assert found.groupby(["model", "method"])["empty"].agg(["min", "max"]).to_dict("index") == {
        ("alive", "gradient"): {"min": False, "max": False}, ("alive", "random"): {"min": False, "max": False},
        ("dead", "gradient"): {"min": True, "max": True}, ("dead", "random"): {"min": False, "max": False},
    }  # fmt: skip


def test_embedded_models_come_with_their_trainings(monkeypatch):
    monkeypatch.setattr(asked, "trainings", lambda model, data: [data, f"{data}-1", f"{data}-2"] if data == "mini-birds" else [data])
    assert asked.networks_of("mini-vgg", "mini-birds", 5) == ["mini-vgg"] * 3 and asked.networks_of("mini-vgg", "mini-birds", 2) == ["mini-vgg"] * 2
    assert asked.networks_of("mini-vgg", "mini-scenes", 5) == ["mini-vgg"] and asked.networks_of("vgg16", "mini-birds", 5) == ["vgg16"]
    assert asked.networks_of(NETS[0], "mini-birds", 5) == [NETS[0]] and asked.networks_of(NETS, [1], 1) == NETS
    loaded = []
    asked.the_model("mini-vgg", "mini-birds", "cpu", lambda name, weights, device: loaded.append(weights), 2)
    asked.the_model("mini-vgg", xr.load_data("mini-birds"), "cpu", lambda name, weights, device: loaded.append(weights))
    asked.the_model("vgg16", "mini-birds", "cpu", lambda name, weights, device: loaded.append(weights))
    assert loaded == ["mini-birds-2", "mini-birds", "imagenet"]


def test_trainings_are_in_the_order_of_their_seeds(tmp_path, monkeypatch):
    for name in ("mini-birds-10", "mini-birds", "mini-birds-2", "mini-scenes", "mini-birds-odd"):
        (tmp_path / f"mini-vgg--{name}.safetensors").touch()
    monkeypatch.setattr("xai_repro.models.zoo.SHIPPED", tmp_path)
    assert xr.trainings("mini-vgg") == ["mini-birds", "mini-birds-2", "mini-birds-10"]
    assert xr.trainings("mini-vgg", "mini-scenes") == ["mini-scenes"] and xr.trainings("mini-resnet") == []


@pytest.mark.parametrize("models", [{"family": []}, {"family": [NETS[0], "mini-vgg"]}, [NETS], {"family": [[NETS[0]]]}])
def test_what_is_no_family_of_networks(models):
    with pytest.raises(ValueError, match="a model is a name or a torch.nn.Module"):
        rows(models)

"""Files of weights: what is damaged or foreign is one clear error; where they are written is looked at first."""

import io
import json
import multiprocessing
import pickle
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

from xai_repro.data import load_data
from xai_repro.models import load_model, train, zoo
from xai_repro.models.reading import read_weights
from xai_repro.store.files import recorded, sha256

training = import_module("xai_repro.models.train")  # the package exports a function of that name
SHIPPED = zoo.SHIPPED / "mini-resnet--mini-birds.safetensors"
OPTIONS = {"device": "cpu", "progress": False}


@pytest.fixture
def written(tmp_path):
    """Write changed copies of shipped weights: (state dict -> None, metadata -> None) -> path."""

    def write(tensors=lambda state: None, facts=lambda facts: None):
        state, said = read_weights(SHIPPED)
        tensors(state)
        facts(said)
        save_file(state, tmp_path / "own.safetensors", said)
        return tmp_path / "own.safetensors"

    return write


def refused(path, match, name="mini-resnet"):
    with pytest.raises(ValueError, match=match) as error:
        load_model(name, path, device="cpu")
    assert str(path) in str(error.value) and len(str(error.value)) < 400


def test_a_copy_is_taken(written):
    path = written()
    assert load_model("mini-resnet", path).fingerprint == load_model("mini-resnet", str(path)).fingerprint


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 500, 5000, 100_000, -1])
def test_a_truncated_file(tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:length])
    refused(path, "is not a whole .safetensors file")


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "other.safetensors"
    pickled, ran = io.BytesIO(), tmp_path / "ran"
    torch.save({"x": torch.ones(2)}, pickled)

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    for body in (pickled.getvalue(), pickle.dumps(Evil()), b"<!DOCTYPE html>", b"\0" * 4096, SHIPPED.read_bytes() + b"x"):
        path.write_bytes(body)
        refused(path, "is not a whole .safetensors file")
    assert not ran.exists()


def test_any_flipped_bit_of_shipped_weights_is_noticed(tmp_path, monkeypatch):
    for path in (SHIPPED, SHIPPED.with_name(f"{SHIPPED.name}.sha256")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path)
    load_model("mini-resnet")
    damaged = bytearray(SHIPPED.read_bytes())
    damaged[-1000] ^= 1
    (tmp_path / SHIPPED.name).write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{SHIPPED.name} has SHA-256 .*the record beside it"):
        load_model("mini-resnet")


def test_all_shipped_weights_have_their_record():
    for path in zoo.SHIPPED.glob("*.safetensors"):
        assert recorded(path) == sha256(path)


def test_flipped_bits_of_a_header_end_in_a_clear_error_or_change_no_weight(tmp_path):
    """Without a record only what can be told from the file itself is noticed."""
    body, path = SHIPPED.read_bytes(), tmp_path / "flipped.safetensors"
    fine = load_model("mini-resnet", SHIPPED, device="cpu").fingerprint
    for bit in range(0, 8 * 2000, 997):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert load_model("mini-resnet", path, device="cpu").fingerprint == fine, bit
        except ValueError as error:
            assert str(path) in str(error), bit


def test_another_architecture(written):
    refused(written(), "holds weights of mini-resnet, not of mini-vgg", "mini-vgg")
    refused(written(), "holds weights of mini-resnet, not of resnet18", "resnet18")
    refused(written(facts=lambda facts: facts.pop("model")), "holds weights of an unknown model, not of mini-resnet")
    renamed = written(facts=lambda facts: facts.update(model="mini-vgg"))
    refused(renamed, "does not fit this network: it lacks .*; holds unknown", "mini-vgg")


@pytest.mark.parametrize("key", ["classes", "multi_label"])
def test_metadata_that_is_missing(written, key):
    refused(written(facts=lambda facts: facts.pop(key)), f"lacks {key} in its metadata")
    refused(written(facts=lambda facts: (facts.pop("classes"), facts.pop("multi_label"))), "lacks classes and multi_label")


@pytest.mark.parametrize("key, value", [("classes", "finch, heron"), ("classes", "16"), ("classes", "[]"), ("classes", "[1, 2]"),
                                        ("multi_label", "yes"), ("multi_label", "")])  # fmt: skip
def test_metadata_that_means_nothing(written, key, value):
    refused(written(facts=lambda facts: facts.update({key: value})), f"as {key} in its metadata; .* is needed")


def test_tensors_that_do_not_fit(written):
    def with_(**tensors):
        return written(lambda state: state.update({key.replace("_", "."): tensor for key, tensor in tensors.items()}))

    refused(written(lambda state: state.pop("fc.bias")), "it lacks fc.bias$")
    refused(written(lambda state: [state.pop(key) for key in list(state) if "bn1" in key]), r"bn1.weight, .*\.\.\. \(36 in all\)")
    refused(with_(head=torch.ones(2)), "it holds unknown head$")
    refused(with_(fc_weight=torch.ones(4, 512)), r"it has fc.weight \[4, 512\] in place of \[16, 512\]$")
    refused(with_(fc_bias=torch.ones(16).long()), r"it has fc.bias \[16\] of torch.int64 in place of \[16\]$")
    two = json.dumps(["one", "two"])
    refused(written(facts=lambda facts: facts.update(classes=two)), r"fc.weight \[16, 512\] in place of \[2, 512\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_no_finite_numbers(written, value):
    def spoil(state):
        state["fc.bias"] = state["fc.bias"].double()
        state["fc.bias"][3] = value

    refused(written(spoil), "not finite in fc.bias$")


# -- torchvision's ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_torchvision_models_take_files(name, tmp_path):
    path = tmp_path / "own.safetensors"
    state = {key: value + 0.01 if value.is_floating_point() else value for key, value in load_model(name).state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items() if "num_batches" not in key}, path, {"model": name})
    model = load_model(name, weights=str(path), device="cpu")  # counters of batches are no part of older files
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items()) and model.classes is None


def test_torchvision_models_refuse_files_of_others(tmp_path):
    path = tmp_path / "own.safetensors"
    state = {key: value.contiguous() for key, value in load_model("resnet18").state_dict().items()}
    save_file(state, path)
    refused(path, "does not fit this network", "resnet50")
    save_file(state, path, {"model": "resnet18"})
    refused(path, "holds weights of resnet18, not of resnet50", "resnet50")
    save_file(state | {"fc.weight": torch.ones(10, 512)}, path)
    refused(path, r"it has fc.weight \[10, 512\] in place of \[1000, 512\]$", "resnet18")
    save_file(state | {"fc.weight": torch.full((1000, 512), float("nan"))}, path)
    refused(path, "not finite in fc.weight", "resnet18")
    path.write_bytes(path.read_bytes()[:1000])
    refused(path, "is not a whole .safetensors file", "resnet18")


# -- Writing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """No picture is drawn before the path was looked at."""
    monkeypatch.setattr(training, "_draw", lambda *_: pytest.fail("the work has begun"))


def test_where_weights_are_written_is_looked_at_before_the_work(no_work, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    for out, error, why in [
        (tmp_path / "folder.safetensors", OSError, "is a folder"),
        (tmp_path / "file" / "own.safetensors", OSError, "file is a file"),
        ("/proc/nowhere/own.safetensors", OSError, "cannot write to"),
        (tmp_path / "own.pth", ValueError, "does not end in .safetensors"),
        (tmp_path, ValueError, "does not end in .safetensors"),
    ]:
        with pytest.raises(error, match=why):
            train("mini-vgg", "mini-birds", out=out, **OPTIONS)


def test_a_checkpoint_that_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_draw", lambda *_: (torch.zeros(2, 3, 96, 96), torch.zeros(2, 1, 96, 96), torch.zeros(2, 16)))
    fingerprint = load_data("mini-birds", "train").fingerprint
    checkpoint = tmp_path / f"own-mini-vgg-{fingerprint}-0-1-2-64-0.002-0.05.part"
    for body in (b"", b"nonsense", pickle.dumps(3, 2)):
        checkpoint.write_bytes(body)
        with pytest.raises(ValueError, match=f"{checkpoint.name} is damaged; remove it"):
            train("mini-vgg", "mini-birds", epochs=1, images=2, out=tmp_path / "own.safetensors", **OPTIONS)


def test_training_makes_the_folder_and_keeps_a_record(tmp_path, few_drawn):
    out = tmp_path / "new" / "own.safetensors"
    train("mini-resnet", "mini-birds", epochs=1, images=64, out=out, **OPTIONS)
    assert recorded(out) == sha256(out) and load_model("mini-resnet", out).name == "mini-resnet"
    assert sorted(path.name for path in out.parent.iterdir()) == ["own.safetensors", "own.safetensors.sha256"]
    damaged = bytearray(out.read_bytes())
    damaged[-1000] ^= 1
    out.write_bytes(damaged)
    refused(out, "has SHA-256 .*the record beside it")


def test_training_draws_where_processes_are_spawned():
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        pixels, objects, truth = training._draw(load_data("mini-birds", "train", limit=120), progress=False)
    finally:
        multiprocessing.set_start_method(before, force=True)
    data = load_data("mini-birds", "train", limit=120)
    assert pixels.shape == (120, 3, 96, 96) and objects.shape == (120, 1, 96, 96) and truth.shape == (120, 16)
    assert all(torch.equal(pixels[i].permute(1, 2, 0), torch.from_numpy(data.pixels(i)[0])) for i in (0, 99, 119))
    assert all(torch.equal(objects[i, 0], torch.from_numpy(data.pixels(i)[1])) for i in (0, 99, 119))

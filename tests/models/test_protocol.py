"""Training as the papers do it: what is held out, which epoch is kept, going on after a kill, and two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_recipe
from PIL import Image
from toy_recipe import Blots

from xai_repro.errors import UnknownName
from xai_repro.models import load_model, protocol, recipes, train_protocol, transform
from xai_repro.models.reading import read_weights

PROGRAM = Path(toy_recipe.__file__)
NAME = "lfi-cifar-resnet20"


@pytest.fixture(autouse=True)
def blots(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "blots", None)
    toy_recipe.install()


def trained(out, model=NAME, **options):
    return train_protocol(model, "blots", ".", out=out, **{"workers": 0, "device": "cpu", "progress": False} | options)


def same(one, other):
    (one, facts), (other, others) = read_weights(one), read_weights(other)
    return facts == others and one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_from_the_first_epoch_to_the_file(tmp_path):
    found = trained(tmp_path / "a.safetensors")
    model = load_model(NAME, tmp_path / "a.safetensors", device="cpu")
    assert model.classes == Blots.classes and model.input_size == 32 and model.view.mean == recipes.CIFAR_COLOURS[0]
    assert 1 <= found["best_epoch"] <= 3 and found["n"] == 30 and found["held_out"] == 6
    assert found["accuracy"] == pytest.approx(share_of_tests(model))
    facts = read_weights(tmp_path / "a.safetensors")[1]
    assert facts["epochs"] == "3" and facts["milestones"] == "(2,)" and facts["seed"] == "0" and facts["model"] == NAME
    assert not list(tmp_path.glob("*.part")) and (tmp_path / "a.safetensors.sha256").is_file()


def test_held_out_images_are_seen_neither_in_training_nor_from_the_test():
    shown, held, tested = protocol._images(recipes.recipe("blots"), ".", False)
    assert len(shown) == 54 and len(held) == 6 and not set(shown.indices) & set(held.indices)
    torch.manual_seed(0)  # two draws may fall together
    assert torch.equal(held[0][0], held[0][0]) and not torch.equal(shown[0][0], shown[0][0])  # moved at random, for training alone
    assert held.dataset.offset == shown.dataset.offset == 0 and tested.offset == 1000


def test_the_epoch_that_does_best_on_held_out_images_is_kept(tmp_path, monkeypatch):
    told, measure = iter([0.5, 0.9, 0.7]), protocol._accuracy
    kept = []

    def accuracy(net, batches, device):
        kept.append({key: value.clone() for key, value in net.state_dict().items()})
        return next(told, None) or measure(net, batches, device)

    monkeypatch.setattr(protocol, "_accuracy", accuracy)
    found = trained(tmp_path / "a.safetensors")
    assert found["best_epoch"] == 2 and found["held_out_accuracy"] == 0.9
    written = read_weights(tmp_path / "a.safetensors")[0]
    assert all(torch.equal(written[key].to(kept[1][key]), kept[1][key]) for key in written) and any(not torch.equal(kept[1][key], kept[2][key]) for key in written)


def test_the_first_of_equal_epochs_is_kept():
    net = torch.nn.Linear(1, 1)
    best = protocol.Best(net)
    for epoch, accuracy in enumerate((0.2, 0.6, 0.6), 1):
        best.offer(accuracy, epoch, net)
    assert best.epoch == 2


def test_a_plain_backbone_is_trained_and_read_again(tmp_path):
    trained(tmp_path / "a.safetensors", "resnet18", epochs=1)
    model = load_model("resnet18", tmp_path / "a.safetensors", device="cpu")
    assert model.classes == Blots.classes and model.fc.out_features == 3 and model.input_size == 32
    assert transform(model)(Image.new("RGB", (64, 48))).shape == (3, 32, 32)


def test_settings_do_not_share_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_epoch", lambda heads, batches, optimizer, *_: optimizer.step() or 0.0)
    names, write = [], protocol.write
    monkeypatch.setattr(protocol, "write", lambda path, function: (names.append(path.name), write(path, function)))
    for options in ({}, {"model": "abn-cifar-resnet20"}, {"seed": 1}, {"batch": 8}, {"rate": 0.02}, {"decay": 0.01}, {"epochs": 1}):
        trained(tmp_path / "a.safetensors", **options)
    parts = [name for name in names if name.endswith(".part")]
    assert len(set(parts)) == 7 and all("blots" in name for name in parts)


def test_milestones_move_with_the_epochs(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(protocol, "_epoch", lambda heads, batches, optimizer, *_: optimizer.step() or rates.append(optimizer.param_groups[0]["lr"]) or 0.0)
    trained(tmp_path / "a.safetensors", epochs=6)
    assert rates == pytest.approx([0.05] * 4 + [0.005] * 2)


def test_other_classes_for_tests_are_refused(tmp_path):
    for part, names in (("train", ("cat", "dog")), ("test", ("dog",))):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (40, 30)).save(tmp_path / part / name / "a.png")
    with pytest.raises(ValueError, match="the classes of the training images are not those of the test images: cat"):
        protocol._images(recipes.recipe("catsdogs"), tmp_path, False)


def test_the_rate_falls_at_the_milestones(tmp_path, monkeypatch):
    rates, epoch = [], protocol._epoch

    def noted(heads, batches, optimizer, device, seed):
        rates.append(optimizer.param_groups[0]["lr"])
        return epoch(heads, batches, optimizer, device, seed)

    monkeypatch.setattr(protocol, "_epoch", noted)
    trained(tmp_path / "a.safetensors")
    assert rates == pytest.approx([0.05, 0.05, 0.005])


@pytest.mark.parametrize("model", [NAME, "abn-cifar-resnet20"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, model):
    trained(tmp_path / "whole.safetensors", model)
    epoch, run = protocol._epoch, []

    def stops(*arguments):
        run.append(1)
        if len(run) == 2:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(protocol, "_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut.safetensors", model)
    assert list(tmp_path.glob("cut*.part"))
    trained(tmp_path / "cut.safetensors", model)
    assert len(run) == 4 and same(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    command = [sys.executable, str(PROGRAM), NAME]
    subprocess.run([*command, tmp_path / "whole.safetensors"], check=True, capture_output=True)
    running = subprocess.Popen([*command, tmp_path / "cut.safetensors"], stdout=subprocess.DEVNULL)
    checkpoint = first_checkpoint(tmp_path, running)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not (tmp_path / "cut.safetensors").exists()
    assert torch.load(checkpoint, weights_only=True)["epoch"] in (1, 2)
    subprocess.run([*command, tmp_path / "cut.safetensors"], check=True, capture_output=True)
    assert same(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")


def first_checkpoint(folder, running):
    """Wait until a training that runs has written what it would go on from."""
    deadline = time.monotonic() + 200
    while running.poll() is None and time.monotonic() < deadline:
        if found := [path for path in folder.glob("cut*.part") if not path.name.endswith(".tmp.part")]:
            return found[0]
        time.sleep(0.005)
    pytest.fail("no checkpoint was written")


@pytest.mark.slow
def test_two_processes_share_a_training(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM), "abn-cifar-resnet20"]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True, "start_new_session": True}
    done = subprocess.run([*command, tmp_path / "two.safetensors"], capture_output=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / f"two.safetensors.{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] and told[0]["n"] == 30  # both counted all test images
    assert share_of_tests(load_model("abn-cifar-resnet20", tmp_path / "two.safetensors", device="cpu")) == pytest.approx(told[0]["accuracy"])  # of what was written
    running = subprocess.Popen([*command, tmp_path / "cut.safetensors"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    first_checkpoint(tmp_path, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    subprocess.run([*command, tmp_path / "cut.safetensors"], capture_output=True, timeout=300, check=True, **options)
    assert same(tmp_path / "two.safetensors", tmp_path / "cut.safetensors")


def share_of_tests(model):
    """The share of the test images whose class is a model's top-1."""
    x, y = map(list, zip(*Blots(".", False, recipes.recipe("blots").transform(False), False)))
    with torch.inference_mode():
        return (model(torch.stack(x)).argmax(1) == torch.tensor(y)).float().mean().item()


def test_every_process_measures_the_first_ones_means(monkeypatch):
    net, sent = torch.nn.BatchNorm2d(2), []
    monkeypatch.setattr(protocol.distributed, "broadcast", lambda buffer, source: sent.append((buffer, source)))
    protocol._share_buffers(net, 1)
    assert not sent
    protocol._share_buffers(net, 2)
    assert [one for one, _ in sent] == list(net.buffers()) and {source for _, source in sent} == {0}


def test_processes_take_as_many_images_each():
    data = list(range(31))
    taken = [protocol._loader(data, 4, 7, workers=0, rank=rank, world=2).dataset.indices for rank in (0, 1)]
    assert [len(one) for one in taken] == [15, 15] and not set(taken[0]) & set(taken[1])
    held = [protocol._loader(data, 4, workers=0, rank=rank, world=2).dataset.indices for rank in (0, 1)]
    assert sorted(held[0] + held[1]) == data


def test_recipes_of_the_papers():
    assert {name: (one.side, one.batch, one.epochs, one.milestones, one.decay, one.rate) for name, one in recipes.RECIPES.items() if name != "blots"} == {
        "cifar100": (32, 128, 300, (150, 225), 1e-4, 0.1), "stl10": (224, 256, 300, (150, 225), 1e-4, 0.1),
        "catsdogs": (224, 256, 300, (150, 225), 1e-4, 0.1), "imagenet": (224, 256, 300, (150, 225), 1e-4, 0.1),
    }  # fmt: skip
    assert (recipes.recipe("imagenet", "abn-resnet50").epochs, recipes.recipe("imagenet", "abn-resnet50").milestones) == (90, (31, 61))


def test_a_folder_for_each_class(tmp_path):
    for part, count in (("train", 12), ("test", 4)):
        for n in range(count):
            place = tmp_path / part / ("cat", "dog")[n % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (n * 10, 0, 0)).save(place / f"{n}.png")
    shown, held, tested = protocol._images(recipes.recipe("catsdogs"), tmp_path, False)
    assert (len(shown), len(held), len(tested)) == (11, 1, 4) and tested.classes == ["cat", "dog"]
    assert shown[0][0].shape == tested[0][0].shape == (3, 224, 224)
    with pytest.raises(FileNotFoundError, match="no folder .*val"):
        protocol._images(recipes.recipe("imagenet"), tmp_path, False)


def test_the_command_trains_on_real_data(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from xai_repro.cli import app

    arguments = ["train", "--model", NAME, "--data", "blots", "--root", ".", "--workers", "0", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "a.safetensors")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "best_epoch: 1" in done.output
    told = CliRunner().invoke(app, ["train", "--model", NAME, "--data", "stl10"]).output
    assert "real data is needed with --root FOLDER, cifar100" in told
    monkeypatch.setenv("RANK", "1")
    assert "best_epoch" not in CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "b.safetensors")]).output


def test_what_is_refused(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(UnknownName, match="unknown model to train 'lfi-resnet5'; did you mean 'lfi-resnet50'"):
        train_protocol("lfi-resnet5", "blots", ".", out=out)
    with pytest.raises(UnknownName, match="unknown data set to train on 'stl1'; did you mean 'stl10'"):
        train_protocol(NAME, "stl1", ".", out=out)
    with pytest.raises(ValueError, match="epochs is 0"):
        trained(out, epochs=0)
    with pytest.raises(ValueError, match="rate is -1; a number above 0"):
        trained(out, rate=-1)
    with pytest.raises(ValueError, match="does not end in .safetensors"):
        trained(tmp_path / "a.bin")
    with pytest.raises(FileNotFoundError, match="no folder .*train: put the images there, in a folder for each class"):
        train_protocol("lfi-resnet18", "catsdogs", tmp_path, out=out)
    assert not list(tmp_path.iterdir())


def test_photos_are_brought_to_the_models_size():
    shape = transform(load_model("abn-resnet18"))(Blots(".", False, lambda image: image, False)[0][0]).shape
    assert shape == (3, 224, 224)

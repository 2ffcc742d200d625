"""The commands of CLAM: attributes are fitted, photos are explained by examples."""

import subprocess
import sys

import numpy as np
import pytest
import xai_repro as xr
from PIL import Image
from safetensors import safe_open
from test_cli import call, refused

from xai_repro.data import denormalize
from xai_repro.study.examples import evenly


@pytest.fixture
def bird(tmp_path, monkeypatch):
    """A photo of a test image of a class that is among the first training images, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    pixels = denormalize(xr.load_data("mini-birds")[3].image).permute(1, 2, 0).numpy()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save("bird.png")
    return "bird.png"


def test_layers_are_chosenevenly():
    assert evenly(list("abcdefghijklm"), 5) == list("adgjm") and evenly(list("abcde"), 5) == list("abcde") and evenly(list("abcdef"), 5)[::4] == list("af")


@pytest.mark.slow
def test_attributes_are_fitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--images", 16, "--layers", "core", "--device", "cpu", "--base", "sglrp", "--negatives", "random", "--normaliser", "count", "--mask", "patch", "--seed", 3]
    result = call("fit", "clam", *options)
    name = "clam--mini-vgg--mini-birds--sglrp--core.safetensors"
    assert result.exit_code == 0 and result.stdout == f"written: {name}\n", result.output
    with safe_open(name, "pt") as file:
        facts = file.metadata()
    assert {"images": "16", "negatives": "random", "normaliser": "count", "mask": "patch", "seed": "3", "base": "sglrp", "layers": "core", "epochs": "5"}.items() <= facts.items()


def test_only_what_is_given_is_passed_on(monkeypatch):
    asked = []
    monkeypatch.setattr("xai_repro.study.fitting.fit_clam", lambda *arguments, **options: asked.append((arguments, options)) or "a.safetensors")
    assert call("fit", "clam").stdout == "written: a.safetensors\n"
    call("fit", "clam", "--model", "vgg16", "--layers", "core", "--weights", "imagenet", "--seed", 0)
    assert asked == [(("mini-vgg", "mini-birds", "clrp", "full"), {"device": "auto"}), (("vgg16", "mini-birds", "clrp", "core"), {"device": "auto", "weights": "imagenet", "seed": 0})]


def test_what_cannot_be_fitted_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown thing to fit 'clams'; did you mean 'clam'? possible: clam" in refused("fit", "clams")
    assert "unknown base of CLAM 'lpr'; did you mean 'lrp'" in refused("fit", "clam", "--base", "lpr")
    assert not list(tmp_path.iterdir())


def test_a_photo_is_explained_by_examples(bird, tmp_path):
    result = call("examples", bird, "--images", 20, "--device", "cpu")
    assert result.exit_code == 0, result.output
    first, *lines, last = result.stdout.splitlines()
    assert first.startswith("bird.png: ") and last == "written: examples.png" and 800 < Image.open("examples.png").height < Image.open("examples.png").width  # five rows of six
    layers = [f"features.{n}" for n in (29, 27, 25, 22, 20, 18, 15, 13, 11, 8, 6, 3, 1)]
    assert [line.split(": ")[0] for line in lines] == layers
    data, predicted = xr.load_data("mini-birds", "train"), first.split(": ")[1].rsplit(", ", 2)[0].rpartition(" ")[0]
    for line in lines:
        names = line.split(": ")[1].split(", ")
        assert 1 <= len(names) <= 4 and {data.classes[data[int(name.rpartition("/")[2])].labels[0]] for name in names} == {predicted}
        assert all(int(name.rpartition("/")[2]) < 20 for name in names)
    other = call("examples", bird, "--images", 20, "--class", 12, "--out", "other.jpg", "--device", "cpu")
    assert other.exit_code == 0 and other.stdout.splitlines()[0] == first and other.stdout.splitlines()[1:-1] != lines and (tmp_path / "other.jpg").exists()
    assert len(list((tmp_path / "cache" / "examples").glob("*.safetensors"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"bird.png", "examples.png", "other.jpg", "cache"}


def test_a_picture_that_cannot_be_written_is_told_without_loading_torch(bird):
    for words, said in ((["--out", "panel.bmp"], "error: cannot write a picture as '.bmp'"), (["--weights", "nowhere.safetensors"], "error: no weights file nowhere"), (["--class", ""], "error: the class is empty")):
        code = f"import sys\nfrom typer.testing import CliRunner\nfrom xai_repro.cli import app\nresult = CliRunner().invoke(app, {['examples', bird, *words]})\nprint('torch' in sys.modules, result.stderr)"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        assert shown.startswith(f"False {said}"), shown


def test_examples_that_cannot_be_given(bird, tmp_path):
    assert "did you mean 'clrp'" in refused("examples", bird, "--base", "crlp")
    assert "unknown layers of CLAM 'most'" in refused("examples", bird, "--layers", "most")
    assert "did you mean 'mini-birds'" in refused("examples", bird, "--data", "mini-bird")
    assert "needs attributes that were fitted to this network, with base clrp and layers core" in refused("examples", bird, "--layers", "core")
    assert "no attributes file or folder nowhere" in refused("examples", bird, "--attributes", "nowhere")
    assert "of 1 training images the network recognises none of class moss pochard" in refused("examples", bird, "--images", 1, "--class", 15)
    assert "would be written over the photo" in refused("examples", bird, "--out", bird)
    assert {path.name for path in tmp_path.iterdir()} == {"bird.png", "cache"}

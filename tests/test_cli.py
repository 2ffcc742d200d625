"""The command line."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import xai_repro as xr
from xai_repro.cli import _settings, app
from xai_repro.photos import open_photo


def call(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def refused(*words):
    """The one line of an expected error."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def weights():
    """Shipped weights where there are any; the tests are of the command, not of the network."""
    try:
        xr.load_model("mini-vgg")
    except (LookupError, FileNotFoundError):
        return ["--weights", "random"]
    return []


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_it_starts_at_once():
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "xai_repro.cli", "--help"], check=True, capture_output=True)
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, xai_repro.cli; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "False"
    assert time.monotonic() - start < 10  # generous: a busy machine is not what is tested


def test_methods_are_listed_by_pattern():
    lines = call("methods", "grad-cam*").stdout.splitlines()
    assert [line.split()[0] for line in lines] == xr.methods("grad-cam*")
    assert "unknown method 'grad-cm'; did you mean 'grad-cam'" in refused("methods", "grad-cm")


def test_settings_are_json_or_text():
    given = _settings(["n=5", "rate=1e-3", "on=true", 'names=["a"]', "text=lift-cam", "empty="])
    assert given == {"n": 5, "rate": 1e-3, "on": True, "names": ["a"], "text": "lift-cam", "empty": ""}
    with pytest.raises(ValueError, match="NAME=VALUE"):
        _settings(["n"])


def test_errors_are_one_line(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'grad-cam'" in refused("explain", photo, "--methods", "gradcam")
    assert "no image nowhere.png" in refused("explain", "nowhere.png", "--methods", "grad-cam")
    assert "did you mean 'mini-vgg'" in refused("explain", photo, "--methods", "grad-cam", "--model", "mini-vg")
    assert "unknown hyper-parameter" in refused("explain", photo, "--methods", "grad-cam", "--set", "step=3")
    assert "unknown device 'gpu'" in refused("explain", photo, "--methods", "grad-cam", "--device", "gpu")
    assert "'.bmp'" in refused("explain", photo, "--methods", "grad-cam", "--out", "panel.bmp")
    (tmp_path / "text.png").write_text("no image")
    assert "not a readable image" in refused("explain", "text.png", "--methods", "grad-cam")
    assert "no notebooks in notebooks/" in refused("run")
    assert "did you mean 'smoke'" in refused("book", "--profile", "smoky")


def test_photos_are_explained(photo, tmp_path):
    out = tmp_path / "panel.png"
    other = tmp_path / "grey.jpg"
    Image.open(photo).convert("L").save(other)
    result = call(
        "explain", photo, other, "--methods", "grad-cam,gradient", "--class", 1, "--out", out, "--device", "cpu", *weights()
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith(f"{photo}: ") and lines[0].count(", ") == 2
    chances = [float(part.rsplit(" ", 1)[1]) for part in lines[0].split(": ", 1)[1].split(", ")]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.001
    assert Image.open(out).size[0] > 200 and not list(tmp_path.glob(".*part*"))
    assert "class 999 does not exist" in refused("explain", photo, "--methods", "grad-cam", "--class", 999, *weights())
    assert "layer" in refused("explain", photo, "--methods", "grad-cam", "--layer", "nowhere", *weights())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_photos_of_any_mode_can_be_read(mode, tmp_path):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 32768, np.uint16)).save(path)
    else:
        Image.new("RGB", (30, 20), (128, 128, 128)).convert(mode).save(path)
    photo = open_photo(path)
    assert photo.mode == "RGB" and photo.size == (30, 20)
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(photo, dtype=int) - 128).max() <= 3


def test_transparency_is_white_and_rotation_is_undone(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_photo(tmp_path / "clear.png")).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_photo(tmp_path / "turned.jpg").size == (20, 30)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ValueError, match="cut.jpg is not a readable image"):
        open_photo(tmp_path / "cut.jpg")


def test_the_doctor_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    result = call("doctor")
    assert result.exit_code == 0 and "python" in result.stdout and "fetch_weights.py vgg16" in result.stdout
    assert not (tmp_path / "results").exists()
    (tmp_path / "requirements.lock").write_text("numpy==0.1\nno-such-package==1.0\nother==1 ; sys_platform == 'none'\n")
    result = call("doctor")
    assert result.exit_code == 1 and "missing: no-such-package" in result.stdout and "(lock: 0.1)" in result.stdout
    assert "pip install -r requirements.lock" in result.stdout


def test_training_prints_how_good_the_model_is(monkeypatch):
    asked = {}
    monkeypatch.setattr("xai_repro.models.train", lambda model, data, **options: asked.update(options) or {"accuracy": 0.5})
    result = call("train", "--epochs", 1, "--seed", 3)
    assert result.stdout == "accuracy: 0.5\n" and (asked["epochs"], asked["seed"]) == (1, 3)
    assert json.dumps(asked["device"]) == '"auto"'

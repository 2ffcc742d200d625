"""The command line."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from toy_notebooks import write
from typer.testing import CliRunner

import xai_repro as xr
from xai_repro import doctor
from xai_repro.cli import _settings, app


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
    assert _settings(["n=[[1], [2]]", "m=" + "[" * 19 + "]" * 19])["n"] == [[1], [2]]
    for texts, why in [
        (["n"], "NAME=VALUE"), (["=3"], "NAME=VALUE"), (["n=3", "m=1", "n=3"], "gives n twice"),
        (["n=NaN"], "n: NaN is no finite number"), (["n=[1, -Infinity]"], "-Infinity is no finite number"),
        (["n=1e999"], "1e999 is no finite number"), (["n=" + "9" * 19], "too large a number"),
        (["n=" + "9" * 9999], "too large a number"), (["n=1" + "0" * 18], "too large a number"),
        (["n=" + "[" * 21 + "]" * 21], "more than 20 deep"), (["n=" + "[" * 99999], "more than 20 deep"),
        (["n=" + '{"a":' * 500 + "1" + "}" * 500], "more than 20 deep"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=why) as told:
            _settings(texts)
        assert len(str(told.value)) < 120


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
    assert "grad-cam" in refused("explain", photo, "--methods", "grad-cam,gradient,grad-cam")
    for methods in ("", "grad-cam,", ","):
        assert "a method is missing" in refused("explain", photo, "--methods", methods)
    assert "the layer is given twice" in refused("explain", photo, "--layer", "features.1", "--set", "layer=features.2")
    assert "the class is empty" in refused("explain", photo, "--class", "")
    assert "would be written over the photo" in refused("explain", photo, "--out", photo)
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
    assert "class 1000 does not exist" in refused("explain", photo, "--methods", "grad-cam", "--class", 1000, *weights())
    assert "layer" in refused("explain", photo, "--methods", "grad-cam", "--layer", "nowhere", *weights())


def test_what_can_be_refused_early_is(photo, tmp_path, monkeypatch):
    """Numbers and places are looked at before anything is run or measured."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for module, name in [("xai_repro.bench", "run"), ("xai_repro.site.driver", "make")]:
        monkeypatch.setattr(f"{module}.{name}", lambda *_, **__: pytest.fail("the work has begun"))
    write(tmp_path / "notebooks", "10_a")
    for threads in (0, -1):
        assert f"--threads is {threads}; at least 1" in refused("bench", "--threads", threads)
        assert f"jobs is {threads}; at least 1" in refused("run", "--profile", "smoke", "--jobs", threads)
    assert "cannot write to file/bench/bench.csv" in refused("bench", "--results", "file")
    assert "cannot write to file/smoke/notebooks/10_a.ipynb" in refused("run", "--profile", "smoke", "--results", "file")
    assert "file is a file" in refused("explain", photo, "--out", "file/panel.png")


def test_a_missing_weights_file_is_told_without_loading_torch(photo):
    asked = ["explain", str(photo), "--weights", "nowhere.safetensors"]
    code = "import sys\nfrom typer.testing import CliRunner\nfrom xai_repro.cli import app\n" + (
        f"result = CliRunner().invoke(app, {asked})\nprint('torch' in sys.modules, result.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.startswith("False error: no weights file nowhere.safetensors"), said


@pytest.mark.parametrize("words", [["--help"], ["explain", "--help"], ["methods"]])
def test_a_pipe_that_nobody_reads_ends_quietly(words):
    process = subprocess.Popen([sys.executable, "-m", "xai_repro.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141  # as a shell says of any program in `... | head`


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", b"caf\xe9 ?"), ("ascii", b"caf")])
def test_letters_that_a_terminal_lacks_stop_nothing(encoding, shown, photo):
    photo = photo.rename(photo.with_name("caf\u00e9 \u9ce5.png"))
    words = ["explain", photo.name, *weights(), "--methods", "gradient", "--device", "cpu"]
    code = f"from xai_repro.cli import app\ntry:\n    app({words})\nfinally:\n    print('caf\u00e9')"
    narrow = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run([sys.executable, "-c", code], cwd=photo.parent, env=narrow, capture_output=True)
    assert result.returncode == 0 and result.stdout.startswith(shown), result.stderr
    assert result.stdout.splitlines()[-1] == {"latin-1": b"caf\xe9", "ascii": b"caf?"}[encoding]


def test_it_works_without_docstrings(photo):
    for words in (["--help"], ["methods"], ["explain", photo.name, *weights(), "--methods", "grad-cam,gradient"]):
        command = [sys.executable, "-OO", "-m", "xai_repro.cli", *words]
        result = subprocess.run(command, cwd=photo.parent, capture_output=True, text=True)
        assert result.returncode == 0 and len(result.stdout.splitlines()) > 1, result.stderr


def test_the_doctor_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    result = call("doctor")
    assert result.exit_code == 0 and "python" in result.stdout and "fetch_weights.py vgg16" in result.stdout
    assert not (tmp_path / "results").exists()
    (tmp_path / "requirements.lock").write_text("numpy==0.1\nno-such-package==1.0\nother==1 ; sys_platform == 'none'\n")
    result = call("doctor")
    assert result.exit_code == 1 and "missing: no-such-package" in result.stdout and "(lock: 0.1)" in result.stdout
    assert "pip install --no-deps -r requirements.lock" in result.stdout


@pytest.mark.parametrize("lock", ["numpy==", "<<<<<<< ours\nnumpy==1\n", "numpy", "", "\0\1", "numpy==1 ; no_such_marker == 'a'"])
def test_the_doctor_tells_of_a_damaged_lock(lock, tmp_path):
    (tmp_path / "requirements.lock").write_text(lock)
    name, good, found, fix = doctor._packages(tmp_path / "requirements.lock")
    assert good is False and "requirements.lock is damaged: " in found and "bring back requirements.lock" in fix


def test_the_doctor_reads_checksums_and_other_things(tmp_path):
    lock = tmp_path / "requirements.lock"
    numpy = "numpy==2.4.6 ; python_version > '3' \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n    # via torch\n"
    lock.write_text(f"# made by\n{numpy}six==1.0  # why\n")
    assert [str(one) for one in doctor.locked(lock)] == ['numpy==2.4.6; python_version > "3"', "six==1.0"]
    lock.unlink()
    lock.mkdir()
    assert "is damaged: " in doctor._packages(lock)[2]


def test_the_doctor_tells_of_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for results in ("file", "file/results"):
        result = call("doctor", "--results", results)
        assert result.exit_code == 1 and f"cannot write to {results}: " in result.stdout and "is a file" in result.stdout
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user whom the system does not know
    monkeypatch.delenv("XAI_REPRO_CACHE", raising=False)
    result = call("doctor")
    assert result.exit_code == 1 and "this user has no home folder" in result.stdout and "HOME" in result.stdout


def test_training_prints_how_good_the_model_is(monkeypatch):
    asked = {}
    monkeypatch.setattr("xai_repro.models.train", lambda model, data, **options: asked.update(options) or {"accuracy": 0.5})
    result = call("train", "--epochs", 1, "--seed", 3)
    assert result.stdout == "accuracy: 0.5\n" and (asked["epochs"], asked["seed"]) == (1, 3)
    assert json.dumps(asked["device"]) == '"auto"'

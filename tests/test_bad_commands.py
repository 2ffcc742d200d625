"""Bad inputs to the command line, the driver, the builder of the book and photos: one line that helps, and every file as it was."""

import contextlib
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from toy_bad import cases, limited, refused, SECONDS, untouched
from toy_notebooks import write
from typer.testing import CliRunner

from xai_repro.cli import app
from xai_repro.errors import UnknownName
from xai_repro.photos import explain_photos, open_photo
from xai_repro.site.book import book
from xai_repro.site.driver import run, select

MADE = ("smoke", "mini", "notebooks", "logs", ".doit.db", ".lock", "new", "bench")  # folders that asking whether one can write there makes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of two notebooks, photos good and bad, and things that stand in the way."""
    with contextlib.chdir(tmp_path_factory.mktemp("project")):
        make_project()
        yield Path.cwd()


def make_project():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    photo.save("photo.png"), photo.save("other.jpg")
    for name, held in [("text.png", b"no image"), ("empty.png", b""), ("torn.png", Path("photo.png").read_bytes()[:400]), ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"), ("file", b"mine")]:
        Path(name).write_bytes(held)
    Image.new("1", (5000, 2)).save("narrow.png")
    Image.new("1", (12_000, 11_000)).save("vast.png")
    Image.fromarray(np.full((30, 30), np.nan, np.float32)).save("nan.tif")
    Path("folder").mkdir(), Path("folder.png").mkdir(), Path("loop.png").symlink_to("loop.png")
    write(Path("notebooks"), "10_a", more="n: int = 3\nrate: float = 0.1\nnames: list = []\nfast: bool = True\n")
    write(Path("notebooks"), "11_b", more="n: int = 3\nrate: float = 0.1\nnames: list = []\nfast: bool = True\n")
    for name, held in [("torn", "{"), ("empty", ""), ("list", "[]"), ("old", '{"worksheets": [], "nbformat": 2}')]:
        Path(name).mkdir()
        Path(name, "10_a.ipynb").write_text(held)
    Path("bare").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), "bare/10_a.ipynb")
    for name in ("results/smoke/notebooks/10_a", "results/smoke/notebooks/11_b", "half/smoke/notebooks/10_a"):  # executed, as far as the builder can tell
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.ipynb").touch()
    Path("mine").mkdir(), Path("mine/html").mkdir(), Path("mine/html/thesis.tex").write_text("mine")


@pytest.fixture(autouse=True)
def place(project, tmp_path, monkeypatch):
    """A copy of the project, which has to stay as it is; nothing is to be run, trained or measured."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "project", symlinks=True))
    for module, name in [("bench", "run"), ("site.driver", "make"), ("site.book", "make"), ("models.train", "_draw")]:
        monkeypatch.setattr(import_module(f"xai_repro.{module}"), name, lambda *_, **__: pytest.fail("the work has begun"))
    with untouched(tmp_path, MADE):
        yield


def told(words, said):
    """The command ends with code 2 and one line that says so; an option that does not exist is told by typer, on several lines."""
    with limited(SECONDS):
        result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") or "Error: " in result.stderr, result.stderr
    assert not [word for word in said if word not in result.stderr], result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr) < 800, result.stderr


def explain(*words, photo="photo.png", methods="gradient"):
    model = [] if "--model" in words else ["--model", "mini-vgg"]
    return ["explain", photo, "--weights", "random", "--methods", methods, *model, *words]


def fit(*words):
    return ["fit", "clam", *words]


def examples(*words):
    return ["examples", "photo.png", *words]


COMMANDS = [
    (["explian", "photo.png"], "No such command 'explian'"), (["explain"], "Missing argument 'IMAGE...'"), (["methods", "grad-cm"], "did you mean 'grad-cam'"), (["methods", "["], "unknown method '['"), (["methods", ""], "unknown method ''"),
    (["methods", "a", "b"], "unexpected extra argument"), (["explain", "photo.png", "--colour", "red"], "No such option: --colour"), (["explain", "photo.png", "--set"], "requires an argument"),
    (explain(photo="nowhere.png"), "no image nowhere.png"), (explain(photo="folder"), "no image folder"), (explain(photo="folder.png"), "no image folder.png"), (explain(photo="loop.png"), "no image loop.png"),
    (explain(photo=""), "no image"), (explain(photo="n" * 300 + ".png"), "no image nnn"), (explain(photo="file/x.png"), "no image file/x.png"), (explain(photo="photo.png\n"), "no image photo.png"),
    (explain(photo="text.png"), "text.png is not a readable image"), (explain(photo="empty.png"), "empty.png is not a readable image"), (explain(photo="torn.png"), "torn.png is not a readable image"),
    (explain(photo="page.eps"), "page.eps is not a readable image"), (explain(photo="file"), "file is not a readable image"), (explain(photo="narrow.png"), "5000 x 2 pixels", "100 times as long"), (explain(photo="vast.png"), "pixel"),
    (explain(photo="nan.tif"), "not finite"), (explain(photo="notebooks/10_a.ipynb"), "not a readable image"),
    (explain(methods="gradcam"), "did you mean 'grad-cam'"), (explain(methods=""), "a method is missing"), (explain(methods="gradient,"), "a method is missing"), (explain(methods="gradient,gradient"), "named twice: gradient"),
    (explain(methods="grad-cam;gradient"), "unknown method"), (explain(methods="GRADIENT"), "did you mean 'gradient'"), (explain(methods="*"), "unknown method '*'"), (explain(methods="m" * 9999), "unknown method", "..."),
    (explain("--model", "mini-vg"), "did you mean 'mini-vgg'"), (explain("--model", ""), "unknown model ''"), (explain("--model", "../mini-vgg"), "did you mean 'mini-vgg'"), (explain("--model", "vgg16", "--weights", "imagenet"), "no ImageNet weights of vgg16"),
    (explain("--weights", "mini-bird"), "did you mean 'mini-birds'"), (explain("--weights", ""), "unknown weights ''"), (explain("--weights", "nowhere.safetensors"), "no weights file nowhere.safetensors"), (explain("--weights", "folder"), "unknown weights"),
    (explain("--weights", "photo.png"), "a .safetensors file"), (explain("--weights", "x" * 300 + ".safetensors"), "no weights file"),
    (explain("--class", "999"), "class 999 does not exist", "0 to 15"), (explain("--class", "-1"), "unknown class '-1'"), (explain("--class", "1.5"), "unknown class '1.5'"), (explain("--class", ""), "the class is empty"), (explain("--class", "9" * 400), "does not exist", "..."),
    (explain("--class", "no bird"), "unknown class 'no bird'"), (explain("--layer", "nowhere", methods="grad-cam"), "unknown layer 'nowhere'"),
    (explain("--layer", "", methods="grad-cam"), "unknown layer ''"), (explain("--layer", "features.1", "--set", "layer=features.2", methods="grad-cam"), "given twice"), (explain("--layer", "classifier", methods="grad-cam"), "classifier"),
    (explain("--device", "gpu"), "unknown device 'gpu'"), (explain("--device", "cuda:99"), "unknown device 'cuda:99'"), (explain("--device", "meta"), "unknown device 'meta'"), (explain("--device", ""), "unknown device ''"),
    (explain("--out", "photo.png"), "written over the photo photo.png"), (explain("--out", "./folder/../photo.png"), "written over the photo"), (explain("--out", "panel.bmp"), "'.bmp'", ".png, .svg"), (explain("--out", "panel"), "''", ".png"),
    (explain("--out", "folder.png"), "folder.png is a folder"), (explain("--out", "file/panel.png"), "file is a file"), (explain("--out", ""), "cannot write a picture"), (explain("--out", "n" * 260 + ".png"), "too long"), (explain("--out", "a\0.png"), "Invalid value for '--out'"),
    (explain("--set", "steps"), "NAME=VALUE", "'steps'"), (explain("--set", "=3"), "NAME=VALUE"), (explain("--set", "step=3", methods="rise"), "unknown hyper-parameter of rise 'step'"), (explain("--set", "masks=3", "--set", "masks=4", methods="rise"), "masks twice"),
    (explain("--set", "masks=many", methods="rise"), "masks of rise is 'many'"), (explain("--set", "masks=0", methods="rise"), "at least 1"), (explain("--set", "masks=1e3", methods="rise"), "1000.0 (float)"), (explain("--set", "masks=" + "9" * 30, methods="rise"), "too large"),
    (explain("--set", "masks=[", methods="rise"), "'['"), (explain("--set", "masks=" + "[" * 5000, methods="rise"), "masks"), (explain("--set", "masks=null", methods="rise"), "None"), (explain("--set", "noise=NaN", methods="smoothgrad"), "no finite number"),
    (explain("--set", "masks={}", methods="rise"), "{}"), (explain("--set", "steps=true", methods="integrated-gradients"), "True"), (explain("--set", "masks =3", methods="rise"), "'masks"),
    (["run", "12"], "unknown notebook '12'"), (["run", "10_b"], "did you mean '11_b'"), (["run", ""], "unknown notebook ''"), (["run", "--profile", "smoky"], "did you mean 'smoke'"), (["run", "--profile", ""], "unknown profile ''"),
    (["run", "--jobs", "0"], "jobs is 0"), (["run", "--jobs", "-2"], "jobs is -2"), (["run", "--jobs", "two"], "a valid integer"), (["run", "--jobs", "9" * 30], "jobs is 999"), (["run", "--results", "file"], "cannot write to file/mini"),
    (["run", "--results", "n" * 300], "too long"), (["run", "--results", "a\0b"], "Invalid value for '--results'"), (["run", "--set", "m=3"], "unknown parameter of 10_a 'm'"), (["run", "--set", "n=three"], "'n' of 10_a takes"), (["run", "--set", "n=3.5"], "'n' of 10_a takes"),
    (["run", "--set", "profile=mini"], "set by the driver"), (["run", "--set", "names=a"], "'names' of 10_a takes"), (["run", "--set", "fast=1"], "'fast' of 10_a takes"), (["run", "--set", "n=Infinity"], "no finite number"),
    (["book", "--profile", "smoky"], "did you mean 'smoke'"), (["book"], "not executed with profile mini: 10_a, 11_b", "xai-repro run"), (["book", "--results", "file"], "not executed"),
    (["bench", "--threads", "0"], "--threads is 0"), (["bench", "--threads", "-1"], "--threads is -1"), (["bench", "--threads", "many"], "a valid integer"), (["bench", "--results", "file"], "cannot write to file/bench"),
    (["train", "--model", "vgg16"], "unknown embedded model 'vgg16'"), (["train", "--data", "mini-bird"], "did you mean 'mini-birds'"), (["train", "--data", "imagenet"], "real data is needed with --root FOLDER"), (["train", "--epochs", "0"], "epochs is 0"), (["train", "--epochs", "1.5"], "a valid integer"),
    (["train", "--epochs", "9" * 20], "at most"), (["train", "--seed", "-1"], "seed is -1"), (["train", "--seed", "9" * 20], "at most"), (["train", "--out", "net.pth"], ".safetensors"), (["train", "--out", "folder"], ".safetensors"),
    (["fit"], "Missing argument 'WHAT'"), (["fit", "cam"], "unknown thing to fit 'cam'; did you mean 'clam'"), (["fit", ""], "unknown thing to fit ''"), (fit("--base", "lpr"), "did you mean 'lrp'"), (fit("--layers", "most"), "unknown layers of CLAM 'most'"),
    (fit("--negatives", "none"), "unknown negatives 'none'"), (fit("--normaliser", ""), "unknown normaliser ''"), (fit("--mask", "middle"), "unknown mask 'middle'"), (fit("--images", "0"), "images is 0"), (fit("--images", "9" * 20), "at most"), (fit("--seed", "-1"), "seed is -1"),
    (fit("--model", "mini-vg"), "did you mean 'mini-vgg'"), (fit("--weights", "nowhere.safetensors"), "no weights file nowhere.safetensors"), (fit("--data", "mini-bird"), "did you mean 'mini-birds'"),
    (fit("--out", "net.pth"), "does not end in .safetensors"), (fit("--out", "file/a.safetensors"), "file is a file"), (fit("--device", "gpu"), "unknown device 'gpu'"),
    (["examples"], "Missing argument 'PHOTO'"), (["examples", "nowhere.png"], "no image nowhere.png"), (examples("--out", "panel.bmp"), "'.bmp'"), (examples("--out", "photo.png"), "written over the photo"), (examples("--out", "folder.png"), "folder.png is a folder"), (examples("--base", ""), "unknown base of CLAM ''"),
    (examples("--layers", "all"), "unknown layers of CLAM 'all'"), (examples("--attributes", "nowhere"), "no attributes file or folder nowhere"), (examples("--attributes", "photo.png"), "not a whole .safetensors file"), (examples("--images", "0"), "images is 0"), (examples("--images", "few"), "a valid integer"),
    (examples("--data", "imagenet"), "unknown split of imagenet 'train'"), (examples("--class", "999"), "class 999 does not exist"), (examples("--class", ""), "the class is empty"), (examples("--weights", "random"), "needs attributes that were fitted to this network"), (examples("--model", "alexnet", "--weights", "nowhere.safetensors"), "no weights file"),
    (examples("--device", "gpu"), "unknown device 'gpu'"),
    (["train", "--out", "file/net.safetensors"], "file is a file"), (["train", "--device", "gpu"], "unknown device 'gpu'"), (["doctor", "--deep"], "No such option: --deep"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), [pytest.param(words, said, id=" ".join(words)[:60]) for words, *said in COMMANDS])
def test_commands(words, said):
    told(words, said)


def photos(paths=("photo.png",), methods=("gradient",), out="panel.png", target=None, hyper=None, **more):
    return explain_photos(paths, more.get("model", "mini-vgg"), more.get("weights", "random"), methods, None, target, out, "cpu", hyper)


CALLS = [
    *((f"notebooks: {given!r:.30}", lambda given=given: run(given, "smoke"), kind, *said) for given, kind, *said in [
        ([], ValueError, "no notebook is named"), ("10_", UnknownName, "did you mean '10_a'"), ([None], UnknownName, "'None'"), (5, UnknownName, "'5'"), (["10_a", "12_c"], UnknownName, "'12_c'"), ("*x*", UnknownName, "'*x*'"),
        (b"10_a", UnknownName, "unknown notebook"), ({"10_a": 1, "nope": 2}, UnknownName, "unknown notebook"), ("n" * 10**5, UnknownName, "..."), (("10_a", ["11_b"]), UnknownName, "11_b"),
    ]),
    *((f"run: {name}={value!r:.30}", lambda name=name, value=value: run(**{name: value}), kind, *said) for name, value, kind, *said in [
        ("profile", 3, ValueError, "profile is 3"), ("profile", None, ValueError, "profile is None"), ("profile", ["mini"], ValueError, "a text is needed"), ("profile", "", UnknownName, "unknown profile ''"), ("profile", "../mini", UnknownName, "did you mean 'mini'"),
        ("parameters", "n=3", ValueError, "a dictionary is needed"), ("parameters", ["n"], ValueError, "a dictionary is needed"), ("parameters", {"n": "3"}, TypeError, "'n' of 10_a takes"), ("parameters", {"n": None}, TypeError, "'n' of 10_a takes"),
        ("parameters", {"rate": True}, TypeError, "'rate' of 10_a takes"), ("parameters", {3: 3}, UnknownName, "unknown parameter of 10_a '3'"), ("parameters", {"results": "x"}, ValueError, "set by the driver"),
        ("results", 3, ValueError, "results is 3"), ("results", None, ValueError, "results is None"), ("results", "file", OSError, "cannot write to file"), ("results", b"results", ValueError, "a path is needed"), ("results", "photo.png", OSError, "cannot write to photo.png"),
        ("jobs", 0, ValueError, "jobs is 0"), ("jobs", 1.5, ValueError, "jobs is 1.5"), ("jobs", "2", ValueError, "jobs is '2'"), ("jobs", True, ValueError, "jobs is True"), ("jobs", float("inf"), ValueError, "jobs is inf"), ("jobs", [1], ValueError, "jobs is [1]"),
        ("folder", 3, ValueError, "folder is 3"), ("folder", "nowhere", FileNotFoundError, "no notebooks in nowhere"), ("folder", "file", FileNotFoundError, "no notebooks in file"), ("folder", "folder", FileNotFoundError, "no notebooks in folder"), ("folder", "", FileNotFoundError, "no notebooks"),
        ("folder", "torn", ValueError, "10_a"), ("folder", "empty", ValueError, "10_a"), ("folder", "list", ValueError, "10_a"), ("folder", "old", ValueError, "10_a"), ("folder", "bare", ValueError, "10_a", "parameters"),
    ]),
    ("notebooks of a folder that is none", lambda: select(None, 7), ValueError, "folder is 7"),
    ("a book of a folder that is mine", lambda: book("smoke", out="mine"), ValueError, "mine holds something other than a site"),
    ("a book in the sources", lambda: book("smoke", out="notebooks"), ValueError, "cannot be built in notebooks"),
    ("a book around the sources", lambda: book("smoke", out="."), ValueError, "cannot be built in ."),
    ("a book in its results", lambda: book("smoke", out="results/smoke/site"), ValueError, "cannot be built in results/smoke/site"),
    ("a book in a file", lambda: book("smoke", out="file"), OSError, "file is a file"),
    ("a book below a file", lambda: book("smoke", out="file/site"), OSError, "cannot write to file/site"),
    ("a book of one notebook", lambda: book("smoke", "half"), FileNotFoundError, "11_b", "--profile smoke"),
    *((f"book: {name}={value!r:.30}", lambda name=name, value=value: book(**{name: value}), kind, *said) for name, value, kind, *said in [
        ("profile", 3, ValueError, "profile is 3"), ("profile", "smoky", UnknownName, "did you mean 'smoke'"), ("results", 3, ValueError, "results is 3"), ("out", None, ValueError, "out is None"), ("out", ["build"], ValueError, "a path is needed"),
        ("pages", 3, ValueError, "pages is 3"), ("folder", 3, ValueError, "folder is 3"), ("folder", "nowhere", FileNotFoundError, "no notebooks in nowhere"),
    ]),
    *((f"a photo: {given!r:.30}", lambda given=given: open_photo(given), kind, said) for given, kind, said in [
        (None, ValueError, "photo is None"), (3, ValueError, "photo is 3"), (b"photo.png", ValueError, "a path is needed"), ("", FileNotFoundError, "no image"), (["photo.png"], ValueError, "a path is needed"), ("photo.png\0", FileNotFoundError, "no image"),
    ]),
    *((f"photos: {name}={value!r:.30}", lambda name=name, value=value: photos(**{name: value}), kind, *said) for name, value, kind, *said in [
        ("paths", "photo.png", ValueError, "a list is needed"), ("paths", [], ValueError, "a photo is missing"), ("paths", None, ValueError, "a list is needed"), ("paths", [None], ValueError, "photo is None"), ("methods", "gradient", ValueError, "a list is needed"),
        ("methods", [], ValueError, "a method is missing"), ("methods", [3], UnknownName, "'3'"), ("methods", [["rise"]], UnknownName, "rise"), ("out", 3, ValueError, "out is 3"), ("out", "", ValueError, "''"), ("hyper", "masks=3", ValueError, "a dictionary is needed"),
        ("hyper", {"mask": 1}, UnknownName, "'mask'"), ("target", 99, ValueError, "class 99"), ("target", "nobird", UnknownName, "'nobird'"), ("target", -1, UnknownName, "'-1'"), ("model", 3, UnknownName, "unknown model '3'"), ("weights", 3, ValueError, "weights is 3"),
    ]),
]  # fmt: skip


@cases(CALLS)
def test_driver_book_and_photos(call, kind, words):
    refused(call, kind, words)

"""Bad inputs where things are asked for by name or file: models and their weights, data sets, printed tables, profiles, rows to be written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from PIL import Image
from safetensors.torch import save_file
from test_bad_explain import Odd, VGG
from toy_bad import cases, refused, untouched

from xai_repro.errors import UnknownName
from xai_repro.models.zoo import SHIPPED

DATA = xr.load_data("mini-birds", limit=3)
NET = xr.load_model("mini-vgg", weights="random", device="cpu")
NAN = float("nan")


def prepare(folder):
    """Files as they should not be: torn, empty, of something else, with other tensors or facts."""
    whole = (SHIPPED / "mini-vgg--mini-birds.safetensors").read_bytes()
    facts = {"model": "mini-vgg", "classes": '["a", "b"]', "multi_label": "False"}
    (folder / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").touch()
    (folder / "text.safetensors").write_text("weights, honestly")
    (folder / "huge.safetensors").write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    (folder / "longer.safetensors").write_bytes(whole + b"\0" * 100)
    (folder / "altered.safetensors").write_bytes(whole)
    (folder / "altered.safetensors.sha256").write_text("0" * 64 + "  altered.safetensors\n")
    (folder / "odd record.safetensors").write_bytes(whole)
    (folder / "odd record.safetensors.sha256").write_text("sha256 of the file")
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    torch.save({"weight": torch.ones(3)}, folder / "model.pth")
    for name, tensors, about in [
        ("nan", {"features.0.weight": torch.full((8, 3, 3, 3), NAN)}, facts), ("lacks", {"features.0.weight": torch.ones(8, 3, 3, 3)}, facts), ("other shape", {"features.0.weight": torch.ones(1)}, facts),
        ("whole numbers", {"features.0.weight": torch.ones(8, 3, 3, 3, dtype=torch.long)}, facts), ("nothing", {}, facts), ("no facts", {"a": torch.ones(1)}, None), ("other model", {"a": torch.ones(1)}, facts | {"model": "vgg16"}),
        ("no classes", {"a": torch.ones(1)}, facts | {"classes": "[]"}), ("classes no json", {"a": torch.ones(1)}, facts | {"classes": "a, b"}), ("classes numbers", {"a": torch.ones(1)}, facts | {"classes": "[1, 2]"}),
        ("labels maybe", {"a": torch.ones(1)}, facts | {"multi_label": "maybe"}), ("classes deep", {"a": torch.ones(1)}, facts | {"classes": "[" * 5000 + "]" * 5000}),
    ]:  # fmt: skip
        save_file(tensors, folder / f"{name}.safetensors", metadata=about)
    (folder / "file").write_text("mine")
    (folder / "rows.parquet").write_text("mine")
    (folder / "folder").mkdir()
    (folder / "folder" / "kept").write_text("mine")
    (folder / "loop").symlink_to("loop")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    with untouched(tmp_path):
        yield


def load(weights=None, name="mini-vgg", **more):
    return xr.load_model(name, weights=weights, **{"device": "cpu"} | more)


def write(path="rows.parquet", frame=None):
    return xr.write_rows(pd.DataFrame({"value": [1.0]}) if frame is None else frame, path)


LOADED = [
    *((f"a model by name: {given!r:.40}", lambda given=given: load(name=given), UnknownName, "unknown model", said) for given, said in [
        (None, "'None'"), ("", "''"), ("mini-vg", "did you mean 'mini-vgg'"), ("Mini-VGG", "did you mean 'mini-vgg'"), ("vgg-16", "did you mean 'vgg16'"), (b"vgg16", "vgg16"), (16, "'16'"), (["vgg16"], "vgg16"),
        (VGG, "VGGLike"), (Path("mini-vgg"), "mini-vgg"), ("vgg16\0", "vgg16"), ("m" * 10**5, "..."), ("../mini-vgg", "did you mean 'mini-vgg'"), (Odd(), "an odd thing"), ("fasterrcnn_resnet50_fpn", "unknown model"),
    ]),
    *((f"weights by name: {given!r:.40}", lambda given=given: load(given), UnknownName, "unknown weights", said) for given, said in [
        ("", "''"), ("imagenet", "mini-birds"), ("mini-bird", "did you mean 'mini-birds'"), (5, "'5'"), (True, "'True'"), (["random"], "random"), (b"random", "random"), ("model.pth", "a .safetensors file"), ("folder", "a .safetensors file"),
        ("file", "a .safetensors file"), (VGG.state_dict(), "OrderedDict"), (Odd(), "an odd thing"), ("nan.safetensors ", "a .safetensors file"), ("a" * 5000, "..."),
    ]),
    *((f"weights in a file: {given:.40}", lambda given=given: load(f"{given}.safetensors"), kind, f"{given:.40}", *said) for given, kind, *said in [
        ("nowhere", FileNotFoundError, "no weights file"), ("folder", FileNotFoundError, "no weights file"), ("loop", FileNotFoundError, "no weights file"), ("nowhere/else", FileNotFoundError, "no weights file"), ("n" * 300, FileNotFoundError, "no weights file"),
        ("a\0b", FileNotFoundError, "no weights file"), ("file/below", FileNotFoundError, "no weights file"), ("torn", ValueError, "not a whole .safetensors file"), ("empty", ValueError, "not a whole .safetensors file"),
        ("text", ValueError, "not a whole .safetensors file"), ("huge", ValueError, "not a whole .safetensors file"), ("longer", ValueError, "not a whole .safetensors file"), ("altered", ValueError, "has SHA-256", "the record beside it says 0000"),
        ("odd record", ValueError, "holds no SHA-256", "remove it"), ("nan", ValueError, "not finite", "features.0.weight"), ("lacks", ValueError, "lacks", "in all"), ("other shape", ValueError, "features.0.weight [1] in place of"),
        ("whole numbers", ValueError, "torch.int64"), ("nothing", ValueError, "lacks"), ("no facts", ValueError, "an unknown model, not of mini-vgg"), ("other model", ValueError, "weights of vgg16, not of mini-vgg"),
        ("no classes", ValueError, "[] as classes", "a list of names"), ("classes no json", ValueError, "a, b as classes", "a list of names"), ("classes numbers", ValueError, "[1, 2] as classes"), ("labels maybe", ValueError, "maybe as multi_label"),
        ("classes deep", ValueError, "as classes", "a list of names"),
    ]),
    ("weights of another network of torchvision", lambda: load("nothing.safetensors", "alexnet"), ValueError, "mini-vgg, not of alexnet"),
    ("weights of the embedded data for a large network", lambda: load("mini-birds", "alexnet"), UnknownName, "'mini-birds'", "imagenet"),
    ("weights that have not been fetched", lambda: load("imagenet", "alexnet"), FileNotFoundError, "no ImageNet weights of alexnet", "fetch_weights.py alexnet"),
    *((f"a device: {given!r:.40}", lambda given=given: load("random", device=given), UnknownName, "unknown device", said, "possible: auto, cpu") for given, said in [
        (None, "'None'"), ("gpu", "'gpu'"), ("cuda:99", "'cuda:99'"), ("meta", "'meta'"), (torch.device("meta"), "'meta'"), (0, "'0'"), ("", "''"), ("CPU", "did you mean 'cpu'"), (b"cpu", "cpu"), (["cpu"], "cpu"), ("cpu\n", "cpu"), (Odd(), "an odd thing"),
    ]),
    *((f"a transform for {name}", lambda given=given: xr.transform(given), ValueError, "load_model") for name, given in [("nothing", None), ("a name", "mini-vgg"), ("one's own model", VGG), ("odd things", Odd())]),
]
OPENED = [
    *((f"data by name: {given!r:.40}", lambda given=given: xr.load_data(given), UnknownName, "data set", said) for given, said in [
        (None, "'None'"), ("", "''"), ("mini-bird", "did you mean 'mini-birds'"), ("imagnet", "did you mean 'imagenet'"), (b"mini-birds", "mini-birds"), (["mini-birds"], "mini-birds"), (7, "'7'"), ("mini-birds/test", "did you mean 'mini-birds'"),
        (DATA, "mini-birds"), (Odd(), "an odd thing"), ("Mini-Birds", "did you mean 'mini-birds'"), ("m" * 10**5, "..."),
    ]),
    *((f"a split: {given!r:.40}", lambda given=given: xr.load_data("mini-birds", given), UnknownName, "unknown split", "train, val, test") for given in (None, "", "tests", "TEST", b"test", ["test"], 0, Odd())),
    *((f"so many images: {given!r:.40}", lambda given=given: xr.load_data("mini-birds", limit=given), ValueError, "limit is", said) for given, said in [
        (0, "at least 1"), (-1, "at least 1"), (2.0, "2.0"), ("10", "'10'"), (True, "True"), ([3], "[3]"), (NAN, "nan"), (np.float64(3), "3.0"), (np.array([3]), "array"), (Odd(), "an odd thing"), (10**40, "at most"),
    ]),
    ("a folder for drawn data", lambda: xr.load_data("mini-birds", root="data"), TypeError, "takes no root", "split, limit"),
    ("an option that drawn data lack", lambda: xr.load_data("mini-birds", shuffle=True), TypeError, "takes no shuffle", "split, limit"),
    ("an option that real data lack", lambda: xr.load_data("free-photographs", shuffle=True), TypeError, "takes no shuffle", "split, root, limit, transform"),
    ("real data that is not there", lambda: xr.load_data("imagenet", root="nowhere"), FileNotFoundError, "imagenet: no nowhere", "fetch_imagenet.py"),
    *((f"a picture: {given!r:.40}", lambda given=given: DATA[given], kind, said, "mini-birds" if kind is IndexError else "slice") for given, kind, said in [
        (3, IndexError, "no picture 3"), (-4, IndexError, "no picture -4"), (10**30, IndexError, "no picture 1000"), ("0", TypeError, "'0'"), (0.0, TypeError, "0.0"), (None, TypeError, "None"), ([0, 1], TypeError, "[0, 1]"), ((0, 1), TypeError, "(0, 1)"),
        (Ellipsis, TypeError, "Ellipsis"), (torch.tensor([0, 1]), TypeError, "tensor([0, 1])"), (np.array([0, 1]), TypeError, "array([0, 1])"), (slice("a", None), TypeError, "slice('a'"), (slice(None, None, 0), ValueError, "slice(None, None, 0)"),
    ]),
    ("pixels of no picture", lambda: DATA.pixels(99), IndexError, "no picture 99"),
    *((f"printed numbers of {given!r:.40}", lambda given=given: xr.published(given), UnknownName, "unknown paper", said) for given, said in [
        ("lift-cam", "did you mean 'lift_cam'"), ("", "''"), (3, "'3'"), (["lift_cam"], "lift_cam"), ({"paper": "clam"}, "clam"), (b"clam", "clam"), ("../lift_cam", "did you mean 'lift_cam'"), (Odd(), "an odd thing"), (NAN, "nan"),
    ]),
    *((f"printed table {given!r:.40}", lambda given=given: xr.published("lift_cam", given), UnknownName, "table of lift_cam", said) for given, said in [("99", "'99'"), (-1, "'-1'"), ("", "''"), ([7], "'[7]'"), ("7 ", "'7'"), (7.0, "'7.0'"), (True, "'True'")]),
    ("a printed table of no paper", lambda: xr.published(table=7), ValueError, "of which paper", "lift_cam"),
    *((f"a profile: {given!r:.40}", lambda given=given: xr.profile(given), UnknownName, "unknown profile", said) for given, said in [
        (None, "'None'"), ("", "''"), ("smoky", "did you mean 'smoke'"), ("MINI", "'MINI'"), (b"mini", "mini"), (["mini"], "mini"), (0, "'0'"), ("mini\n", "did you mean 'mini'"), ("../mini", "did you mean 'mini'"), (Odd(), "an odd thing"),
    ]),
]
WRITTEN = [
    *((f"rows for {given!r:.40}", lambda given=given: write(given), kind, *said) for given, kind, *said in [
        (None, ValueError, "None", "a path"), (3, ValueError, "3", "a path"), (b"rows", ValueError, "rows", "a path"), (["rows"], ValueError, "['rows']", "a path"), ("", IsADirectoryError, ". is a folder"), ("folder", IsADirectoryError, "folder is a folder"),
        (".", IsADirectoryError, ". is a folder"), ("file/rows.parquet", OSError, "file is a file"), ("loop/rows.parquet", OSError, "loop/rows.parquet"), ("n" * 300, OSError, "nnn", "too long"), ("a\0b", OSError, "cannot write to"),
    ]),
    *((f"rows that are {name}", lambda frame=frame: write(frame=frame), ValueError, said) for name, frame, said in [
        ("a list", [1, 2], "a DataFrame is needed"), ("a dictionary", {"value": [1]}, "a DataFrame is needed"), ("an array", np.ones(3), "a DataFrame is needed"), ("a text", "value", "a DataFrame is needed"),
        ("of mixed kinds", pd.DataFrame({"value": [1, "one"]}), "rows.parquet"), ("objects", pd.DataFrame({"value": [object()]}), "rows.parquet"), 
        ("two columns of one name", pd.DataFrame([[1, 2]], columns=["a", "a"]), "rows.parquet"), ("modules", pd.DataFrame({"value": [VGG]}), "rows.parquet"),
    ]),
]


@cases(LOADED, OPENED, WRITTEN)
def test_what_is_asked_for_by_name(call, kind, words):
    refused(call, kind, words)

"""Profiles and the records of claims are data: a name that nobody knows, or a value of the wrong kind, is an error when they are read."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from xai_repro.data import data_names
from xai_repro.errors import UnknownName
from xai_repro.store.fetch import cached, source
from xai_repro.models import model_names
from xai_repro.study import claims, profiles, records

NAMES = ("smoke", "mini", "photos", "paper")
TEXT = Path(profiles.__file__).with_name("profiles.toml").read_text()


# -- profiles ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_profiles_are_right(name):
    settings = profiles.profile(name)
    profiles.check_names(settings)
    assert settings["name"] == name and set(settings["models"]) <= set(model_names()) and set(settings["datasets"]) <= {*data_names()}
    assert {model for model, _ in settings["timing"]["settings"]} <= set(model_names())
    settings["images"]["other"] = -1  # the caller's own
    assert profiles.profile(name)["images"]["other"] > 0


@pytest.mark.parametrize("old, new, error, message", [
    ("gallery = 2\n", "galery = 2\n", UnknownName, "setting of profile 'smoke' 'galery'; did you mean 'gallery'"),
    ("gallery = 2\n", "", ValueError, "profile 'smoke' does not say 'gallery'"), ("gallery = 2\n", "gallery = 0\n", ValueError, "gallery of profile 'smoke' is 0"),
    ("gallery = 2\n", "gallery = 2.0\n", ValueError, "gallery of profile 'smoke' is 2.0"), ("gallery = 2\n", "gallery = true\n", ValueError, "gallery of profile"),
    ("images = { other = 4 }", "images = { othr = 4 }", ValueError, "images of profile 'smoke' does not say 'other'"),
    ("images = { other = 4 }", "images = { other = 4, mini-brids = 2 }", UnknownName, "data set in images of profile 'smoke' 'mini-brids'; did you mean 'mini-birds'"),
    ("images = { other = 4 }", "images = { other = -4 }", ValueError, "is -4"), ("images = { other = 4 }", "images = 4", ValueError, "a dictionary is needed"),
    ("images = { other = 4 }", "images = { other = 4, mini-birds = 2.5 }", ValueError, "images of mini-birds in profile 'smoke' is 2.5"),
    ('models = ["mini-vgg"]\ndatasets = ["mini-birds"]', 'models = "mini-vgg"\ndatasets = ["mini-birds"]', ValueError, "models of profile"),
    ("permutations = [1, 10, 100]", 'permutations = [1, "10"]', ValueError, "permutations of profile"), ("rise = { masks = 20 }", "rise = 20", ValueError, "hyper of rise"),
    ("masks = 10 ", "maks = 10 ", UnknownName, "timing of profile 'smoke' 'maks'; did you mean 'masks'"),
    ('[["mini-resnet", 64]]', '["mini-resnet", 64]', ValueError, "settings of timing"), ('[["mini-resnet", 64]]', '[["mini-resnet"]]', ValueError, "times .'mini-resnet'"),
    ('[["mini-resnet", 64]]', '[["mini-resnet", 6.5]]', ValueError, "side of the images"), ("[smoke.bench]", "[smoke.bnch]", UnknownName, "did you mean 'bench'"),
])  # fmt: skip
def test_a_wrong_profile_is_refused(monkeypatch, old, new, error, message):
    assert old in TEXT
    monkeypatch.setattr(profiles, "_text", lambda: TEXT.replace(old, new, 1))
    with pytest.raises(error, match=message):
        profiles.profile("smoke")
    assert profiles.profile("mini")["name"] == "mini"


@pytest.mark.parametrize("old, new, message", [
    ("rise = { masks = 20 }", "ries = { masks = 20 }", "method or metric in hyper of profile 'smoke' 'ries'; did you mean 'rise'"),
    ("rise = { masks = 20 }", "rise = { maks = 20 }", "hyper-parameter of rise 'maks'; did you mean 'masks'"),
    ("rise = { masks = 20 }", 'rise = { masks = "20" }', "masks of rise is '20'"), ("costly = [] ", 'costly = ["riss"]', "method 'riss'; did you mean 'rise'"),
])  # fmt: skip
def test_wrong_names_of_methods_are_refused_where_the_profile_is_used(monkeypatch, old, new, message):
    assert old in TEXT
    monkeypatch.setattr(profiles, "_text", lambda: TEXT.replace(old, new, 1))
    with pytest.raises((UnknownName, ValueError), match=message):
        profiles.check_names(profiles.profile("smoke"))


@pytest.mark.parametrize("name", [None, 3, ["mini"], {"mini": 1}, "mni"])
def test_no_profile(name):
    with pytest.raises(UnknownName, match="possible: smoke, mini, photos, paper"):
        profiles.profile(name)


def test_networks_that_were_fetched_are_models_of_the_profile(monkeypatch, tmp_path):
    """The name of the file is the one that `fetch_weights` gives it."""
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path))
    assert profiles.profile("photos")["models"] == ["efficientnet-lite0"]
    for name in ("resnet50", "vgg16"):
        (tmp_path / source(name)[1].replace(".pth", ".safetensors")).touch()
        assert cached(name)
    assert profiles.profile("photos")["models"] == ["efficientnet-lite0", "vgg16", "resnet50"] and profiles.profile("mini")["models"] == ["mini-vgg", "mini-resnet"]


def test_a_profile_costs_nothing_and_needs_no_torch():
    code = "import sys, xai_repro as xr; xr.profile('mini'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    start = time.perf_counter()
    for _ in range(20):
        profiles.profile("mini")
    assert time.perf_counter() - start < 1  # about 1 ms each


# -- records of claims ------------------------------------------------------------------------------------------------------

RECORD = """
[[claim]]
id = "x"
place = "Table 1"
says = "It is so."
test = "at_least"
method = { name = "rise", masks = 20 }
metric = "average-drop"
value = 0.5
dataset = ["imagenet", "cub"]
model = "vgg16"
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file of claims in place of the real ones and reads it."""
    monkeypatch.setattr(records, "folder", lambda: tmp_path)
    monkeypatch.setattr(records, "papers", lambda: {"clam": {}})

    def read(text, name="clam.toml"):
        records.of_paper.cache_clear()
        (tmp_path / name).write_text(text)
        return claims.all()

    yield read
    records.of_paper.cache_clear()


def test_a_right_record(written):
    (record,) = written(RECORD)
    assert record["paper"] == "clam" and len(records.comparisons(record)) == 2


@pytest.mark.parametrize("old, new, error, message", [
    ('test = "at_least"', 'test = "at_leats"', UnknownName, "test in claim x of clam 'at_leats'; did you mean 'at_least'"),
    ("value = 0.5", "valeu = 0.5", UnknownName, "argument of at_least in claim x of clam 'valeu'; did you mean 'value'"),
    ("value = 0.5\n", "", ValueError, "claim x of clam: at_least needs 'value'"), ("value = 0.5", 'value = "0.5"', ValueError, "value in claim x of clam is '0.5'"),
    ("value = 0.5", "value = [0.5]\ntolerance = 1", UnknownName, "argument of at_least"), ("value = 0.5", "value = nan", ValueError, "finite"),
    ('name = "rise"', 'name = "ries"', UnknownName, "method in claim x of clam 'ries'; .*nearest of .*rise"),
    ("masks = 20", "maks = 20", UnknownName, "hyper-parameter of rise 'maks'; did you mean 'masks'"), ("masks = 20", 'masks = "20"', ValueError, "masks of rise"),
    ('{ name = "rise", masks = 20 }', '"grad-camm"', UnknownName, "method in claim x of clam 'grad-camm'"), ('name = "rise", ', "", UnknownName, "method in claim x"),
    ('{ name = "rise", masks = 20 }', "3", UnknownName, "method in claim x of clam '3'"), ('{ name = "rise", masks = 20 }', "[]", ValueError, "a list is empty"),
    ('metric = "average-drop"', 'metric = "average-dorp"', UnknownName, "metric in claim x of clam 'average-dorp'; did you mean 'average-drop'"),
    ('"cub"]', '"cup"]', UnknownName, "dataset in claim x of clam 'cup'; did you mean 'cub'"), ('"vgg16"', '"vgg61"', UnknownName, "model in claim x of clam 'vgg61'"),
    ('id = "x"', 'id = "x"\nplcae = "y"', UnknownName, "argument of at_least in claim x of clam 'plcae'"), ('place = "Table 1"', "", ValueError, "place is None; a text"),
    ('says = "It is so."', 'says = ""', ValueError, "says is ''; a text"), ('id = "x"', "id = 3", ValueError, "id is 3; a text"), ("[[claim]]", "[[clam]]", UnknownName, "did you mean 'claim'"),
    ("[[claim]]", '[names]\nmetrik = []\n[[claim]]', UnknownName, "'metrik'; did you mean 'metrics'"), ("[[claim]]", "[claim", ValueError, "the claims of clam cannot be read"),
    ("[[claim]]", RECORD + "[[claim]]", ValueError, "two claims have the id x"), ("[[claim]]", '[names]\nlabels = "a"\n[[claim]]', ValueError, "labels in the claims of clam"),
])  # fmt: skip
def test_a_wrong_record_is_refused(written, old, new, error, message):
    assert old in RECORD
    with pytest.raises(error, match=message):
        written(RECORD.replace(old, new, 1))


def test_a_list_of_methods_has_two(written):
    steps = RECORD.replace('"at_least"', '"rising"').replace("value = 0.5\n", "").replace('method = { name = "rise", masks = 20 }', "methods = {}")
    assert written(steps.format('["rise", { name = "rise", masks = 9 }]'))
    for wrong, message in (('["rise"]', "at least two"), ('"rise"', "at least two"), ('["rise", "riss"]', "'riss'"), ('["rise", { name = "rise", mask = 9 }]', "'mask'")):
        with pytest.raises((UnknownName, ValueError), match=message):
            written(steps.format(wrong))


def test_what_a_file_names_is_known(written):
    assert written('[names]\nlabels = ["mine"]\n' + RECORD.replace('{ name = "rise", masks = 20 }', '"mine"'))
    with pytest.raises(UnknownName, match="paper, of which there is a file of claims clan.toml"):
        written(RECORD, "clan.toml")


def test_what_the_files_name_is_needed():
    """A list that has outlived its reason hides the next misspelt name."""
    for paper in records.papers():
        table = records.tomllib.loads(records.folder().joinpath(f"{paper}.toml").read_text(encoding="utf-8"))
        used = str(table["claim"])
        possible = records._possible(paper, {})
        for kind, names in table.get("names", {}).items():
            assert all(repr(name) in used or f'"{name}"' in used for name in names)
            assert not set(names) & set(possible[{"labels": "method", "metrics": "metric", "models": "model"}[kind]])


def test_the_records_are_the_callers_own():
    claims.all()[0]["says"] = "changed"
    assert claims.all()[0]["says"] != "changed"

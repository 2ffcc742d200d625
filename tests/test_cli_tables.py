"""The commands that print tables, claims and names, and how soon they answer."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image
from test_cli import call, refused

import xai_repro as xr
from xai_repro.cli import app
from xai_repro.published import papers
from xai_repro.registry import expected
from xai_repro.site import lookup
from xai_repro.store import fetch

PART = {"notebook": "10_a", "file": "a.csv", "caption": "Table 4", "provenance": {}, "shown": "method,ours\nLIFT-CAM,1.0\n"}


def test_metrics_are_listed_with_their_direction():
    lines = call("metrics", "average-drop*").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["average-drop", "less"], ["average-drop-in-deletion", "more"]]
    assert len(call("metrics").stdout.splitlines()) == len(xr.metrics())
    assert "unknown metric 'average-drap'; did you mean 'average-drop'" in refused("metrics", "average-drap")


def test_names_are_known_before_torch_is():
    assert set(xr.methods()) <= set(expected("method")) and set(xr.metrics()) <= set(expected("metric"))
    assert len(expected("method")) == len(set(expected("method")))


def test_the_version_is_said():
    result = call("--version")
    assert result.exit_code == 0 and result.stdout == f"xai-repro {xr.__version__}\n"


def test_a_table_is_printed_in_three_ways(monkeypatch):
    asked, numbers = [], pd.DataFrame({"method": ["LIFT-CAM"], "ours": [1.5]})
    monkeypatch.setattr(lookup, "table", lambda *given: asked.append(given) or [PART | {"numbers": numbers}, PART | {"numbers": numbers}])
    assert call("table", "lift_cam", 4, "--profile", "smoke", "--csv").stdout == "\n".join([PART["shown"]] * 2)
    assert call("table", "lift_cam", 4).stdout == "\n".join(["Table 4\n\nmethod    ours\nLIFT-CAM  1.50\n\n10_a: a.csv\n"] * 2)
    found = json.loads(call("table", "lift_cam", 4, "--json").stdout)
    assert found["table"] == "4" and found["numbers"] == [{"method": "LIFT-CAM", "ours": 1.5}]  # each once
    assert "which one" in refused("table", "lift_cam", 4, "--json", "--csv")
    assert [(paper, number, profile) for paper, number, profile, _ in asked] == [("lift_cam", "4", "smoke"), ("lift_cam", "4", "mini"), ("lift_cam", "4", "mini")]
    assert all(paper in call("table", "--help").stdout for paper in papers())


def test_claims_are_printed_in_two_ways(monkeypatch):
    row = {"paper": "clam", "place": "A", "says": "it helps", "outcome": "holds", "estimate": 0.5, "low": 0.4, "high": 0.6, "n": 24}
    monkeypatch.setattr(lookup, "claims", lambda *given: pd.DataFrame([row]))
    assert call("claims", "--paper", "clam").stdout == "holds           clam, A: it helps  0.5 (0.4 to 0.6), 24 images\n1 claims: 1 holds\n"
    assert json.loads(call("claims", "--json").stdout) == [row]


QUICK = [
    (["--version"], "xai-repro"), (["methods", "grad-cm"], "did you mean 'grad-cam'"), (["metrics", "averag-drop"], "did you mean 'average-drop'"),
    (["explain", "photo.png", "--methods", "gradcam"], "did you mean 'grad-cam'"), (["explain", "photo.png", "--model", "vgg16"], "no ImageNet weights of vgg16", "vgg16-397923af.pth"),
    (["examples", "photo.png", "--model", "resnet50"], "no ImageNet weights of resnet50"), (["explain", "photo.png", "--weights", "nowhere.safetensors"], "no weights file"), (["run", "--profile", "smoky"], "did you mean 'smoke'"), (["run"], "no notebooks in notebooks/"),
    (["book", "--profile", "smoky"], "did you mean 'smoke'"), (["table", "lift", "4"], "did you mean 'lift_cam'"), (["table", "lift_cam", "44"], "did you mean '4'"), (["table", "lift_cam", "4"], "no notebooks in notebooks/"),
    (["claims", "--paper", "lift"], "did you mean 'lift_cam'"), (["claims"], "to test them: xai-repro run --profile mini"), (["fit", "clams"], "did you mean 'clam'"),
]  # fmt: skip


def test_help_and_what_is_wrong_are_told_before_torch_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (20, 20)).save("photo.png")
    helped = [["--help"], *([command.name or command.callback.__name__, "--help"] for command in app.registered_commands)]
    asked = helped + [words for words, *_ in QUICK]
    code = "import json, sys\nfrom typer.testing import CliRunner\nfrom xai_repro.cli import app\n" + (
        f"for words in {asked}:\n    result = CliRunner().invoke(app, words)\n    print(json.dumps(['torch' in sys.modules, result.output]))"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(asked) and len(helped) >= 14
    said = [["Usage"]] * len(helped) + [wanted for _, *wanted in QUICK]
    for words, wanted, line in zip(asked, said, lines):
        loaded, output = json.loads(line)
        assert not loaded and all(one in output for one in wanted), (words, output)


def test_the_files_of_the_papers_networks_are_torchvisions():
    for name, file in fetch.NETWORKS.items():
        assert fetch.source(name)[:2] == (f"{fetch.TORCHVISION}/{file}", file)


@pytest.mark.parametrize(("weights", "known"), [("mini-birds", "16 kinds of drawn birds"), ("mini-scenes", "kinds of things in drawn scenes")])
def test_a_network_of_drawn_pictures_says_that_it_knows_no_photographs(weights, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 100), "green").save("photo.png")
    result = call("explain", "photo.png", "--model", "mini-vgg", "--weights", weights, "--methods", "gradient", "--device", "cpu")
    assert result.exit_code == 0 and result.stderr.startswith("warning: mini-vgg knows ") and known in result.stderr
    assert "warning" not in result.stdout and len(result.stdout.splitlines()) == 2

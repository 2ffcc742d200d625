"""The benchmark runs, agrees with its peers where they compute the same, and says what is missing."""

import builtins
import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from xai_repro import bench
from xai_repro.cli import app

pytest.importorskip("captum")
pytest.importorskip("pytorch_grad_cam")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return CliRunner().invoke(app, ["bench", "shapley", "--quick", "--results", str(results)]), results / "bench"


def test_files_and_lines(outcome):
    result, folder = outcome
    assert result.exit_code == 0, result.output
    table = pd.read_csv(folder / "bench_shapley.csv", keep_default_na=False)
    assert len(result.stdout.splitlines()) == len(table) + 1 == 7 and "captum ShapleyValueSampling" in result.stdout
    assert [row["peer"] for row in json.loads((folder / "bench_shapley.json").read_text())] == table["peer"].tolist()
    assert (folder / "bench_shapley.svg").read_text().startswith("<?xml")
    assert (table["least"] <= table["ratio"]).all() and (table["ratio"] <= table["greatest"]).all() and (table["threads"] == 1).all()
    assert (table[["ours_seconds", "peer_seconds", "ratio", "cpu_ratio", "ours_mb", "peer_mb"]] > 0).all(axis=None)
    assert table["note"].str.contains("measured").sum() == 3


def test_what_is_the_same_agrees(outcome):
    table = pd.read_csv(outcome[1] / "bench_shapley.csv").set_index("peer")
    for peer in ("captum ShapleyValueSampling", "captum FeatureAblation", "grad-cam AblationCAM"):
        assert table.loc[peer, "cosine"] > 0.99999 and table.loc[peer, "max_difference"] < 1e-3
    assert table.loc["grad-cam ScoreCAM", "cosine"] > 0.9


def test_threads_and_random_state_come_back():
    other = torch.nn.Linear(2, 2)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(ValueError, match="takes a torchvision VGG; got Linear"):
        bench.shapley(quick=True, model=other, threads=before + 1)
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)


def test_missing_peers_are_named(monkeypatch):
    plain = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pytorch_grad_cam"):
            raise ModuleNotFoundError("No module named 'pytorch_grad_cam'", name="pytorch_grad_cam")
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    result = CliRunner().invoke(app, ["bench", "shapley", "--quick"])
    assert result.exit_code == 2 and "pytorch_grad_cam is missing: pip install xai-repro[bench]" in result.stderr


def test_unknown_benchmark():
    result = CliRunner().invoke(app, ["bench", "shaply"])
    assert result.exit_code == 2 and "unknown benchmark 'shaply'; did you mean 'shapley'" in result.stderr

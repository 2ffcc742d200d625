"""Shards that survive interruption, damage and change."""

import os

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from toy_evaluation import (
    Brightest, Data, evaluate, evaluation, run, samples, shard_files, shards, shards_or_none, stable, toys,
)  # fmt: skip


# -- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 3)


def test_done_is_done(toys, tmp_path, small_blocks):
    first = run(tmp_path)
    before, calls = shards(tmp_path), dict(toys)
    assert len(before) == 2 * 2 * 3
    pd.testing.assert_frame_equal(run(tmp_path), first)  # seconds included: nothing was computed
    assert shards(tmp_path) == before and toys == calls
    pd.testing.assert_frame_equal(stable(first), stable(run()))  # in memory, the same


def test_more_images_keep_the_full_blocks(toys, tmp_path, small_blocks):
    run(tmp_path, limit=3, methods=["toy-flat"], metrics=["toy-mean"])
    assert toys["toy-flat"] == 1
    run(tmp_path, limit=7, methods=["toy-flat"], metrics=["toy-mean"])
    assert toys["toy-flat"] == 3


def test_interrupted_then_resumed_equals_uninterrupted(toys, tmp_path, small_blocks, monkeypatch):
    write, left = shard_files.write, [5]

    def dies(table, path):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(table, path)

    monkeypatch.setattr(shard_files, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(shards(tmp_path)) == 5
    half = shards(tmp_path)
    monkeypatch.setattr(shard_files, "write", write)
    frame = run(tmp_path)
    pd.testing.assert_frame_equal(stable(frame), stable(run()))
    assert not frame.duplicated(["dataset", "model", "image_id", "target", "method", "hyper", "metric"]).any()
    assert half.items() <= shards(tmp_path).items()


def test_maps_that_took_long_serve_metrics_asked_for_later(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    run(tmp_path, metrics=["toy-mean"], methods=["toy-channel"])
    assert toys["toy-channel"] == 3 and len(list((tmp_path / "maps").glob("*.safetensors"))) == 1
    later = run(tmp_path, methods=["toy-channel"])
    assert toys["toy-channel"] == 3 and later.groupby("metric")["seconds"].first().nunique() == 1
    pd.testing.assert_frame_equal(stable(later), stable(run(methods=["toy-channel"])))
    calls = toys["toy-channel"]
    for changed in ({"methods": [("toy-channel", {"gain": 2.0})]}, {"data": Data(samples(8)[1:])}, {"limit": 5}):
        run(tmp_path, metrics=["toy-mean"], **({"methods": ["toy-channel"]} | changed))
    assert toys["toy-channel"] > calls + 3  # none of them is the same cell


def test_maps_that_were_quick_are_not_kept(toys, tmp_path):
    run(tmp_path)
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_maps_are_made_again(toys, tmp_path, monkeypatch, content):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    run(tmp_path, metrics=["toy-mean"], methods=["toy-channel"])
    (path,) = (tmp_path / "maps").iterdir()
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.warns(RuntimeWarning, match="damaged maps .*: made again"):
        later = run(tmp_path, methods=["toy-channel"])
    pd.testing.assert_frame_equal(stable(later), stable(run(methods=["toy-channel"])))


def test_killed_while_writing_leaves_no_shard(toys, tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not shards_or_none(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "rows missing"])
def test_damaged_shard_is_named_and_computed_again(toys, tmp_path, damage):
    first = run(tmp_path)
    path = sorted((tmp_path / "shards").glob("*toy-flat--toy-mean*"))[0]
    if damage == "rows missing":
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 3), path)
    else:
        path.write_bytes(path.read_bytes()[: 400 if damage == "truncated" else 0])
    calls = toys["toy-channel"]
    with pytest.warns(RuntimeWarning, match=f"damaged shard .*{path.name.replace('.', chr(92) + '.')}"):
        frame = run(tmp_path)
    pd.testing.assert_frame_equal(stable(frame), stable(first))
    assert toys["toy-channel"] == calls
    pd.testing.assert_frame_equal(run(tmp_path), frame)


def test_a_changed_hyper_parameter_is_a_new_shard_and_a_spelt_out_default_is_not(toys, tmp_path):
    run(tmp_path)
    before = shards(tmp_path)
    calls = dict(toys)
    run(tmp_path, methods=[("toy-channel", {"gain": 1.0}), "toy-flat"])
    assert shards(tmp_path) == before
    run(tmp_path, methods=[("toy-channel", {"gain": 3.0}), "toy-flat"])
    after = shards(tmp_path)
    new = [name for name in after if name not in before]
    assert before.items() <= after.items() and len(new) == 2 and all("toy-channel" in name for name in new)
    assert toys["toy-flat"] == calls["toy-flat"]


def test_changed_weights_or_images_are_new_shards(toys, tmp_path):
    run(tmp_path)
    n = len(shards(tmp_path))
    model, data = Brightest(), Data(samples())
    model.scale.data *= 2
    evaluate(model, data, ["toy-channel", "toy-flat"], ["toy-mean", "toy-inside"], results=tmp_path, limit=7)
    assert len(shards(tmp_path)) == 2 * n
    data.fingerprint = "v2"
    run(tmp_path, data=data)
    assert len(shards(tmp_path)) == 3 * n
    data.fingerprint = None  # a data set without one counts by its pixels
    run(tmp_path, data=data)
    run(tmp_path, data=data)
    assert len(shards(tmp_path)) == 4 * n


def test_provenance_travels_in_the_shard(toys, tmp_path):
    run(tmp_path, methods=[("toy-channel", {"gain": 2.0})], metrics=["toy-mean"], profile="smoke")
    facts = shard_files.provenance(next((tmp_path / "shards").glob("*")))
    assert facts["hyper"] == {"toy-channel": {"gain": 2.0}, "toy-mean": {}}
    assert facts["profile"] == "smoke" and facts["rows"] == 7 and facts["block"] == [0, 7]
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"] == torch.__version__
    assert {"commit", "device", "seed", "weights", "images"} <= set(facts)

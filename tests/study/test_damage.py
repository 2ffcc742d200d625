"""Damage on disk: whatever happens to a file, what is read from it is what was written, or nothing."""

import json
import random
import warnings

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toy_evaluation import Data, evaluation, run, samples, shard_files, stable, toys

MANY = Data(samples(30))


@pytest.fixture
def files(toys, tmp_path, monkeypatch):
    """A shard and the kept maps of a block, and the batches that these maps are of."""
    monkeypatch.setattr(evaluation, "SLOW", 0)
    batches, made = [], evaluation.block_of
    monkeypatch.setattr(evaluation, "block_of", lambda *job: (block := made(*job), batches.extend(block.batches))[0])
    run(tmp_path, methods=["toy-channel"], metrics=["toy-inside"], data=MANY, limit=30)
    (shard,), (maps,) = (list((tmp_path / name).iterdir()) for name in ("shards", "maps"))
    return shard, maps, batches


def rows_of(path):
    """Everything that is read from a shard, or None."""
    table = shard_files.read(path)
    return None if table is None else (json.dumps(table.to_pydict()), shard_files.provenance(path))


def maps_of(path, batches):
    """Everything that is read from kept maps, or None."""
    kept = shard_files.kept_maps(path, batches)
    return None if kept is None else ([(str(one.dtype), one.tolist()) for one in kept[0]], kept[1])


def flips(path, read, count, seed):
    """What reading gives after each of many single flipped bits, one at a time: how often nothing, and how often the same."""
    whole, draw, found = path.read_bytes(), random.Random(seed), {"noticed": 0, "harmless": 0}
    before = read(path)
    assert before is not None
    for _ in range(count):
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = read(path)
        assert after in (None, before), f"bit {bit} of byte {place}"
        found["noticed" if after is None else "harmless"] += 1
    path.write_bytes(whole)
    return found


@pytest.mark.slow
def test_no_flipped_bit_changes_what_is_read(files):
    shard, maps, batches = files
    assert flips(shard, rows_of, 1500, seed=1)["noticed"] > 750  # of parquet's bytes, many stand twice or only help to search
    assert flips(maps, lambda path: maps_of(path, batches), 1500, seed=2)["noticed"] > 1450


def test_a_few_flipped_bits(files):
    shard, maps, batches = files
    flips(shard, rows_of, 60, seed=3), flips(maps, lambda path: maps_of(path, batches), 60, seed=4)


def test_a_changed_value_is_named_and_computed_again(toys, tmp_path):
    """As an editor of parquet files leaves it: whole in every other respect."""
    first = run(tmp_path)
    path = sorted((tmp_path / "shards").glob("*toy-flat--toy-mean*"))[0]
    table = pd.read_parquet(path)
    metadata = shard_files.pq.read_schema(path).metadata
    for change in ({"value": 0.5}, {"status": "OK"}, {"seconds": 1.0}, {"target": 7}):
        changed = shard_files.pa.Table.from_pandas(table.assign(**change), shard_files._SCHEMA, preserve_index=False)
        shard_files.pq.write_table(changed.replace_schema_metadata(metadata), path)
        with pytest.warns(RuntimeWarning, match=f"damaged shard .*{path.name}.*computed again"):
            pd.testing.assert_frame_equal(stable(run(tmp_path)), stable(first))


def test_a_changed_provenance_is_damage(files):
    shard, *_ = files
    table = shard_files.pq.read_table(shard)
    facts = {key: value.replace(b'"profile": "mini"', b'"profile": "paper"') for key, value in table.schema.metadata.items()}
    shard_files.pq.write_table(table.replace_schema_metadata(facts), shard)
    with pytest.raises(ValueError, match="not what was written"):
        shard_files.provenance(shard)
    with pytest.warns(RuntimeWarning, match="damaged shard"):
        assert shard_files.read(shard) is None


@pytest.mark.parametrize("folder", ["shards", "maps"])
def test_a_file_of_another_cell_under_this_name_is_damage(toys, tmp_path, monkeypatch, folder):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    first = run(tmp_path, metrics=["toy-mean"])
    one, other = sorted((tmp_path / folder).iterdir())
    one.write_bytes(other.read_bytes())
    if folder == "maps":  # they are read where a shard is missing
        next((tmp_path / "shards").glob("*toy-channel*")).unlink()
    with pytest.warns(RuntimeWarning, match=f"damaged .*{one.name}"):
        pd.testing.assert_frame_equal(stable(run(tmp_path, metrics=["toy-mean"])), stable(first))


@pytest.mark.parametrize("kind", ["truncated", "empty", "folder", "unreadable"])
@pytest.mark.parametrize("folder", ["shards", "maps"])
def test_what_cannot_be_read_is_named_and_made_again(toys, tmp_path, monkeypatch, kind, folder):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    first = run(tmp_path, methods=["toy-channel"], metrics=["toy-mean"])
    (path,), (shard,) = ((tmp_path / name).iterdir() for name in (folder, "shards"))
    if folder == "maps":
        shard.unlink()
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.unlink(), path.mkdir()
    else:  # without changing its mode, which would not stop the superuser
        reader = {"shards": "_rows", "maps": "_maps"}[folder]
        monkeypatch.setattr(shard_files, reader, lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.warns(RuntimeWarning) as said:
        again = run(tmp_path, methods=["toy-channel"], metrics=["toy-mean"])
    pd.testing.assert_frame_equal(stable(again), stable(first))
    texts = [str(one.message) for one in said]
    assert any(text.startswith(f"damaged {folder.replace('shards', 'shard')} {path}") for text in texts)
    assert any("cannot be written" in text for text in texts) == (kind == "folder")  # the rows are there all the same


@pytest.mark.parametrize("change", [
    lambda maps: maps[:, :-1], lambda maps: maps.double(), lambda maps: maps.half(), lambda maps: maps * torch.nan, lambda maps: maps.flatten(1),
    lambda maps: maps[:-1],
])  # fmt: skip
def test_maps_of_another_shape_or_type_are_damage(files, change):
    """Even under a digest that fits, as maps of a version with other rules would be."""
    _, path, batches = files
    with safe_open(path, framework="pt") as file:
        maps, seconds = {name: change(file.get_tensor(name)).contiguous() for name in file.keys()}, file.metadata()["seconds"]
    save_file(maps, path, metadata={"seconds": seconds, "digest": shard_files._digest_of_maps(path, maps, seconds)})
    with pytest.warns(RuntimeWarning, match="damaged maps"):
        assert shard_files.kept_maps(path, batches) is None


def test_maps_that_are_not_finite_are_not_kept(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SLOW", 0)
    bright = [(torch.full((3, 8, 8), 1e3), 0)]
    run(tmp_path, methods=[("toy-channel", {"gain": 1e38})], metrics=["toy-mean"], data=bright)
    assert len(list((tmp_path / "shards").iterdir())) == 1 and not (tmp_path / "maps").exists()
    run(tmp_path, methods=["toy-channel"], metrics=["toy-mean"], data=bright)
    assert len(list((tmp_path / "maps").iterdir())) == 1


def test_an_old_shard_without_a_digest_is_computed_again(files):
    shard, *_ = files
    table = shard_files.pq.read_table(shard)
    shard_files.pq.write_table(table.replace_schema_metadata({"xai_repro": table.schema.metadata[b"xai_repro"]}), shard)
    with pytest.warns(RuntimeWarning, match="damaged shard"):
        assert shard_files.read(shard) is None

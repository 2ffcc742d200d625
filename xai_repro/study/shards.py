"""Shards: the rows of one cell and the maps of one block, each a file that is whole or absent and says how it was made.

A digest over the content and the file's own name stands in the file, so that no bit of it changes unnoticed.
"""

import inspect
import json
import re
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from xai_repro.registry import method_info, methods as known_methods, metric_info
from xai_repro.store import fingerprint
from xai_repro.store.files import whole, writable
from xai_repro.study.asked import device_of, explains_again, in_run
from xai_repro.study.provenance import commit, device_name, saw, versions

COLUMNS = ["paper", "dataset", "model", "run", "image_id", "target", "method", "hyper", "metric", "value", "seconds", "empty", "negative", "correct", "difficult", "status"]


def check_folder(results):
    """Refuse a folder of results that cannot be written to, while there is still nothing to lose."""
    try:
        writable(Path(results, "shards", "rows.parquet"))
    except OSError as error:
        raise OSError(f"results '{results}' is no folder that can be written to: {error}") from None


def rows_path(results, data_label, model_label, method, metric, start, source, rests_on):
    """Where the rows of a cell are. source: digest of weights and images; rests_on: functions that every value depends on."""
    code = [_code(function) for function in rests_on] + _dependencies(method_info(method.name), method.arguments)
    again = {"method": method.name} if explains_again(metric) else {}  # its settings are among the method's own
    code += _dependencies(metric_info(metric.name), again | metric.arguments)
    cell = [data_label, model_label, method.name, metric.name, f"{start:06d}-{fingerprint.digest(data_label, model_label, source, *code)}"]
    return str(Path(results, "shards", _file_name(cell) + ".parquet"))


def maps_path(results, data_label, model_label, method, start, source, batch, rests_on):
    """Where the maps of a block are kept, if they took long."""
    code = [_code(function) for function in rests_on] + _dependencies(method_info(method.name), method.arguments)
    cell = [data_label, model_label, method.name, f"{start:06d}-{fingerprint.digest(source, batch, *code)}"]
    return str(Path(results, "maps", _file_name(cell) + ".safetensors"))


def _file_name(cell):
    return "--".join(re.sub(r"[^\w.+-]", "_", part, flags=re.ASCII)[:40] for part in cell)  # names of files have a greatest length


def _dependencies(info, arguments):
    """Code and hyper-parameters of a method or metric, and of the methods that its hyper-parameters name."""
    own = {name: value for name, value in {**info.hyper, **arguments}.items() if name != "chunk"}
    hyper = {name: value for name, value in own.items() if name not in _files(info)}  # where files lie does not count: what is in them does
    named = [value for value in hyper.values() if isinstance(value, str) and value in known_methods()]
    code = [_code(info.function), repr(sorted(hyper.items())), *(_code(method_info(name).function) for name in named)]
    again = [(method_info(name), {**method_info(name).hyper, **(hyper.get("settings") or {})}) for name in named]
    return code + [digest for one, given in [(info, own), *again] for digest in _read_by(one, given)]


def _read_by(info, hyper):
    """Digests of the files that a method reads; none where they are not there, which the method says itself."""
    try:
        return info.files(**{name: hyper[name] for name in _files(info)}) if _files(info) else []
    except (OSError, ValueError):
        return []


def _files(info):
    """The hyper-parameters that name files."""
    files = getattr(info, "files", None)
    return inspect.signature(files).parameters if files else {}


_CODE = {}  # id of a function -> the function, its fingerprint


def _code(function):
    if id(function) not in _CODE:
        _CODE[id(function)] = function, fingerprint.of_code(function)
    return _CODE[id(function)][1]


def forget_code():
    """Look at all code again: what a notebook has bound anew since the last call counts."""
    _CODE.clear()


def table_of(job, model, block, method, metric, values, statuses, seconds, signs):
    ids = block.ids
    columns = {
        "paper": [""] * len(ids),
        "dataset": [job.data_label] * len(ids),
        "model": [job.model_label] * len(ids),
        "run": [job.run] * len(ids),
        "image_id": ids,
        "target": block.targets,
        "method": [method.name] * len(ids),
        "hyper": [_hyper_text(method, metric)] * len(ids),
        "metric": [metric.name] * len(ids),
        "value": pa.array(values, pa.float64()),
        "seconds": pa.array([seconds] * len(ids), pa.float64()),
        **signs,
        "correct": block.correct,
        "difficult": block.difficult,
        "status": statuses,
    }
    facts = json.dumps(_provenance(job, model, method, metric, len(ids)))
    return pa.table(columns, _SCHEMA).replace_schema_metadata({"xai_repro": facts})


_TYPES = {"run": pa.int64(), "target": pa.int64(), "value": pa.float64(), "seconds": pa.float64(), **dict.fromkeys(("empty", "negative", "correct", "difficult"), pa.bool_())}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


def _hyper_text(method, metric):
    """The hyper-parameters that were given, as JSON; those of the metric under "metric"."""
    given = method.arguments | ({"metric": metric.arguments} if metric.arguments else {})
    return json.dumps(given, sort_keys=True)


def _provenance(job, model, method, metric, rows):
    hyper = {one.name: {**info(one.name).hyper, **one.arguments} for one, info in ((method, method_info), (metric, metric_info))}
    return {
        "commit": commit(),
        "versions": versions(),
        "device": device_name(device_of(model)),
        "seed": in_run(method, job.run).get("seed", hyper[method.name].get("seed")),
        "model": job.model_label,
        "run": job.run,
        "weights": job.weights,
        "dataset": job.data_label,
        "images": job.images,
        "block": [job.start, job.stop],
        "hyper": json.loads(json.dumps(hyper, default=str)),
        "profile": job.profile,
        "rows": rows,
    }


# -- files ------------------------------------------------------------------------------------------------------------


def write(table, path):
    """Write a shard with the digest of its content; where that is not possible, the rows are not kept, which is said."""
    table = table.replace_schema_metadata(table.schema.metadata | {b"digest": _digest_of_rows(path, table).encode()})
    _keep(path, lambda temporary: pq.write_table(table, temporary))


def read(path):
    """A shard's table, or None where it is missing or damaged (which is said)."""
    return _whole_or_none(path, _rows, "damaged shard", "computed again")


def provenance(path):
    """What a shard says of its own making: commit, versions, device, seed, fingerprints, hyper-parameters, profile.

    Raises ValueError for a shard that is damaged.
    """
    return json.loads(_rows(path).schema.metadata[b"xai_repro"])


def keep_maps(path, maps, seconds):
    """Write maps, one tensor per batch, and the seconds that one row took."""
    tensors, seconds = {str(n): one.contiguous().cpu() for n, one in enumerate(maps)}, repr(seconds)
    facts = {"seconds": seconds, "digest": _digest_of_maps(path, tensors, seconds)}
    _keep(path, lambda temporary: save_file(tensors, temporary, metadata=facts))


def kept_maps(path, batches):
    """The maps of batches and the seconds that one row took, or None where they were not kept or are damaged (which is said)."""
    return _whole_or_none(path, partial(_maps, batches=batches), "damaged maps", "made again")


def _rows(path):
    with open(path, "rb") as file:
        table = pq.read_table(file)
    if not table.schema.equals(_SCHEMA):
        raise ValueError("its columns are others")
    if table.schema.metadata.get(b"digest", b"").decode() != _digest_of_rows(path, table):
        raise ValueError("its content is not what was written under this name")
    return table


def _maps(path, batches):
    with safe_open(path, framework="pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    if facts["digest"] != _digest_of_maps(path, tensors, facts["seconds"]):
        raise ValueError("its content is not what was written under this name")
    for n, batch in enumerate(batches):
        one, exact = tensors[str(n)], torch.float64 if batch.x.dtype == torch.float64 else torch.float32
        if one.shape != (len(batch.x), *batch.x.shape[-2:]) or one.dtype != exact or not one.isfinite().all():
            raise ValueError(f"map {n} is {one.dtype} {list(one.shape)}, or not finite")
    return [tensors[str(n)].to(batch.x.device) for n, batch in enumerate(batches)], float(facts["seconds"])


def _digest_of_rows(path, table):
    return fingerprint.digest(Path(path).name, table.schema.metadata[b"xai_repro"].decode(), table.to_pydict())


def _digest_of_maps(path, tensors, seconds):
    content = [part for name, one in sorted(tensors.items()) for part in (f"{name} {one.dtype} {list(one.shape)}", one.numpy().tobytes())]
    return fingerprint.digest(Path(path).name, seconds, *content)


def _keep(path, write_to):
    try:
        with whole(path) as temporary:
            write_to(temporary)
    except (OSError, SafetensorError) as error:  # a full disk, say: what was computed is worth more than the file
        warnings.warn(f"{path} cannot be written ({error}): it is not kept", RuntimeWarning, stacklevel=3)


def _whole_or_none(path, reader, what, then):
    """What a reader makes of a file, or None where it is missing or damaged (which is said)."""
    try:
        return reader(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # noqa: BLE001 - whatever damaged bytes make the readers raise
        warnings.warn(f"{what} {path} ({str(error).splitlines()[0] if str(error) else type(error).__name__}): {then}", RuntimeWarning, stacklevel=3)
        return None


def frame_of(table, key, paper):
    model_label, data_label, _, method, metric = key
    made = json.loads(table.schema.metadata[b"xai_repro"])
    saw(model_label, made["weights"], data_label, made["images"], made["block"], **{name: made[name] for name in ("commit", "versions", "device", "seed")})
    given = {"method": method.name} if method.label != method.name else {}
    frame = table.to_pandas()
    frame["hyper"] = json.dumps(json.loads(_hyper_text(method, metric)) | given, sort_keys=True)
    return frame.assign(paper=paper, dataset=data_label, model=model_label, method=method.label, metric=metric.label)[COLUMNS]


def request_order(tables, methods, metrics):
    """Rows come in the order of the request: model, data set, method, metric, image."""
    places = {pair: n for n, pair in enumerate(dict.fromkeys(key[:2] for key in tables))}
    return lambda item: (places[item[0][:2]], methods.index(item[0][3]), metrics.index(item[0][4]), item[0][2])

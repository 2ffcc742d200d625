"""Shards: the rows of one cell and the maps of one block, each a file that is whole or absent and says how it was made."""

import json
import platform
import re
import subprocess
import warnings
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from xai_repro.registry import method_info, methods as known_methods, metric_info
from xai_repro.store import fingerprint
from xai_repro.store.files import whole
from xai_repro.study.asked import device_of, explains_again

COLUMNS = ["paper", "dataset", "model", "image_id", "target", "method", "hyper", "metric", "value", "seconds", "status"]
ROOT = Path(__file__).parents[2]


def rows_path(results, data_label, model_label, method, metric, start, source, rests_on):
    """Where the rows of a cell are. source: digest of weights and images; rests_on: functions that every value depends on."""
    code = [_code(function) for function in rests_on] + _dependencies(method_info(method.name), method.arguments)
    again = {"method": method.name} if explains_again(metric) else {}  # its settings are among the method's own
    code += _dependencies(metric_info(metric.name), again | metric.arguments)
    cell = [data_label, model_label, method.name, metric.name, f"{start:06d}-{fingerprint.digest(source, *code)}"]
    return str(Path(results, "shards", _file_name(cell) + ".parquet"))


def maps_path(results, data_label, model_label, method, start, source, batch, rests_on):
    """Where the maps of a block are kept, if they took long."""
    code = [_code(function) for function in rests_on] + _dependencies(method_info(method.name), method.arguments)
    cell = [data_label, model_label, method.name, f"{start:06d}-{fingerprint.digest(source, batch, *code)}"]
    return str(Path(results, "maps", _file_name(cell) + ".safetensors"))


def _file_name(cell):
    return "--".join(re.sub(r"[^\w.+-]", "_", part) for part in cell)


def _dependencies(info, arguments):
    """Code and hyper-parameters of a method or metric, and of the methods that its hyper-parameters name."""
    hyper = {name: value for name, value in {**info.hyper, **arguments}.items() if name != "chunk"}
    named = [value for value in hyper.values() if isinstance(value, str) and value in known_methods()]
    return [_code(info.function), repr(sorted(hyper.items())), *(_code(method_info(name).function) for name in named)]


@lru_cache
def _code(function):
    return fingerprint.of_code(function)


def data_fingerprint(data, start, stop):
    return getattr(data, "fingerprint", None) or fingerprint.of_samples(data[i] for i in range(start, stop))


def table_of(job, model, data, batches, method, metric, values, seconds, reason):
    ids = [name for batch in batches for name in batch.ids]
    values = [float("nan")] * len(ids) if values is None else values
    columns = {
        "paper": [""] * len(ids),
        "dataset": [job.data_label] * len(ids),
        "model": [job.model_label] * len(ids),
        "image_id": ids,
        "target": [int(target) for batch in batches for target in batch.y],
        "method": [method.name] * len(ids),
        "hyper": [_hyper_text(method, metric)] * len(ids),
        "metric": [metric.name] * len(ids),
        "value": pa.array(values, pa.float64()),
        "seconds": pa.array([seconds] * len(ids), pa.float64()),
        "status": [reason or ("ok" if value == value else "undefined") for value in values],
    }
    facts = json.dumps(_provenance(job, model, data, method, metric, len(ids)))
    return pa.table(columns, _SCHEMA).replace_schema_metadata({"xai_repro": facts})


_TYPES = {"target": pa.int64(), "value": pa.float64(), "seconds": pa.float64()}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


def _hyper_text(method, metric):
    """The hyper-parameters that were given, as JSON; those of the metric under "metric"."""
    given = method.arguments | ({"metric": metric.arguments} if metric.arguments else {})
    return json.dumps(given, sort_keys=True)


def _provenance(job, model, data, method, metric, rows):
    hyper = {one.name: {**info(one.name).hyper, **one.arguments} for one, info in ((method, method_info), (metric, metric_info))}
    device = device_of(model)
    return {
        "commit": _commit(),
        "versions": _versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})",
        "seed": hyper[method.name].get("seed"),
        "model": job.model_label,
        "weights": job.weights,
        "dataset": job.data_label,
        "images": data_fingerprint(data, job.start, job.stop),
        "block": [job.start, job.stop],
        "hyper": json.loads(json.dumps(hyper, default=str)),
        "profile": job.profile,
        "rows": rows,
    }


def provenance(path):
    """What a shard says of its own making: commit, versions, device, seed, fingerprints, hyper-parameters, profile."""
    return json.loads(pq.read_schema(path).metadata[b"xai_repro"])


@lru_cache
def _versions():
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "xai-repro"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@lru_cache
def _commit():
    """The commit of the checkout this library runs from, with "+" if files differ from it; "" outside a checkout."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    try:
        top, head = git(["git", "rev-parse", "--show-toplevel", "HEAD"]).stdout.split("\n")[:2]
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}{'+' if changed else ''}" if Path(top) == ROOT else ""


def write(table, path):
    with whole(path) as temporary:
        pq.write_table(table, temporary)


def read(path):
    """A shard's table, or None where it is missing or damaged (which is said)."""
    if not Path(path).exists():
        return None
    try:
        table = pq.read_table(path, partitioning=None)
        if table.column_names == COLUMNS and table.num_rows == json.loads(table.schema.metadata[b"xai_repro"])["rows"]:
            return table
        problem = "rows or columns are missing"
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        problem = str(error).split("\n")[0]
    warnings.warn(f"damaged shard {path} ({problem}): computed again", RuntimeWarning, stacklevel=3)
    return None


def frame_of(table, key, paper):
    model_label, data_label, _, method, metric = key
    given = {"method": method.name} if method.label != method.name else {}
    frame = table.to_pandas()
    frame["hyper"] = json.dumps(json.loads(_hyper_text(method, metric)) | given, sort_keys=True)
    return frame.assign(paper=paper, dataset=data_label, model=model_label, method=method.label, metric=metric.label)[COLUMNS]


def request_order(tables, methods, metrics):
    """Rows come in the order of the request: model, data set, method, metric, image."""
    places = {pair: n for n, pair in enumerate(dict.fromkeys(key[:2] for key in tables))}
    return lambda item: (places[item[0][:2]], methods.index(item[0][3]), metrics.index(item[0][4]), item[0][2])


def keep_maps(path, maps, seconds):
    """Write maps, one tensor per batch, and the seconds that one row took."""
    with whole(path) as temporary:
        tensors = {str(n): one.contiguous().cpu() for n, one in enumerate(maps)}
        save_file(tensors, temporary, metadata={"seconds": repr(seconds)})


def kept_maps(path, batches):
    """The maps of batches and the seconds that one row took, or None where they were not kept or are damaged (which is said)."""
    if not Path(path).exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            maps = [file.get_tensor(str(n)).to(batch.x) for n, batch in enumerate(batches)]
            return maps, float(file.metadata()["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        warnings.warn(f"{path} is damaged: its maps are made again", RuntimeWarning, stacklevel=3)
    return None

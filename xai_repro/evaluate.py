"""Models x data sets x methods x metrics -> one tidy table, in shards that survive interruption."""

import json
import platform
import re
import subprocess
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from xai_repro import fingerprint
from xai_repro.data import load_data
from xai_repro.explain import coefficients, explain, normalize
from xai_repro.files import whole
from xai_repro.metrics.faithfulness import logits
from xai_repro.models import load_model
from xai_repro.profiles import profile as settings_of
from xai_repro.progress import track
from xai_repro.registry import check_hyper, method_info, methods as known_methods, metric_info
from xai_repro.score import score
from xai_repro.sharing import forgetting, shared, sharing

COLUMNS = ["paper", "dataset", "model", "image_id", "target", "method", "hyper", "metric", "value", "seconds", "status"]
BLOCK = 100  # images per shard: what an interruption can cost at most
SLOW = 5  # seconds: maps of a block that took longer are kept beside the shards, for metrics asked for later

# What a method or metric says when it does not apply to a model or an image; anything else is a surprise.
_NOT_APPLICABLE = (ValueError, TypeError, LookupError, NotImplementedError)


def evaluate(
    models, datasets, methods, metrics, profile="mini", scheduler=None, results=None,
    *, limit=None, batch=16, device="auto", paper="",
):  # fmt: skip
    """Score every method with every metric on every model and data set; one row per image, class, method and metric.

    models: names or modules; datasets: names or sequences of Sample; methods and metrics: names or (name, {hyper}).
    Each may be one item, a list, or a dict label -> item; the label is what the table calls it.
    A model of single labels is explained for its top-1 on the unmodified image, a multi-label model for each class
    present. Metrics that take "unit" maps get the positive evidence, scaled to [0, 1] per map; metrics that explain again get
    the method and its hyper-parameters as `method` and `settings`, unless they are given a method.
    profile: how many images (limit overrides it), and hyper-parameters for methods and metrics given by name alone.
    batch: rows explained at once. paper: what to write in that column.
    results: folder of the shards. A cell (model, data set, method, metric, at most 100 images) whose shard is there
    is done; the shard's name carries a fingerprint of code, hyper-parameters, weights and images, so a change
    recomputes what depends on it and nothing else. Maps that took long to make are kept there too. None: no files.
    scheduler: address of a Dask cluster, "tcp://..."; models and data sets then have to be names.

    Returns a DataFrame with the columns COLUMNS: value float, NaN where undefined or not applicable; seconds per
    image for the explanation; status "ok", "undefined" or the reason why there is no value. Same request, same rows,
    same order. Raises UnknownName for any unknown name before anything runs, ValueError for requests that contradict
    themselves.
    """
    settings = settings_of(profile)
    images, usual = settings["images"] if limit is None else {"other": limit}, settings.get("hyper", {})
    for name, number in (*(("limit", number) for number in images.values()), ("batch", batch)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; a whole number of at least 1 is needed")
    models, datasets = _labelled(models, torch.nn.Module, "model"), _labelled(datasets, None, "data set")
    methods, metrics = _with_hyper(methods, method_info, usual), _with_hyper(metrics, metric_info, usual)
    client = _client(scheduler, [*models.values(), *datasets.values()]) if scheduler else None

    jobs, tables = [], {}
    for (model_label, model), (data_label, data) in product(models.items(), datasets.items()):
        module, samples = _model(model, data, device), _data(data)  # here, so that wrong names are found before anything runs
        _check_classes(module, samples, model_label, data_label)
        size = min(images.get(data_label, images["other"]), len(samples))
        weights = (module.fingerprint if isinstance(model, str) else fingerprint.of_model(module)) if results else ""
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            source = results and fingerprint.digest(weights, _data_fingerprint(samples, start, stop), start, stop)
            todo = []
            for method in methods:
                missing = []
                for metric in metrics:
                    path = results and _path(results, data_label, model_label, method, metric, start, source)
                    key = (model_label, data_label, start, method, metric)
                    tables[key] = _read(path) if path else None
                    if tables[key] is None:
                        missing.append((metric, path))
                if missing:
                    todo.append((method, tuple(missing), results and _maps_path(results, data_label, model_label, method, start, source, batch)))
            if todo:
                jobs.append(Job(model, data, model_label, data_label, start, stop, tuple(todo), batch, device, profile, weights))

    with track(sum(job.length for job in jobs), "images explained") as step:
        for job, computed in client(jobs, step) if client else ((job, run(job, step)) for job in jobs):
            for (method, metric), table in computed.items():
                tables[job.model_label, job.data_label, job.start, method, metric] = table

    frames = [_frame(table, key, paper) for key, table in sorted(tables.items(), key=_request_order(tables, methods, metrics))]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    frame.attrs["profile"] = profile
    return frame


@dataclass(frozen=True)
class Job:
    """A block of images of one model and data set, and what is still to be computed on it: plain values only."""

    model: object  # name or module
    data: object  # name or sequence
    model_label: str
    data_label: str
    start: int
    stop: int
    todo: tuple  # of (Asked method, ((Asked metric, path or None), ...), path of the maps or None)
    batch: int
    device: str
    profile: str
    weights: str  # fingerprint; "" where no shards are written

    @property
    def length(self):
        """How many images are explained in all."""
        return (self.stop - self.start) * sum(len(_by_kind(missing)) for _, missing, _ in self.todo)


@dataclass(frozen=True)
class Asked:
    """A method or metric as asked for: the name the table uses, the registered name, its hyper-parameters as JSON."""

    label: str
    name: str
    hyper: str

    @property
    def arguments(self):
        return json.loads(self.hyper)


def run(job, step=lambda images: None):
    """Compute a job and write its shards: {(method, metric): pyarrow.Table}; at top level, so that it can travel.

    Maps are computed once per method for all its missing metrics, the logits of the images once for all methods; what the
    metrics of a method share is forgotten with its maps.
    """
    model, data = _model(job.model, job.data, job.device), _data(job.data)
    tables = {}
    with sharing():
        batches = list(_batches(model, data, job))
        for method, wanted, missing, kept in ((m, *part, path) for m, every, path in job.todo for part in _by_kind(every)):
            maps, seconds, reason, keep = _kept(model, batches, method, wanted, job, step, kept)
            with forgetting():
                for metric, path in missing:
                    scored = (None, reason, keep) if reason else _values(model, batches, maps, method, metric, job)
                    values, failed, sure = scored
                    table = _table(job, model, data, batches, method, metric, values, seconds, failed)
                    if path and sure:  # what failed by surprise (memory, a bug) is tried again next time
                        _write(table, path)
                    tables[method, metric] = table
    return tables


def _by_kind(missing):
    """The missing metrics sorted by what they take: maps, or coefficients."""
    takes = {coefficients: [], explain: []}
    for metric, path in missing:
        takes[coefficients if metric_info(metric.name).maps == "coefficients" else explain].append((metric, path))
    return [(function, group) for function, group in takes.items() if group]


# -- from images to values ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Rows of equal size: images x [B,3,H,W], targets y [B], and per row the image's annotation and true label."""

    x: torch.Tensor
    y: torch.Tensor
    samples: list
    shown: list  # label whose object is the truth: the target where it is in the image, otherwise the labelled one
    ids: list

    def truth(self, kind):
        """bool [B,H,W] of "box" or "mask", None for None; all false where an image has no annotation."""
        if kind is None:
            return None
        empty = torch.zeros(self.x.shape[-2:], dtype=torch.bool)
        area = {"box": "box_truth", "mask": "truth"}[kind]
        rows = [empty if c is None else getattr(s, area)(c) for s, c in zip(self.samples, self.shown)]
        return torch.stack(rows).to(self.x.device)


def _batches(model, data, job):
    device = _device_of(model)
    many, same_classes = _multi_label(model, data), _same_classes(model, data)
    rows = []
    for i in range(job.start, job.stop):
        sample = data[i]
        rows += [(sample, label, i) for label in (sample.labels if many else [None])]
    while rows:
        size = rows[0][0].image.shape
        n = next((n for n, row in enumerate(rows) if row[0].image.shape != size or n == job.batch), len(rows))
        samples, labels, numbers = zip(*rows[:n])
        rows = rows[n:]
        x = torch.stack([sample.image for sample in samples]).to(device)
        top = logits(model, x).argmax(1)  # also where labels are explained: the metrics share these logits
        y = torch.tensor(labels, device=device) if many else top
        shown = [
            target if same_classes and target in sample.labels else next(iter(sample.labels), None)
            for sample, target in zip(samples, y.tolist())
        ]
        ids = [getattr(s, "id", "") or f"{job.data_label}/{i}" for s, i in zip(samples, numbers)]
        yield Batch(x, y, list(samples), shown, ids)


def _multi_label(model, data):
    return getattr(model, "multi_label", getattr(data, "multi_label", False))


def _same_classes(model, data):
    ours, theirs = getattr(model, "classes", None), getattr(data, "classes", None)
    return ours is None or theirs is None or list(ours) == list(theirs)


def _check_classes(model, data, model_label, data_label):
    """Refuse a multi-label model whose classes are not those of the labels it would be explained for."""
    if _multi_label(model, data) and not _same_classes(model, data):
        raise ValueError(
            f"'{model_label}' was trained on other classes ({', '.join(map(str, model.classes[:3]))}, ...) than "
            f"'{data_label}' has ({', '.join(map(str, data.classes[:3]))}, ...), so it cannot be explained for their labels"
        )


def _kept(model, batches, method, function, job, step, path):
    """What `_maps` gives, read from a file where an earlier run kept it, and kept where it took long."""
    if function is not explain or not path:
        return _maps(model, batches, method, function, job, step)
    if Path(path).exists():
        try:
            with safe_open(path, framework="pt") as file:
                maps = [file.get_tensor(str(n)).to(batch.x) for n, batch in enumerate(batches)]
                seconds = float(file.metadata()["seconds"])
            step(job.stop - job.start)
            return maps, seconds, "", True
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            warnings.warn(f"{path} is damaged: its maps are made again", RuntimeWarning, stacklevel=2)
    made = maps, seconds, reason, _ = _maps(model, batches, method, function, job, step)
    if not reason and seconds * sum(len(batch.ids) for batch in batches) > SLOW:
        with whole(path) as temporary:
            tensors = {str(n): one.contiguous().cpu() for n, one in enumerate(maps)}
            save_file(tensors, temporary, metadata={"seconds": repr(seconds)})
    return made


def _maps(model, batches, method, function, job, step):
    """Maps (or coefficients: function) per batch, seconds per row, reason why there are none, and whether that reason is final."""
    start, maps, done = _now(batches), [], 0
    rows = sum(len(batch.ids) for batch in batches)
    try:
        for number, batch in enumerate(batches, 1):
            maps.append(function(model, batch.x, batch.y, method=method.name, **method.arguments))
            images = (job.stop - job.start) * number // len(batches)
            step(images - done)
            done = images
        return maps, (_now(batches) - start) / max(rows, 1), "", True
    except Exception as error:  # noqa: BLE001 - one cell that fails must not end the run
        step(job.stop - job.start - done)
        return None, float("nan"), *_reason(error, method, job)


def _values(model, batches, maps, method, metric, job):
    """One value per row, or the reason why there is none, and whether that reason is final."""
    info = metric_info(metric.name)
    shape, hyper = positive if info.maps == "unit" else lambda raw: raw, _arguments(metric, method)
    try:
        values = [
            score(metric.name, model, batch.x, batch.y, shape(raw), truth=batch.truth(info.truth), **hyper)
            for batch, raw in zip(batches, maps)
        ]
        return torch.cat([v.detach().double().cpu() for v in values]).tolist() if values else [], "", True
    except Exception as error:  # noqa: BLE001
        return None, *_reason(error, metric, job)


def _explains_again(metric):
    """Whether a metric calls a method itself and leaves open which: then it is the one at hand."""
    return {"method", "settings"} <= set(metric_info(metric.name).hyper) and "method" not in metric.arguments


def _arguments(metric, method):
    """The hyper-parameters of a metric, with the method at hand where it explains again."""
    own = {"method": method.name, "settings": method.arguments} if _explains_again(metric) else {}
    return own | metric.arguments


@shared
def positive(maps):
    """The positive evidence of raw maps [B,H,W], scaled to [0, 1] per map; a map without any becomes zeros."""
    return normalize(maps.clamp(min=0))


def _reason(error, asked, job):
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _NOT_APPLICABLE):
        return reason, True
    reason = f"{type(error).__name__}: {reason}"
    cell = f"{asked.label} on {job.model_label}, {job.data_label}, images {job.start} to {job.stop - 1}"
    warnings.warn(f"{cell}: {reason}", RuntimeWarning, stacklevel=2)
    return reason, False


def _now(batches):
    if batches and batches[0].x.is_cuda:
        torch.cuda.synchronize(batches[0].x.device)
    return time.perf_counter()


def _device_of(model):
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


# -- shards ---------------------------------------------------------------------------------------------------------


def _path(results, data_label, model_label, method, metric, start, source):
    code = [_code(function) for function in (explain, coefficients, score, _batches, positive)]
    code += _dependencies(method_info(method.name), method.arguments)
    own = {"method": method.name} if _explains_again(metric) else {}
    code += _dependencies(metric_info(metric.name), own | metric.arguments)
    cell = [data_label, model_label, method.name, metric.name, f"{start:06d}-{fingerprint.digest(source, *code)}"]
    return str(Path(results, "shards", _file_name(cell) + ".parquet"))


def _maps_path(results, data_label, model_label, method, start, source, batch):
    code = [_code(function) for function in (explain, _batches)] + _dependencies(method_info(method.name), method.arguments)
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


def _data_fingerprint(data, start, stop):
    return getattr(data, "fingerprint", None) or fingerprint.of_samples(data[i] for i in range(start, stop))


def _table(job, model, data, batches, method, metric, values, seconds, reason):
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
    device = _device_of(model)
    return {
        "commit": _commit(),
        "versions": _versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})",
        "seed": hyper[method.name].get("seed"),
        "model": job.model_label,
        "weights": job.weights,
        "dataset": job.data_label,
        "images": _data_fingerprint(data, job.start, job.stop),
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
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    try:
        top, head = git(["git", "rev-parse", "--show-toplevel", "HEAD"]).stdout.split("\n")[:2]
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}{'+' if changed else ''}" if Path(top) == Path(__file__).parents[1] else ""


def _write(table, path):
    with whole(path) as temporary:
        pq.write_table(table, temporary)


def _read(path):
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


def _frame(table, key, paper):
    model_label, data_label, _, method, metric = key
    given = {"method": method.name} if method.label != method.name else {}
    frame = table.to_pandas()
    frame["hyper"] = json.dumps(json.loads(_hyper_text(method, metric)) | given, sort_keys=True)
    return frame.assign(paper=paper, dataset=data_label, model=model_label, method=method.label, metric=metric.label)[COLUMNS]


def _request_order(tables, methods, metrics):
    """Rows come in the order of the request: model, data set, method, metric, image."""
    places = {pair: n for n, pair in enumerate(dict.fromkeys(key[:2] for key in tables))}
    return lambda item: (places[item[0][:2]], methods.index(item[0][3]), metrics.index(item[0][4]), item[0][2])


# -- what is asked for ----------------------------------------------------------------------------------------------


def _listed(items, single):
    """One item, a list or a dict label -> item, as a list of (label or None, item)."""
    if isinstance(items, dict):
        return list(items.items())
    alone = isinstance(items, str) or (single is not None and isinstance(items, single))
    return [(None, item) for item in ([items] if alone else items)]


def _labelled(items, single, kind):
    """Models or data sets as {label: name or object}."""
    if single is None and not isinstance(items, (str, dict, list, tuple)):
        items = [items]  # a data set itself
    elif single is None and isinstance(items, (list, tuple)) and items and hasattr(items[0], "image"):
        items = [items]  # a plain list of samples
    found = {}
    for label, item in _listed(items, single):
        label = label or (item if isinstance(item, str) else getattr(item, "name", None) or type(item).__name__.lower())
        if label in found:
            raise ValueError(f"{kind} '{label}' is given twice; a dict label -> {kind} tells them apart")
        found[label] = item
    return found


def _with_hyper(items, info, usual):
    """Methods or metrics as a list of Asked; those given by name alone have the usual hyper-parameters.

    Raises UnknownName, ValueError for doubles and for values that are not plain.
    """
    is_pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], dict)
    found = []
    for label, item in _listed([items] if is_pair else items, None):
        name, hyper = (item, usual.get(item, {})) if isinstance(item, str) else item
        known = info(name)
        check_hyper(known, {key: value for key, value in hyper.items() if key != "chunk" or info is metric_info})
        try:
            asked = Asked(label or name, name, json.dumps(hyper, sort_keys=True))
        except TypeError:
            raise ValueError(f"hyper-parameters of {name} have to be numbers, strings, lists or None; given: {hyper}") from None
        if asked in found:
            raise ValueError(f"'{asked.label}' with hyper-parameters {asked.hyper} is given twice")
        found.append(asked)
    return found


@lru_cache(maxsize=4)
def _load_model(name, weights, device):
    return load_model(name, weights=weights, device=device)


def _model(model, data, device):
    """The module for a name: embedded models with the weights for the embedded data set, torchvision's with ImageNet's."""
    if not isinstance(model, str):
        return model
    dataset = data if isinstance(data, str) else getattr(data, "name", "")
    embedded = dataset if dataset.startswith("mini-") else None
    return _load_model(model, embedded if model.startswith("mini-") else "imagenet", device)


@lru_cache(maxsize=8)
def _load_data(name):
    return load_data(name)


def _data(data):
    return _load_data(data) if isinstance(data, str) else data


def _client(scheduler, given):
    """Runner of jobs on a Dask cluster: (jobs, step) -> iterator of (job, tables)."""
    try:
        from dask.distributed import Client, as_completed
    except ImportError:
        raise ModuleNotFoundError(
            f"scheduler='{scheduler}' needs Dask, which is not installed: "
            "pip install 'distributed>=2025' here and on the workers"
        ) from None
    objects = [type(one).__name__ for one in given if not isinstance(one, str)]
    if objects:
        raise ValueError(f"on a cluster models and data sets are given by name, so that they load there; given: {', '.join(objects)}")

    def runner(jobs, step):
        with Client(scheduler) as cluster:
            futures = {cluster.submit(run, job, pure=False): job for job in jobs}
            for future in as_completed(futures):
                job = futures[future]
                step(job.length)
                yield job, future.result()

    return runner

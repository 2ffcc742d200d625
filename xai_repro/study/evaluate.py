"""Models x data sets x methods x metrics -> one tidy table, in shards that survive interruption."""

import time
import warnings
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from xai_repro.explain import coefficients, explain
from xai_repro.metrics.faithfulness import logits
from xai_repro.numerics.algebra import normalize
from xai_repro.registry import method_info, metric_info
from xai_repro.score import score
from xai_repro.store import fingerprint
from xai_repro.store.progress import track
from xai_repro.store.sharing import forgetting, shared, sharing
from xai_repro.study import shards
from xai_repro.study.asked import (
    arguments, check_classes, device_of, labelled, multi_label, same_classes, the_data, the_model, with_hyper,
)  # fmt: skip
from xai_repro.study.profiles import profile as settings_of
from xai_repro.study.shards import COLUMNS

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
    models, datasets = labelled(models, torch.nn.Module, "model"), labelled(datasets, None, "data set")
    methods, metrics = with_hyper(methods, method_info, usual), with_hyper(metrics, metric_info, usual)
    client = _client(scheduler, [*models.values(), *datasets.values()]) if scheduler else None

    jobs, tables = [], {}
    for (model_label, model), (data_label, data) in product(models.items(), datasets.items()):
        module, samples = the_model(model, data, device), the_data(data)  # here, so that wrong names are found before anything runs
        check_classes(module, samples, model_label, data_label)
        size = min(images.get(data_label, images["other"]), len(samples))
        weights = (module.fingerprint if isinstance(model, str) else fingerprint.of_model(module)) if results else ""
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            source = results and fingerprint.digest(weights, shards.data_fingerprint(samples, start, stop), start, stop)
            todo = []
            for method in methods:
                missing = []
                for metric in metrics:
                    path = results and shards.rows_path(results, data_label, model_label, method, metric, start, source, VALUES)
                    key = (model_label, data_label, start, method, metric)
                    tables[key] = shards.read(path) if path else None
                    if tables[key] is None:
                        missing.append((metric, path))
                if missing:
                    todo.append((method, tuple(missing), results and shards.maps_path(results, data_label, model_label, method, start, source, batch, MAPS)))
            if todo:
                jobs.append(Job(model, data, model_label, data_label, start, stop, tuple(todo), batch, device, profile, weights))

    with track(sum(job.length for job in jobs), "images explained") as step:
        for job, computed in client(jobs, step) if client else ((job, run(job, step)) for job in jobs):
            for (method, metric), table in computed.items():
                tables[job.model_label, job.data_label, job.start, method, metric] = table

    frames = [shards.frame_of(table, key, paper) for key, table in sorted(tables.items(), key=shards.request_order(tables, methods, metrics))]
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


def run(job, step=lambda images: None):
    """Compute a job and write its shards: {(method, metric): pyarrow.Table}; at top level, so that it can travel.

    Maps are computed once per method for all its missing metrics, the logits of the images once for all methods; what the
    metrics of a method share is forgotten with its maps.
    """
    model, data = the_model(job.model, job.data, job.device), the_data(job.data)
    tables = {}
    with sharing():
        batches = list(_batches(model, data, job))
        for method, wanted, missing, kept in ((m, *part, path) for m, every, path in job.todo for part in _by_kind(every)):
            maps, seconds, reason, keep = _kept(model, batches, method, wanted, job, step, kept)
            with forgetting():
                for metric, path in missing:
                    scored = (None, reason, keep) if reason else _values(model, batches, maps, method, metric, job)
                    values, failed, sure = scored
                    table = shards.table_of(job, model, data, batches, method, metric, values, seconds, failed)
                    if path and sure:  # what failed by surprise (memory, a bug) is tried again next time
                        shards.write(table, path)
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
    device = device_of(model)
    many, same = multi_label(model, data), same_classes(model, data)
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
            target if same and target in sample.labels else next(iter(sample.labels), None)
            for sample, target in zip(samples, y.tolist())
        ]
        ids = [getattr(s, "id", "") or f"{job.data_label}/{i}" for s, i in zip(samples, numbers)]
        yield Batch(x, y, list(samples), shown, ids)


def _kept(model, batches, method, function, job, step, path):
    """What `_maps` gives, read from a file where an earlier run kept it, and kept where it took long."""
    if function is not explain or not path:
        return _maps(model, batches, method, function, job, step)
    if kept := shards.kept_maps(path, batches):
        step(job.stop - job.start)
        return *kept, "", True
    made = maps, seconds, reason, _ = _maps(model, batches, method, function, job, step)
    if not reason and seconds * sum(len(batch.ids) for batch in batches) > SLOW:
        shards.keep_maps(path, maps, seconds)
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
    shape, hyper = positive if info.maps == "unit" else lambda raw: raw, arguments(metric, method)
    try:
        values = [
            score(metric.name, model, batch.x, batch.y, shape(raw), truth=batch.truth(info.truth), **hyper)
            for batch, raw in zip(batches, maps)
        ]
        return torch.cat([v.detach().double().cpu() for v in values]).tolist() if values else [], "", True
    except Exception as error:  # noqa: BLE001
        return None, *_reason(error, metric, job)


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


# What every value, and every map, rests on besides its method and metric.
VALUES = (explain, coefficients, score, _batches, positive)
MAPS = (explain, _batches)


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

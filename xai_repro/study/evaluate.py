"""Models x data sets x methods x metrics -> one tidy table, in shards that survive interruption."""

import os
import time
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd
import torch

from xai_repro.errors import short, whole_number
from xai_repro.explain import check_output, coefficients, explain
from xai_repro.models.zoo import pick_device
from xai_repro.network.forward import reading
from xai_repro.numerics.algebra import normalize
from xai_repro.registry import method_info, methods as known_methods, metric_info
from xai_repro.score import score
from xai_repro.store import fingerprint
from xai_repro.store.progress import track
from xai_repro.store.sharing import forgetting, shared, sharing
from xai_repro.study import cluster, shards
from xai_repro.study.asked import (
    arguments, check_classes, check_layers, in_run, labelled_data, labelled_models, loader, multi_label, networks_of, same_classes,
    the_data, the_model, with_hyper,
)  # fmt: skip
from xai_repro.study.images import block_of, data_fingerprint, Failure, failure, warn
from xai_repro.study.profiles import check_names, profile as settings_of
from xai_repro.study.shards import COLUMNS

BLOCK = 100  # images per shard: what an interruption can cost at most
TURN = 20  # images that one of several networks explains before it is the next one's turn
SLOW = 5  # seconds: maps of a block that took longer are kept beside the shards, for metrics asked for later


def evaluate(
    models, datasets, methods, metrics, profile="mini", scheduler=None, results=None,
    *, limit=None, batch=16, device="auto", paper="", output=None,
):  # fmt: skip
    """Score every method with every metric on every model and data set; one row per image, class, method and metric.

    models: names or modules; in a dict also a list of modules that were trained alike, with other seeds. datasets: names or sequences of `Sample` or of (image, label), the image as the model takes it.
    methods and metrics: names or (name, {hyper}). Each may be one item, a list, or a dict label -> item; the label is what the
    table calls it.
    Such networks are the runs of one model: images are dealt out to them in turn, and run r draws whatever is random (`seed`) from a
    seed r higher. Of an embedded model given by name all trainings are taken that are shipped, as many as the profile says.
    A model of single labels is explained for its top-1 on the unmodified image, a multi-label model for each class
    present. Metrics that take "unit" maps get the positive evidence, scaled to [0, 1] per map; metrics that explain again get
    the method and its hyper-parameters as `method` and `settings`, unless they are given a method.
    profile: how many images (limit overrides it), and hyper-parameters for methods and metrics given by name alone. What it
    leaves out stands in `attrs["limits"]` of the table, and is printed where a data set is given as an object.
    batch: rows explained at once. device: where models given by name run. paper: what to write in that column. output: a function
    from what the models return to logits, as for `explain`.
    results: folder of the shards. A cell (model, data set, method, metric, at most 100 images) whose shard is there
    is done; the shard's name carries a fingerprint of code, hyper-parameters, weights and images, so a change
    recomputes what depends on it and nothing else. Maps that took long to make are kept there too. None: no files.
    scheduler: address of a Dask cluster, "tcp://HOST:PORT"; models and data sets then have to be names. Its workers have the same software, see the folder
    results under the same name, and resolve the device "auto" each for itself. None: the address in the environment variable XAI_REPRO_SCHEDULER, where
    there is one and all is given by name; everything else is worked off here.

    Returns a DataFrame with the columns COLUMNS: run, the number of the network; value float, NaN where undefined or not applicable;
    seconds per image for the explanation; empty, whether the map has no positive value, and negative, whether it has a
    negative one; correct, whether the class is labelled and the model
    predicts it (as its top-1; of several labels with p >= 1/2, or as the likeliest where none has that); difficult, whether TorchRay's
    rule calls the object so (`Sample.is_difficult`); status "ok", "undefined" or the reason why there is no value; target -1 for an image
    that could not be read. An image that is broken or does not fit the model costs its own rows only. Same request, same rows, same order.
    Raises UnknownName for any unknown name before anything runs, ValueError for requests that contradict themselves,
    OSError for results that cannot be written, ConnectionError for a cluster that does not answer, RuntimeError for jobs that failed there.
    """
    settings = settings_of(profile)
    check_names(settings)
    limit, batch = None if limit is None else whole_number("limit", limit, most=10**9), whole_number("batch", batch)
    for name, text in (("paper", paper), ("scheduler", scheduler or "")):
        if not isinstance(text, str):
            raise ValueError(f"{name} is {short(repr(text))}; a text is needed")
    if results is not None and (not isinstance(results, (str, os.PathLike)) or not str(results)):
        raise ValueError(f"results is {short(repr(results))}; the name of a folder is needed, or None")
    check_output(output)
    models, datasets, usual = labelled_models(models), labelled_data(datasets), settings.get("hyper", {})
    methods, metrics = with_hyper(methods, "method", usual), with_hyper(metrics, "metric", usual)
    scheduler, where = cluster.chosen(scheduler, [*models.values(), *datasets.values()])
    here, device = ("cpu", cluster.device_of_workers(device)) if scheduler else [str(pick_device(device))] * 2
    results = os.path.abspath(results) if scheduler and results is not None else results  # workers are elsewhere
    work_off = cluster.runner(scheduler, results) if scheduler else None
    shards.forget_code()

    load, jobs, tables, sizes = loader(), [], {}, {}
    for (model_label, model), (data_label, data) in product(models.items(), datasets.items()):
        samples = the_data(data)
        size, whole = sizes[data_label] = size_of(samples, data_label, limit or settings["images"])
        networks = networks_of(model, data, settings.get("networks", 1))[:size]
        for number, network in enumerate(networks):
            module = the_model(network, data, here, load, number)  # now, so that wrong names are found before anything runs
            seen = the_data(samples, module)
            check_classes(module, seen, model_label, data_label)
            check_layers(module, model_label, [*methods, *metrics])
            weights = (module.fingerprint if isinstance(network, str) else fingerprint.of_model(module)) if results else ""
            weights = fingerprint.digest(weights, fingerprint.of_code(output)) if results and output else weights
            for start, stop in dealt(size, len(networks), number):
                job = Job(network, number, data, model_label, data_label, start, stop, (), batch, device, profile, weights, "", output)
                job, found = _planned(job, module, seen, methods, metrics, results)
                tables |= found
                jobs += [job] if job.todo else []
    if jobs and results is not None:
        shards.check_folder(results)
    limits = _limits(profile, {} if limit else sizes, [*methods, *metrics], usual)
    if limits and not all(isinstance(data, str) for data in datasets.values()):
        print(limits)

    with track(sum(job.length for job in jobs), f"images explained{where}") as step:
        for job, computed in work_off(run, jobs, step) if work_off else ((job, run(job, step, load)) for job in jobs):
            for (method, metric), table in computed.items():
                tables[job.model_label, job.data_label, job.start, method, metric] = table

    frames = [shards.frame_of(table, key, paper) for key, table in sorted(tables.items(), key=shards.request_order(tables, methods, metrics))]
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs |= {"profile": profile, "limits": limits}
    return frame


def size_of(samples, label, images):
    """How many images of a data set are explained, and how many it has. images: the limit, or a profile's limits."""
    whole = len(samples)
    if not whole:
        raise ValueError(f"data set '{label}' has no images")
    return min(images if isinstance(images, int) else images.get(label, images["other"]), whole), whole


def dealt(size, networks, number):
    """The blocks of images, start to stop, that one of several networks explains."""
    block = BLOCK if networks == 1 else min(TURN, -(-size // networks))
    return [(start, min(start + block, size)) for start in range(number * block, size, networks * block)]


def _limits(profile, sizes, asked, usual):
    """What a profile leaves out, in one line; "" where it leaves out nothing."""
    said = [f"{size} of {whole} images of '{label}' (limit={whole} takes all)" for label, (size, whole) in sizes.items() if size < whole]
    for one in asked:
        default = (method_info if one.name in known_methods() else metric_info)(one.name).hyper
        fewer = {key: value for key, value in usual.get(one.name, {}).items() if one.arguments == usual[one.name] and value != default[key]}
        changed = ", ".join(f"{key}={value} in place of {default[key]}" for key, value in fewer.items())
        said += [f"{one.name} with {changed} (('{one.name}', {{}}) takes the defaults)"] * bool(fewer)
    return f"profile '{profile}': {'; '.join(said)}" if said else ""


@dataclass(frozen=True)
class Job:
    """A block of images of one model and data set, and what is still to be computed on it: plain values only."""

    model: object  # name or module
    run: int  # which of the networks of the model this is
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
    images: str  # the same of the images
    output: object = None  # from what the model returns to logits

    @property
    def length(self):
        """How many images are explained in all."""
        return (self.stop - self.start) * sum(len(_by_kind(missing)) for _, missing, _ in self.todo)

    @property
    def place(self):
        return f"{self.model_label}, {self.data_label}, images {self.start} to {self.stop - 1}"


def _planned(job, model, samples, methods, metrics, results):
    """The job with what is still to be done, and the tables of its cells: read from shards, or None."""
    source = None
    if results is not None and (images := data_fingerprint(samples, job.start, job.stop)):  # without one, nothing can be kept
        job = replace(job, images=images)
        fit = multi_label(model, samples), same_classes(model, samples)
        source = fingerprint.digest(job.weights, images, job.start, job.stop, fit, job.run)
    tables, todo = {}, []
    for method in methods:
        missing = []
        for metric in metrics:
            path = source and shards.rows_path(results, job.data_label, job.model_label, method, metric, job.start, source, VALUES)
            key = (job.model_label, job.data_label, job.start, method, metric)
            tables[key] = shards.read(path) if path else None
            if tables[key] is None:
                missing.append((metric, path))
        maps = source and shards.maps_path(results, job.data_label, job.model_label, method, job.start, source, job.batch, MAPS)
        todo += [(method, tuple(missing), maps)] if missing else []
    return replace(job, todo=tuple(todo)), tables


def run(job, step=lambda images: None, load=None):
    """Compute a job and write its shards: {(method, metric): pyarrow.Table}; at top level, so that it can travel.

    load: the `loader` of a call of evaluate; a worker of a cluster has none and loads its model itself. Maps are computed
    once per method for all its missing metrics, the logits of the images once for all methods; what the metrics of a method share
    is forgotten with its maps.
    """
    model = the_model(job.model, job.data, job.device, load, job.run)
    data = the_data(job.data, model)
    tables = {}
    with sharing(), reading(job.output):
        block = block_of(model, data, job)
        for method, wanted, missing, kept in ((m, *part, path) for m, every, path in job.todo for part in _by_kind(every)):
            maps, seconds = _kept(model, block, method, wanted, job, step, kept)
            signs = signs_of(block, maps)
            with forgetting():
                for metric, path in missing:
                    results = [values_of(model, batch, one, method, metric, job) for batch, one in zip(block.batches, maps)]
                    values, statuses, sure = block.column(results)
                    table = shards.table_of(job, model, block, method, metric, values, statuses, seconds, signs)
                    if path and sure:  # what failed by surprise (memory, a bug) is tried again next time
                        shards.write(table, path)
                    tables[method, metric] = table
    return tables


def signs_of(block, maps):
    """Of every row whether its map is `empty`, without a positive value, and whether it has a `negative` one. maps: a batch's, or a Failure."""
    made = [torch.ones(len(batch.x), 1) if isinstance(one, Failure) else one.flatten(1) for batch, one in zip(block.batches, maps)]  # ones: neither
    return {"empty": block.flags([~(one > 0).any(1) for one in made]), "negative": block.flags([(one < 0).any(1) for one in made])}


def _by_kind(missing):
    """The missing metrics sorted by what they take: maps, or coefficients."""
    takes = {coefficients: [], explain: []}
    for metric, path in missing:
        takes[coefficients if metric_info(metric.name).maps == "coefficients" else explain].append((metric, path))
    return [(function, group) for function, group in takes.items() if group]


# -- from batches to values -----------------------------------------------------------------------------------------


def _kept(model, block, method, function, job, step, path):
    """What `_maps` gives, read from a file where an earlier run kept it, and kept where it took long."""
    if function is not explain or not path:
        return _maps(model, block, method, function, job, step)
    if kept := shards.kept_maps(path, block.batches):
        step(job.stop - job.start)
        return kept
    maps, seconds = _maps(model, block, method, function, job, step)
    sound = all(not isinstance(one, Failure) and one.isfinite().all() for one in maps)
    if sound and seconds * sum(map(len, maps)) > SLOW:
        shards.keep_maps(path, maps, seconds)
    return maps, seconds


def _maps(model, block, method, function, job, step):
    """Maps (or coefficients: function) or a Failure for every batch, and seconds per row."""
    results, spent, rows, done = [], 0.0, 0, 0
    for number, batch in enumerate(block.batches, 1):
        start = _now(batch)
        try:
            results.append(function(model, batch.x, batch.y, method=method.name, **in_run(method, job.run)))
            spent, rows = spent + _now(batch) - start, rows + len(batch.x)
        except Exception as error:  # noqa: BLE001 - one cell that fails must not end the run
            results += [_said(failure(error), method, job)]
            if results[-1].everywhere:
                results += results[-1:] * (len(block.batches) - number)
                break
        images = (job.stop - job.start) * number // len(block.batches)
        step(images - done)
        done = images
    step(job.stop - job.start - done)
    return results, spent / rows if rows else float("nan")


def values_of(model, batch, maps, method, metric, job):
    """One value per row of a batch, or the Failure in their place."""
    if isinstance(maps, Failure):
        return maps
    info = metric_info(metric.name)
    try:
        maps = positive(maps) if info.maps == "unit" else maps
        values = score(metric.name, model, batch.x, batch.y, maps, truth=batch.truth(info.truth), **arguments(metric, method, job.run))
        if values.shape != (len(batch.x),):
            raise ValueError(f"{metric.name} gives {list(values.shape)}; one value per image is needed, [{len(batch.x)}]")
        return values.detach().double().cpu().tolist()
    except Exception as error:  # noqa: BLE001
        return _said(failure(error), metric, job)


@shared
def positive(maps):
    """The positive evidence of raw maps [B,H,W], scaled to [0, 1] per map; a map without any becomes zeros."""
    return normalize(maps.clamp(min=0))


def _said(failed, asked, job):
    """A failure, warned about where it is a surprise."""
    if not failed.final:
        warn(f"{asked.label} on {job.place}", failed.reason)
    return failed


def _now(batch):
    if batch.x.is_cuda:
        torch.cuda.synchronize(batch.x.device)
    return time.perf_counter()


# What every value, and every map, rests on besides its method and metric.
VALUES = (explain, coefficients, score, block_of, positive)
MAPS = (explain, block_of)

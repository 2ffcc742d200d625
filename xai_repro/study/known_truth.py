"""Known truth by parts: maps that know it, scored as methods are, and what that says about each metric.

`evaluate` scores methods by parts as by anything else. Here are the two rows that no method can have, since they are made of the truth: *oracle*,
what the parts are worth on exactly the pixels that their swaps change, and *object*, the mask of the object.
"""

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import torch

from xai_repro.errors import whole_number
from xai_repro.models.zoo import pick_device
from xai_repro.network.forward import predict
from xai_repro.registry import metric_info
from xai_repro.store.sharing import forgetting, sharing
from xai_repro.study.asked import Asked, labelled_data, labelled_models, loader, networks_of, the_data, the_model, with_hyper
from xai_repro.study.evaluate import Job, _dealt, _size, _values
from xai_repro.study.images import block_of
from xai_repro.study.profiles import profile as settings_of
from xai_repro.study.shards import COLUMNS
from xai_repro.study.statistics import RESAMPLES, checked_rows, higher_is_better, interval

KNOWING = ("oracle", "object")  # rows that are made of the truth
BY_PARTS = ("part-share", "part-hit", "part-correlation")


# -- rows -------------------------------------------------------------------------------------------------------------


def truth_rows(models, datasets, metrics, profile="mini", *, limit=None, batch=16, device="auto"):
    """Rows of the oracle and of the object's mask, as `evaluate` gives them for methods: (rows, parts).

    Takes what `evaluate` takes and deals the images out to the networks as it does; metrics that take coefficients or explain again are refused,
    since nothing gave these maps. rows: the columns of `evaluate`, without seconds. parts: per model, run, image and deciding part its
    `effect` in units of the logit, `flips` (share of its swaps that change the decision) and the number of `pixels` where it is seen.
    Raises ValueError for such a metric, and the errors of `evaluate`.
    """
    settings, load = settings_of(profile), loader()
    metrics = with_hyper(metrics, "metric", settings.get("hyper", {}))
    for one in metrics:
        if metric_info(one.name).maps == "coefficients" or "method" in metric_info(one.name).hyper:
            raise ValueError(f"{one.label} needs a method or its coefficients, and the truth is not one")
    rows, parts, device = [], [], str(pick_device(device))
    for model_label, model in labelled_models(models).items():
        for data_label, data in labelled_data(datasets).items():
            samples = the_data(data)
            size, _ = _size(samples, data_label, limit or settings["images"])
            networks = networks_of(model, data, settings.get("networks", 1))[:size]
            for number, network in enumerate(networks):
                module = the_model(network, data, device, load, number)
                for start, stop in _dealt(size, len(networks), number):
                    job = Job(network, number, data, model_label, data_label, start, stop, (), batch, device, profile, "", "")
                    with sharing():
                        block = block_of(module, samples, job)
                        rows += _scored(module, block, metrics, job)
                        parts += [one for batch_ in block.batches for one in _parts(batch_, block, job)]
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(parts, columns=_PARTS)


_PARTS = ["dataset", "model", "run", "image_id", "part", "effect", "flips", "pixels"]


def _scored(model, block, metrics, job):
    for name in KNOWING:
        maps = [one.worth.oracle if name == "oracle" else one.truth("mask").to(one.x) for one in block.batches]
        empty = block.flags([~(one > 0).flatten(1).any(1) for one in maps])
        with forgetting():
            for metric in metrics:
                values, statuses, _ = block.column([_values(model, one, m, Asked(name, name, "{}"), metric, job) for one, m in zip(block.batches, maps)])
                for row in zip(block.ids, block.targets, values, empty, statuses):
                    found = dict(zip(("image_id", "target", "value", "empty", "status"), row))
                    yield found | {
                        "paper": "", "dataset": job.data_label, "model": job.model_label, "run": job.run, "method": name, "hyper": _hyper(metric),
                        "metric": metric.label, "seconds": np.nan,
                    }  # fmt: skip


def _hyper(metric):
    return "{}" if metric.hyper == "{}" else f'{{"metric": {metric.hyper}}}'


def _parts(batch, block, job):
    for b, (sample, place) in enumerate(zip(batch.samples, batch.places)):
        for p, part in enumerate(sample.counterfactuals.shapes if sample.counterfactuals else ()):
            numbers = float(batch.worth.effect[b, p]), float(batch.worth.flips[b, p]), int(batch.worth.truth[b, p].isfinite().sum())
            yield dict(zip(_PARTS, (job.data_label, job.model_label, job.run, block.ids[place], part, *numbers)))


# -- several parts at once ----------------------------------------------------------------------------------------------


def together(model, samples):
    """Shapley values of the parts where they are changed together: float64 [B,P], each image for its top-1.

    phi_p = sum_{S not holding p} |S|! (P-|S|-1)! / P! (v(S + p) - v(S)), v(S) = mean over k of f_y(x with every part outside S in its k-th
    other shape). Of the full set the last difference is the effect of a part alone, and the sum is what is lost when all parts change. Every part
    needs the same number of shapes. Raises ValueError otherwise.
    """
    found = []
    for sample in samples:
        shapes = list(sample.counterfactuals.shapes.items()) if sample.counterfactuals else []
        numbers = {len(names) for _, names in shapes}
        if len(numbers) != 1:
            raise ValueError(f"parts with equally many shapes are needed; {sample.id or 'an image'} has {sorted(numbers) or 'none'}")
        P, others = len(shapes), range(1, numbers.pop())
        coalitions = [set(kept) for size in range(P) for kept in combinations(range(P), size)]
        changes = [{part: names[k] for p, (part, names) in enumerate(shapes) if p not in kept} for kept in coalitions for k in others]
        x = torch.cat([sample.image[None], sample.counterfactuals.images(changes)]).to(next(model.parameters()).device)
        logits = predict(model, x).double()
        scores = logits[:, logits[0].argmax()]
        worth = {frozenset(kept): score for kept, score in zip(coalitions, scores[1:].view(len(coalitions), len(others)).mean(1))}
        worth[frozenset(range(P))] = scores[0]
        found.append([_shapley(worth, p, P) for p in range(P)])
    return torch.tensor(found, dtype=torch.float64)


def _shapley(worth, p, players):
    without = [kept for kept in worth if p not in kept]
    weights = [factorial(len(kept)) * factorial(players - len(kept) - 1) / factorial(players) for kept in without]
    return sum(weight * float(worth[kept | {p}] - worth[kept]) for weight, kept in zip(weights, without))


# -- what it says of the metrics ------------------------------------------------------------------------------------------


def judged(df, resamples=RESAMPLES):
    """What each metric makes of the truth, and how far its order of methods is the order by parts: one row per data set, model and metric.

    df: rows of `evaluate` and of `truth_rows`, with the metrics of BY_PARTS among them. Columns: methods (how many, without those that know
    the truth; settings count apart), `oracle rank` and `object rank` (1: better than every method; half for one that is equal), `over random`
    with low and high (by how much the oracle is better than *random*, in the metric's own direction and unit), and for each of BY_PARTS Kendall's tau-b of
    the two orders of the methods, with low and high. Intervals of 95 % redraw networks and, within each, images, the same for all methods.
    Methods without a value on a metric are left out of that metric's rows. Raises ValueError for a column that df does not have, and without
    an oracle.
    """
    df = checked_rows(df, ["dataset", "model", "image_id", "method", "hyper", "metric", "value"])
    if "oracle" not in set(df["method"]):
        raise ValueError("rows of the oracle are needed: those of `truth_rows`, beside those of `evaluate`")
    df = df if "run" in df else df.assign(run=0)
    found = []
    for (dataset, model), part in df.groupby(["dataset", "model"], sort=False):
        drawn, places = _drawn(part, resamples)
        means = {metric: _means(rows, drawn, places) for metric, rows in part.groupby("metric", sort=False)}
        for metric, (names, values) in means.items():
            if metric in BY_PARTS or higher_is_better(metric) is None:
                continue
            values = values if higher_is_better(metric) else -values
            found.append({"dataset": dataset, "model": model, "metric": metric} | _judged(names, values, means))
    return pd.DataFrame(found)


def _judged(names, values, means):
    methods = [name for name in names if name not in KNOWING]
    of = {name: values[:, n] for n, name in enumerate(names)}
    record = {"methods": len(methods)}
    for name in KNOWING:
        record[f"{name} rank"] = _rank(of[name][0], [of[other][0] for other in methods]) if name in of else np.nan
    gap = of["oracle"] - of["random"] if {"oracle", "random"} <= set(of) else np.full(len(values), np.nan)
    record |= {"over random": gap[0]} | dict(zip(("low", "high"), interval(gap[1:])))
    for truth in BY_PARTS:
        others, true = means.get(truth, ([], None))
        both = [name for name in methods if name in others]
        if len(both) < 3:
            record |= {truth: np.nan, f"{truth} low": np.nan, f"{truth} high": np.nan}
            continue
        taus = kendall(*(m[:, [n.index(name) for name in both]] for n, m in ((names, values), (others, true))))
        record |= {truth: taus[0]} | dict(zip((f"{truth} low", f"{truth} high"), interval(taus[1:])))
    return record


def _rank(value, others):
    """1 + how many are better, and half for each that is equal, to six digits."""
    value, others = round(value, 6), np.round(others, 6)
    return 1 + float((others > value).sum() + (others == value).sum() / 2)


def kendall(a, b):
    """Kendall's tau-b of two orders [R,M], row by row, [R]; NaN where one of the two is constant. Equal to six digits is equal."""
    first, second = np.triu_indices(a.shape[1], 1)
    a, b = (np.sign(values[:, first] - values[:, second]) for values in (a.round(6), b.round(6)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _drawn(df, resamples):
    """How often each (run, image) is in each sample, [1 + resamples, images], the first as they are; and (run, image) -> its place."""
    resamples, generator = whole_number("resamples", resamples), np.random.default_rng(0)
    images = df[["run", "image_id"]].drop_duplicates().sort_values(["run", "image_id"])
    runs = [len(part) for _, part in images.groupby("run")]
    counts = np.ones((1 + resamples, len(images)))
    for row in counts[1:]:
        times = np.bincount(generator.integers(len(runs), size=len(runs)), minlength=len(runs))
        row[:] = np.concatenate([generator.multinomial(n * many, np.full(n, 1 / n)) for n, many in zip(runs, times)])
    return counts, {key: place for place, key in enumerate(images.itertuples(index=False, name=None))}


def _means(df, drawn, places):
    """Names of the methods that have values, and their means [1 + resamples, M]."""
    names, means = [], []
    for (method, hyper), part in df[df["value"].notna()].groupby(["method", "hyper"], sort=False):
        at = [places[key] for key in zip(part["run"], part["image_id"])]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(drawn[:, at] @ part["value"].to_numpy() / drawn[:, at].sum(1))
        names.append(method if hyper == "{}" or method in KNOWING else f"{method} {hyper}")
    return names, np.stack(means, 1) if means else np.zeros((len(drawn), 0))


# -- in words -----------------------------------------------------------------------------------------------------------


def said(judgement):
    """What came out, in sentences: the result of `judged` as text for a page."""
    told = []
    for (dataset, model), part in judgement.groupby(["dataset", "model"], sort=False):
        first, worse = part[part["oracle rank"] <= 1.5], part[part["high"] < 0]
        behind = ", ".join(f"{row['metric']} ({row['oracle rank']:g} of {row['methods'] + 1})" for _, row in part.iterrows() if row["oracle rank"] > 1.5)
        told.append(
            f"On {model} ({dataset}), {len(first)} of {len(part)} metrics put the oracle first" + (f"; the others rank it: {behind}." if behind else ".")
        )
        told.append(f"{_listed(worse['metric'])} would rather have a random map than the truth." if len(worse) else "None prefers a random map to the truth.")
        agree = part.dropna(subset=["part-share"]).sort_values("part-share")
        if len(agree):
            high, low = agree.iloc[-1], agree.iloc[0]
            told.append(
                f"The order of the methods by share on the parts agrees best with that by {high['metric']} "
                f"(tau {high['part-share']:.2f}, {high['part-share low']:.2f} to {high['part-share high']:.2f}) "
                f"and least with that by {low['metric']} (tau {low['part-share']:.2f}, {low['part-share low']:.2f} to {low['part-share high']:.2f})."
            )
    return " ".join(told)


def _listed(names):
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

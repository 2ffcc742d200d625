"""Known truth by parts: maps that know it, scored as methods are, and what that says about each metric.

`evaluate` scores methods by parts as by anything else. Here are the two rows that no method can have, since they are made of the truth: *oracle*,
what the parts are worth on exactly the pixels that their swaps change, and *object*, the mask of the object.
"""

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import torch

from xai_repro.metrics.parts import worth
from xai_repro.models.zoo import pick_device
from xai_repro.network.forward import predict
from xai_repro.registry import method_info, methods as known_methods, metric_info
from xai_repro.store.sharing import forgetting, sharing
from xai_repro.study.asked import Asked, device_of, labelled_data, labelled_models, loader, networks_of, the_data, the_model, with_hyper
from xai_repro.study.evaluate import dealt, evaluate, Job, signs_of, size_of, values_of
from xai_repro.study.images import block_of
from xai_repro.study.profiles import profile as settings_of
from xai_repro.study.said import listed
from xai_repro.study.shards import COLUMNS
from xai_repro.study.resampling import interval, mean_of, resampled, units
from xai_repro.study.statistics import checked_rows, EMPTY, share_of, higher_is_better, kendall, with_run

KNOWING = ("oracle", "object")  # rows that are made of the truth
BY_PARTS = ("part-share", "part-hit", "part-correlation")
MODELS, DATA = ("mini-vgg", "mini-resnet"), "mini-birds"  # only drawn birds know, whatever the profile
JUDGED = ("increase-in-confidence", "confidence-gain", "average-drop", "average-drop-in-deletion", "proportion", "pointing-game", "positive-ratio")
FEW = 8  # images that a costly method explains
CURVES = ("deletion", "insertion", "overall")  # these cost most, and so are followed for some methods only, those of Collection-CAM's table 3
FOLLOWED = ("grad-cam", "grad-cam++", ("layer-cam", {"layers": "all"}), "score-cam", "rise", "collection-cam", "random")


def study(methods="*", profile="mini", results=None):
    """The study of the book: (rows of `evaluate` and of the truth, parts of `truth_rows`) of all methods, or those of a shell pattern, on drawn birds.

    Methods that the profile calls costly explain at most FEW images.
    """
    settings = settings_of(profile)
    asked = [model for model in MODELS if model in settings["models"]] or list(MODELS)
    limit, names = settings["truth"], known_methods(methods)
    some = {False: [name for name in names if name not in settings["costly"]], True: [name for name in names if name in settings["costly"]]}
    rows = [
        evaluate(asked, DATA, few, [*BY_PARTS, *JUDGED], profile, results=results, limit=min(limit, FEW) if costly else limit)
        for costly, few in some.items() if few
    ]  # fmt: skip
    curves = evaluate(asked, DATA, list(FOLLOWED), list(CURVES), profile, results=results, limit=limit)
    truth, parts = truth_rows(asked, DATA, [*BY_PARTS, *JUDGED, *CURVES], profile, limit=limit)
    return pd.concat([*rows, curves, truth], ignore_index=True), parts


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
            size, _ = size_of(samples, data_label, limit or settings["images"])
            networks = networks_of(model, data, settings.get("networks", 1))[:size]
            for number, network in enumerate(networks):
                module = the_model(network, data, device, load, number)
                for start, stop in dealt(size, len(networks), number):
                    job = Job(network, number, data, model_label, data_label, start, stop, (), batch, device, profile, "", "")
                    with sharing():
                        block = block_of(module, samples, job)
                        rows += _scored(module, block, metrics, job)
                        parts += [one for batch_ in block.batches for one in _parts(batch_, block, job)]
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(parts, columns=_PARTS)


_PARTS = ["dataset", "model", "run", "image_id", "part", "effect", "flips", "pixels"]


def maps_of_truth(model, x, y, samples):
    """The maps of KNOWING for images x and classes y, {name: [B,H,W]}."""
    return {"oracle": worth(model, x, y, samples).oracle, "object": torch.stack([sample.truth() for sample in samples]).to(x)}


def _scored(model, block, metrics, job):
    for name in KNOWING:
        maps = [one.worth.oracle if name == "oracle" else one.truth("mask").to(one.x) for one in block.batches]
        signs = signs_of(block, maps)
        with forgetting():
            for metric in metrics:
                values, statuses, _ = block.column([values_of(model, one, m, Asked(name, name, "{}"), metric, job) for one, m in zip(block.batches, maps)])
                for row in zip(block.ids, block.targets, values, *signs.values(), block.correct, block.difficult, statuses):
                    found = dict(zip(("image_id", "target", "value", *signs, "correct", "difficult", "status"), row))
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
        x = torch.cat([sample.image[None], sample.counterfactuals.images(changes)]).to(device_of(model))
        logits = predict(model, x).double()
        scores = logits[:, logits[0].argmax()]
        values = {frozenset(kept): score for kept, score in zip(coalitions, scores[1:].view(len(coalitions), len(others)).mean(1))}
        values[frozenset(range(P))] = scores[0]
        found.append([_shapley(values, p, P) for p in range(P)])
    return torch.tensor(found, dtype=torch.float64)


def alone_and_together(models, samples):
    """What each part is worth alone and with all others (`together`), mean over images: one row per model and part. models: {label: module}."""
    found = []
    for label, model in models.items():
        x = torch.stack([sample.image for sample in samples]).to(device_of(model))
        alone = worth(model, x, predict(model, x).argmax(1), samples).effect.double().mean(0).tolist()
        means = together(model, samples).mean(0).tolist()
        found.append(pd.DataFrame({"model": label, "part": list(samples[0].counterfactuals.shapes), "alone": alone, "together": means, "n": len(samples)}))
    return pd.concat(found, ignore_index=True)


def _shapley(values, p, players):
    without = [kept for kept in values if p not in kept]
    weights = [factorial(len(kept)) * factorial(players - len(kept) - 1) / factorial(players) for kept in without]
    return sum(weight * float(values[kept | {p}] - values[kept]) for weight, kept in zip(weights, without))


# -- what it says of the metrics ------------------------------------------------------------------------------------------


def judged(df):
    """What each metric makes of the truth, and how far its order of methods is the order by parts: one row per data set, model and metric.

    df: rows of `evaluate` and of `truth_rows`, with the metrics of BY_PARTS among them. Columns: methods (how many, without the rows that know
    the truth; settings count apart), `oracle rank` and `object rank` (1: better than every method; half for one that is equal), `over random`
    with low and high (by how much the oracle is better than *random*, in the metric's own direction and unit), and for each of BY_PARTS Kendall's tau-b of
    the two orders of the methods, with low and high. Intervals of 95 % redraw networks and images, the same for all methods.
    Methods without a value on a metric, or with a tenth of their maps empty, are left out of that metric's rows. Raises ValueError for a column
    that df does not have, and without an oracle.
    """
    df = with_run(checked_rows(df, ["dataset", "model", "image_id", "method", "hyper", "metric", "value"]))
    if "oracle" not in set(df["method"]):
        raise ValueError("rows of the oracle are needed: those of `truth_rows`, beside those of `evaluate`")
    found = []
    for (dataset, model), part in df.groupby(["dataset", "model"], sort=False):
        codes, design = units(part["image_id"], part["run"])
        means = {metric: _means(rows, len(design[0])) for metric, rows in part.assign(unit=codes).groupby("metric", sort=False)}
        for metric in means:
            if metric not in BY_PARTS and higher_is_better(metric) is not None:
                found.append({"dataset": dataset, "model": model, "metric": metric} | _judged(metric, means, design))
    return pd.DataFrame(found)


def _judged(metric, means, design):
    (names, mean), sign = means[metric], 1 if higher_is_better(metric) else -1
    methods, now = [name for name in names if name not in KNOWING], dict(zip(names, sign * mean(np.ones((1, len(design[0]))))[0]))
    record = {"methods": len(methods)}
    for name in KNOWING:
        record[f"{name} rank"] = _rank(now[name], [now[other] for other in methods]) if name in now else np.nan
    if {"oracle", "random"} <= set(names):
        oracle, random = names.index("oracle"), names.index("random")

        def gap(weights):
            values = mean(weights)
            return sign * (values[:, oracle] - values[:, random])

        record |= _with_interval("over random", *resampled(design, gap))
    for truth in BY_PARTS:
        others, true = means.get(truth, ([], None))
        both = [name for name in methods if name in others]
        if len(both) < 3:
            record |= _with_interval(truth, np.nan, np.empty(0))
            continue
        here, there = ([every.index(name) for name in both] for every in (names, others))

        def tau(weights, here=here, there=there, true=true):
            return kendall((sign * mean(weights)[:, here]).round(6), true(weights)[:, there].round(6))

        estimate, samples = resampled(design, tau)
        record |= _with_interval(truth, estimate, samples.clip(-1, 1))
    return record


def _with_interval(name, estimate, samples):
    start = "" if name == "over random" else f"{name} "
    return {name: estimate} | dict(zip((f"{start}low", f"{start}high"), interval(samples)))


def _rank(value, others):
    """1 + how many are better, and half for each that is equal, to six digits."""
    value, others = round(value, 6), np.round(others, 6)
    return 1 + float((others > value).sum() + (others == value).sum() / 2)


def _means(df, pairs):
    """Names of the methods that have values, and a function from weights [S, pairs] of pairs of run and image to their means [S, M]."""
    names, sums, counts = [], [], []
    for (method, hyper), part in df.groupby(["method", "hyper"], sort=False):
        part = part[:0] if share_of(part, "empty") >= EMPTY and method not in KNOWING else part
        part = part.dropna(subset="value")
        if len(part):
            sums.append(np.bincount(part["unit"], part["value"], pairs))
            counts.append(np.bincount(part["unit"], minlength=pairs))
            names.append(method if hyper == "{}" or method in KNOWING else f"{method} {hyper}")
    sums, counts = np.reshape(sums, (-1, pairs)).T, np.reshape(counts, (-1, pairs)).T.astype(float)

    def mean(weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ sums) / (weights @ counts)

    return names, mean


# -- for the page -------------------------------------------------------------------------------------------------------


def by_part(parts):
    """What each part is worth: one row per model and part, from the parts of `truth_rows`.

    Columns: effect with low and high (mean over images, in units of the logit; its interval redraws networks and images), flips (share of the
    swaps after which another class is on top), strongest (share of the images in which no other part is worth more), pixels (of the part,
    where it is seen at all) and n.
    """
    found = []
    best = parts.groupby(["dataset", "model", "image_id"])["effect"].transform("max")
    for (model, part), rows in parts.assign(strongest=parts["effect"] == best).groupby(["model", "part"], sort=False):
        effect, samples = mean_of(rows["effect"], rows["image_id"], rows["run"])
        low, high = interval(samples)
        found.append({
            "model": model, "part": part, "effect": effect, "low": low, "high": high, "flips": rows["flips"].mean(), "strongest": rows["strongest"].mean(),
            "pixels": rows["pixels"][rows["pixels"] > 0].mean(), "n": rows["image_id"].nunique(), "networks": rows["run"].nunique(),
        })  # fmt: skip
    return pd.DataFrame(found)


def shown(judgement):
    """The result of `judged` as a page shows it: numbers with their intervals, one row per model and metric."""
    columns = {"model": judgement["model"], "metric": judgement["metric"]}
    for name in KNOWING:
        columns[f"rank of the {name}"] = [f"{rank:g} of {many + 1}" for rank, many in zip(judgement[f"{name} rank"], judgement["methods"])]
    columns["oracle better than random by"] = _texts(judgement, "over random", "low", "high")
    for name in BY_PARTS:
        columns[f"tau with {name}"] = _texts(judgement, name, f"{name} low", f"{name} high")
    return pd.DataFrame(columns)


def _texts(table, *names):
    return ["" if np.isnan(numbers[0]) else "{:.2f} ({:.2f} to {:.2f})".format(*numbers) for numbers in table[list(names)].itertuples(index=False)]


def said(judgement):
    """What came out, in a sentence or two for each network: the result of `judged`."""
    told = []
    for model, part in judgement.groupby("model", sort=False):
        behind = part[part["oracle rank"] > 1 + part["methods"] / 2]["metric"]
        better, worse = part[part["low"] > 0], part[part["high"] < 0]
        told.append(
            f"* On {model}, {(part['oracle rank'] <= 1.5).sum()} of {len(part)} metrics put the oracle, which shows the truth, before every method"
            + (f"; it comes behind more than half of them by {listed(behind, most=9)}. " if len(behind) else ". ")
            + f"It is better than a random map, beyond doubt, by {len(better) or 'none'} of them"
            + (f", and worse by {listed(worse['metric'], most=9)}." if len(worse) else ".")
        )
    return "\n".join(told)


def said_of_orders(judgement):
    """Whose order of the methods agrees with the order by parts, beyond doubt: the result of `judged`, a line for each network and metric of BY_PARTS."""
    told = []
    for model, part in judgement.groupby("model", sort=False):
        for truth in BY_PARTS:
            some = part.dropna(subset=[truth]).sort_values(truth)
            agree, against = some[some[f"{truth} low"] > 0]["metric"][::-1], some[some[f"{truth} high"] < 0]["metric"]
            opposed = f", and is against that by {listed(against, most=9)}" if len(against) else ""
            told.append(f"* {model}: the order of the methods by {truth} agrees with that by {listed(agree, most=9) or 'none of the metrics'}{opposed}.")
    return "\n".join(told)


def pointing(df, family="relevance"):
    """Does a method that points better at the object point better at the parts that decide? Kendall's tau of the two orders, among the methods of a family.

    df: rows of `evaluate` and of `truth_rows`, with `pointing-game`. One row per model and metric of BY_PARTS: tau with low and high, methods,
    and the least and greatest mean of the methods at pointing: where they hardly differ, an order says little. Raises the errors of `judged`.
    """
    df = checked_rows(df, ["method", "metric"])
    own = {name for name in known_methods() if method_info(name).family == family}
    judgement = judged(df[df["method"].isin({*own, *KNOWING}) & df["metric"].isin(["pointing-game", *BY_PARTS])])
    means = df[df["method"].isin(own) & (df["metric"] == "pointing-game")].groupby(["model", "method"])["value"].mean()
    found = []
    for row in judgement.to_dict("records"):
        spread = {"least at pointing": means[row["model"]].min(), "greatest": means[row["model"]].max()}
        for truth in BY_PARTS:
            numbers = {"tau": row[truth], "low": row[f"{truth} low"], "high": row[f"{truth} high"], "methods": row["methods"]}
            found.append({"model": row["model"], "by": truth} | numbers | spread)
    return pd.DataFrame(found)


def said_of_pointing(found):
    """The result of `pointing` in one sentence per model."""
    told = []
    for model, part in found.groupby("model", sort=False):
        yes, no, open_ = (list(part["by"][chosen]) for chosen in (part["low"] > 0, part["high"] < 0, (part["low"] <= 0) & (part["high"] >= 0)))
        words = [f"{verb} {listed(names)}" for verb, names in (("yes by", yes), ("no, rather the reverse, by", no), ("undecided by", open_)) if names]
        told.append(f"**{model}**, {part['methods'].iat[0]} methods: {'; '.join(words)}.")
    return "\n\n".join(told)

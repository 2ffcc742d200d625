"""The rows, tables and figures of Gradient Hedging: all labels or the predicted ones, all objects or the difficult ones, the parts of its rule."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from xai_repro.explain import explain
from xai_repro.methods.hedging import gradient_activation, hedged, on_the_way, start_layer, table
from xai_repro.methods.lifts import upsample
from xai_repro.metrics.curves import ranks as ranks_of
from xai_repro.metrics.recognition import counts_of, ERASED
from xai_repro.network.forward import predict
from xai_repro.network.propagate import relevance_from
from xai_repro.network.rules import alpha1beta0, of_sign, positive, shared
from xai_repro.published import published
from xai_repro.study.asked import device_of
from xai_repro.study.resampling import interval, mean_of
from xai_repro.study.statistics import checked_rows
from xai_repro.study.tables import compare, rank_agreement

PAPER = "gradient_hedging"
GROUPS = [(data, network) for data in ("PASCAL VOC 2007", "COCO 2014") for network in ("VGG-16", "ResNet-50")]
FURTHER = ("lrp", "sglrp", "rap", "fullgrad", "center", "random")  # the paper leaves out the first four, whose maps hardly know the class
GAMMAS = (1.0, 1.25, 1.5, 1.75, 2.0)


def methods(also=()):
    """What table 1 compares, by its headings of all labels ("/ L"): {label: method} for `evaluate`, and further methods by their names."""
    table = published(PAPER, "1")
    found = {row: name for row, name in zip(table["row"], table["method"]) if row.endswith("/ L")}
    found["EB to the images / L"] = ("excitation-backprop", {"layer": "input"})
    found["c*EB to the images / L"] = ("contrastive-excitation-backprop", {"layer": "input"})
    return found | {f"{name} / L": name for name in (*FURTHER, *also)}


def gammas():
    """Gradient Hedging for every gamma of figure 7: {label: method}."""
    return {f"gamma {gamma:g}": ("gradient-hedging", {"gamma": gamma}) for gamma in GAMMAS}


def ablation():
    """Gradient Hedging with the parts of every row of table 2, by its headings: {label: method}; gamma is 2 as in the paper."""
    found = {}
    for row in published(PAPER, "2")["row"].unique():
        parts = [one.split(" ")[0].replace("\u03a8", "Psi") for one in row.split(" / ") if one.endswith("\u2713")]
        found[row] = ("gradient-hedging", {"gamma": 2.0, "parts": " ".join(parts)})
    return found


def with_predicted(rows):
    """Rows of all labels ("/ L"), and again those of the labels that the network predicts, under the heading "/ P"."""
    checked_rows(rows, ["method", "correct"])
    predicted = rows[rows["correct"]]
    return pd.concat([rows, predicted.assign(method=predicted["method"].str.replace(r"/ L$", "/ P", regex=True))], ignore_index=True)


def counted(rows):
    """How many images, pairs of image and class, predicted and difficult ones among these, and networks, per data set and model."""
    checked_rows(rows, ["dataset", "model", "run", "image_id", "target", "correct", "difficult"])
    pairs = rows.drop_duplicates(["dataset", "model", "image_id", "target"]).groupby(["dataset", "model"], sort=False)
    facts = {"images": ("image_id", "nunique"), "explained": ("target", "size"), "predicted": ("correct", "sum"), "difficult": ("difficult", "sum")}
    return pairs.agg(**facts, networks=("run", "nunique")).reset_index()


def table_1(rows):
    """The parts of table 1, one for each data set and network: {title: the result of `compare`}; without what has no difficult objects at all."""
    found = {}
    for data, network in GROUPS:
        start = f"{data} / {network} / "
        parts = [compare(some, PAPER, "1", column=f"{start}{kind}") for kind, some in _kinds(rows)]
        part = pd.concat([one for one in parts if one["ours"].notna().any()] or parts)
        found[f"{data}, {network}"] = part.assign(group=part["group"].str.removeprefix(start))
    return found


def table_2(rows):
    """The two parts of table 2: {"ALL" or "DIF": the result of `compare`}."""
    return {kind: compare(some, PAPER, "2", column=kind) for kind, some in _kinds(rows)}


def ranks(rows):
    """Kendall's tau of the paper's order of table 1's methods and ours, for all labels and for predicted ones, on all objects."""
    return pd.concat([rank_agreement(rows, PAPER, "1", row=kind, column="ALL").assign(labels=kind) for kind in ("L", "P")], ignore_index=True)


def _kinds(rows):
    return ("ALL", rows), ("DIF", rows[rows["difficult"]])


# -- figures ------------------------------------------------------------------------------------------------------------


def averaged(rows):
    """Rows of single steps of the insertion ("top 1 %", ...) as rows of `morf-insertion`: of each image the mean over the steps, if all have a value."""
    steps = rows[rows["metric"].str.fullmatch(r"top \d+ %")]
    keys = [column for column in rows if column not in ("metric", "value", "hyper", "seconds", "status")]
    found = steps.groupby(keys, sort=False, dropna=False)["value"].agg(lambda values: values.mean(skipna=False)).reset_index()
    status = np.where(found["value"].isna(), "undefined", "ok")
    return found.assign(metric="morf-insertion", hyper="{}", seconds=float("nan"), status=status)[list(rows)]


def erased(model, samples, classes, methods, steady="gradient-hedging", upset="noise"):
    """Figure 8: one image without the share ERASED of its pixels, those that a map holds highest, for several methods.

    methods: {label: (name, hyper-parameters)}. The image is the first one whose class the label `upset` changes and `steady` does not, else
    the first. Returns images [M,3,H,W], {"map": [M,H,W], "gone": [M,H,W]}, and titles that say which class is found now.
    """
    x = torch.stack([sample.image for sample in samples]).to(device_of(model))
    y = predict(model, x).argmax(1)
    maps = {label: explain(model, x, y, name, **hyper) for label, (name, hyper) in methods.items()}
    gone = {label: ranks_of(one) < counts_of(x, 1, ERASED) for label, one in maps.items()}
    images = {label: torch.where(one[:, None], 0, x) for label, one in gone.items()}
    now = {label: predict(model, one).argmax(1) for label, one in images.items()}
    shown = int(((now[upset] != y) & (now[steady] == y)).int().argmax())
    columns = {"map": torch.stack([one[shown] for one in maps.values()]), "gone": torch.stack([one[shown].to(x) for one in gone.values()])}
    return torch.stack([one[shown] for one in images.values()]), columns, [f"{label}: {classes[one[shown]]}" for label, one in now.items()]


def sections(model, x, y=None, layer=None):
    """Channel sums [B,h,w] of what figure 2 compares, one convolution below the initial attribution R, and R itself: {label: map}.

    *by W+* and *by W-*: all of R, in proportion to positive or to negative contributions. *for* and *against*: its positive and negative
    part, each in proportion to |contribution|; *evidence*: both together.
    """

    def sent(rule, start):
        rules = replace(table(1.0, "C", "branch"), convolution=rule)
        return relevance_from(model, x, y, rules, start, start_layer(model, x, layer), every=True)[-2:]

    def influence(layer):
        return shared(layer, (positive(layer.x), layer.W.abs()))

    def part(number):
        return lambda A, G: hedged(gradient_activation(A, G))[number]

    (_, up), (_, R) = sent(alpha1beta0, gradient_activation)
    down = sent(lambda layer: shared(layer, *of_sign(layer, -1)), gradient_activation)[0][1]
    pro, contra = (sent(influence, part(number))[0][1] for number in (0, 1))
    found = {"R": R, "by W+": up, "by W-": down, "for": pro, "against": contra, "evidence": pro + contra}
    return {label: one.sum(1) for label, one in found.items()}


def alike(models, data, limit):
    """Whether negative weights send relevance elsewhere than positive ones do: mean cosine of the two maps of `sections`, per model, with its interval.

    models: {label: module}; data: samples. *for, against*: the same of the two parts that the paper propagates in their place.
    """
    found = []
    x = torch.stack([data[n].image for n in range(min(limit, len(data)))])
    for label, model in models.items():
        maps = sections(model, x.to(device_of(model)))
        for one, other in (("by W+", "by W-"), ("for", "against")):
            values = torch.cosine_similarity(maps[one].flatten(1).double(), maps[other].flatten(1).double()).cpu().numpy()
            mean, samples = mean_of(values, np.arange(len(values)), np.zeros(len(values), int))
            low, high = interval(samples)
            found.append({"model": label, "maps": f"{one}, {other}", "cosine": mean, "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(found)


def channel_sums(model, x, y, variants, layers=6):
    """Channel sums of relevance at some layers, from the deepest to the image (0), of one image under variants of the parts: {layer: [variants,H,W]}."""
    found = {}
    for parts in variants:
        pairs = on_the_way(model, x, y, gamma=1.0, parts=parts)
        for number in np.linspace(len(pairs) - 1, 0, layers).round().astype(int):
            K, h, w = pairs[number][0].shape[1:]
            found.setdefault(f"{number}: {K} x {h} x {w}", []).append(upsample(pairs[number][1].sum(1), x.shape[-2:]))
    return {layer: torch.cat(maps) for layer, maps in found.items()}

"""Where each metric misleads, computed: a map that is wrong, and that the metric puts above one that is right.

What is right is known of drawn birds alone: the oracle, what each part is worth to the network, on exactly the pixels that its swaps change
(`metrics.parts.worth`). Wrong are maps that know nothing of the network, or next to nothing. Metrics that explain again, or that take coefficients,
cannot be asked about an oracle: there a method of the papers is right, and something that is made to please the metric is wrong.
"""

import re
import sys
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from xai_repro.explain import coefficients, explain
from xai_repro.methods.lifts import upsample, weighted
from xai_repro.network.forward import predict
from xai_repro.network.split import Split
from xai_repro.network.target import of_class
from xai_repro.numerics.algebra import normalize
from xai_repro.registry import metric_info, metrics
from xai_repro.score import score
from xai_repro.store.sharing import sharing
from xai_repro.study import plots
from xai_repro.study.asked import load_pair, the_model
from xai_repro.study.images import Batch
from xai_repro.study.known_truth import DATA, MODELS
from xai_repro.study.notes import listed

METHOD = "lift-cam"  # right, where no oracle can be asked
SAYS = {  # what each map shows; the right ones first
    "oracle": "what each part is worth",
    METHOD: "a method of the papers",
    "weakest channel": f"coefficients of {METHOD}, and a large one on the channel that says least here",
    "center": "a blob in the middle, scaled to add up to the change of the logit",
    "edges": "the edges of the image",
    "random": "smooth noise",
    "noise": "noise, drawn for every pixel",
    "everything": "1 everywhere but in one corner",
    "corner": "0 everywhere but in one corner",
    "object": "the whole bird",
    "least part": "the part that matters least",
    "beside": "all that is not the bird, and one pixel of the part that matters most",
    "new noise": "noise that is drawn anew whenever the network changes",
    "other place": f"coefficients of {METHOD}, less what is active where its map is highest",
}
MAPS = {"unit": "maps scaled to [0,1]", "raw": "maps as the method gives them", "coefficients": "coefficients of activation maps"}
TRUTH = {"box": "boxes", "mask": "mask", "near": "mask and 15 pixels around it", "parts": "parts and their worth", None: ""}
SHORT = {"unit": "0 to 1", "raw": "raw", "coefficients": "coefficients", "box": "boxes", "mask": "mask", "near": "mask, wider", "parts": "parts", None: ""}
SAME = 1e-6  # values that differ by less are level


@dataclass(frozen=True)
class Birds:
    """Some images as a Batch, the same with another training of the network, and the maps that are tried, {name: [B,H,W]}: the oracle, then wrong ones."""

    batch: Batch
    twin: Batch

    @cached_property
    def raw(self):
        return _known(self.batch)

    @cached_property
    def unit(self):
        return {name: normalize(one) for name, one in self.raw.items()}

    @cached_property
    def of_twin(self):
        return _known(self.twin)


@dataclass(frozen=True)
class Case:
    """Where a metric is misled most: by the wrong map that it puts above the right one, or level with it, on most images, and of these where the gap is widest.

    x: the image [1,3,H,W]. maps: the right one and the wrong one [1,H,W], by name; values: theirs.
    """

    metric: str
    x: torch.Tensor
    maps: dict
    values: tuple
    above: int  # on how many images some wrong map stands above the right one
    level: int  # on how many others one stands level with it
    images: int  # of how many


def birds(number):
    """So many of the first test birds, those that mini-vgg recognises."""
    model, data = load_pair(MODELS[0], DATA)
    samples = []
    for sample in data:
        if predict(model, sample.image[None]).argmax() == sample.labels[0]:
            samples.append(sample)
        if len(samples) == number:
            break
    x, y = torch.stack([sample.image for sample in samples]), torch.tensor([sample.labels[0] for sample in samples])
    return Birds(*(Batch(x, y, samples, y.tolist(), list(range(len(x))), one) for one in (model, the_model(MODELS[0], DATA, "cpu", run=1))))


def cases(names, birds, hyper):
    """The Case of each metric, {name: Case}. hyper: {name: hyper-parameters} of those that are not to take their defaults."""
    with sharing():
        return {name: case(name, birds, **hyper.get(name, {})) for name in names}


def case(name, birds, **hyper):
    """The Case of one metric."""
    batch, asked = birds.batch, _asked(name, birds)
    values = {one: _scored(name, batch, slice(None), given, hyper | own) for one, (given, _, own) in asked.items()}
    right, *wrong = values
    sign = 1 if metric_info(name).higher_is_better else -1
    gaps = torch.stack([sign * (values[one] - values[right]) for one in wrong])
    widest = gaps.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    place = max(range(len(wrong)), key=lambda one: (int((widest[one] >= -SAME).sum()), float(widest[one].amax())))
    image, best = int(widest[place].argmax()), widest.amax(0)
    chosen, some = (right, wrong[place]), slice(image, image + 1)
    return Case(
        name, batch.x[some], {one: asked[one][1][some] for one in chosen}, tuple(float(values[one][image]) for one in chosen),
        int((best > SAME).sum()), int((best.abs() <= SAME).sum()), int((~gaps.isnan()).any(0).sum()),
    )  # fmt: skip


def costs(names, birds, hyper):
    """What each metric costs for one image and map, in forward passes, by the arithmetic that it does: {name: passes}."""
    one = slice(0, 1)
    whole = _flops(lambda: predict(birds.batch.model, birds.batch.x[one]))
    found = {}
    for name in names:
        given, _, own = next(iter(_asked(name, birds).values()))
        found[name] = _flops(lambda: _scored(name, birds.batch, one, given, hyper.get(name, {}) | own)) / whole  # noqa: B023 - called at once
    return found


def _flops(function):
    with FlopCounterMode(display=False) as counted:
        function()
    return counted.get_total_flops()


def _scored(name, batch, some, given, hyper):
    truth = batch.truth(metric_info(name).truth)
    hyper = {key: value[some] if isinstance(value, torch.Tensor) else value for key, value in hyper.items()}
    return score(name, batch.model, batch.x[some], batch.y[some], given[some], None if truth is None else truth[some], **hyper)


def _asked(name, birds):
    """What a metric is asked about, the right thing first: {name: (what it takes, the map that this is, further arguments)}."""
    info, batch = metric_info(name), birds.batch
    if info.maps == "coefficients":
        return {one: (alpha, m, {}) for one, (alpha, m) in _coefficients(batch).items()}
    if "method" in info.hyper:
        noise = {"cells": batch.x.shape[-1]}
        maps = explain(batch.model, batch.x, batch.y, METHOD), explain(batch.model, batch.x, batch.y, "random", **noise)
        asked = ({"method": METHOD}, {"method": "random", "settings": noise | {"seed": 1}})
        return {one: (m, m, own) for one, m, own in zip((METHOD, "new noise"), maps, asked)}
    given = birds.unit if info.maps == "unit" else birds.raw
    return {one: (given[one], m, {"others": birds.of_twin[one]} if "others" in info.hyper else {}) for one, m in birds.raw.items()}


def _known(batch):
    """The oracle, and what is wrong beside it, {name: [B,H,W]}, raw."""
    x, y, model = batch.x, batch.y, batch.model
    parts, bird = ~batch.worth.truth.isnan(), batch.truth("mask")
    effect = batch.worth.truth.nan_to_num(-torch.inf).amax((2, 3))  # of the parts that are seen
    most, least = (parts[range(len(x)), one] for one in (effect.argmax(1), effect.where(effect.isfinite(), torch.inf).argmin(1)))
    corner, first = torch.zeros_like(x[:, 0]), most.flatten(1).to(x).argmax(1)
    corner[:, 0, 0] = 1
    beside = torch.where(bird, 0.1 * normalize(batch.worth.oracle), 0.9).flatten(1).scatter(1, first[:, None], 1.0).view_as(corner)
    center, change = explain(model, x, y, "center"), of_class(predict(model, x) - predict(model, x * 0), y)
    return {
        "oracle": batch.worth.oracle, "center": center * (change / center.sum((1, 2)))[:, None, None], "edges": explain(model, x, y, "edges"),
        "random": explain(model, x, y, "random"), "noise": explain(model, x, y, "random", cells=x.shape[-1]), "everything": 1 - corner, "corner": corner,
        "object": bird.to(x), "least part": least.to(x), "beside": beside,
    }  # fmt: skip


def _coefficients(batch):
    """A map as METHOD has it by other coefficients, and another map by coefficients that are nearer to those of METHOD: {name: (alpha [B,K], map [B,H,W])}."""
    alpha, A = coefficients(batch.model, batch.x, batch.y, METHOD), Split(batch.model, batch.x).A
    length, quiet = alpha.norm(dim=1, keepdim=True), A.abs().sum((2, 3)).argmin(1, keepdim=True)
    highest = weighted(alpha, A).flatten(1).argmax(1)
    there = F.normalize(A.flatten(2)[range(len(A)), :, highest])
    found = {"weakest channel": alpha.scatter_add(1, quiet, 3 * length), "other place": alpha - (alpha * there).sum(1, keepdim=True) * there}
    return {name: (one, upsample(weighted(one, A), batch.x.shape[-2:])) for name, one in found.items()}


# -- in words and pictures ----------------------------------------------------------------------------------------------


def families():
    """The metrics in groups, those of a file together: triples (heading, what the file says of all of them in Markdown, names)."""
    files = {}
    for name in metrics():
        files.setdefault(metric_info(name).function.__module__, []).append(name)
    for file, names in files.items():
        first, *others = (getattr(sys.modules.get(file), "__doc__", None) or "Others: what was registered elsewhere.").strip().split("\n\n")
        heading, _, rest = " ".join(first.split()).partition(": ")
        yield heading, "\n\n".join(_plain(one) for one in [rest[:1].upper() + rest[1:], *others]), names


def _plain(text):
    """Text for Markdown, in which `_`, `*` and brackets stand for themselves; words between backticks stay code."""
    return re.sub(r"`[^`]*`|[*_\[\]]", lambda found: found[0] if found[0][0] == "`" else f"\\{found[0]}", text)


def takes(name, passes, **hyper):
    """Direction, what the metric is given, what it costs and with which hyper-parameters, in Markdown. hyper: those that are not the defaults."""
    info = metric_info(name)
    better = "Higher" if info.higher_is_better else "Lower"
    truth = f", and the object's {TRUTH[info.truth]}" if info.truth else ""
    settings = ", ".join(f"`{key}={round(value, 4) if isinstance(value, float) else repr(value)}`" for key, value in (info.hyper | hyper).items()) or "none"
    cost = f"{passes:.3g} forward passes" if passes else "no forward pass"
    return f"{better} is better. Takes {MAPS[info.maps]}{truth}. Costs {cost} for an image and a map here. Hyper-parameters: {settings}."


def said(case):
    """On how many birds the metric was misled, and where most, in a sentence."""
    (right, wrong), values = case.maps, [f"{value:.3g}" for value in case.values]
    often = [f"on {case.above} of {case.images} birds it puts a wrong map above the right one"] if case.above or not case.level else []
    often += [f"on {case.level} of {case.images} level with it" if often else f"on {case.level} of {case.images} birds it puts a wrong map level with the right one"] if case.level else []
    return f"{', '.join(often).capitalize()}. Shown: *{wrong}* ({SAYS[wrong]}) has {values[1]}, *{right}* ({SAYS[right]}) has {values[0]}."


def drawn(case):
    """The image, the right and the wrong map, with their values."""
    return plots.panel(case.x, {f"{name}\n{value:.3g}": one for (name, one), value in zip(case.maps.items(), case.values)})


def overview(cases, costs):
    """One row per Case: what the metric takes, and what misled it. costs: as `costs` gives them."""
    rows = []
    for one in cases:
        info = metric_info(one.metric)
        rows.append({
            "metric": one.metric, "better": "higher" if info.higher_is_better else "lower", "maps": SHORT[info.maps], "truth": SHORT[info.truth],
            "passes": f"{costs[one.metric]:.3g}", "wrong above right": f"{one.above} of {one.images}", "level": f"{one.level} of {one.images}",
            "wrong map": list(one.maps)[1] if one.above + one.level else "",
        })  # fmt: skip
    return pd.DataFrame(rows)


def told(cases):
    """The result of all Cases in sentences."""
    above, level = ([f"*{one.metric}*" for one in cases if found(one)] for found in (lambda one: one.above, lambda one: one.level and not one.above))
    always, never = sum(one.above == one.images for one in cases), [f"*{one.metric}*" for one in cases if not one.above + one.level]
    text = f"{len(above)} of {len(cases)} metrics put a wrong map above the right one on at least one of {cases[0].images} drawn birds, {always} of them on every one."
    text += f" A wrong map is level with it, never above, for {listed(level)}." if level else ""
    return text + (f" No map that was tried misleads {listed(never)}." if never else "")

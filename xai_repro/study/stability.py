"""Stability: whether a method shows the same when the same network is trained with other hyper-parameters, or from another seed."""

from itertools import combinations
from pathlib import Path

import pandas as pd
import torch

from xai_repro.data import load_data
from xai_repro.explain import explain
from xai_repro.metrics.similarity import overlap, overlap_of_rows, spearman, ssim
from xai_repro.models import load_model, train, trainings
from xai_repro.models.reading import read_facts
from xai_repro.models.zoo import SHIPPED
from xai_repro.study import plots, tables
from xai_repro.study.asked import device_of
from xai_repro.study.evaluate import evaluate
from xai_repro.study.resampling import both
from xai_repro.study.shards import COLUMNS

PAPER = "lfi_cam"
CONFIGURATIONS = {  # what differs from the usual training: about the usual batch of 64, peak rate of .002 and decay of .05
    "usual": {}, "batch 32": {"batch": 32}, "rate .004": {"rate": 0.004}, "decay .2": {"decay": 0.2}, "seed 1": {"seed": 1},
}  # fmt: skip
ENDINGS = {"usual": "", "batch 32": "-batch", "rate .004": "-rate", "decay .2": "-decay", "seed 1": "-1"}  # of the names of their weights
SIMILAR = 0.02  # of the share of images recognised: only networks that differ by no more are compared
COMPARED = (  # model, what differs between its trainings, methods
    ("mini-lfi", "configurations", ("lfi-cam", "grad-cam", "lift-cam")),
    ("mini-abn", "configurations", ("abn", "grad-cam", "lift-cam")),
    ("mini-basic", "configurations", ("grad-cam", "lift-cam", "mean-features", "center")),
    ("mini-resnet", "seeds", ("grad-cam", "lift-cam", "gradient-hedging", "clrp")),
    ("mini-vgg", "seeds", ("grad-cam", "lift-cam", "gradient-hedging", "clrp")),
)  # fmt: skip
MEASURES = {"stability-iou": overlap, "stability-iou-rows": overlap_of_rows, "stability-spearman": spearman, "stability-ssim": ssim}
CHANCE, ABOVE = "chance", "above-chance"  # what is added to a measure's name where it compares maps of different images, and for how much more it is


def configured(model, data="mini-birds", folder=None):
    """A model trained in each of the CONFIGURATIONS: {configuration: module}. Weights that are not shipped are trained first, into a folder, which takes minutes."""
    return _loaded(model, {label: _weights(model, data, label, folder) for label in CONFIGURATIONS})


def _loaded(model, files):
    """{label: module} of files of weights; each module carries the accuracy that its file says, on 1,000 test images."""
    found = {label: load_model(model, weights=path) for label, path in files.items()}
    for label, one in found.items():
        one.accuracy = float(read_facts(files[label])["accuracy"])
    return found


def _weights(model, data, label, folder):
    name = f"{model}--{data}{ENDINGS[label]}.safetensors"
    for place in [SHIPPED, *([Path(folder)] if folder else [])]:
        if (place / name).is_file():
            return str(place / name)
    if folder is None:
        raise FileNotFoundError(f"no weights {name}: they are trained where a folder is given")
    out = Path(folder, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    train(model, data, out=out, **CONFIGURATIONS[label])
    return str(out)


def seeded(model, data="mini-birds", folder=None):
    """The shipped trainings of a model, which differ in their seed alone: {seed: module}."""
    return _loaded(model, {f"seed {number}": str(SHIPPED / f"{model}--{weights}.safetensors") for number, weights in enumerate(trainings(model, data))})


WAYS = {"configurations": configured, "seeds": seeded}


def maps_of(networks, samples, methods):
    """{method: {label of a network: M [B,H,W]}} on the CPU, each image for its own class. methods: {label: (name, hyper-parameters)}."""
    x, y = torch.stack([one.image for one in samples]), torch.tensor([one.labels[0] for one in samples])
    return {
        label: {which: explain(model, x.to(device_of(model)), y.to(device_of(model)), name, **hyper).cpu() for which, model in networks.items()}
        for label, (name, hyper) in methods.items()
    }


def study(data="mini-birds", images=50, folder=None):
    """Every method of COMPARED on its networks: (rows of `stability`, rows of accuracy, {(model, ways): maps}, samples).

    images: test images that are explained. folder: where networks are trained that are not shipped.
    """
    test = load_data(data)
    samples, rows, told, maps = [test[n] for n in range(images)], [], [], {}
    for model, ways, methods in COMPARED:
        networks = WAYS[ways](model, data, folder)
        accuracy = {label: one.accuracy for label, one in networks.items()}
        maps[model, ways] = maps_of(networks, samples, {name: (name, {}) for name in methods})
        rows.append(stability(maps[model, ways], samples, accuracy, model, data))
        told += [{"model": model, "ways": ways, "trained": label, "accuracy": share, "pairs": sum(label in pair for pair in pairs(accuracy))} for label, share in accuracy.items()]
    return pd.concat([one for one in rows if len(one)], ignore_index=True), pd.DataFrame(told), maps, samples


def by_parts(data, options, metrics=("part-hit", "part-share")):
    """Rows of `evaluate` of the same methods and networks, by what is known of the truth. options: further arguments of `evaluate`."""
    found = [evaluate({model: list(WAYS[ways](model, data).values())}, data, list(methods), list(metrics), **options) for model, ways, methods in COMPARED]
    return pd.concat(found, ignore_index=True)


def beside_plain(told, plain="mini-basic", least=-0.02):
    """Accuracy by configuration, a column for each model, and whether the attention networks are at most two points behind the plain one."""
    wide = told[told["ways"] == "configurations"].pivot(index="trained", columns="model", values="accuracy").loc[list(CONFIGURATIONS)]
    for model in [one for one in wide if one != plain]:
        wide[f"{model}, two points behind at most"] = (wide[model] - wide[plain] >= least - 1e-9).map({True: "yes", False: "no"})
    return wide.reset_index()


def pairs(accuracy):
    """The pairs of networks that are compared: those whose accuracies differ by at most SIMILAR."""
    return [(one, other) for one, other in combinations(accuracy, 2) if abs(accuracy[one] - accuracy[other]) <= SIMILAR + 1e-9]


def stability(maps, samples, accuracy, model, data="mini-birds"):
    """How alike the maps of each image are between networks: rows of one value per method, pair of networks, image and measure, as of `evaluate`.

    maps: of `maps_of`; accuracy: {network: share of images recognised}. run names both networks, so that intervals draw networks. Beside each measure stands *chance*, that of the maps
    of different images, each with the next one of another class, and how much above it the measure is.
    """
    other, found = [_next_of_another_class(samples, n) for n in range(len(samples))], []
    for method, own in maps.items():
        for one, two in pairs(accuracy):
            for name, measure in MEASURES.items():
                same, chance = (measure(own[one], others) for others in (own[two], own[two][other]))
                for metric, values in ((name, same), (f"{name}-{CHANCE}", chance), (f"{name}-{ABOVE}", same - chance)):
                    found += [(method, both(one, two), sample.id, sample.labels[0], metric, value) for sample, value in zip(samples, values.tolist())]
    found = pd.DataFrame(found, columns=["method", "run", "image_id", "target", "metric", "value"])
    status = found["value"].isna().map({True: "undefined: a constant map", False: "ok"})
    unasked = dict.fromkeys(("empty", "negative", "difficult", "correct"))  # of a pair of maps
    return found.assign(paper=PAPER, dataset=data, model=model, hyper="{}", seconds=float("nan"), status=status, **unasked)[COLUMNS]


def _next_of_another_class(samples, n):
    after = [*range(n + 1, len(samples)), *range(n)]
    return next((k for k in after if samples[k].labels != samples[n].labels), n)


def shown(summary, metric):
    """A measure as a page shows it: a row for each network and method; the measure, what chance gives, and how much it is above that."""
    names = {metric: "two trainings", f"{metric}-{CHANCE}": "chance", f"{metric}-{ABOVE}": "above chance"}
    part = summary[summary["metric"].isin(names)]
    return tables.by_method(part.assign(metric=part["metric"].map(names)), percent=False, bold="{}").drop(columns="map")


def said(summary, metric="stability-iou"):
    """What came out, in sentences made of a summary of the rows."""
    by = summary.set_index(["model", "method", "metric"])

    def told(model, method, ending=""):
        if (model, method, metric + ending) not in by.index:
            return "(no two networks of similar accuracy)"
        mean, low, high = by.loc[(model, method, metric + ending), ["mean", "low", "high"]]
        return f"{mean:.2f} ({low:.2f} to {high:.2f})"

    rows = [("LFI-CAM", "mini-lfi", "lfi-cam"), ("ABN", "mini-abn", "abn"), ("Grad-CAM, no attention", "mini-basic", "grad-cam"), ("LIFT-CAM, no attention", "mini-basic", "lift-cam")]
    lines = [f"* {name}: {told(*which)}, by chance {told(*which, f'-{CHANCE}')}, above chance **{told(*which, f'-{ABOVE}')}**" for name, *which in rows]
    return "\n".join(["Of the largest values of an image's map, two trainings of one network share:", "", *lines])


def median_case(rows, metric="stability-iou"):
    """The image whose mean over methods and pairs is the middle one."""
    means = rows[rows["metric"] == metric].groupby("image_id", sort=False)["value"].mean().sort_values(kind="stable")
    return means.index[len(means) // 2]


def panel(maps, samples, image):
    """One image under every network: a row for each method, a column for each network. maps: of `maps_of`, of one set of networks."""
    number = next(n for n, one in enumerate(samples) if one.id == image)
    networks = list(next(iter(maps.values())))
    x = samples[number].image.expand(len(maps), -1, -1, -1)
    return plots.panel(x, {label: torch.stack([own[label][number] for own in maps.values()]) for label in networks}, titles=list(maps))

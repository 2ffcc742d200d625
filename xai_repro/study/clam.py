"""The networks, rows and cases of CLAM: its tables' methods by their headings, what its readings do, images where it helps and where it harms."""

from pathlib import Path

import pandas as pd
import torch

from xai_repro.errors import NotApplicable
from xai_repro.explain import explain
from xai_repro.methods.clam import attributes_of
from xai_repro.metrics.energies import STEPS
from xai_repro.models import load_model
from xai_repro.models.zoo import EMBEDDED
from xai_repro.network.forward import predict
from xai_repro.published import published
from xai_repro.study import plots
from xai_repro.study.asked import device_of
from xai_repro.study.fitting import busy, fit_clam
from xai_repro.study.known_truth import DATA, MODELS

PAPER = "clam"
BASES = ("lrp", "clrp", "sglrp")
PLAIN = {"lrp": "lrp", "clrp": ("clrp", {"contrast": "logits"}), "sglrp": "sglrp"}  # the bases without attributes, as CLAM begins them
FURTHER = ("center", "random")  # controls, which the paper lacks
POINTING = {"pointing-energy": "pointing-energy", "pointing-lower": ("pointing-energy", {"range": "lower"}), "pointing-higher": ("pointing-energy", {"range": "higher"})}
CORE = "CLRP+C, core"  # attributes of a few layers, learnt from all images
PERTURBED = {"lerf-perturbation": "lerf-perturbation", "lerf-last": ("lerf-perturbation", {"report": "last"})}
READINGS = {  # what text and released code leave open, learnt with few layers: label -> arguments of `fit_clam`
    "as here, half of the images": {}, "nothing learnt": {"epochs": 0}, "negatives at random places": {"negatives": "random"}, "distances over the number": {"normaliser": "count"}, "mask on the patch": {"mask": "patch"},
    "longer": {"epochs": 20, "patience": 20},
}  # fmt: skip
STRENGTHS = (1.0, 1.1, 1.2, 1.3, 1.5)


def networks(settings):
    """The models of a profile, {name: module}: of each the training that attributes are fitted to."""
    data = settings["datasets"][0]
    return {name: load_model(name, weights=data if name in EMBEDDED else "imagenet") for name in settings["models"]}


def known(settings):
    """The settings of a profile, on drawn birds and the two small networks in place of other data: what needs to know the parts."""
    return settings if settings["datasets"][0] == DATA else settings | {"models": list(MODELS), "datasets": [DATA]}


def fitted(models, settings, results, bases=BASES):
    """The folder where the attributes of all models and bases are, but for shipped ones; what is not there yet is fitted, and takes minutes."""
    folder, data = f"{results}/clam", settings["datasets"][0]
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = {(name, base): Path(folder, f"{name}--{data}--{base}--full.safetensors") for name, model in models.items() for base in bases if not _shipped(model, base)}
    for (name, base), out in sorted(files.items(), key=lambda item: busy(item[1])):  # another notebook may be fitting them: those that are free first
        fit_clam(models[name], data, base, images=settings["fitted"], out=out)
    return folder


def _shipped(model, base):
    try:
        return bool(attributes_of(model, base, "full"))
    except NotApplicable:
        return False


# -- tables -------------------------------------------------------------------------------------------------------------


def methods(attributes=None, also=()):
    """What table 1 compares, by its headings: {heading: method} for `evaluate`; then the controls and further methods by their names."""
    cells, own = published(PAPER, "1"), iter(BASES)
    found = {}
    for heading, name in dict(zip(cells["column"], cells["method"])).items():
        found[heading] = ("clam", {"base": next(own), "attributes": attributes}) if name == "clam" else PLAIN.get(name, name)
    return found | {name: name for name in (*FURTHER, *also)}


def under_headings_of(rows, table):
    """Rows with the headings of table 1, under those of another table."""
    ours, theirs = (list(dict.fromkeys(published(PAPER, one)["column" if one in "14" else "row"])) for one in ("1", table))
    return rows.assign(method=rows["method"].replace(dict(zip(ours, theirs))))


def as_printed(rows, metric, label):
    """The rows of one labelled setting of a metric, as rows of the metric."""
    return rows[rows["metric"] == label].assign(metric=metric)


def energies():
    """The pointing game at each energy of figures 5 and 6: {label: metric}."""
    return {f"E {n / STEPS:.2f}": ("pointing-energy", {"at": n / STEPS}) for n in range(1, STEPS + 1)}


def for_claims(rows):
    """Rows of the pointing game under the headings of the tables and figures that claims name."""
    third = rows["metric"].isin([label for label in POINTING if label != "pointing-energy"])
    asked = rows["metric"].isin(["pointing-energy", "proportion", "E 1.00"])
    return pd.concat([rows[asked], under_headings_of(rows[third], "3")], ignore_index=True)


def in_figures(lines):
    """The lines of figures 5 and 6, network by network: ((network, title), those of its methods)."""
    shown = {"figure 5": ["LRP", "LRP+C", "CLRP", "CLRP+C", "SGLRP", "SGLRP+C"], "figure 6": ["CLRP+C", "Grad-CAM", "Ex-BP.", "G-BP.", "Gradient", "random"]}
    for model, part in lines.groupby("model", sort=False):
        yield from (((model, title), part[part["method"].isin(names)]) for title, names in shown.items())


# -- cases --------------------------------------------------------------------------------------------------------------


def extremes(rows):
    """Names of the images of rows of `attributes.retrieved`, by how often what the attributes retrieve shows the same part: (most first, least first)."""
    means = rows[rows["method"] == "attributes"].groupby("image_id", sort=False)["value"].mean().sort_values(kind="stable")
    return list(means.index[::-1]), list(means.index)


def panel(model, samples, methods, classes, signed=()):
    """Images and their maps by several methods, {label: method for `evaluate`}, each for its top-1."""
    x = torch.stack([one.image for one in samples]).to(device_of(model))
    y = predict(model, x).argmax(1)
    asked = {label: (one, {}) if isinstance(one, str) else one for label, one in methods.items()}
    maps = {label: explain(model, x, y, name, **hyper) for label, (name, hyper) in asked.items()}
    return plots.panel(x, maps, titles=[classes[label] for label in y.tolist()], signed=[label for label in signed if label in maps])


def each_base(models, function, bases=BASES):
    """function(model, base) -> rows of every model and base, in one table with these as its first columns."""
    found = [function(model, base).assign(model=name, base=base) for name, model in models.items() for base in bases]
    found = pd.concat(found, ignore_index=True)
    return found[["model", "base", *(column for column in found if column not in ("model", "base"))]]


# -- readings -------------------------------------------------------------------------------------------------------------


def core(model, settings, results, base="clrp"):
    """The file of attributes of a few layers, learnt from as many images as those of all layers."""
    data = settings["datasets"][0]
    return str(fit_clam(model, data, base, "core", images=settings["fitted"], out=f"{results}/clam/readings/{model.name}--{data}--{base}--core.safetensors"))


def readings(model, settings, results, base="clrp"):
    """{label: file} of attributes of a few layers: learnt from all images, then under each of the READINGS from half; what is not there yet is fitted."""
    data, found = settings["datasets"][0], {CORE: core(model, settings, results, base)}
    for number, (label, options) in enumerate(READINGS.items()):
        out = f"{results}/clam/readings/{model.name}--{data}--{base}--core--{number}.safetensors"
        found[label] = str(fit_clam(model, data, base, "core", images=-(-settings["fitted"] // 2), out=out, **options))
    return found


def reading_methods(files, base="clrp"):
    """CLAM with the attributes of each reading: {label: method} for `evaluate`; the mask is the one that they were learnt with."""
    return {label: ("clam", {"base": base, "layers": "core", "attributes": file, "mask": READINGS.get(label, {}).get("mask", "corner")}) for label, file in files.items()}


def strengths(attributes=None, base="clrp"):
    """CLAM with one strength in all layers: {label: method} for `evaluate`."""
    return {f"{s:g}": ("clam", {"base": base, "strength": s, "attributes": attributes}) for s in STRENGTHS}

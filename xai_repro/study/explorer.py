"""The data of the explorer: maps, scores and curves of a few pictures, in scripts that a page loads from the disk as from a server."""

import base64
import json
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from PIL import Image

from xai_repro.explain import classes_of, explain_all
from xai_repro.metrics.curves import blur, deletion_curve, insertion_curve, pixel_counts, ranks
from xai_repro.metrics.faithfulness import probability
from xai_repro.registry import method_info, methods, metric_info
from xai_repro.score import score
from xai_repro.store.files import write_text
from xai_repro.store.progress import track
from xai_repro.store.sharing import sharing
from xai_repro.study.asked import load_pair
from xai_repro.study.evaluate import Job, positive
from xai_repro.study.gallery import by_family
from xai_repro.study.images import block_of
from xai_repro.study.photographs import FREE, MODEL, SCORED
from xai_repro.study.plots import DIVERGING, HEAT

STEPS = 11  # points of a curve: a tenth of the pixels goes from one to the next
METRICS = {  # name -> hyper-parameters
    "average-drop": {}, "average-drop-in-deletion": {}, "insertion": {"steps": STEPS}, "deletion": {"steps": STEPS}, "proportion": {}, "pointing-game": {},
}  # fmt: skip
# On a photograph a forward pass is dear. The head is linear, so that those left out give Grad-CAM's map.
ON_PHOTOGRAPHS = [name for name in SCORED if name not in ("cam", "xgrad-cam", "ablation-cam", "shap-cam", "lrp-cam")]
ZERO, BOUND = 128, 127  # of a signed map: the byte of zero, and how many there are on either side


def write(folder, settings, pictures, photographs):
    """Write what the explorer shows of a profile: `data.js`, and beside it one script for each picture, network and class.

    pictures: how many of each data set, by its name and of any `other`; photographs: how many of those that anybody may use, for a network trained on photographs.
    Returns two tables: what there is for each network and data set, and all scores in long form.
    """
    pairs = [(model, data, pictures.get(data, pictures["other"])) for model in settings["models"] for data in settings["datasets"]] + [(MODEL, FREE, photographs)] * bool(photographs)
    networks, made, scores = {}, [], []
    with track(len(pairs), "networks and data sets explored") as step:
        for model, data, number in pairs:
            shown, cases, lacking = explored(model, data, number, settings)
            networks.setdefault(model, []).extend(shown)
            for file, case in cases.items():
                _write_script(Path(folder) / file, f"XAI_REPRO_EXPLORER.cases[{json.dumps(file)}]", case)
            scores += [row for one in shown for kind in one["classes"] for row in _long(model, one, kind["name"], cases[kind["file"]])]
            made.append({"network": model, "data": data, "pictures": len(shown), "classes explained": len(cases), "methods": len(next(iter(cases.values()))["methods"]),
                         "left out": "; ".join(lacking)})
            step(1)
    _write_script(Path(folder) / "data.js", "XAI_REPRO_EXPLORER", about(networks) | {"profile": settings["name"]})
    return pd.DataFrame(made), pd.DataFrame(scores)


def told(made):
    """What there is to explore, in a sentence. made: the first table of `write`."""
    fewest, most = made["methods"].min(), made["methods"].max()
    return (
        f"Pictures, as a network sees them: {made['pictures'].sum()}. Classes that are explained in them: {made['classes explained'].sum()}, "
        f"each by {fewest if fewest == most else f'{fewest} to {most}'} methods."
    )


def about(networks):
    """What the page has to know before a picture is chosen."""
    return {
        "steps": STEPS, "zero": ZERO, "colours": {"heat": palette(np.arange(256) / 255, HEAT), "signed": palette(0.5 + (np.arange(256) - ZERO) / (2 * BOUND), DIVERGING)},
        "metrics": {name: {"better": "higher" if metric_info(name).higher_is_better else "lower", "says": metric_info(name).summary} for name in METRICS},
        "families": by_family(methods()), "signed": [name for name in methods() if method_info(name).signed],
        "networks": [{"name": name, "pictures": pictures} for name, pictures in networks.items()],
        "cases": {},
    }  # fmt: skip


def explored(model_name, data_name, number, settings):
    """The first pictures of a data set as a network sees them, what is shown of each, {name of its file: case}, and why methods are left out."""
    model, data = load_pair(model_name, data_name, number)
    number, wanted = min(number, len(data)), [name for name in (ON_PHOTOGRAPHS if data_name == FREE else methods()) if name not in settings["costly"]]
    pictures, cases, lacking = {}, {}, []
    with sharing():
        block = block_of(model, data, Job(model, 0, data, model_name, data_name, 0, number, (), 1000, "cpu", settings["name"], "", ""))
        for batch in block.batches:
            maps, reasons = explain_all(model, batch.x, batch.y, wanted, hyper={name: own for name, own in settings["hyper"].items() if name in methods()})
            lacking += [f"{method}: {reason}" for method, reason in reasons.items()]
            measured, chances = [_measured(model, batch, one) for one in maps.values()], probability(model, batch.x, batch.y).tolist()
            for row, (sample, target) in enumerate(zip(batch.samples, batch.y.tolist())):
                file = f"{model_name}--{data_name}--{sample.id.rsplit('/', 1)[-1]}--{target}.js".replace("/", "-")
                one = pictures.setdefault(sample.id, picture(sample, data_name, classes_of(data), model.view))
                one["classes"].append({"name": classes_of(model)[target], "probability": _round(chances[row]), "file": file})
                cases[file] = _case({name: one[row] for name, one in maps.items()}, [{name: values[row] for name, values in one.items()} for one in measured])
    return list(pictures.values()), cases, list(dict.fromkeys(lacking))


def picture(sample, data_name, classes, view):
    """One picture: itself, blurred as insertion begins with it, and the colour that stands for nothing."""
    there = ", ".join(classes[label] for label in sample.labels) if classes and sample.labels else ""
    return {
        "name": sample.id.rsplit("/", 1)[-1], "data": data_name, "says": there, "width": sample.image.shape[2], "height": sample.image.shape[1],
        "photo": _webp(view.colours(sample.image)), "blurred": _webp(view.colours(blur(sample.image[None])[0])),
        "nothing": view.colours(torch.zeros(3, 1, 1)).flatten().mul(255).round().int().tolist(), "classes": [],
    }  # fmt: skip


def _measured(model, batch, maps):
    """Scores [B] by metric and the two curves [B,STEPS] of one method's maps, as `evaluate` scores them, and when each pixel goes."""
    unit = positive(maps)
    values = {name: score(name, model, batch.x, batch.y, unit, batch.truth(metric_info(name).truth), **hyper) for name, hyper in METRICS.items()}
    curves = {"insertion curve": insertion_curve(model, batch.x, batch.y, unit, steps=STEPS), "deletion curve": deletion_curve(model, batch.x, batch.y, unit, steps=STEPS)}
    return values | curves | {"going": going(unit)}


def going(maps):
    """The point of the curves, 1 to STEPS - 1, from which on a pixel of the maps [B,H,W] is replaced."""
    counts = pixel_counts(maps, STEPS)
    return torch.searchsorted(counts, ranks(maps), right=True).to(torch.uint8)


def drawn(values, signed):
    """A map [H,W] as bytes: heat from the least (0) to the greatest (255) positive value, or evidence from -bound (1) over zero (128) to bound (255)."""
    values = values.double().numpy()
    if signed:
        return np.round(ZERO + BOUND * values / (np.abs(values).max() or 1)).astype(np.uint8)
    heat = values.clip(min=0) - values.clip(min=0).min()
    return np.round(255 * heat / (heat.max() or 1)).astype(np.uint8)


def palette(places, name):
    """Colours of a colour map at places [N] in [0,1], as hexadecimal digits, six for each."""
    return bytes((mpl.colormaps[name](places.clip(0, 1))[:, :3] * 255).round().astype(np.uint8)).hex()


def _case(maps, measured):
    """What is shown of one picture and class. Its sprite has a row for each method: the map at the left, at the right when each pixel goes."""
    rows = [np.hstack([drawn(one, method_info(name).signed), values["going"].numpy()]) for (name, one), values in zip(maps.items(), measured)]
    return {
        "methods": list(maps), "range": [[_round(float(one.min())), _round(float(one.max()))] for one in maps.values()],
        "scores": {name: [_round(float(values[name])) for values in measured] for name in METRICS},
        "insertion": [[_round(p) for p in values["insertion curve"].tolist()] for values in measured],
        "deletion": [[_round(p) for p in values["deletion curve"].tolist()] for values in measured],
        "sprite": _uri(Image.fromarray(np.vstack(rows)), lossless=True),
    }  # fmt: skip


def _long(model, shown, name, case):
    """The scores of a case, one row each."""
    return [{"network": model, "data": shown["data"], "picture": shown["name"], "class": name, "method": method, "metric": metric, "value": value}
            for metric, values in case["scores"].items() for method, value in zip(case["methods"], values)]


def _round(value):
    """Four significant digits; None for what is not defined, since JSON has no NaN."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _webp(colours):
    return _uri(Image.fromarray((colours * 255).round().byte().permute(1, 2, 0).numpy()), quality=90)


def _uri(image, **how):
    """An image within the text: a page that is opened from a file may not read the pixels of another file."""
    file = BytesIO()
    image.save(file, "webp", **how)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _write_script(path, name, value):
    write_text(f"{name} = {json.dumps(value, separators=(',', ':'), ensure_ascii=False, allow_nan=False)};\n", path)

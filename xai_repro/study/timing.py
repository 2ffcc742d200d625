"""Time per map, measured and as Collection-CAM's model of the cost (section IV.B) predicts it from counted passes."""

import json
import os
import platform
import time
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F

from xai_repro.data import load_data
from xai_repro.errors import like, short, unknown, whole_number
from xai_repro.explain import explain
from xai_repro.methods.masks import draw_grids, features, membership, random_masks
from xai_repro.models import load_model, model_names
from xai_repro.models.zoo import pick_device
from xai_repro.network.forward import evaluating
from xai_repro.network.layers import default_layer, stages
from xai_repro.network.pyramid import pyramid
from xai_repro.published import published
from xai_repro.store.progress import track
from xai_repro.study.outcomes import LEAST_REPETITIONS, PAPER_SIZE
from xai_repro.study.statistics import checked_rows

DATA = "mini-birds"  # whose first image is enlarged and explained; the time hardly depends on what is in it
# The paper's names, and its baselines as it describes them: its Layer-CAM uses every stage.
METHODS = {
    "Grad-CAM": ("grad-cam", {}),
    "Grad-CAM++": ("grad-cam++", {}),
    "Layer-CAM": ("layer-cam", {"layers": "all"}),
    "Score-CAM": ("score-cam", {}),
    "RISE": ("rise", {}),
    "Collection-CAM": ("collection-cam", {}),
}


def measure(settings, masks, repeats=5, budget=3.0, device="auto", weights=None):
    """Time and forward passes of METHODS, one row per model, resolution, method and run, in the columns of `evaluate`.

    settings: pairs of a model's name and the images' side in pixels. masks: N of RISE. After a first run to warm up, up to
    `repeats` runs are measured; where the first took longer than `budget` seconds, it is the only one and counts; at the papers' 224 pixels and
    above, where claims are decided, it is one of three. One image per run. Columns: those of `evaluate` (metric "forward-passes", value their number, seconds of the run), and size and runs.
    Raises UnknownName for a model that does not exist, ValueError for other arguments that make no sense, before anything runs.
    """
    settings, masks, repeats = _pairs(settings), whole_number("masks", masks), whole_number("repeats", repeats)
    if like("budget", budget, 0.0) < 0:
        raise ValueError(f"budget is {budget}; seconds are needed, at least 0")
    rows = []
    with track(len(settings) * len(METHODS), "methods timed") as step:
        for name, size in settings:
            model = load_model(name, weights=weights, device=device)
            x = picture(model, size)
            y = model(x).argmax(1)
            for method, hyper in METHODS.values():
                hyper = hyper | ({"masks": masks} if method == "rise" else {})
                with counting(model) as passes:
                    seconds = [timed(lambda: explain(model, x, y, method, **hyper))]
                slow, many = seconds[0] >= budget, repeats
                if slow:
                    many = min(LEAST_REPETITIONS, repeats) - 1 if size >= PAPER_SIZE else 0
                again = [timed(lambda: explain(model, x, y, method, **hyper)) for _ in range(many)]
                seconds = [*(seconds if slow else []), *again]
                fixed = {"paper": "collection_cam", "dataset": DATA, "model": name, "target": int(y), "method": method}
                fixed |= {"hyper": json.dumps(hyper, sort_keys=True), "metric": "forward-passes"}
                fixed |= {"run": 0, "empty": False, "negative": False, "correct": False, "difficult": False, "value": float(sum(passes)), "status": "ok", "size": size, "runs": len(seconds)}
                rows += [fixed | {"image_id": f"{size} px, run {run}", "seconds": one} for run, one in enumerate(seconds)]
                step(1)
    return pd.DataFrame(rows)


def _pairs(settings):
    """Pairs of a model's name and the images' side, or an error that says what is wrong with them."""
    if not isinstance(settings, (list, tuple)) or not settings:
        raise ValueError(f"settings is {short(repr(settings))}; pairs of a model's name and the images' side are needed, [['resnet18', 224]]")
    for pair in settings:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"settings holds {short(repr(pair))}; a pair of a model's name and the images' side is needed, ['resnet18', 224]")
        if pair[0] not in model_names():
            raise unknown("model", pair[0], model_names())
    return [(name, whole_number(f"the side of the images of {name}", size)) for name, size in settings]


def parts(settings, repeats=5, device="auto", weights=None):
    """What the cost model is made of, in milliseconds, one row per model and resolution.

    forward: FP, one image; backward_last, backward_first: BPC to the last and the first stage; mask: MG, one random mask;
    clustering: CT, the collections of all stages. Raises the errors of `measure`.
    """
    settings, repeats, rows = _pairs(settings), whole_number("repeats", repeats), []
    for name, size in settings:
        model = load_model(name, weights=weights, device=device)
        x = picture(model, size)
        layers, y = stages(model), model(x).argmax(1)
        pairs, _ = pyramid(model, x, y, layers)
        grids, shifts = draw_grids(16, 7, 0.5, 0)

        def forward():
            with evaluating(model), torch.no_grad():
                model(x)

        spent = {
            "forward": forward,
            "last": lambda: pyramid(model, x, y, [default_layer(model)]),
            "first": lambda: pyramid(model, x, y, layers),
            "masks": lambda: random_masks(grids.to(x), shifts.to(x.device), x.shape[-2:]),
            "clustering": lambda: [membership(features(A, G), 2, 10) for A, G in pairs],
        }
        ms = {part: 1000 * pd.Series([timed(run) for _ in range(repeats + 1)][1:]).median() for part, run in spent.items()}
        rows.append(
            {"model": name, "size": size, "forward": ms["forward"], "backward_last": max(ms["last"] - ms["forward"], 0)}
            | {"backward_first": max(ms["first"] - ms["forward"], 0), "mask": ms["masks"] / len(grids), "clustering": ms["clustering"]}
        )
    return pd.DataFrame(rows)


def predict(parts, forwards):
    """Milliseconds of each of METHODS by the cost model [Collection-CAM, section IV.B], for one row of `parts`.

    forwards: the number of forward passes that each was counted to make beside the one that computes the gradients.
    """
    FP, last, first = parts["forward"], parts["backward_last"], parts["backward_first"]
    return {
        "Grad-CAM": FP + last,
        "Grad-CAM++": FP + last,
        "Layer-CAM": FP + first,
        "Score-CAM": forwards["Score-CAM"] * FP,
        "RISE": forwards["RISE"] * (FP + parts["mask"]),
        "Collection-CAM": forwards["Collection-CAM"] * FP + parts["clustering"] + first,
    }


def table(rows, parts):
    """Table 2 as ratios to Grad-CAM: one row per model, resolution and method.

    rows: of `measure`; parts: of `parts`. Columns: forwards (counted), milliseconds (median) with least and greatest, runs,
    predicted (the cost model's), and as multiples of Grad-CAM's time: ours, cost model, and paper, at the resolution that
    "paper at" names: the smaller printed one for our smallest, the larger for others; NaN for a network the paper lacks.
    """
    rows = checked_rows(rows, ["model", "size", "method", "seconds", "value", "runs"], "what `measure` returns")
    parts = checked_rows(parts, ["model", "size", "forward", "backward_last", "backward_first", "mask", "clustering"], "what `parts` returns")
    names = {method: label for label, (method, _) in METHODS.items()}
    found = rows.assign(ms=1000 * rows["seconds"], method=rows["method"].map(names)).groupby(["model", "size", "method"], sort=False)
    found = found.agg(forwards=("value", "first"), milliseconds=("ms", "median"), least=("ms", "min"), greatest=("ms", "max"), runs=("runs", "first"))
    printed = published("collection_cam", "2").assign(size=lambda cells: cells["row"].str.extract(r"\((\d+)")[0].astype(int))
    whole = []
    for (model, size), part in found.groupby(level=["model", "size"], sort=False):
        part = part.droplevel(["model", "size"])
        masks = part["forwards"].sub(pd.Series({"Collection-CAM": 1}), fill_value=0)  # one of its passes is the gradients'
        own = parts[(parts["model"] == model) & (parts["size"] == size)]
        if own.empty:
            raise ValueError(f"parts has no row of {model} at {size} px: measure them for the same settings")
        own = own.iloc[0]
        theirs = printed[printed["model"] == model]
        smallest = size == rows.loc[rows["model"] == model, "size"].min()
        shown = theirs["size"].min() if smallest else theirs["size"].max()
        theirs = theirs[theirs["size"] == shown].set_index("column")["value"].rename(lambda column: column.split(" / ")[-1].split(" (")[0])
        theirs = theirs.reindex(part.index)
        predicted = pd.Series(predict(own, masks))
        whole.append(
            part.assign(
                model=model, size=size, predicted=predicted, ours=part["milliseconds"] / part.at["Grad-CAM", "milliseconds"],
                **{"cost model": predicted / predicted["Grad-CAM"], "paper": theirs / theirs["Grad-CAM"], "paper at": "" if pd.isna(shown) else f"{shown} px"},
            ).reset_index()
        )  # fmt: skip
    first = ["model", "size", "method", "forwards", "milliseconds", "least", "greatest", "runs", "predicted"]
    found = pd.concat(whole, ignore_index=True)[[*first, "ours", "cost model", "paper", "paper at"]]
    found = found.astype({"forwards": int})
    found.attrs["printed"] = {"paper": "collection_cam", "table": "2"}
    return found


def machine(device="auto"):
    """The device's name and, for a processor, the threads that torch uses."""
    device = pick_device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} with {torch.get_num_threads()} of {os.cpu_count()} threads"


def picture(model, size):
    """The first image of DATA as [1,3,size,size] on the model's device."""
    image = load_data(DATA, limit=1)[0].image[None]
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False).to(next(model.parameters()).device)


def timed(run):
    """Seconds that a call takes, until the device has finished."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


@contextmanager
def counting(model):
    """Collects the number of images of every forward pass: rows through the first convolution."""
    passes = []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    handle = first.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    try:
        yield passes
    finally:
        handle.remove()

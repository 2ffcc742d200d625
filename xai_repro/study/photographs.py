"""A real network on photographs, and what of the papers carries over from drawn birds to them."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from xai_repro.errors import short
from xai_repro.network.forward import predict
from xai_repro.published import published
from xai_repro.registry import methods
from xai_repro.study import claims
from xai_repro.study.known_truth import DATA, MODELS
from xai_repro.study.resampling import interval, resampled, units
from xai_repro.study.statistics import higher_is_better, kendall, with_run
from xai_repro.study.tables import rank_agreement

MODEL, FREE, PHOTOS = "efficientnet-lite0", "free-photographs", "imagenet-samples"
METRICS = ["average-drop", "increase-in-confidence", "average-drop-in-deletion"]
SCORED = ["cam", "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "ablation-cam", "shap-cam", "lift-cam", "lrp-cam", "excitation-backprop", "relevance-cam", "guided-backprop", "random", "center", "edges"]
COSTLY = ["integrated-gradients", "rise", "score-cam", "smoothgrad", "xrai"]  # hundreds of forward passes
REFERENCE = Path(__file__).parents[2] / "reference"
DRAWN = (DATA, MODELS)
FIRM = ("holds", "fails")


def named(model, data, most=3):
    """Images [N,3,H,W] of a data set, and a table of the classes that a model finds likeliest: photograph, then name and probability of each."""
    x = torch.stack([sample.image for sample in data])
    with torch.inference_mode():
        chances, classes = predict(model, x).softmax(1).topk(most)
    rows = [[sample.id.rsplit("/", 1)[-1], *(f"{model.classes[c]} ({p:.2f})" for c, p in zip(*row))] for sample, *row in zip(data, classes.tolist(), chances.tolist())]
    return x, pd.DataFrame(rows, columns=["photograph", *("likeliest", "second", "third")[:most]])


def said(table, data):
    """What the network finds, in a sentence."""
    found = [f"on *{photograph}* {name}" for photograph, name in zip(table["photograph"], table["likeliest"])]
    return f"{MODEL} finds {', '.join(found[:-1])} and {found[-1]}." if len(found) > 1 else f"{MODEL} finds {found[0]}."


def deep_layers(name):
    """Three layers at the end of a network, the last first: VGG16's last convolutions, or what stands in for them in EfficientNet-Lite0, its blocks 15, 14 and 10."""
    return ("blocks.6.0", "blocks.5.3", "blocks.4.2") if name == MODEL else ("features.29", "features.27", "features.25")


# -- does it carry over? ----------------------------------------------------------------------------------------------


def reference(folder=REFERENCE):
    """The rows that we computed with the profile photos, of `evaluate`, as they are kept in the project. Raises FileNotFoundError where they are not."""
    path = Path(folder) / "photos.parquet"
    if not path.exists():
        raise FileNotFoundError(f"no {short(str(path))}: it belongs to the project; to make it again: xai-repro run --profile photos, then python data_scripts/make_reference.py")
    return pd.read_parquet(path)


def rows_of(results):
    """The rows that the notebooks of the papers left in a folder of results, each once. Raises FileNotFoundError, which says what to run, where there are none."""
    files = sorted(Path(results).glob("[1-7]*.parquet"))
    if not files:
        raise FileNotFoundError(f"no rows of the papers in {short(str(results))}; run their notebooks first, in the folder of the project: xai-repro run --profile {Path(results).resolve().name}")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return rows.drop_duplicates(["dataset", "model", "run", "image_id", "target", "method", "hyper", "metric"])


def outcomes(drawn, photos):
    """The claims that both can be asked, one row each: what the printed numbers say, drawn birds, and photographs; of all, what they say of ImageNet.

    drawn, photos: rows of `evaluate`. Columns: id, paper, place, says, printed, drawn, photographs (outcomes), `drawn (95 %)` and `photographs (95 %)` (estimates with their
    intervals), n (photographs). A claim that one of the two cannot be asked is left out.
    """
    one, other = (claims.check(rows, dataset="imagenet").set_index("id") for rows in (drawn, photos))
    both = one.join(other, suffixes=("", " on photographs"))
    asked = ~(both["outcome"].isin(NOT_ASKED) | both["outcome on photographs"].isin(NOT_ASKED))
    both = both[asked].reset_index()
    return pd.DataFrame({
        "id": both["id"], "paper": both["paper"], "place": both["place"], "says": both["says"], "printed": both["paper_outcome"], "drawn": both["outcome"],
        "photographs": both["outcome on photographs"], "drawn (95 %)": [claims.with_interval(*row) for row in both[["estimate", "low", "high"]].itertuples(index=False)],
        "photographs (95 %)": [claims.with_interval(*row) for row in both[[f"{name} on photographs" for name in ("estimate", "low", "high")]].itertuples(index=False)],
        "n": both["n on photographs"],
    })  # fmt: skip


NOT_ASKED = ("not run yet", "not comparable")


def told(table):
    """The result of `outcomes` in sentences."""
    firm = table[table["drawn"].isin(FIRM) & table["photographs"].isin(FIRM)]
    same = firm["drawn"] == firm["photographs"]
    back, lost = (int(((firm["drawn"] == a) & (firm["photographs"] == b)).sum()) for a, b in (("fails", "holds"), ("holds", "fails")))
    count = {name: {where: int((table[where] == name).sum()) for where in ("drawn", "photographs")} for name in FIRM}
    return (
        f"{len(table)} claims can be asked of both. On drawn birds {count['holds']['drawn']} hold and {count['fails']['drawn']} fail; on photographs {count['holds']['photographs']} hold and "
        f"{count['fails']['photographs']} fail; the others are undecided. Of the {len(firm)} that both decide, {int(same.sum())} come out alike: {back} fail on drawn birds and hold on "
        f"photographs, {lost} the other way round."
    )


def crossed(table):
    """How often each outcome on drawn birds meets each on photographs."""
    return pd.crosstab(table["drawn"], table["photographs"]).rename_axis(None, axis=1).reset_index()


def orders(drawn, photos):
    """Kendall's tau-b between the order of methods on drawn birds and on photographs, by metric and drawn network, with 95 % intervals.

    Compared are methods that both ran on all images with default settings. Networks and images are drawn again on both sides.
    """
    photos, found = photos[photos["dataset"] == PHOTOS], []
    for metric in photos["metric"].unique():
        if higher_is_better(metric) is None:
            continue
        for model in DRAWN[1]:
            sides = [_plain(rows[(rows["metric"] == metric) & (rows["model"] == name) & (rows["dataset"] == data)]) for rows, name, data in
                     ((drawn, model, DRAWN[0]), (photos, MODEL, PHOTOS))]
            common = [method for method in sides[0]["method"].unique() if method in set(sides[1]["method"])]
            if len(common) < 3:
                continue
            (first, firsts, n), (second, seconds, m) = (_means(side[side["method"].isin(common)], common, seed) for seed, side in enumerate(sides))
            low, high = interval(kendall(firsts, seconds))
            found.append({"metric": metric, "drawn network": model, "methods": len(common), "tau": float(kendall(first, second[None])[0]), "low": low, "high": high,
                          "drawn birds": n, "photographs": m})
    return pd.DataFrame(found, columns=["metric", "drawn network", "methods", "tau", "low", "high", "drawn birds", "photographs"])


# The papers' tables whose methods have an order, in metrics that need no boxes: (paper, table, column).
ORDERED = (("lift_cam", "4", ""), ("lift_cam", "7", "Average"), ("lift_cam", "8", "Average"), ("lift_cam", "9", "Average"), ("collection_cam", "3", ""))


def printed_orders(drawn, photos):
    """Kendall's tau-b between a paper's order and ours, on drawn birds and on photographs, for its tables ORDERED; as `tables.rank_agreement` gives it.

    Compared are the images that all of a table's methods explain: costly ones explain fewer photographs than others.
    """
    found = []
    for paper, table, column in ORDERED:
        for side, rows in (("drawn birds", drawn), ("photographs", photos)):
            one = rank_agreement(_in_common(rows, paper, table), paper, table, column=column).dropna(subset="tau")
            found.append(one.assign(paper=paper, table=table, on=side))
    every = pd.concat(found, ignore_index=True)
    return every[["paper", "table", "group", "metric", "on", "tau", "low", "high", "methods", "needed", "n", "networks"]].sort_values(
        ["paper", "table", "group", "metric", "on"], kind="stable", ignore_index=True)


def _in_common(rows, paper, table):
    """Of each data set, model and metric the rows of those images that all methods of a table have a row of."""
    rows = rows[rows["method"].isin(published(paper, table)["method"])]
    cells = rows.groupby(["dataset", "model", "metric"], sort=False)
    return rows[rows.groupby(["dataset", "model", "metric", "image_id"])["method"].transform("nunique") == cells["method"].transform("nunique")]


def told_of_orders(printed):
    """The result of `printed_orders` in a sentence, about the groups that have an order on both sides."""
    wide = printed.pivot_table(index=["paper", "table", "group", "metric"], columns="on", values="tau").reindex(columns=["drawn birds", "photographs"]).dropna()
    if wide.empty:
        return "No table has an order on both sides."
    drawn, photos = wide.mean()
    return f"In {len(wide)} columns of the papers' tables the order of methods can be compared with both: Kendall's tau to the printed order is {drawn:.2f} on drawn birds and {photos:.2f} on photographs, on average."


def shown(summary):
    """Of a `tables.summary`, what a page has room for: methods with default settings, by their own names, in metrics that say something of an order."""
    named = summary["method"].isin(methods()) & (summary["hyper"] == "{}") & summary["mean"].notna()
    return summary[named & summary["metric"].map(lambda metric: higher_is_better(metric) is not None)]


def _plain(rows):
    """The rows of methods that explain every image, by their registered names."""
    rows = with_run(rows)[lambda one: one["hyper"] == "{}"].dropna(subset="value")
    images = rows.groupby("method")["image_id"].nunique()
    return rows[rows["method"].isin(images.index[images == images.max()])]


def _means(rows, methods, seed):
    """Mean of each method [M], those of bootstrap samples [R,M], and the number of images. The same draws for all methods."""
    codes, design = units(rows["image_id"], rows["run"])
    means, samples = [], []
    for method in methods:
        chosen = (rows["method"] == method).to_numpy()
        sums, counts = (np.bincount(codes[chosen], weights, len(design[0])) for weights in (rows["value"].to_numpy()[chosen], None))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, drawn = resampled(design, lambda weights, sums=sums, counts=counts: (weights @ sums) / (weights @ counts), seed=seed)
        means.append(round(mean, 6))
        samples.append(drawn.round(6))
    return np.array(means), np.stack(samples, 1), len(set(design[1]))

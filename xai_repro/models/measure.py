"""How good a network is, and how well it still recognises images of which a part is hidden, dimmed or grey."""

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from xai_repro.errors import whole_number
from xai_repro.models.zoo import load_model, trainings

SOFTNESS = 13  # pixels: the side of the square over which the mask of the objects is blurred

# What is shown, from images x [B,3,H,W] and where the objects are, m [B,1,H,W]; 0 is the mean colour.
SHOWN = {
    "as drawn": lambda x, m: x,
    "objects alone": lambda x, m: x * m,
    "objects alone, edges soft": lambda x, m: x * F.avg_pool2d(F.pad(m, (SOFTNESS // 2,) * 4), SOFTNESS, 1),
    "half dimmed": lambda x, m: x / 2,
    "objects half dimmed": lambda x, m: x * (1 - m / 2),
    "background half dimmed": lambda x, m: x * (1 + m) / 2,
    "grey": lambda x, m: x.mean(1, keepdim=True).expand_as(x),
    "background alone": lambda x, m: x * (1 - m),
}


def evaluate_model(model, data, limit=1000):
    """Measure a classifier on the first images of a data set from load_data.

    Returns accuracy, or mean_average_precision where an image has several labels; median_top1_probability and
    quantiles (5, 25, 50, 75, 95 %) of the largest probability (softmax, or sigmoid for several labels); n images.
    """
    data = data if limit is None else data[: whole_number("limit", limit)]
    return scores(*predicted(model, data), data.multi_label)


def scores(logits, labels, multi_label):
    """What `evaluate_model` returns, of logits [N, C] and the labels of each image; the first value is the accuracy or its like."""
    truth, probability = torch.stack([multi_hot(each, logits.shape[1]) for each in labels]), largest(logits, multi_label)
    if multi_label:
        score = {"mean_average_precision": _mean_average_precision(logits, truth)}
    else:
        score = {"accuracy": float(truth[torch.arange(len(truth)), logits.argmax(1)].mean())}
    quantiles = [round(q, 4) for q in np.quantile(probability.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()]
    return {**score, "median_top1_probability": quantiles[2], "quantiles": quantiles, "n": len(logits)}


@torch.inference_mode()
def predicted(model, data):
    """Logits [N, C] and the labels of all images of a data set, or of a list of samples."""
    device = next(model.parameters()).device
    logits, labels = [], []
    for samples in DataLoader(data, 100, collate_fn=list):
        logits.append(model(torch.stack([sample.image for sample in samples]).to(device)).cpu())
        labels += [sample.labels for sample in samples]
    return torch.cat(logits), labels


def largest(logits, multi_label):
    return (logits.sigmoid() if multi_label else logits.softmax(1)).amax(1)


def _mean_average_precision(scores, truth):
    """Mean over classes of the mean precision at each of the class's images, ranked by score: both [N, C]."""
    ranked = truth.gather(0, scores.argsort(0, descending=True))
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)[:, None]
    return float(((precision * ranked).sum(0) / ranked.sum(0)).nanmean())


def recognised(model, data, limit=500):
    """Accuracy (mean average precision for several labels) and median top-1 probability of masked images: {what is shown: (share, median)}.

    data: a data set from load_data, whose samples have masks; limit: its first so many images. The background alone still has the outline
    of the objects, which tells their shape.
    """
    return _recognised(model, data[: whole_number("limit", limit)], data.multi_label)


@torch.inference_mode()
def _recognised(model, data, multi_label):
    device = next(model.parameters()).device
    logits, labels = {shown: [] for shown in SHOWN}, []
    for samples in DataLoader(data, 100, collate_fn=list):
        x, m = (torch.stack(parts).to(device) for parts in zip(*((sample.image, (sample.mask >= 0).float()[None]) for sample in samples)))
        labels += [sample.labels for sample in samples]
        for shown, make in SHOWN.items():
            logits[shown].append(model(make(x, m)).cpu())
    found = {shown: scores(torch.cat(parts), labels, multi_label) for shown, parts in logits.items()}
    return {shown: (next(iter(one.values())), one["median_top1_probability"]) for shown, one in found.items()}


def measure_trainings(models, datasets, images=1000, masked_images=500):
    """What `evaluate_model` and `recognised` say of every shipped training of some models: two lists, one dictionary per model, data set and seed.

    datasets: name -> data set, as of load_data. The second list holds the shares alone.
    """
    measured, masked = [], []
    for name, data in datasets.items():
        samples = list(data[: max(images, masked_images)])  # drawn once for all networks
        for model_name in models:
            for weights in trainings(model_name, name) or [name]:
                model = load_model(model_name, weights=weights)
                which = {"model": model_name, "data set": name, "seed": weights.removeprefix(name).removeprefix("-") or "0"}
                measured.append(which | scores(*predicted(model, samples[:images]), data.multi_label))
                masked.append(which | {shown: share for shown, (share, _) in _recognised(model, samples[:masked_images], data.multi_label).items()})
    return measured, masked


def said_of_trainings(measured):
    """The first list of `measure_trainings` in sentences: of each model and data set the range of the score and of the probability over its trainings."""
    found = {}
    for one in measured:
        found.setdefault((one["model"], one["data set"]), []).append(one)
    sentences = []
    for (model, data), rows in found.items():
        score = next(name for name in ("accuracy", "mean_average_precision") if name in rows[0])
        many = f"{len(rows)} trainings" if len(rows) > 1 else "one training"
        good, sure = _range([row[score] for row in rows], 3), _range([row["median_top1_probability"] for row in rows], 2)
        sentences.append(f"{model} on {data}: {score.replace('_', ' ')} {good} on {rows[0]['n']} test images in {many}, median of the top-1 probability {sure}.")
    return " ".join(sentences)


def _range(values, digits):
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def multi_hot(labels, classes):
    return torch.zeros(classes).index_fill_(0, torch.tensor(labels), 1.0)

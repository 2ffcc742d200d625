"""From the items of a data set to batches, one checked image after the other: a broken one costs its own rows and no more."""

import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch

from xai_repro.data import Photos, Sample
from xai_repro.errors import NotApplicable, short, whole_number
from xai_repro.explain import check_images, classes_of, number_of
from xai_repro.metrics.faithfulness import logits
from xai_repro.metrics.parts import worth
from xai_repro.store import fingerprint
from xai_repro.study.asked import device_of, is_pair, multi_label, same_classes

# What a method or metric says when it does not apply to a model or an image; anything else is a surprise.
_NOT_APPLICABLE = (ValueError, TypeError, LookupError, NotImplementedError)
NO_TARGET = -1  # the target of an image that no class could be found for


@dataclass(frozen=True)
class Failure:
    """Why there is no value, whether it will be the same next time, and whether it is so for every image."""

    reason: str
    final: bool
    everywhere: bool = False


def failure(error):
    """The Failure that an error makes."""
    reason = " ".join(str(error).split()).encode("utf-8", "replace").decode() or type(error).__name__
    if isinstance(error, _NOT_APPLICABLE):
        return Failure(reason, True, isinstance(error, NotApplicable))
    return Failure(f"{type(error).__name__}: {reason}", False)


def warn(place, reason):
    warnings.warn(f"{place}: {reason}", RuntimeWarning, stacklevel=3)


# -- one image --------------------------------------------------------------------------------------------------------


def sample_of(item, classes=None):
    """The checked Sample for an item of a data set: a Sample, anything else with `image` and `labels`, or (image, label).

    classes: names of the classes, for labels that are names. Raises ValueError or UnknownName that says what is wrong.
    """
    image, labels = item if is_pair(item) else (getattr(item, "image", None), getattr(item, "labels", None))
    if not isinstance(image, torch.Tensor) or image.dim() != 3:
        got = list(image.shape) if isinstance(image, torch.Tensor) else type(item if image is None else image).__name__
        raise ValueError(f"an image is a tensor [C,H,W], as the model takes it, in a Sample or in (image, label); got {got}")
    image = check_images(torch.nn.Identity(), image[None])[0]
    known = {name: getattr(item, name, None) for name in ("boxes", "mask", "parts", "id", "counterfactuals", "regions", "scale", "hard")}
    sample = Sample(image=image, labels=_labels(labels, classes), **{name: value for name, value in known.items() if value is not None})
    if sample.mask.shape != image.shape[1:] or sample.boxes.dim() != 2 or sample.boxes.shape[1] != 5:
        wanted = f"mask {list(image.shape[1:])} and boxes [N,5] are needed"
        raise ValueError(f"{wanted}; got {list(sample.mask.shape)} and {list(sample.boxes.shape)}")
    return sample


def _labels(labels, classes):
    """Labels in ascending order, of one label or several, as numbers or as names of classes."""
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    given = list(labels) if isinstance(labels, (list, tuple, set)) else [] if labels is None else [labels]
    found = [_label(label, classes) for label in given]
    if len(set(found)) < len(found):
        raise ValueError(f"labels {short(repr(given))} name a class twice; the indices of the classes present are needed, each once")
    return tuple(sorted(found))


def _label(label, classes):
    if isinstance(label, str):
        return number_of(label, classes or [])
    label = whole_number("a label", label, 0)
    if classes is not None and label >= len(classes):
        raise ValueError(f"label {label} is not among the {len(classes)} classes of the data set")
    return label


def data_fingerprint(data, start, stop):
    """Fingerprint of some images: what the data set says of them or of itself, else their content; None where one cannot be read."""
    if isinstance(data, Photos):
        try:
            return data.fingerprint_of(start, stop)
        except (OSError, ValueError, LookupError):
            return None
    own = getattr(data, "fingerprint", None)
    if isinstance(own, str) and own:
        return own
    found = []
    for number in range(start, stop):
        try:
            item = data[number]
        except Exception:  # noqa: BLE001 - whatever a data set of others raises
            return None
        try:
            found.append(fingerprint.of_samples([sample_of(item, classes_of(data))]))
        except Exception as error:  # noqa: BLE001
            found.append(str(error))  # wrong in the same way next time
    return fingerprint.digest(*found)


# -- many images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Rows of equal size: images x [B,3,H,W], targets y [B], and per row the image's annotation and true label."""

    x: torch.Tensor
    y: torch.Tensor
    samples: list
    shown: list  # label whose object is the truth: the target where it is in the image, otherwise the labelled one
    places: list  # which rows of the block these are
    model: object  # that is explained: what a part is worth depends on it

    @cached_property
    def worth(self):
        """What each part is worth to the model, from the counterfactual images: they are drawn once for all methods."""
        return worth(self.model, self.x, self.y, self.samples)

    def truth(self, kind):
        """bool [B,H,W] of "box" or "mask", float [B,P,H,W] of "parts", None for None; all false (NaN) where an image has no annotation."""
        if kind is None:
            return None
        if kind == "parts":
            return self.worth.truth
        empty = torch.zeros(self.x.shape[-2:], dtype=torch.bool)
        area = {"box": "box_truth", "mask": "truth", "near": "near"}[kind]
        rows = [empty if c is None else getattr(s, area)(c) for s, c in zip(self.samples, self.shown)]
        return torch.stack(rows).to(self.x.device)


@dataclass
class Block:
    """The rows of a block of images, one per image and explained class: those in batches, and why the others are not."""

    ids: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    correct: list = field(default_factory=list)  # whether the model finds the class in the image, where it is
    difficult: list = field(default_factory=list)  # `Sample.is_difficult`, of the object that is the truth
    failures: dict = field(default_factory=dict)  # row -> Failure
    batches: list = field(default_factory=list)

    def row(self, name, target=NO_TARGET):
        self.ids.append(name)
        self.targets.append(target)
        self.correct.append(False)
        self.difficult.append(False)
        return len(self.ids) - 1

    def column(self, results):
        """Values and statuses of all rows. results: for every batch a list of values or a Failure."""
        failures, values = dict(self.failures), [float("nan")] * len(self.ids)
        for batch, result in zip(self.batches, results):
            if isinstance(result, Failure):
                failures |= dict.fromkeys(batch.places, result)
            else:
                for place, value in zip(batch.places, result):
                    values[place] = value
        statuses = [failures[row].reason if row in failures else "ok" if value == value else "undefined" for row, value in enumerate(values)]
        return values, statuses, all(one.final for one in failures.values())

    def flags(self, results):
        """Truth values of all rows, False where there is none. results: for every batch a bool tensor."""
        found = [False] * len(self.ids)
        for batch, result in zip(self.batches, results):
            for place, value in zip(batch.places, result.tolist()):
                found[place] = value
        return found


def block_of(model, data, job):
    """The rows of a job's images in batches, with the classes to be explained. Those that cannot be explained are said once."""
    block, waiting, many = Block(), [], multi_label(model, data)
    for number in range(job.start, job.stop):
        name = f"{job.data_label}/{number}"
        try:
            sample = sample_of(data[number], classes_of(data))
        except Exception as error:  # noqa: BLE001 - one image that fails must not end the run
            block.failures[block.row(name)] = failure(error)
            continue
        for label in sample.labels if many else [None]:
            waiting.append((block.row(sample.id or name, NO_TARGET if label is None else label), sample, label))
    while waiting:
        kinds = [(sample.image.shape, sample.image.dtype) for _, sample, _ in waiting[: job.batch]]
        n = next((n for n, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))
        _add_batch(block, model, data, waiting[:n], many)
        waiting = waiting[n:]
    if block.failures:
        row = min(block.failures)
        few = f"{len(block.failures)} of {len(block.ids)} rows have no value; the first, {block.ids[row]}"
        warn(f"{job.place}: {few}", block.failures[row].reason)
    return block


def _add_batch(block, model, data, rows, many):
    """Add rows of equal size to a block: as a batch, or with the reason why the model cannot take them."""
    places, samples, labels = zip(*rows)
    try:
        x = check_images(model, torch.stack([sample.image for sample in samples]).to(device_of(model)))
        found = logits(model, x)  # also where labels are explained: the metrics share these logits
    except Exception as error:  # noqa: BLE001
        block.failures |= dict.fromkeys(places, failure(error))
        return
    # Labels of a data set that names its classes were checked against those; a model of other classes explains its own.
    asked = [[label] if many else [] if classes_of(data) else sample.labels for sample, label in zip(samples, labels)]
    reasons = [_unfit(row, wanted, many) for row, wanted in zip(found, asked)]
    block.failures |= {place: Failure(reason, True) for place, reason in zip(places, reasons) if reason}
    fit = [n for n, reason in enumerate(reasons) if not reason]
    if len(fit) < len(rows):
        x, found, rows = x[fit], found[fit], [rows[n] for n in fit]
    if not rows:
        return
    places, samples, labels = zip(*rows)
    y = torch.tensor(labels, device=x.device) if many else found.argmax(1)
    alike = same_classes(model, data)
    named = [next(iter((*sample.labels, *sample.regions)), None) for sample in samples]  # of a photograph without labels, what is annotated
    shown = [target if alike and target in sample.labels else one for sample, target, one in zip(samples, y.tolist(), named)]
    predicted = _predicted(found, many).gather(1, y[:, None])[:, 0].tolist()
    for place, target, sample, label, hit in zip(places, y.tolist(), samples, shown, predicted):
        block.targets[place] = target
        block.correct[place] = hit and alike and target in sample.labels
        block.difficult[place] = label is not None and sample.is_difficult(label)
    block.batches.append(Batch(x, y, list(samples), shown, list(places), model))


def _predicted(logits, many):
    """Which classes [B,C] a model predicts: its top-1; of several labels all with p >= 1/2, the likeliest where none has that."""
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, keepdim=True), True)
    likely = logits >= 0
    return torch.where(likely.any(1, keepdim=True), likely, top) if many else top


def _unfit(row, labels, many):
    """Why a row cannot be explained, with its logits and the labels that have to be among the model's classes; "" where it can."""
    if not row.isfinite().all():
        return "the model's logits of this image are not finite"
    classes = len(row) if many else max(len(row), 2)  # a single logit tells two classes apart
    wrong = [label for label in labels if label >= classes]
    return f"label {wrong[0]} is not among the model's {classes} classes" if wrong else ""

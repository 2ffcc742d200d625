"""What an evaluation is asked for: models, data sets, methods and metrics, by name or as objects."""

import json
from dataclasses import dataclass
from functools import lru_cache

import torch

from xai_repro.data import load_data
from xai_repro.models import load_model
from xai_repro.registry import check_hyper, metric_info


@dataclass(frozen=True)
class Asked:
    """A method or metric as asked for: the name the table uses, the registered name, its hyper-parameters as JSON."""

    label: str
    name: str
    hyper: str

    @property
    def arguments(self):
        return json.loads(self.hyper)


def _listed(items, single):
    """One item, a list or a dict label -> item, as a list of (label or None, item)."""
    if isinstance(items, dict):
        return list(items.items())
    alone = isinstance(items, str) or (single is not None and isinstance(items, single))
    return [(None, item) for item in ([items] if alone else items)]


def labelled(items, single, kind):
    """Models or data sets as {label: name or object}."""
    if single is None and not isinstance(items, (str, dict, list, tuple)):
        items = [items]  # a data set itself
    elif single is None and isinstance(items, (list, tuple)) and items and hasattr(items[0], "image"):
        items = [items]  # a plain list of samples
    found = {}
    for label, item in _listed(items, single):
        label = label or (item if isinstance(item, str) else getattr(item, "name", None) or type(item).__name__.lower())
        if label in found:
            raise ValueError(f"{kind} '{label}' is given twice; a dict label -> {kind} tells them apart")
        found[label] = item
    return found


def with_hyper(items, info, usual):
    """Methods or metrics as a list of Asked; those given by name alone have the usual hyper-parameters.

    Raises UnknownName, ValueError for doubles and for values that are not plain.
    """
    is_pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], dict)
    found = []
    for label, item in _listed([items] if is_pair else items, None):
        name, hyper = (item, usual.get(item, {})) if isinstance(item, str) else item
        known = info(name)
        check_hyper(known, {key: value for key, value in hyper.items() if key != "chunk" or info is metric_info})
        try:
            asked = Asked(label or name, name, json.dumps(hyper, sort_keys=True))
        except TypeError:
            raise ValueError(f"hyper-parameters of {name} have to be numbers, strings, lists or None; given: {hyper}") from None
        if asked in found:
            raise ValueError(f"'{asked.label}' with hyper-parameters {asked.hyper} is given twice")
        found.append(asked)
    return found


@lru_cache(maxsize=4)
def _load_model(name, weights, device):
    return load_model(name, weights=weights, device=device)


def the_model(model, data, device):
    """The module for a name: embedded models with the weights for the embedded data set, torchvision's with ImageNet's."""
    if not isinstance(model, str):
        return model
    dataset = data if isinstance(data, str) else getattr(data, "name", "")
    embedded = dataset if dataset.startswith("mini-") else None
    return _load_model(model, embedded if model.startswith("mini-") else "imagenet", device)


@lru_cache(maxsize=8)
def _load_data(name):
    return load_data(name)


def the_data(data):
    return _load_data(data) if isinstance(data, str) else data


def multi_label(model, data):
    return getattr(model, "multi_label", getattr(data, "multi_label", False))


def same_classes(model, data):
    ours, theirs = getattr(model, "classes", None), getattr(data, "classes", None)
    return ours is None or theirs is None or list(ours) == list(theirs)


def check_classes(model, data, model_label, data_label):
    """Refuse a multi-label model whose classes are not those of the labels it would be explained for."""
    if multi_label(model, data) and not same_classes(model, data):
        raise ValueError(
            f"'{model_label}' was trained on other classes ({', '.join(map(str, model.classes[:3]))}, ...) than "
            f"'{data_label}' has ({', '.join(map(str, data.classes[:3]))}, ...), so it cannot be explained for their labels"
        )


def device_of(model):
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def explains_again(metric):
    """Whether a metric calls a method itself and leaves open which: then it is the one at hand."""
    return {"method", "settings"} <= set(metric_info(metric.name).hyper) and "method" not in metric.arguments


def arguments(metric, method):
    """The hyper-parameters of a metric, with the method at hand where it explains again."""
    own = {"method": method.name, "settings": method.arguments} if explains_again(metric) else {}
    return own | metric.arguments

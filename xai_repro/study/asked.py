"""What an evaluation is asked for: models, data sets, methods and metrics, by name or as objects, checked before anything runs."""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Integral, Real

import torch

from xai_repro.data import load_data, Photos
from xai_repro.data.drawn import DRAWERS
from xai_repro.errors import short, UnknownName
from xai_repro.explain import classes_of, coefficients
from xai_repro.methods.clam_layers import CHOICES
from xai_repro.models import load_model, trainings
from xai_repro.models.zoo import EMBEDDED, weights_for
from xai_repro.network.layers import place
from xai_repro.registry import check_hyper, method_info, methods as known_methods, metric_info, metrics as known_metrics
from xai_repro.study.provenance import saw


@dataclass(frozen=True)
class Asked:
    """A method or metric as asked for: the name the table uses, the registered name, its hyper-parameters as JSON."""

    label: str
    name: str
    hyper: str

    @property
    def arguments(self):
        return json.loads(self.hyper)


# -- which things are asked for, and what a table calls them --------------------------------------------------------


def _listed(items, kind, wanted, is_one):
    """One item, a list or a dict label -> item, as a list of (label or None, item). Raises ValueError for anything else."""
    if isinstance(items, dict):
        found = list(items.items())
    elif is_one(items):
        found = [(None, items)]
    elif isinstance(items, (list, tuple)):
        found = [(None, item) for item in items]
    else:
        raise ValueError(f"a {kind} is {wanted}; several are a list or a dict label -> {kind}; given: {_told(items)}")
    if not found:
        raise ValueError(f"no {kind} is asked for: the list is empty")
    for label, item in found:
        if isinstance(items, dict) and (not isinstance(label, str) or not label.strip()):
            raise ValueError(f"the label of a {kind} is a text; given: {_told(label)}")
        if not is_one(item):
            raise ValueError(f"a {kind} is {wanted}; given: {_told(item)}")
    return found


def _told(thing):
    return f"the class {thing.__name__}; an instance is needed" if isinstance(thing, type) else f"{short(repr(thing))} ({type(thing).__name__})"


def labelled(items, kind, wanted, is_one):
    """Models or data sets as {label: name or object}."""
    found = {}
    for label, item in _listed(items, kind, wanted, is_one):
        label = label or name_of(item)
        if label in found:
            raise ValueError(f"{kind} '{label}' is given twice; a dict label -> {kind} tells them apart")
        found[label] = item
    return found


def name_of(item):
    """What a model or data set is called: the name it is given by, the one that it bears, or that of its class."""
    own = item if isinstance(item, str) else getattr(item, "name", None)
    return own if isinstance(own, str) and own else type(item).__name__.lower()


def labelled_models(items):
    """Models as {label: name, module, or several modules that were trained alike}; several only in a dict."""
    several = isinstance(items, dict)
    return labelled(items, "model", f"a name or a torch.nn.Module{' or a list of these modules' if several else ''}", partial(_is_model, several))


def _is_model(several, item):
    alike = several and isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(one, torch.nn.Module) for one in item)
    return alike or isinstance(item, (str, torch.nn.Module))


def networks_of(model, data, most):
    """The networks of a model, one per run: its list, itself, or for the name of an embedded one its name once for each training."""
    if isinstance(model, (list, tuple)):
        return list(model)
    dataset = _embedded(data)
    shipped = len(trainings(model, dataset)) if isinstance(model, str) and dataset and model in EMBEDDED else 1
    return [model] * max(1, min(shipped, most))


def labelled_data(items):
    return labelled(items, "data set", "a name or a sequence of images with labels, of known length (not a loader)", _is_data)


def _is_data(item):
    if isinstance(item, (list, tuple)):  # a plain list of images; otherwise it lists data sets
        return bool(item) and (hasattr(item[0], "image") or is_pair(item[0]))
    is_sequence = hasattr(item, "__len__") and hasattr(item, "__getitem__")
    return isinstance(item, str) or is_sequence and not isinstance(item, (type, dict, torch.Tensor))


def is_pair(item):
    """Whether an item of a data set is (image, label)."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], torch.Tensor)


def with_hyper(items, kind, usual):
    """Methods or metrics (kind) as a list of Asked; those given by name alone have the usual hyper-parameters.

    Raises UnknownName, ValueError for doubles and for values that are not plain or of the wrong kind.
    """
    info, known = (method_info, known_methods()) if kind == "method" else (metric_info, known_metrics())
    found = []
    for label, item in _listed(items, kind, "a name or (name, {hyper-parameters})", _is_asked):
        name, hyper = (item, usual.get(item, {})) if isinstance(item, str) else item
        if label not in (None, name) and label in known:
            raise ValueError(f"{name} is given the label '{label}', which is the name of another {kind}")
        asked = Asked(label or name, name, _as_json(name, _checked(info(name), hyper)))
        if asked in found:
            raise ValueError(f"'{asked.label}' with hyper-parameters {asked.hyper} is given twice")
        found.append(asked)
    return found


def _is_asked(item):
    return isinstance(item, str) or isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], dict)


def _checked(info, hyper):
    """The hyper-parameters as given, once each of them, and those of a method that they name, are found to be right."""
    check_hyper(info, {key: value for key, value in hyper.items() if key != "chunk" or "chunk" in info.hyper or hasattr(info, "truth")})
    if "method" in hyper and "method" in info.hyper:
        check_hyper(method_info(hyper["method"]), hyper.get("settings") or {})
    return hyper


def _as_json(name, hyper):
    try:
        return json.dumps(hyper, sort_keys=True, default=_plain)
    except TypeError:
        raise ValueError(f"hyper-parameters of {name} have to be numbers, strings, lists or None; given: {short(repr(hyper))}") from None


def _plain(value):
    """Numpy's numbers as Python's."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError


# -- names become objects ---------------------------------------------------------------------------------------------


def loader():
    """`load_model` for one call of evaluate: a model is loaded once for several data sets.

    Nothing is kept from call to call, so that nobody gets a model that somebody else has changed, and weights that were
    changed on disk are read again. Few are kept at a time: a GPU does not hold many.
    """
    return lru_cache(maxsize=8)(load_model)


def the_model(model, data, device, load=None, run=0):
    """The module for a name: embedded models with the weights of a run for the embedded data set, others with ImageNet's, TorchRay's with their own."""
    if not isinstance(model, str):
        return model
    dataset = _embedded(data)
    return (load or load_model)(model, weights=weights_for(model, dataset and f"{dataset}-{run}" if run else dataset), device=device)


def _embedded(data):
    """The name of an embedded data set, None for any other."""
    name = data if isinstance(data, str) else getattr(data, "name", "")
    return name if isinstance(name, str) and name in DRAWERS else None


def the_data(data, model=None):
    """The data set for a name; photographs as the model sees them, where it says how and they were opened for no other."""
    data = load_data(data) if isinstance(data, str) else data
    view = getattr(model, "view", None)
    return data.seen_by(view) if isinstance(data, Photos) and view is not None else data


def load_pair(model, data, limit=None, split="test", device="cpu"):
    """(network, images): a model by name with the weights that fit a data set, and the data set's first images as this model sees them.

    Raises the errors of `load_model` and `load_data`.
    """
    images = load_data(data, split, limit=limit)
    network = the_model(model, images, device)
    images = the_data(images, network)
    saw(str(model), getattr(network, "fingerprint", ""), str(data), getattr(images, "fingerprint", ""), (0, len(images)))
    return network, images


def channels(model, data):
    """How many channels the layer has that class activation maps of a model take by default."""
    network, images = load_pair(model, data, 1)
    return coefficients(network, images[0].image[None].to(device_of(network)), None, "mean-features").shape[1]


# -- what fits what ---------------------------------------------------------------------------------------------------


def multi_label(model, data):
    return bool(getattr(model, "multi_label", getattr(data, "multi_label", False)))


def same_classes(model, data):
    ours, theirs = classes_of(model), classes_of(data)
    return ours is None or theirs is None or ours == theirs


def check_classes(model, data, model_label, data_label):
    """Refuse a multi-label model whose classes are not those of the labels it would be explained for."""
    if multi_label(model, data) and not same_classes(model, data):
        raise ValueError(
            f"'{model_label}' was trained on other classes ({', '.join(map(str, classes_of(model)[:3]))}, ...) than "
            f"'{data_label}' has ({', '.join(map(str, classes_of(data)[:3]))}, ...), so it cannot be explained for their labels"
        )


def check_layers(model, model_label, asked):
    """Refuse a method or metric that names a layer which this model does not have."""
    for one in asked:
        for layer in _layers(one):
            try:
                place(model, layer)
            except (UnknownName, ValueError) as error:
                raise type(error)(f"{one.label} on {model_label}: {error}") from None


def _layers(asked):
    """The layers that hyper-parameters name; a ValueError where they are none."""
    arguments = [asked.arguments, asked.arguments.get("settings") or {}]
    for layer in [one["layer"] for one in arguments if one.get("layer") is not None]:
        if not isinstance(layer, str):
            raise ValueError(f"layer of {asked.label} is {short(repr(layer))}; the name of a layer is needed")
        if layer != "input" or asked.name not in known_methods() or method_info(asked.name).family != "relevance":  # where it is the images
            yield layer
    for layers in [one["layers"] for one in arguments if one.get("layers") is not None]:
        if isinstance(layers, list) and layers and all(isinstance(one, str) for one in layers):
            yield from layers
        elif layers not in ("all", *CHOICES) and (isinstance(layers, bool) or not isinstance(layers, int) or layers < 1):
            raise ValueError(f"layers of {asked.label} is {short(repr(layers))}; possible: 'all', how many of the last stages, a list of names")


def device_of(model):
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def explains_again(metric):
    """Whether a metric calls a method itself and leaves open which: then it is the one at hand."""
    return {"method", "settings"} <= set(metric_info(metric.name).hyper) and "method" not in metric.arguments


def in_run(asked, run):
    """The hyper-parameters of a method or metric in a run: each run draws from a seed of its own."""
    info = (method_info if asked.name in known_methods() else metric_info)(asked.name)
    own = asked.arguments
    return own | {"seed": own.get("seed", info.hyper["seed"]) + run} if run and "seed" in info.hyper else own


def arguments(metric, method, run=0):
    """The hyper-parameters of a metric in a run, with the method at hand where it explains again."""
    own = {"method": method.name, "settings": in_run(method, run)} if explains_again(metric) else {}
    return own | in_run(metric, run)

"""Files of weights: read, and put into a model, or refused with a sentence that names the file and what is wrong with it."""

import json

from safetensors import safe_open, SafetensorError

from xai_repro.errors import short
from xai_repro.store.files import altered

SHOWN = 3  # names that an error lists


def read_weights(path):
    """Read a .safetensors file: (state dict with float tensors in float32, metadata as str -> str).

    Raises ValueError for a file that is damaged, differs from the record beside it, or holds numbers that are not finite.
    """
    if wrong := altered(path):
        raise ValueError(f"{path} {wrong}")
    facts = read_facts(path)
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise ValueError(f"{path} holds numbers that are not finite in {_few(broken)}")
    return state, facts


def read_facts(path):
    """The metadata of a .safetensors file, str -> str, without its tensors. Raises ValueError for a file that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error


def read_classes(path, facts):
    """(class names, whether an image can have several), from the metadata of weights that train wrote."""
    lacking = [key for key in ("classes", "multi_label") if key not in facts]
    if lacking:
        raise ValueError(f"{path} lacks {' and '.join(lacking)} in its metadata, which weights written by train have")
    try:
        classes = json.loads(facts["classes"])
    except (ValueError, RecursionError):  # no JSON, or lists in lists in lists
        classes = None
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"{path} has {short(facts['classes'])} as classes in its metadata; a list of names in JSON is needed")
    if facts["multi_label"] not in ("True", "False"):
        raise ValueError(f"{path} has {short(facts['multi_label'])} as multi_label in its metadata; True or False is needed")
    return tuple(classes), facts["multi_label"] == "True"


def fill(model, state, path):
    """Put the tensors of a file into a model. Raises ValueError where names, shapes or kinds of numbers are not the model's."""
    own, given = _forms(model.state_dict()), _forms(state)
    unlike = [f"{key} {given[key]} in place of {own[key]}" for key in own if given.get(key, own[key]) != own[key]]
    problems = {"has": unlike}
    if not unlike:  # torch tells of the rest, and allows for counters that older files lack
        left = model.load_state_dict(state, strict=False)
        problems = {"lacks": left.missing_keys, "holds unknown": left.unexpected_keys}
    if any(problems.values()):
        text = "; ".join(f"{what} {_few(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{path} does not fit this network: it {text}")


def _forms(state):
    """The shape of each tensor, and the kind of its numbers where it is not the usual one, in words."""
    kinds = {key: "" if value.is_floating_point() else f" of {value.dtype}" for key, value in state.items()}
    return {key: f"{list(value.shape)}{kinds[key]}" for key, value in state.items()}


def _few(names):
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")

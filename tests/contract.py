"""Settings and instruments of the contract tests."""

import pytest
import torch
import xai_repro as xr
from toy_attention import abn, lfi
from toy_clam import attributes, Fitted
from toys import Toy, TOYS

from xai_repro.errors import UnknownName

TOYS = {**TOYS, "lfi": Toy(lfi, "attended", ["backbone.layer2", "attended"]), "abn": Toy(abn, "backbone.layer3", ["backbone.layer2", "backbone.layer3"])}
TOYS = {**TOYS, "fitted": Toy(Fitted, "features.29", ["features.22", "features.29"], {"clam": {"layers": "core", "attributes": attributes()}})}

METHODS, METRICS = xr.methods(), xr.metrics()
ANYWHERE = [name for name in METHODS if not xr.method_info(name).files and xr.method_info(name).family != "attention"]  # methods that need nothing learnt

CHEAP = {"permutations": 2, "samples": 12, "masks": 6, "steps": 3}  # the paper's values are for the paper's images


def hyper(name, toy, info=xr.method_info):
    """Cheap hyper-parameters, and the toy's layer where the method or metric has one."""
    known = info(name).hyper
    given = {key: value for key, value in CHEAP.items() if key in known}
    if name in toy.given:
        return given | toy.given[name]
    if "layer" in known:
        return given | {"layer": toy.layer}
    return given | ({"layers": toy.layers} if "layers" in known and not getattr(info(name), "files", None) else {})


def raises_about(given, kind=(ValueError, UnknownName)):
    """An error of the library's own, that names what was given."""
    return pytest.raises(kind, match=given)


# -- methods: what they leave alone ---------------------------------------------------------------------------------------


def used(model):
    """A model as a user may have it: gradients, hooks of all kinds, mixed flags, a frozen parameter."""
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    module = list(model.children())[0]
    module.register_forward_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    module.register_full_backward_hook(lambda *_: None)
    next(model.parameters()).requires_grad_(False)
    return model


class Boom(Exception):
    pass


def counting(calls, limit=None):
    """A hook on every module of every model: counts the calls, and raises from the given one on."""

    def hook(module, args):
        calls.append(module)
        if limit is not None and len(calls) >= limit:
            raise Boom

    return torch.nn.modules.module.register_module_forward_pre_hook(hook)

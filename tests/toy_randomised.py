"""What the tests of randomised models share."""

import functools

import torch
import torchvision
import xai_repro as xr
from toys import seeded

from xai_repro.metrics.randomise import blocks, reinitialised

METRICS = {"cascading": "sanity-cascading", "independent": "sanity-independent"}

VGG = ["classifier.6", "classifier.3", "classifier.0", "features.3", "features.0"]


@functools.cache
def resnet18():
    return seeded(lambda: torchvision.models.resnet18(weights=None), dtype=torch.float32)


def sets(order, names):
    return [names[: i + 1] if order == "cascading" else [name] for i, name in enumerate(names)]


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


# -- reuse ------------------------------------------------------------------------------------------------------------------


def plainly(model, x, y, method, order, settings, seed=0):
    """The maps without reuse: the model is randomised, and explained as any other."""
    for names in sets(order, blocks(model, x)):
        with reinitialised(model, names, seed):
            maps = xr.explain(model, x, y, method, **settings)
        yield names[-1], maps

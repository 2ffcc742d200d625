"""What the benchmark explains: networks with random weights, and drawn images of the size asked for."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from xai_repro.data import load_data
from xai_repro.models import load_model
from xai_repro.models.zoo import EMBEDDED
from xai_repro.network.layers import default_layer

LOGITS = 5  # the spread of the logits that random weights are scaled to, that of a trained network


@dataclass(frozen=True, eq=False)
class Case:
    """A network, images x [B,3,H,W] for it, the classes y [B] that it likes best, the name of its layer."""

    name: str
    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    layer: str

    @property
    def single(self):
        """Whether there is one image: what takes long is measured on that alone."""
        return len(self.x) == 1

    @property
    def target(self):
        """The layer itself."""
        return self.model.get_submodule(self.layer)

    def leaf(self):
        """The images as those peers need them who differentiate a network of frozen weights."""
        return self.x.detach().requires_grad_()


def cases(networks, batches):
    """One case per network and number of images. networks: name -> side of the images in pixels."""
    images = torch.stack([sample.image for sample in load_data("mini-birds", limit=max(batches))])
    found = []
    for name, size in networks.items():
        x = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        model = network(name, x)
        with torch.no_grad():
            y = model(x).argmax(1)
        found += [Case(name, model, x[:n], y[:n], default_layer(model)) for n in batches]
    return found


def network(name, x):
    """A network with random weights, frozen, so that no peer spends time on gradients of weights, and with logits that spread."""
    model = load_model(name, weights="random" if name in EMBEDDED else None, device="cpu").requires_grad_(False)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    factor = LOGITS / model(x).std()
    last.weight *= factor
    last.bias *= factor
    return model

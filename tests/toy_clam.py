"""A network of VGG16's layout whose maps stay as large as its images, and files of attributes that fit it, learnt of nothing."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from toys import CLASSES, SIZE
from torchvision.models import VGG

from xai_repro.methods import cla, clam, clam_layers

WIDTH, CONVOLUTIONS = 4, (2, 2, 3, 3, 3)


class Fitted(VGG):
    """Four channels everywhere; known by a name, since its weights differ from test to test."""

    def __init__(self):
        layers = []
        for count in CONVOLUTIONS:
            for _ in range(count):
                layers += [nn.Conv2d(WIDTH if layers else 3, WIDTH, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(3, 1, 1))
        super().__init__(nn.Sequential(*layers), num_classes=CLASSES, init_weights=False)
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(4 * WIDTH, CLASSES)
        self.fingerprint = "fitted toy"


@cache
def attributes():
    """The folder of its attributes, as a text."""
    folder, generator = Path(tempfile.mkdtemp()), torch.Generator().manual_seed(0)
    for base in clam.BASES:
        for layers in clam_layers.CHOICES:
            learnt = {}
            for one in clam_layers.specs(Fitted(), torch.zeros(1, 3, SIZE, SIZE), layers, CLASSES):
                pairs = [(torch.randn(WIDTH + 1, WIDTH + 1, generator=generator), torch.randn(WIDTH + 1, generator=generator)) for _ in range(2)]
                kept = torch.rand(one.number, WIDTH + 1, one.a, one.a, generator=generator)
                learnt[one.name] = cla.CLA(kept, *pairs, cla.class_patterns(CLASSES, one.p, generator), one.strength)
            save_file(clam.packed(learnt), folder / f"{base}-{layers}.safetensors", {"network": "fitted toy", "base": base, "layers": layers})
    return str(folder)

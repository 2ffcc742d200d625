"""Untidy networks, and a plain second way to run what lies above a layer."""

import copy

import pytest
import torch
from torch import nn
from toys import CLASSES, Functional, Residual, VGGLike, seeded

ATOL = 1e-12


# -- untidy models, and a plain second way to run what lies above a layer -----------------------------------------------


def replaced(model, x, layer, A):
    """Logits of the whole model whose layer's output is overwritten by A [B,K,h,w]: a deep copy, a hook, the full price.

    The copy has no in-place modules, so that the overwritten tensor is the one that the layers above read.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: A.clone())
    return model(x)


class DenseBlock(nn.Module):
    """Concatenation of everything before: tensors from below the cut are read above it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(k, 4, 3, padding=1) for k in (3, 7, 11))
        self.fc = nn.Linear(15, CLASSES)

    def forward(self, x):
        features = [x]
        for layer in (self.a, self.b, self.c):
            features.append(layer(torch.cat(features, 1)).relu())
        return self.fc(torch.cat(features, 1).mean((2, 3)))


class WrittenAfter(nn.Module):
    """A tensor that crosses the cut is written in place between the call that returned it and the cut, and read above."""

    def __init__(self):
        super().__init__()
        self.low, self.cut, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.low(x)
        low += 0.5
        low.clamp_(min=0)
        return self.fc((self.cut(low) * low).mean((2, 3)))


class WrittenAbove(nn.Module):
    """A tensor that crosses the cut is written in place above the cut: every run of the head writes it anew."""

    def __init__(self):
        super().__init__()
        self.low, self.cut, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.low(x)
        high = self.cut(low)
        low *= 2
        low += high
        return self.fc(low.relu().mean((2, 3)))


class Reused(nn.Module):
    """One convolution and one in-place ReLU that run below, above and on both sides of the cut."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.cut = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.relu(self.twice(self.relu(self.stem(x))))
        high = self.relu(self.twice(self.relu(self.cut(low))))
        return self.fc((low + high).mean((2, 3)))


class WritesImage(nn.Module):
    """Its first layer writes the image in place."""

    def __init__(self):
        super().__init__()
        self.first, self.cut, self.fc = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.fc(self.cut(self.first(x)).relu().mean((2, 3)))


class Preallocated(nn.Module):
    """The head writes into a tensor that it allocates like the image: with a stand-in for the image nothing would raise."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x):
        logits = x.new_zeros(len(x), CLASSES)
        logits[:, :] = self.cut(x).mean((2, 3))
        return logits


UNTIDY = {
    "vgg": (VGGLike, "features.4"),
    "vgg, a pool": (VGGLike, "features.5"),
    "vgg, a convolution before an in-place relu": (VGGLike, "features.3"),
    "residual, last block": (Residual, "layer1"),
    "residual, first convolution of a block": (Residual, "layer1.1.conv1"),
    "residual, inside a plain shortcut": (Residual, "layer1.1.conv2"),
    "residual, before the sum": (Residual, "layer1.1.bn3"),
    "residual, beside a projection": (Residual, "layer1.0.bn3"),
    "residual, the projection": (Residual, "layer1.0.downsample"),
    "residual, in the projection": (Residual, "layer1.0.downsample.0"),
    "residual, stem": (Residual, "relu"),
    "functional": (Functional, "act"),
    "functional, first": (Functional, "conv1"),
    "dense": (DenseBlock, "b"),
    "dense, last": (DenseBlock, "c"),
    "written between call and cut": (WrittenAfter, "cut"),
    "written above the cut": (WrittenAbove, "cut"),
    "reused on both sides": (Reused, "cut"),
    "writes the image": (WritesImage, "cut"),
    "preallocated": (Preallocated, "cut"),
}


@pytest.fixture(params=UNTIDY)
def untidy(request):
    build, layer = UNTIDY[request.param]
    return seeded(build), layer

"""Heads of all kinds, and the game of the channels played plainly."""

import copy
import functools
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn
from toys import CLASSES, TOYS, GapLinear, Residual, VGGLike, images, seeded, Y

from xai_repro.network.game import Game
from xai_repro.network.split import Split

# -- heads of all kinds ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A convolution, the activations to cut at ("act", K = 4, 8x8), and a head that a subclass gives."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.build()

    def forward(self, x):
        h = self.conv(x)
        return self.head(self.act(h.clone()), h)


class AvgPool(Net):
    """Overlapping average pooling, flatten, two linear layers without a bias in the last."""

    def build(self):
        self.pool, self.fc1, self.fc2 = nn.AvgPool2d(3, stride=2), nn.Linear(36, 7), nn.Linear(7, CLASSES, bias=False)

    def head(self, a, h):
        return self.fc2(self.fc1(self.pool(a).flatten(1)).tanh())


class ConvAfter(Net):
    """A strided and dilated convolution follows the cut, max-pooling comes later."""

    def build(self):
        self.conv2, self.fc = nn.Conv2d(4, 5, 3, stride=2, padding=2, dilation=2), nn.Linear(20, CLASSES)

    def head(self, a, h):
        return self.fc(F.max_pool2d(self.conv2(a).relu(), 2).flatten(1))


class Reflecting(ConvAfter):
    """What a channel adds depends on the padding, which is not of zeros."""

    def build(self):
        super().build()
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, padding=1, padding_mode="reflect")


class Grouped(ConvAfter):
    def build(self):
        super().build()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(24, CLASSES)


class NormAfter(ConvAfter):
    """BatchNorm between the cut and the first layer that mixes channels."""

    def build(self):
        super().build()
        self.bn = nn.BatchNorm2d(4)

    def head(self, a, h):
        return super().head(self.bn(a), h)


class AllConvolution(Net):
    """No linear layer at all: the logits are averages of a convolution's maps."""

    def build(self):
        self.conv2 = nn.Conv2d(4, CLASSES, 1)

    def head(self, a, h):
        return self.conv2(F.max_pool2d(a, 2)).relu().mean((2, 3))


class DenseNetLike(nn.Module):
    """The features end in BatchNorm; a functional in-place ReLU, pooling and one linear layer follow."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x):
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


class FromBelow(Net):
    """What comes from below the cut is added above it."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(64, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1((F.max_pool2d(a, 2) + F.avg_pool2d(h, 2)).flatten(1)).relu())


class FromBelowLinear(Net):
    """The same with a linear head, whose value without channels differs from image to image."""

    def build(self):
        self.fc = nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc((a + h).relu().mean((2, 3)))


class Around(Net):
    """The activations go round the first layer to the logits."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(11, CLASSES)

    def head(self, a, h):
        p = a.amax((2, 3))
        return self.fc2(torch.cat([self.fc1(p).relu(), p.square()], 1))


class AroundByShape(Net):
    """Only whether the activations are there goes round the first layer: their shape, which is the same in every coalition."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(a.mean((2, 3)) * a.shape[-1]).relu())


class PositionsFirst(Net):
    """Flattened with the channels last: blocks of the weights are positions."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(64, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(F.avg_pool2d(a, 2).permute(0, 2, 3, 1).flatten(1)).relu())


class PerChannel(Net):
    """A linear layer over the positions of each channel by itself."""

    def build(self):
        self.mix, self.fc = nn.Linear(64, 3), nn.Linear(12, CLASSES)

    def head(self, a, h):
        return self.fc(self.mix(a.flatten(2)).relu().flatten(1))


class Neighbours(Net):
    """Channels divided by their neighbours before the first layer."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(F.local_response_norm(a, 3, alpha=1).mean((2, 3))).relu())


class CosineLinear(nn.Linear):
    def forward(self, h):
        return F.linear(h / (1 + h.norm(dim=1, keepdim=True)), self.weight, self.bias)


class Cosine(Net):
    """The classifier is a linear layer by class, not by what it computes."""

    def build(self):
        self.fc = CosineLinear(4, CLASSES)

    def head(self, a, h):
        return self.fc(a.mean((2, 3)))


class Twice(Net):
    """The first layer above the cut is used again further up."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(self.fc1(a.mean((2, 3))).relu()).relu())


class LastTwice(Net):
    """The layer that gives the logits has a first go at them."""

    def build(self):
        self.fc1, self.fc = nn.Linear(4, CLASSES), nn.Linear(CLASSES, CLASSES)

    def head(self, a, h):
        return self.fc(self.fc(self.fc1(a.mean((2, 3))).relu()).relu())


Case = namedtuple("Case", "build layer kind")  # kind: "linear", "sum" (channels add up before the first non-linearity), "whole"

CASES = {
    "vgg": Case(VGGLike, "features.4", "sum"),
    "vgg without biases": Case(lambda: VGGLike(bias=False), "features.4", "sum"),
    "vgg, an earlier layer": Case(VGGLike, "features.2", "sum"),
    "gap": Case(GapLinear, "features.3", "linear"),
    "gap, before a convolution": Case(GapLinear, "features.1", "sum"),
    "gap without biases": Case(lambda: GapLinear(bias=False), "features.3", "linear"),
    "residual": Case(Residual, "layer1", "linear"),
    "residual, between blocks": Case(Residual, "layer1.0", "whole"),
    "residual, inside a block": Case(Residual, "layer1.0.conv2", "whole"),
    "residual, before the sum": Case(Residual, "layer1.1.bn3", "linear"),
    "functional": Case(*TOYS["functional"][:2], "whole"),
    "average pooling": Case(AvgPool, "act", "sum"),
    "convolution": Case(ConvAfter, "act", "sum"),
    "reflecting": Case(Reflecting, "act", "whole"),
    "grouped": Case(Grouped, "act", "whole"),
    "batch norm": Case(NormAfter, "act", "whole"),
    "all convolution": Case(AllConvolution, "act", "sum"),
    "densenet-like": Case(DenseNetLike, "features", "linear"),
    "from below": Case(FromBelow, "act", "whole"),
    "from below, linear": Case(FromBelowLinear, "act", "linear"),
    "around": Case(Around, "act", "whole"),
    "around by shape": Case(AroundByShape, "act", "sum"),
    "positions first": Case(PositionsFirst, "act", "whole"),
    "per channel": Case(PerChannel, "act", "whole"),
    "neighbours": Case(Neighbours, "act", "whole"),
    "cosine": Case(Cosine, "act", "whole"),
    "twice": Case(Twice, "act", "whole"),
    "last twice": Case(LastTwice, "act", "sum"),
}


# -- the second way ---------------------------------------------------------------------------------------------------------


@functools.cache
def setting(name, dtype=torch.float64):
    build, layer, _ = CASES[name]
    model, x = seeded(build, dtype=dtype), images(dtype=dtype)
    return model, x, layer


def activations(model, x, layer):
    found = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output.detach().clone()))
    with torch.no_grad():
        model(x.clone())
    handle.remove()
    return found[0]


def played(model, x, y, layer, present):
    """v [B,n] of coalitions [n,K]: the whole model, on a copy whose layer's output is overwritten."""
    A = activations(model, x, layer)
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    present, columns = present.to(A), []
    for row in present:
        handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: A * row[:, None, None])
        with torch.no_grad():
            columns.append(model(x).gather(1, y[:, None])[:, 0])
        handle.remove()
    return torch.stack(columns, 1)


def gains(model, x, y, layer, permutations):
    """Sum over permutations of what each channel adds when it joins, [B,K]."""
    n, K = permutations.shape
    coalitions = torch.zeros(n, K + 1, K)
    for i, order in enumerate(permutations.tolist()):
        for j, k in enumerate(order):
            coalitions[i, j + 1 :, k] = 1
    v = played(model, x, y, layer, coalitions.flatten(0, 1)).view(len(x), n, K + 1)
    total = torch.zeros(len(x), K, dtype=v.dtype)
    for i, order in enumerate(permutations.tolist()):
        for j, k in enumerate(order):
            total[:, k] += v[:, i, j + 1] - v[:, i, j]
    return total


def same(got, expected, atol=1e-11):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=atol)


def drawn(n, K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(K, generator=generator) for _ in range(n)])


def game_of(model, x, layer, chunk=None, rows=slice(None), y=Y):
    return Game(Split(model, x, layer), y, rows, chunk)


def coalitions(K, n=9):
    some = torch.bernoulli(torch.full((n, K), 0.5), generator=torch.Generator().manual_seed(3))
    return torch.cat([torch.zeros(1, K), torch.ones(1, K), some])

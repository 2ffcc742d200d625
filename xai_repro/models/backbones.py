"""Classifiers that attention is put into, for images of 224 and of 32 pixels, and where each is cut: ResNet, ResNeXt, SE-ResNet and DenseNet."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import DenseNet, get_model
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import SqueezeExcitation

from xai_repro.errors import NotApplicable

SQUEEZED = 16  # of the channels, that many give one that tells how important they are [Hu et al. 2018]


class Parts(NamedTuple):
    """A classifier cut before and after its last stage: linear(mean(neck(last(before(x))))); before and neck are layers in order."""

    before: list
    last: nn.Module
    neck: list
    linear: nn.Linear


def parts(net):
    """The Parts of a backbone. Raises NotApplicable for what is neither a ResNet nor a DenseNet."""
    if isinstance(net, ResNet):
        *stages, last = [one for one in (net.layer1, net.layer2, net.layer3, net.layer4) if not isinstance(one, nn.Identity)]
        return Parts([net.conv1, net.bn1, net.relu, net.maxpool, *stages], last, [], net.fc)
    if isinstance(net, DenseNet):
        *before, last, norm = net.features.children()
        return Parts(before, last, [norm, F.relu], net.classifier)
    raise NotApplicable(f"attention is put into ResNets (ResNeXt, SE-ResNet) and DenseNets; this is {type(net).__name__}")


def stem(net):
    """The first convolution of a backbone."""
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


def shell(kind, *args, **options):
    """A torchvision network for the sake of its forward; its full-size layers are to be replaced, so none are filled."""
    with torch.device("meta"):
        return kind(*args, **options)


def initialise(net):
    """Convolutions drawn as He et al. do, normal with variance 2 / (outputs times kernel); the rest as torch begins."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


class SEBasicBlock(BasicBlock):
    """A basic block whose channels are scaled by what a small network says of their means, before the sum   [Hu et al. 2018]."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.bn2 = nn.Sequential(self.bn2, _squeeze(self.bn2.num_features))


class SEBottleneck(Bottleneck):
    """The same of a bottleneck."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.bn3 = nn.Sequential(self.bn3, _squeeze(self.bn3.num_features))


def _squeeze(channels):
    return SqueezeExcitation(channels, max(1, channels // SQUEEZED))


# -- for 224 pixels, and for 96 --------------------------------------------------------------------------------------------


def mini_basic(classes):
    """ResNet with six narrow basic blocks; the last stage keeps the size, so that its map is 6x6 at 96 pixels as that of the stage before."""
    net = shell(ResNet, BasicBlock, [1, 1, 1, 1])
    net.inplanes = 16
    net.conv1 = nn.Conv2d(3, 16, kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(16)
    for n, (planes, blocks, stride) in enumerate(((16, 2, 1), (32, 2, 2), (64, 1, 2), (64, 1, 1)), 1):
        setattr(net, f"layer{n}", net._make_layer(BasicBlock, planes, blocks, stride=stride))
    net.fc = nn.Linear(64, classes)
    return initialise(net)


def _torchvision(name, classes):
    return get_model(name, weights=None, num_classes=classes)


def _se_resnet(block, blocks, classes):
    return initialise(ResNet(block, blocks, num_classes=classes))


# -- for 32 pixels: three stages, no pooling before the last ------------------------------------------------------------------


def small_resnet(block, blocks, classes, planes=(16, 32, 64), groups=1):
    net = shell(ResNet, block, [1, 1, 1, 1], groups=groups)
    net.inplanes = planes[0]
    net.conv1, net.bn1, net.maxpool = nn.Conv2d(3, net.inplanes, 3, padding=1, bias=False), nn.BatchNorm2d(net.inplanes), nn.Identity()
    for n, (wide, stride) in enumerate(zip(planes, (1, 2, 2)), 1):
        setattr(net, f"layer{n}", net._make_layer(block, wide, blocks, stride=stride))
    net.layer4, net.fc = nn.Identity(), nn.Linear(planes[-1] * block.expansion, classes)
    return initialise(net)


def small_densenet(classes, depth=100, growth=12):
    layers = (depth - 4) // 6  # of two convolutions each, in three blocks
    net = DenseNet(growth, (layers,) * 3, 2 * growth, num_classes=classes)
    net.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    return initialise(net)


LARGE = {name: partial(_torchvision, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "densenet121")}
LARGE |= {"se-resnet18": partial(_se_resnet, SEBasicBlock, [2, 2, 2, 2]), "se-resnet50": partial(_se_resnet, SEBottleneck, [3, 4, 6, 3])}
SMALL = {
    "cifar-resnet20": partial(small_resnet, BasicBlock, 3), "cifar-resnet110": partial(small_resnet, Bottleneck, 12),
    "cifar-resnext29": partial(small_resnet, Bottleneck, 3, planes=(64, 128, 256), groups=8), "cifar-densenet100": small_densenet,
    "cifar-se-resnet110": partial(small_resnet, SEBottleneck, 12),
}  # fmt: skip
BACKBONES = LARGE | SMALL  # name -> function(classes)

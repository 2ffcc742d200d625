"""The four networks of TorchRay's pointing game: VGG16 and ResNet-50, trained with Caffe on VOC 2007 and COCO 2014   [Gradient Hedging, table 1]."""

import re

import torch
import torchvision
from torch import nn

from xai_repro.data import View
from xai_repro.data.readers import READERS
from xai_repro.store.fetch import cache_dir

FILES = {
    "vgg16-voc2007": "vgg16_voc-b050e8c3", "vgg16-coco2014": "vgg16_coco-d82c8150",
    "resnet50-voc2007": "resnet50_voc-9ca920d6", "resnet50-coco2014": "resnet50_coco-e99468c5",
}  # fmt: skip
NAMES = list(FILES)
# Caffe's colours: of 255, less ImageNet's means; the shorter side has 224 pixels, and nothing is cut off.
VIEW = View(224, None, "bilinear", (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
LINEAR = {"0": "0", "2": "3", "4": "6"}  # Caffe's VGG has no dropout between its linear layers


def classes_of(name):
    """The names of the classes, in the order of the labels."""
    if name.endswith("voc2007"):
        return READERS["voc2007"].classes
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    return tuple(one for one in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"] if one not in ("__background__", "N/A"))


def build(name, classes):
    """The network, randomly initialised under a seed: torchvision's, as Caffe computes it. Poolings round up; ResNet halves in the first 1x1 convolution of a stage."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = getattr(torchvision.models, name.split("-")[0])(weights=None, num_classes=classes)
        if name.startswith("resnet"):
            net.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
            net.maxpool = nn.MaxPool2d(3, stride=2, padding=0)
            for stage in (net.layer2, net.layer3, net.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    for module in net.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
    return net


def weights_file(name):
    """Path of the converted weights. Raises FileNotFoundError, which says how to get them."""
    path = cache_dir() / f"{FILES[name]}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no weights of {name} in {cache_dir()}. To fetch them: python data_scripts/fetch_torchray.py")
    return path


def renamed(name, state):
    """The released tensors by torchvision's names, for colours in the order red, green, blue."""
    if name.startswith("vgg16"):
        found = {re.sub(r"(?<=^classifier\.)\d+", lambda number: LINEAR[number[0]], key): value for key, value in state.items()}
        found = {key: value.flatten(1) if key.startswith("classifier") and key.endswith("weight") else value for key, value in found.items()}
        first = "features.0.weight"
    else:
        found = {re.sub(r"(bn\d|downsample\.\d)\.[01]\.", r"\1.", key): value for key, value in state.items()}
        first = "conv1.weight"
    return found | {first: found[first].flip(1)}

"""How the papers train LFI-CAM, the attention branch network and their backbones: data sets of torchvision, sizes, rates, schedules   [LFI-CAM and ABN, released code]."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torchvision import datasets
from torchvision import transforms as T

from xai_repro.data import MEAN, STD, View
from xai_repro.errors import short, unknown

CIFAR_COLOURS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # mean and standard deviation, also for STL-10, as released
SMALLEST = 32  # pixels: the side of CIFAR's images, which are not cut for tests
IMAGENET_COLOURS = (MEAN, STD)


@dataclass(frozen=True)
class Recipe:
    """A data set and how networks are trained on it: SGD with momentum .9, the rate a tenth at each milestone.

    open: function(root, train, transform, download) -> data set of torchvision. side: of the images, in pixels; batch: images a step, over all processes, 128 for 32 pixels and 256 for
    224; decay: of the weights, .0001 (the README; the script for CIFAR has .0005 where nothing is said); rate .1, 300 epochs, milestones 150 and 225.
    """

    open: callable
    side: int
    colours: tuple
    batch: int
    decay: float = 1e-4
    rate: float = 0.1
    momentum: float = 0.9
    epochs: int = 300
    milestones: tuple = (150, 225)

    def transform(self, train):
        """PIL image -> tensor [3,side,side]: cropped and mirrored at random for training, as a whole or its middle for tests."""
        if not train:
            return for_tests(self.side, self.colours)
        moved = T.RandomCrop(self.side, padding=self.side // 8) if self.side <= SMALLEST else T.RandomResizedCrop(self.side)
        return T.Compose([moved, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(*self.colours)])


def for_tests(side, colours):
    """The View [3,side,side] of an image: as a whole for small sides, otherwise its middle."""
    return View(side if side <= SMALLEST else round(side * 256 / 224), side, mean=tuple(colours[0]), std=tuple(colours[1]))


def _cifar100(root, train, transform, download):
    return datasets.CIFAR100(root, train, transform, download=download)


def _stl10(root, train, transform, download):
    return datasets.STL10(root, "train" if train else "test", transform=transform, download=download)


def _folder(root, train, transform, download, names):
    """A folder for each class, in a folder for training and one for tests."""
    place = Path(root, names[0 if train else 1])
    if not place.is_dir():
        raise FileNotFoundError(f"no folder {short(str(place))}: put the images there, in a folder for each class; this data set cannot be downloaded")
    return datasets.ImageFolder(place, transform)


RECIPES = {
    "cifar100": Recipe(_cifar100, 32, CIFAR_COLOURS, 128),
    "stl10": Recipe(_stl10, 224, CIFAR_COLOURS, 256),
    "catsdogs": Recipe(partial(_folder, names=("train", "test")), 224, IMAGENET_COLOURS, 256),
    "imagenet": Recipe(partial(_folder, names=("train", "val")), 224, IMAGENET_COLOURS, 256),
}


def recipe(data, model=""):
    """The Recipe for a data set and a model: the attention branch network has another schedule on ImageNet. Raises UnknownName for another data set."""
    if not isinstance(data, str) or data not in RECIPES:
        raise unknown("data set to train on", data, RECIPES)
    found = RECIPES[data]
    return replace(found, epochs=90, milestones=(31, 61)) if data == "imagenet" and model.startswith("abn-") else found

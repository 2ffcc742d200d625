"""Which layer is explained: the one that is named, the last one that has a map, or the ends of the stages."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xai_repro.errors import NotApplicable, short, unknown
from xai_repro.network.borrow import borrowed, changes, hook
from xai_repro.network.forward import evaluating, logits_of
from xai_repro.network.layout import layout_of

# What tracing finds for torchvision's networks of the papers, so that they need no trace: the last convolutional stage after its
# ReLU, before any pooling.
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
    return max(i for i, module in enumerate(features) if isinstance(module, nn.ReLU))


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
MOST_STAGES = 4  # of a network that no table knows: the coarsest resolutions
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Softmax)  # give nothing new in eval mode, or no maps


def _poolings(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.MaxPool2d)]


@dataclass(frozen=True)
class Place:
    """A layer of a model: its name, its module, and which of its calls in a forward pass (None: the only one; -1: the last)."""

    name: str
    module: nn.Module
    call: int | None = None


def place(model, layer):
    """The Place of a layer given by name, as "name#call" or as a module of the model.

    Raises UnknownName with the nearest match for a layer that the model lacks.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        name = next((name for name, module in modules.items() if module is layer and name), None)
        if name is None:
            raise unknown("layer", f"{type(layer).__name__} (no module of this model)", [name for name in modules if name])
        return Place(name, layer)
    text = layer if isinstance(layer, str) else short(layer)
    name, mark, call = text.partition("#") if text not in modules else (text, "", "")
    if not name or name not in modules or not isinstance(layer, str):
        raise unknown("layer", text, [name for name in modules if name])
    if mark and not call.removeprefix("-").isdecimal():
        raise ValueError(f"layer '{text}' names call '{call}'; a number is needed, such as {name}#0 for the first or {name}#-1 for the last call")
    return Place(text, modules[name], int(call) if mark else None)


def default_layer(model, x=None):
    """The name of the layer that is explained where none is named: the last one that gives a map, before pooling.

    x: images as the model takes them; without them only torchvision's networks of the papers are known. Found by one forward and
    backward pass of one image, and remembered: of what modules give, the last in time that has several positions, is no pooling and
    is read by the logits at more than one position. (A transformer's last blocks are read at the class token alone: then it is
    what its last attention reads.)
    Raises NotApplicable where nothing is.
    """
    found = _listed(model, DEFAULT_LAYERS)
    return found if found is not None else _known(model, x)[-1]


def stages(model, layers="all", x=None):
    """Names of several layers, from the input to the logits: the ends of all stages ("all"), of the last n (n), or those named.

    x: images; of a network that no table knows the ends are the last layers of its coarsest resolutions.
    Raises ValueError for a number that is not possible, UnknownName for a name, NotApplicable where no layer gives a map.
    """
    if isinstance(layers, (list, tuple)) and layers:
        return [place(model, layer).name for layer in layers]
    if layers != "all" and (not isinstance(layers, int) or isinstance(layers, bool)):
        raise ValueError(f"layers is {short(repr(layers))}; possible: 'all' for the ends of all stages, n for the last n of them, a list of names")
    shallow = _listed(model, STAGES)
    found = _known(model, x) if shallow is None else [*shallow, default_layer(model)]
    if layers != "all" and not 1 <= layers <= len(found):
        raise ValueError(f"layers is {layers}; {type(model).__name__} has {len(found)} stages: {', '.join(found)}")
    return found if layers == "all" else found[-layers:]


def _listed(model, table):
    """What a table of torchvision's architectures says of a model, None where it is of another make."""
    for kind in type(model).__mro__:
        if kind.__name__ in table and kind.__module__.startswith("torchvision.models."):
            found = table[kind.__name__]
            found = found(model) if callable(found) else found
            names = [found] if isinstance(found, str) else found
            return found if set(names) <= {name for name, _ in model.named_modules()} else None
    return None


# -- networks that no table knows ---------------------------------------------------------------------------------------------

_TRACED = WeakKeyDictionary()  # model -> (its modules and the size of the images, the ends of its stages)


def _known(model, x):
    if x is None:
        last = [name for name, _ in model.named_modules() if name][-8:]
        raise ValueError(f"{type(model).__name__} has no default layer: name one with layer=...; its last layers are {', '.join(last)}")
    state = x.shape[1:], tuple((name, id(module)) for name, module in model.named_modules())
    if model not in _TRACED or _TRACED[model][0] != state:
        _TRACED[model] = state, _ends(borrowed(model, lambda: _trace(model, x[:1])), model)
    return _TRACED[model][1]


def _ends(read, model):
    """The names of the last layers of the coarsest resolutions, from the input to the logits; read: what `_trace` gives."""
    if not read:
        raise NotApplicable(f"no layer of {type(model).__name__} gives maps that its logits read: there are no channels to weigh")
    last = {}
    for layer in read:
        last.pop(layer.grid, None)
        last[layer.grid] = layer
    finest = sorted(last, key=lambda grid: grid[0] * grid[1])[:MOST_STAGES][-1]
    shallow = [layer.pooled or layer.name for layer in last.values() if layer is not read[-1] and layer.grid[0] * layer.grid[1] <= finest[0] * finest[1]]
    return [*shallow, read[-1].name]


@dataclass(frozen=True)
class Read:
    """A layer whose map the logits read: its name, the map's height and width, the name of the max-pooling right above it, if any."""

    name: str
    grid: tuple
    pooled: str | None


def _trace(model, x):
    """A Read for everything a module gives that is a map, is no pooling's output and is read at more than one position."""
    given, names, pooling = [], {module: name for name, module in model.named_modules()}, {}

    def end(module, args, output):
        if isinstance(module, nn.MaxPool2d) and args:
            pooling[id(args[0])] = names[module]
        if isinstance(output, torch.Tensor) and output.dim() in (3, 4) and len(output) == len(x) and names[module]:
            given.append((module, output, output._version))

    with evaluating(model), torch.enable_grad(), changes():
        for module in names:
            hook(module, "forward", end)
        score = logits_of(model(x.detach().clone().requires_grad_() * 1)).amax()
        pooled = {id(output) for module, output, _ in given if isinstance(module, POOLING)}
        maps = []
        for module, output, version in given:
            current = output._version == version  # nothing wrote into it afterwards
            if isinstance(module, IDLE) or id(output) in pooled or not current or not output.requires_grad:
                continue
            try:
                layout = layout_of(output, x, module, names[module], model)
            except ValueError:
                continue
            if layout.maps(output)[0, 0].numel() > 1:
                maps.append((names[module], output, layout))
        gradients = torch.autograd.grad(score, [output for _, output, _ in maps], allow_unused=True) if maps and score.requires_grad else []
    width = maps[-1][2].maps(maps[-1][1]).shape[1] if maps and maps[-1][2].kind == "tokens" else None  # of the tokens that the head reads
    read = []
    for (name, output, layout), G in zip(maps, gradients):
        if G is None or (width and layout.maps(output).shape[1] != width):
            continue
        if (layout.maps(G)[0].abs().sum(0) > 0).sum() > 1:
            read.append(Read(name, tuple(layout.maps(output).shape[-2:]), pooling.get(id(output))))
    return read

"""Which layer is explained: the one that is named, the last one that has a map, or the ends of the stages."""

from collections import Counter
from dataclasses import dataclass
from numbers import Integral
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xai_repro.errors import NotApplicable, short, unknown
from xai_repro.network.borrow import SCRIPTED, borrowed, changes, freeze, hook
from xai_repro.network.forward import evaluating, logits_of
from xai_repro.network.layout import layout_of
from xai_repro.network.target import target_logit

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
    if isinstance(layer, nn.Module):
        name = next((name for name, module in model.named_modules() if module is layer and name), None)
        if name is None:
            raise _unknown(model, f"{type(layer).__name__} (no module of this model)")
        return Place(name, layer)
    text = layer if isinstance(layer, str) else short(layer)
    if (module := _module(model, text)) is not None and isinstance(layer, str):
        return Place(text, module)
    name, mark, call = text.partition("#")
    module = _module(model, name)
    if not mark or module is None:
        raise _unknown(model, text)
    if not call.removeprefix("-").isdecimal() or len(call) > 9:
        raise ValueError(f"layer '{short(text)}' names call '{short(call)}'; a number is needed, such as {name}#0 for the first or {name}#-1 for the last call")
    return Place(text, module, int(call))


def _module(model, name):
    if isinstance(model, torch.jit.ScriptModule):
        raise NotApplicable(SCRIPTED)
    try:
        return model.get_submodule(name) if name else None
    except AttributeError:
        return None


def _unknown(model, given):
    return unknown("layer", given, [name for name, _ in model.named_modules() if name])


def default_layer(model, x=None):
    """The name of the layer that is explained where none is named: the last one that gives a map, before pooling.

    x: images as the model takes them; without them only torchvision's networks of the papers are known. Found by one forward and
    backward pass of one image, and remembered: of what modules give, the last in time that has several positions, is no pooling and
    is read by the logits at more than one position. (A transformer's last blocks are read at the class token alone: then it is
    what its last attention reads.)
    Raises NotApplicable where nothing is.
    """
    found = listed(model, DEFAULT_LAYERS)
    return found if found is not None else _known(model, x)[-1]


def stages(model, layers="all", x=None):
    """Names of several layers, from the input to the logits: the ends of all stages ("all"), of the last n (n), or those named.

    x: images; of a network that no table knows the ends are the last layers of its coarsest resolutions.
    Raises ValueError for a number that is not possible, UnknownName for a name, NotApplicable where no layer gives a map.
    """
    if isinstance(layers, (list, tuple)) and layers:
        return [place(model, layer).name for layer in layers]
    everything = isinstance(layers, str) and layers == "all"
    if not everything and (not isinstance(layers, Integral) or isinstance(layers, bool)):
        raise ValueError(f"layers is {short(repr(layers))}; possible: 'all' for the ends of all stages, n for the last n of them, a list of names")
    shallow = listed(model, STAGES)
    found = _known(model, x) if shallow is None else [*shallow, default_layer(model)]
    if not everything and not 1 <= layers <= len(found):
        raise ValueError(f"layers is {layers}; {type(model).__name__} has {len(found)} stages: {', '.join(found)}")
    return found if everything else found[-layers:]


def listed(model, table):
    """What a table of torchvision's architectures says of a model, None where it is of another make."""
    for kind in type(model).__mro__:
        if kind.__name__ in table and kind.__module__.startswith("torchvision.models."):
            found = table[kind.__name__]
            found = found(model) if callable(found) else found
            names = [found] if isinstance(found, str) else found
            return found if all(_module(model, name) is not None for name in names) else None
    return None


# -- networks that no table knows ---------------------------------------------------------------------------------------------

_TRACED = WeakKeyDictionary()  # model -> (its modules and the size of the images, the ends of its stages)


def _known(model, x):
    if x is None:
        last = [name for name, _ in model.named_modules() if name][-8:]
        raise ValueError(f"{type(model).__name__} has no default layer: name one with layer=...; its last layers are {', '.join(last)}")
    state = x.shape[1:], tuple((name, id(module)) for name, module in model.named_modules())
    if model not in _TRACED or _TRACED[model][0] != state:
        maps, read = borrowed(model, lambda: _trace(model, x[:1]))
        if not read:  # a blank image may reach no logit
            maps, read = borrowed(model, lambda: _trace(model, torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)))
        if not read:
            why = "its logits do not change with any of them (is the last layer zero?)" if maps else "there are no channels to weigh"
            raise NotApplicable(f"no layer of {type(model).__name__} gives maps that its logits read: {why}")
        _TRACED[model] = state, _ends(read)
    return _TRACED[model][1]


@dataclass(frozen=True)
class Map:
    """What a layer gives in the trace: its name, the output and its Layout, the name of the max-pooling right above it, if any."""

    name: str
    output: torch.Tensor
    layout: object
    pooled: str | None

    @property
    def shape(self):
        """[K,h,w]."""
        return self.layout.maps(self.output).shape[1:]


def _ends(read):
    """The ends of the stages, from the input to the logits; read: (name, grid, pooling above or None) of the maps that are read.

    The last one of all; and of each of the other coarsest resolutions the last one of those that are whole parts of the network
    rather than parts of parts, or the pooling above it.
    """
    name, coarsest, _ = read[-1]
    last = {}
    for layer in read:
        depth = layer[0].count(".")
        if layer[1] not in last or depth <= last[layer[1]][0].count("."):
            last.pop(layer[1], None)
            last[layer[1]] = layer
    finest = sorted(h * w for h, w in last)[:MOST_STAGES][-1]
    shallow = [pooled or one for one, (h, w), pooled in last.values() if h * w <= finest and (h, w) != coarsest]
    return [*shallow, name]


def _trace(model, x):
    """Everything that a module gives and that is a map of the image and no pooling's output; and what of it the logits read.

    Read: at more than one position, and as wide as the last one where that holds tokens. The latter come as (name, grid, pooling
    right above or None), so that nothing of the pass is kept.
    """
    given, names, pooling, runs = [], {module: name for name, module in model.named_modules()}, {}, Counter()

    def end(module, args, output):
        runs[module] += 1
        if isinstance(module, nn.MaxPool2d) and args:
            pooling[id(args[0])] = names[module]
        if isinstance(output, torch.Tensor) and output.dim() in (3, 4) and len(output) == len(x) and names[module] and output.requires_grad:
            given.append((module, runs[module] - 1, output))

    with evaluating(model), torch.enable_grad(), changes():
        freeze(model)  # what then asks for a gradient depends on the image
        for module in names:
            hook(module, "forward", end)
        score = target_logit(logits_of(model(x.detach().clone().requires_grad_() * 1), len(x)), None).sum()
        pooled = {id(output) for module, _, output in given if isinstance(module, POOLING)}
        owner = {id(output): (module, call) for module, call, output in given if not isinstance(module, IDLE)}  # the last to write a tensor
        maps = []
        for module, call, output in given:
            projection = output.dim() == 3 and isinstance(module, nn.Linear)  # queries, keys and values, and not what is attended to
            if projection or id(output) in pooled or owner.get(id(output)) != (module, call):
                continue
            try:
                layout = layout_of(output, x, module, names[module], model)
            except ValueError:
                continue
            name = names[module] if runs[module] == 1 else f"{names[module]}#{call}"
            one = Map(name, output, layout, pooling.get(id(output)))
            (h, w), (H, W) = one.shape[1:], x.shape[-2:]
            maps += [one] * (h * w > 1 and abs(h * W - w * H) <= 2 * max(H, W))  # rows of windows have other proportions
        gradients = torch.autograd.grad(score, [one.output for one in maps], allow_unused=True) if maps and score.requires_grad else []
    width = maps[-1].shape[0] if maps and maps[-1].layout.kind == "tokens" else None
    read = [
        (one.name, tuple(one.shape[1:]), one.pooled)
        for one, G in zip(maps, gradients)
        if G is not None and width in (None, one.shape[0]) and (one.layout.maps(G)[0].abs().sum(0) > 0).sum() > 1
    ]
    return bool(maps), read

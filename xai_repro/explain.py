"""The front door: explain images by a method's name, with every argument checked before anything runs."""

import re
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from xai_repro.errors import like, NotApplicable, short, unknown, UnknownName
from xai_repro.network.borrow import borrowed
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.network.forward import outside_inference, predict, reading
from xai_repro.network.layers import place
from xai_repro.registry import check_hyper, method_info, methods

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOO_SMALL = re.compile("[Kk]ernel size can't be greater|[Oo]utput size is too small|smaller than kernel size|input size per channel", re.S)
OTHER_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


def explain(model, x, y=None, method="grad-cam", layer=None, *, output=None, **hyper):
    """Attribution maps M [B,H,W] of the classes y for images x [B,C,H,W], at input resolution and as the method gives them.

    y: class indices [B], one int for all, names where the model has `classes`, or None for the model's top-1. layer: the target
    layer, for methods that have one, by name, as a module of the model, or "name#-1" for the last of several calls; without one the
    last layer with a map is found. Instead, `layers` names several, or says how many of the last stages. layout: how the layer's
    output holds the maps, "channels-first", "channels-last" or "tokens", where its shape leaves that open. output: a function from
    what the model returns to logits [B,C], where these are not what it returns (a dictionary, a segmentation). hyper: the method's
    hyper-parameters (`method_info(name).hyper`) and `chunk`, the images per forward pass. Maps are raw, on x's device, float32
    (float64 for float64 images); see `normalize`. Row i depends on row i alone, and the model is afterwards bit for bit as before,
    also after an error. Threads may share a model: they take turns.

    Raises UnknownName for a method, layer or hyper-parameter that does not exist, ValueError for images that are not finite
    [B,C,H,W], a class out of range, or a model that the method cannot explain (NotApplicable). Errors of the model's own forward
    pass through as they are.
    """
    return _apply(method_info(method).function, model, x, y, method, layer, output, hyper)


def explain_all(model, x, y=None, names=None, layer=None, hyper=None, *, output=None):
    """Maps of several methods (default: all), and why some have none.

    hyper: {name: {hyper-parameter: value}} where a method is not to run under its default settings; it may name more methods than
    run. Other arguments as for `explain`. Returns {name: M [B,H,W]} and {name: reason} for the methods that cannot explain this model, or failed at it.
    """
    names, hyper = methods() if names is None else _listed(names), like("hyper", hyper or {}, {})
    for name, given in hyper.items():
        check_hyper(method_info(name), {key: value for key, value in like(f"hyper of {name}", given, {}).items() if key != "chunk"})
    takes_layer = {name: "layer" in method_info(name).hyper for name in names}
    model = usable(model, output)
    check_classes(check_images(model, x, output), y, model)
    if layer is not None:
        place(model, layer)
    maps, reasons = {}, {}
    for name in names:
        try:
            maps[name] = explain(model, x, y, name, layer if takes_layer[name] else None, output=output, **hyper.get(name, {}))
        except NotApplicable as reason:
            reasons[name] = str(reason)
        except Exception as error:  # noqa: BLE001 - one method that fails must not take the others with it
            reasons[name] = f"{type(error).__name__}: {short(str(error), 300)}"
    return maps, reasons


def _listed(names):
    if not isinstance(names, Iterable):
        raise ValueError(f"names is {short(repr(names))}; names of methods are needed, or None for all")
    return [names] if isinstance(names, str) else list(names)


def coefficients(model, x, y=None, method="lift-cam", layer=None, *, output=None, **hyper):
    """Coefficients alpha [B,K] of a method whose map is ReLU(sum_k alpha_k A_k); arguments and errors as for `explain`."""
    function = method_info(method).coefficients
    if function is None:
        raise ValueError(f"{method} has no coefficients: its map is not a weighted sum of activation maps")
    return _apply(function, model, x, y, method, layer, output, hyper)


def _apply(function, model, x, y, method, layer, output, hyper):
    info, model = method_info(method), usable(model, output)
    chunk = hyper.pop("chunk", None) if "chunk" not in info.hyper else None
    if layer is not None:
        hyper = hyper | {"layer": layer}
    hyper = check_hyper(info, hyper)
    given, x = x.dtype if isinstance(x, torch.Tensor) else None, check_images(model, x, output)
    y = check_classes(x, y, model)
    chunk = default_chunk(x) if chunk is None else chunk

    def run():
        with reading(output), outside_inference():
            images, classes = (t.clone() if t is not None and t.is_inference() else t for t in (x, y))
            if classes is not None and info.family in ("control", "attention"):  # which look at no class
                check_range(model, images, classes)
            return in_chunks(lambda rows: function(model, images[rows], None if classes is None else classes[rows], **hyper), len(x), chunk)

    maps = plainly(lambda: borrowed(model, run), model, x)
    if len(maps) != len(x) or (function is info.function and maps.shape[1:] != x.shape[2:]) or not maps.isfinite().all():
        found = list(maps.shape) if maps.isfinite().all() else "NaN or infinity"
        raise ValueError(f"{method} gave {found} for images {list(x.shape)}; finite maps [B,H,W] (or coefficients [B,K]) are expected of it")
    return maps.detach().to(torch.float64 if given == torch.float64 else torch.float32)


def plainly(function, model, x):
    """function(); what torch says of images that are too small, or have other channels, is said in words."""
    try:
        return function()
    except RuntimeError as error:
        channels = OTHER_CHANNELS.search(str(error))
        if channels and int(channels[2]) == x.shape[1]:
            raise _other_channels(model, x, int(channels[1])) from error
        if TOO_SMALL.search(str(error)):
            raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels are too small for {type(model).__name__}: {short(str(error), 200)}") from error
        raise


def usable(model, output=None):
    """The model itself, out of torch.compile's wrapping; a ValueError for one that cannot be explained, or an `output` that reads no logits."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model is a torch.nn.Module; got {type(model).__name__}" + (": load it with xr.load_model" if isinstance(model, str) else ""))
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):  # as model.parameters() does, in a third of the time
            if tensor is not None and (why := _useless(tensor)):
                names = (name for name, one in [*model.named_parameters(), *model.named_buffers()] if one is tensor)
                raise ValueError(f"'{next(names)}' {why}")
    check_output(output)
    return model


def _useless(tensor):
    """What speaks against a parameter or buffer, to be said after its name; None if nothing does."""
    if is_lazy(tensor):
        return "has no shape yet: run the model on an image first"
    if tensor.is_meta:
        return "is on the device meta: the model has no weights"
    if tensor.is_inference() and isinstance(tensor, nn.Parameter):
        return "was made in inference mode, where torch keeps no gradients: build or load the model outside torch.inference_mode()"


def check_output(output):
    if output is not None and not callable(output):
        raise ValueError(f"output is {short(repr(output))}; a function from what a model returns to logits is needed, or None")


def check_images(model, x, output=None):
    """The images as the model takes them, [B,C,H,W] in its own precision, or a ValueError that says what is wrong."""
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATS or x.layout != torch.strided or x.is_nested:
        raise ValueError(f"images must be a floating-point tensor [B,C,H,W], as the model takes them; got {kind_of(x)}")
    if x.dim() != 4 or 0 in x.shape:
        hint = {3: "; add the batch dimension: x[None]"}.get(x.dim(), "")
        raise ValueError(f"images must be [B,C,H,W]; got {list(x.shape)}{hint}")
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device != x.device:
        raise ValueError(f"images are on {x.device}, the model is on {parameter.device}: move one of them with .to(...)")
    if not x.sum().isfinite() and not x.isfinite().all():  # the sum is quick; it may overflow
        bad = [i for i in range(len(x)) if not torch.isfinite(x[i]).all()]
        raise ValueError(f"images must be finite; NaN or infinity in row(s) {bad[:8]}")
    x = x.detach() if parameter is None or not parameter.is_floating_point() else x.detach().to(parameter.dtype)
    _check_channels(model, x, output)
    return x


def kind_of(thing):
    """What something is, in place of the tensor that it should be."""
    if not isinstance(thing, torch.Tensor):
        return type(thing).__name__
    return "a nested tensor" if thing.is_nested else thing.layout if thing.layout != torch.strided else "a tensor on meta" if thing.is_meta else thing.dtype


def _check_channels(model, x, output):
    """Ask the model itself where none of its convolutions takes that many channels: it may make more of them."""
    convolutions = (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    if first in (None, x.shape[1]) or x.shape[1] in convolutions:
        return
    try:
        with reading(output):
            predict(model, x[:1])
    except RuntimeError as error:
        raise _other_channels(model, x, first) from error


def _other_channels(model, x, wanted):
    hint = "; repeat a grey image: x.expand(-1, 3, -1, -1)" if (x.shape[1], wanted) == (1, 3) else ""
    return ValueError(f"images must be [B,{wanted},H,W] for {type(model).__name__}; got {list(x.shape)}{hint}")


def check_classes(x, y, model=None):
    """Class indices [B] on x's device, or None; a ValueError says what is wrong. (The upper bound is checked at the logits.)

    y may name classes, where the model knows its `classes`.
    """
    if y is None:
        return None
    names = [y] * len(x) if isinstance(y, str) else y
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        y = [_class_of(model, name) for name in names]
    try:
        y = torch.as_tensor(y, device=x.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"y must be one class, or one per image; got {short(repr(y))}") from error
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise ValueError(f"y must hold class indices; got {y.dtype}")
    y = y.long()
    if y.dim() == 0:
        y = y.expand(len(x))
    if y.shape != (len(x),):
        raise ValueError(f"y must be one class, or one per image: [{len(x)}]; got {list(y.shape)}")
    if int(y.min()) < 0:
        raise ValueError(f"y holds class {int(y.min())}; classes start at 0")
    return y


def _class_of(model, name):
    classes = classes_of(model)
    if not classes:
        raise UnknownName(f"unknown class '{short(name)}': the model does not name its classes (model.classes); give numbers")
    return number_of(name, classes)


def number_of(name, classes):
    """The number of a class that is given by name."""
    if name not in classes:
        raise unknown("class", name, classes)
    if classes.count(name) > 1:
        numbers = ", ".join(str(number) for number, one in enumerate(classes) if one == name)
        raise ValueError(f"'{short(name)}' is the name of the classes {numbers}: give the number of one")
    return classes.index(name)


def classes_of(thing):
    """The names of the classes of a model or a data set, in the order of the labels; None where it does not say."""
    classes = getattr(thing, "classes", None)
    return list(classes) if classes is not None and hasattr(classes, "__len__") and not isinstance(classes, str) else None


def check_range(model, x, y):
    """Refuse a class that the model does not have, for what never looks at the logits; costs a forward pass of one image, if any."""
    known = classes_of(model)
    classes = len(known) if known else predict(model, x[:1]).shape[1]
    if int(y.max()) >= classes:
        raise ValueError(f"y holds class {int(y.max())}; the model has classes 0 to {classes - 1}")

"""The front door: explain images by a method's name, with every argument checked before anything runs."""

import torch

from xai_repro.errors import NotApplicable
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.network.forward import outside_inference
from xai_repro.registry import check_hyper, method_info, methods


def explain(model, x, y=None, method="grad-cam", layer=None, **hyper):
    """Attribution maps M [B,H,W] of the classes y for images x [B,3,H,W], at input resolution and as the method gives them.

    y: class indices [B], one int for all, or None for the model's top-1. layer: name of the target layer, for methods that
    have one; torchvision's models find theirs. Instead, `layers` names several, or says how many of the last stages. hyper:
    the method's hyper-parameters (`method_info(name).hyper`) and `chunk`, the images per forward pass. Maps are raw, on x's
    device, float32 (float64 for float64 images); see `normalize`. Row i depends on row i alone, and the model is afterwards bit
    for bit as before, also after an error.

    Raises UnknownName for a method, layer or hyper-parameter that does not exist, ValueError for images that are not finite
    [B,3,H,W], a class out of range, or a model that the method cannot explain.
    """
    return _apply(method_info(method).function, model, x, y, method, layer, hyper)


def explain_all(model, x, y=None, names=None, layer=None, hyper=None):
    """Maps of several methods (default: all), and why some have none.

    hyper: {name: {hyper-parameter: value}} where a method is not to run under its default settings. Other arguments as for
    `explain`. Returns {name: M [B,H,W]} and {name: reason} for the methods that cannot explain this model.
    """
    maps, reasons = {}, {}
    for name in methods() if names is None else names:
        takes_layer = "layer" in method_info(name).hyper
        try:
            maps[name] = explain(model, x, y, name, layer if takes_layer else None, **(hyper or {}).get(name, {}))
        except NotApplicable as reason:
            reasons[name] = str(reason)
    return maps, reasons


def coefficients(model, x, y=None, method="lift-cam", layer=None, **hyper):
    """Coefficients alpha [B,K] of a method whose map is ReLU(sum_k alpha_k A_k); arguments and errors as for `explain`."""
    function = method_info(method).coefficients
    if function is None:
        raise ValueError(f"{method} has no coefficients: its map is not a weighted sum of activation maps")
    return _apply(function, model, x, y, method, layer, hyper)


def _apply(function, model, x, y, method, layer, hyper):
    info = method_info(method)
    chunk = hyper.pop("chunk", None) if "chunk" not in info.hyper else None
    if layer is not None:
        hyper = hyper | {"layer": layer}
    hyper = check_hyper(info, hyper)
    given, x = x.dtype if isinstance(x, torch.Tensor) else None, check_images(model, x)
    y = check_classes(x, y)
    chunk = default_chunk(x) if chunk is None else chunk
    with outside_inference():
        x, y = (t.clone() if t is not None and t.is_inference() else t for t in (x, y))
        maps = in_chunks(lambda rows: function(model, x[rows], None if y is None else y[rows], **hyper), len(x), chunk)
    return maps.detach().to(torch.float64 if given == torch.float64 else torch.float32)


def check_images(model, x):
    """The images as the model takes them, [B,3,H,W] in its own precision, or a ValueError that says what is wrong."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"images must be a floating-point tensor [B,3,H,W], as the model takes them; got {got}")
    if x.dim() != 4 or x.shape[1] != 3 or 0 in x.shape:
        hint = {3: "; add the batch dimension: x[None]"}.get(x.dim(), "")
        if x.dim() == 4 and x.shape[1] == 1:
            hint = "; repeat a grey image: x.expand(-1, 3, -1, -1)"
        raise ValueError(f"images must be [B,3,H,W]; got {list(x.shape)}{hint}")
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device != x.device:
        raise ValueError(f"images are on {x.device}, the model is on {parameter.device}: move one of them with .to(...)")
    if not x.sum().isfinite() and not x.isfinite().all():  # the sum is quick; it may overflow
        bad = [i for i in range(len(x)) if not torch.isfinite(x[i]).all()]
        raise ValueError(f"images must be finite; NaN or infinity in row(s) {bad[:8]}")
    return x.detach() if parameter is None else x.detach().to(parameter.dtype)


def check_classes(x, y):
    """Class indices [B] on x's device, or None; a ValueError says what is wrong. (The upper bound is checked at the logits.)"""
    if y is None:
        return None
    y = torch.as_tensor(y, device=x.device)
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise ValueError(f"y must hold class indices; got {y.dtype}")
    if y.dim() == 0:
        y = y.expand(len(x))
    if y.shape != (len(x),):
        raise ValueError(f"y must be one class, or one per image: [{len(x)}]; got {list(y.shape)}")
    if int(y.min()) < 0:
        raise ValueError(f"y holds class {int(y.min())}; classes start at 0")
    return y.long()

"""Score maps by a metric's name, with every argument checked before anything runs."""

import torch

from xai_repro.errors import short
from xai_repro.explain import check_classes, check_images, kind_of, plainly, usable
from xai_repro.network.borrow import borrowed
from xai_repro.network.forward import outside_inference, reading, top1
from xai_repro.registry import check_hyper, metric_info


def score(metric, model, x, y, maps, truth=None, *, output=None, **hyper):
    """One value per image [B] of a metric for maps [B,H,W] that explain the classes y of images x; NaN where undefined.

    y: class indices [B], one int, names where the model has `classes`, or None for the model's top-1. maps: in [0,1] (`normalize`)
    unless `metric_info(name).maps` is "raw". truth: bool [B,H,W], the object's boxes or pixels, where the metric needs one; of a metric of
    parts, float [B,P,H,W]: what each part is worth on the pixels where it is seen, NaN elsewhere (`xai_repro.metrics.parts.worth`).
    output: a function from what the model returns to logits, as for `explain`.

    Raises UnknownName for a metric or hyper-parameter that does not exist, ValueError for arguments that do not fit together.
    """
    info, model = metric_info(metric), usable(model, output)
    hyper = check_hyper(info, hyper)
    x = check_images(model, x, output)
    y = check_classes(x, y, model)
    _check_maps(info, maps, x)
    _check_truth(info, truth, x)

    def run():
        with reading(output):
            classes = top1(model, x, y) if y is None else y
            with outside_inference():
                return info.function(model, x, classes, maps.detach().to(x), None if truth is None else truth.to(x.device), **hyper).detach()

    return plainly(lambda: borrowed(model, run), model, x)


def _check_maps(info, maps, x):
    shape = (len(x), *x.shape[-2:])
    if not isinstance(maps, torch.Tensor) or maps.is_complex() or maps.is_meta or maps.layout != torch.strided or maps.is_nested:
        raise ValueError(f"maps must be a tensor {list(shape)}; got {kind_of(maps)}")
    if info.maps == "coefficients":
        if maps.dim() != 2 or len(maps) != len(x):
            raise ValueError(f"{info.name} takes coefficients [{len(x)},K] (xr.coefficients); got {list(maps.shape)}")
    elif maps.shape != shape:
        raise ValueError(f"maps must be {list(shape)}, one per image at its resolution; got {list(maps.shape)}")
    if not torch.isfinite(maps).all():
        raise ValueError("maps must be finite; got NaN or infinity")
    if info.maps == "unit" and (maps.min() < 0 or maps.max() > 1):
        raise ValueError(f"{info.name} takes maps in [0,1]; got {maps.min():.3g} to {maps.max():.3g}: normalise them first (xr.normalize)")


def _check_truth(info, truth, x):
    shape = (len(x), *x.shape[-2:])
    if info.truth == "parts":
        return _check_parts(info, truth, x)
    if info.truth and truth is None:
        raise ValueError(f"{info.name} needs truth: the object's {info.truth} as a bool mask {list(shape)}")
    if truth is not None and (not isinstance(truth, torch.Tensor) or truth.shape != shape or truth.dtype != torch.bool):
        got = f"{truth.dtype} {list(truth.shape)}" if isinstance(truth, torch.Tensor) else short(repr(truth))
        raise ValueError(f"truth must be a bool mask {list(shape)}; got {got}")


def _check_parts(info, truth, x):
    wanted = f"[{len(x)},P,{x.shape[-2]},{x.shape[-1]}]"
    if truth is None:
        raise ValueError(f"{info.name} needs truth: what each part is worth where it is seen, NaN elsewhere, {wanted} (xai_repro.metrics.parts.worth)")
    right = isinstance(truth, torch.Tensor) and truth.is_floating_point() and truth.dim() == 4 and truth.shape[1] > 0
    if not right or (len(truth), *truth.shape[2:]) != (len(x), *x.shape[-2:]):
        got = f"{truth.dtype} {list(truth.shape)}" if isinstance(truth, torch.Tensor) else short(repr(truth))
        raise ValueError(f"truth of {info.name} must be numbers {wanted}, P parts; got {got}")
    if truth.isinf().any():
        raise ValueError(f"truth of {info.name} must be finite where a part is seen and NaN elsewhere; got infinity")

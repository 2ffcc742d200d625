"""Score maps by a metric's name, with every argument checked before anything runs."""

import torch

from xai_repro.explain import check_classes, check_images
from xai_repro.network.forward import outside_inference, top1
from xai_repro.registry import check_hyper, metric_info


def score(metric, model, x, y, maps, truth=None, **hyper):
    """One value per image [B] of a metric for maps [B,H,W] that explain the classes y of images x; NaN where undefined.

    y: class indices [B], one int, or None for the model's top-1. maps: in [0,1] (`normalize`) unless `metric_info(name).maps`
    is "raw". truth: bool [B,H,W], the object's boxes or pixels, where the metric needs one.

    Raises UnknownName for a metric or hyper-parameter that does not exist, ValueError for arguments that do not fit together.
    """
    info = metric_info(metric)
    hyper = check_hyper(info, hyper)
    x = check_images(model, x)
    y = top1(model, x, check_classes(x, y))
    shape = (len(x), *x.shape[-2:])
    if info.maps == "coefficients":
        if maps.dim() != 2 or len(maps) != len(x):
            raise ValueError(f"{metric} takes coefficients [{len(x)},K] (xr.coefficients); got {list(maps.shape)}")
    elif maps.shape != shape:
        raise ValueError(f"maps must be {list(shape)}, one per image at its resolution; got {list(maps.shape)}")
    if not torch.isfinite(maps).all():
        raise ValueError("maps must be finite; got NaN or infinity")
    if info.maps == "unit" and (maps.min() < 0 or maps.max() > 1):
        raise ValueError(f"{metric} takes maps in [0,1]; got {maps.min():.3g} to {maps.max():.3g}: normalise them first (xr.normalize)")
    if info.truth and truth is None:
        raise ValueError(f"{metric} needs truth: the object's {info.truth} as a bool mask {list(shape)}")
    if truth is not None and (truth.shape != shape or truth.dtype != torch.bool):
        raise ValueError(f"truth must be a bool mask {list(shape)}; got {truth.dtype} {list(truth.shape)}")
    maps, truth = maps.detach().to(x), None if truth is None else truth.to(x.device)
    with outside_inference():
        return info.function(model, x, y, maps, truth, **hyper).detach()

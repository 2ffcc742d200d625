"""Arithmetic that several formulas share."""

import torch


def ratio(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, denominator))


def normalize(maps):
    """Maps [B,H,W] scaled to [0,1]: (M - min M) / (max M - min M), each by itself; a constant map becomes zeros.

    Raises ValueError for what holds no maps, and for maps that are not finite.
    """
    if not isinstance(maps, torch.Tensor) or maps.dim() < 2 or 0 in maps.shape[-2:] or maps.is_complex() or maps.dtype == torch.bool or maps.is_meta:
        got = f"{maps.dtype} {list(maps.shape)} on {maps.device}" if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise ValueError(f"maps must be a tensor of numbers [B,H,W]; got {got}")
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    if not (low.isfinite() & high.isfinite()).all():
        raise ValueError("maps must be finite; got NaN or infinity")
    return ratio(maps - low, high - low)


def wide(tensor):
    """The tensor in float32 where it is of half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def exact(tensor):
    """The tensor in float64 on the CPU: a GPU may have no float64, and adds in another order."""
    return tensor.detach().cpu().double()

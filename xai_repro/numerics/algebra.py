"""Arithmetic that several formulas share."""

import torch


def ratio(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, denominator))


def normalize(maps):
    """Maps [B,H,W] scaled to [0,1]: (M - min M) / (max M - min M), each by itself; a constant map becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return ratio(maps - low, high - low)


def wide(tensor):
    """The tensor in float32 where it is of half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

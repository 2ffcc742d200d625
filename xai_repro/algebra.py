"""Arithmetic that several formulas share."""

import torch


def ratio(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, denominator))

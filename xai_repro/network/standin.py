"""A tensor that is only a shape: it stands in for what nobody reads, and says so when somebody does."""

import torch
from torch.utils._pytree import tree_leaves


class NeedsValues(Exception):
    """The values of a stand-in are asked for."""


class StandIn(torch.Tensor):
    """A tensor without values. What is computed from stand-ins alone is one; anything else raises NeedsValues.

    (torch's own meta tensors let some products with real tensors pass, with arbitrary results.)
    """

    @staticmethod
    def of(shape, dtype, stride=None):
        """A stand-in of a shape and type; `rows` is its first dimension, told without asking torch."""
        strided = torch.empty(shape, dtype=dtype, device="meta") if stride is None else torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        one = strided.as_subclass(StandIn)
        one.rows, one.rest = (shape[0], tuple(shape[1:])) if len(shape) else (None, ())
        return one

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not all(isinstance(tensor, StandIn) for tensor in tensors):
            raise NeedsValues
        try:
            return super().__torch_function__(function, types, args, kwargs)
        except (RuntimeError, TypeError) as error:
            raise NeedsValues from error

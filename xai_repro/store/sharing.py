"""Values computed once for all that ask: inside `with sharing():` a `@shared` function that is called again costs nothing."""

import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain

import torch

VALUES = ContextVar("values", default=None)  # a call -> its arguments and its value; None outside every block


@contextmanager
def sharing():
    """Keep the values of `@shared` functions until the block ends; a block inside another joins it.

    The model must not change meanwhile. (A tensor or a weight that is written in place counts as another; what is written through
    `.data` goes unnoticed.)
    """
    with _keeping({} if VALUES.get() is None else VALUES.get()):
        yield


@contextmanager
def forgetting():
    """See what the block around this one has shared so far, and forget at the end what is added."""
    with _keeping(dict(VALUES.get() or {})):
        yield


@contextmanager
def _keeping(values):
    before = VALUES.set(values)
    try:
        yield
    finally:
        VALUES.reset(before)


def shared(function):
    """Decorate a function whose value is to be shared: nobody may write into what it returns.

    Two calls are the same where they name the same model, tensors of the same storage, shape, strides and type, and equal
    other arguments, given or by default.
    """
    signature = inspect.signature(function)

    @wraps(function, assigned=("__name__", "__doc__"))  # its own place in this file stays, by which `fingerprint` finds it
    def once(*args, **kwargs):
        values = VALUES.get()
        if values is None:
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        call = function, *map(_key, given.arguments.values())
        if call not in values:
            values[call] = given, function(*args, **kwargs)  # with its arguments, so that nothing else takes their address
        return values[call][1]

    return once


def _key(argument):
    if isinstance(argument, torch.nn.Module):
        return argument, *map(_key, chain(argument.parameters(), argument.buffers()))
    if not isinstance(argument, torch.Tensor):
        return argument
    version = None if argument.is_inference() else argument._version  # grows with every write in place
    return argument.device, argument.data_ptr(), argument.shape, argument.stride(), argument.dtype, version

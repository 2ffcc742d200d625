"""A model is borrowed: held against other threads, and given back as it was, whatever happens in between.

What is done to a model is written down before it is done, and taken back from that list: at the end of the block that did it,
and once more, should an interrupt have hit that end itself, when the model is given back.
"""

import threading
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch.overrides import _get_current_function_mode_stack as mode_stack, _pop_mode, _push_mode


class _Mine(threading.local):
    """What this thread has borrowed, and what it has to take back, the latest last."""

    def __init__(self):
        self.models, self.changes = [], []


_MINE = _Mine()
_LOCKS, _ASSIGNING = WeakKeyDictionary(), threading.Lock()  # module -> lock; modules of one model share it


def borrowed(model, function):
    """function(), while no other thread has this model or a part of it; afterwards the model and torch's modes are as before."""
    if any(model is one for one in _MINE.models):
        return function()
    return _holding(_locks(model), partial(_given_back, model, function))


def _locks(model):
    """The locks of a model: one, or several where its parts were models of their own before."""
    with _ASSIGNING:
        known = {module: _LOCKS.get(module) for module in model.modules()}
        locks = sorted({lock for lock in known.values() if lock}, key=id) or [threading.RLock()]  # in one order, so that nobody waits in a circle
        for module in (module for module, lock in known.items() if not lock):
            _LOCKS[module] = locks[0]
    return locks


def _holding(locks, function):
    if not locks:
        return function()
    with locks[0]:
        return _holding(locks[1:], function)


def _given_back(model, function):
    before = len(_MINE.models), len(_MINE.changes), torch.is_grad_enabled(), mode_stack()
    try:
        try:
            _MINE.models.append(model)
            return function()
        finally:
            _as_before(*before)
    finally:  # an interrupt may have hit the one above
        _as_before(*before)


def _as_before(models, changes, grad, modes):
    _take_back(changes)
    del _MINE.models[models:]
    torch.set_grad_enabled(grad)
    _stack_modes(modes)


def _take_back(left):
    """Undo the latest changes until so many are left; each stays in the list until it is undone."""
    while len(_MINE.changes) > left:
        _MINE.changes[-1]()
        _MINE.changes.pop()


@contextmanager
def changes():
    """A block whose `change` and `hook` are taken back at its end."""
    left = len(_MINE.changes)
    try:
        yield
    finally:
        _take_back(left)


def change(module, name, value):
    """Give an attribute of a module another value."""
    if name in module.__dict__ or isinstance(module, torch.jit.ScriptModule):
        _MINE.changes.append(partial(setattr, module, name, getattr(module, name)))
    else:
        _MINE.changes.append(partial(module.__dict__.pop, name, None))
    setattr(module, name, value)


def replace_parameter(module, name, values):
    """Put another parameter in the place of one; the module's own, and whoever else holds it, does not notice."""
    _MINE.changes.append(partial(setattr, module, name, module._parameters[name]))
    setattr(module, name, values)


def freeze(model):
    """Let no parameter ask for a gradient."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_leaf:
            _MINE.changes.append(partial(parameter.requires_grad_, True))
            parameter.requires_grad_(False)


def hook(module, kind, function):
    """Register a "forward" or "forward_pre" hook."""
    _MINE.changes.append(partial(_unhook, getattr(module, f"_{kind}_hooks"), function))
    getattr(module, f"register_{kind}_hook")(function)


def _unhook(hooks, function):
    for key in [key for key, one in hooks.items() if one is function]:
        hooks.pop(key, None)


@contextmanager
def using(mode):
    """A block under a TorchFunctionMode. An interrupt can leave torch's own stack of modes one too long or too short: it is set right."""
    before = mode_stack()
    try:
        _push_mode(mode)
        yield mode
    finally:
        _stack_modes(before)


def _stack_modes(modes):
    now = mode_stack()
    if len(now) != len(modes) or any(one is not other for one, other in zip(now, modes)):
        for _ in now:
            _pop_mode()
        for mode in modes:
            _push_mode(mode)

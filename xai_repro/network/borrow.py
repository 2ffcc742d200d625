"""A model is borrowed: held against other threads, and given back as it was, whatever happens in between.

What is done to a model is written down before it is done, and taken back from that list: at the end of the block that did it,
and once more, should an interrupt have hit that end itself, when the model is given back.
"""

import threading
from contextlib import contextmanager
from functools import partial
from traceback import clear_frames
from weakref import WeakKeyDictionary

import torch
from torch.overrides import _get_current_function_mode_stack as mode_stack, _pop_mode, _push_mode

from xai_repro.errors import NotApplicable
from xai_repro.store.sharing import VALUES


class _Mine(threading.local):
    """What this thread has borrowed, what it has to take back, the latest last, and whether torch's stack of modes was found torn."""

    def __init__(self):
        self.models, self.changes, self.torn = [], [], False


_MINE = _Mine()
_LOCKS, _ASSIGNING = WeakKeyDictionary(), threading.Lock()  # module -> lock; modules of one model share it
SCRIPTED = "a TorchScript model cannot be cut at a layer: explain the model that it was made from"
CONTEXT = [VALUES]  # context variables that are given back, too


def borrowed(model, function):
    """function(), while no other thread has this model or a part of it; afterwards the model and torch's modes are as before."""
    if any(model is one for one in _MINE.models):
        return function()
    return _holding(_locks(model), partial(_given_back, model, function))


# Each lock is taken and left within one line: between lines a tracer could raise, and the lock would stay taken.


def _locks(model):
    with _ASSIGNING: return _assigned(list(model.modules()))  # noqa: E701  # fmt: skip


def _holding(locks, function):
    if not locks:
        return function()
    with locks[0]: return _holding(locks[1:], function)  # noqa: E701  # fmt: skip


def _assigned(modules):
    """The locks of a model: one, or several where its parts were models of their own before."""
    known = {module: _LOCKS.get(module) for module in modules}
    locks = sorted({lock for lock in known.values() if lock}, key=id) or [threading.RLock()]  # in one order, so that nobody waits in a circle
    for module in (module for module, lock in known.items() if not lock):
        _LOCKS[module] = locks[0]
    return locks


def _given_back(model, function):
    context = [variable.get(None) for variable in CONTEXT]
    before, _MINE.torn = (len(_MINE.models), len(_MINE.changes), torch.is_grad_enabled(), mode_stack(), context), False
    try:
        try:
            _MINE.models.append(model)
            return function()
        except BaseException as error:
            _as_before(*before)
            if _MINE.torn:  # by an interrupt within torch's own code, whose generators would push a mode when they are forgotten
                _forget_generators(error)
                _as_before(*before)
            raise
        finally:
            _as_before(*before)
    finally:  # an interrupt may have hit the one above
        _as_before(*before)


def _forget_generators(error):
    """Let go of what the frames of an error hold, and those of the errors that it came from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _as_before(models, changes, grad, modes, context):
    _take_back(changes)
    del _MINE.models[models:]
    torch.set_grad_enabled(grad)
    _stack_modes(modes)
    for variable, value in zip(CONTEXT, context):
        variable.set(value)


def _take_back(left):
    """Undo the latest changes until so many are left; each stays in the list until it is undone."""
    while len(_MINE.changes) > left:
        _MINE.changes[-1]()
        _MINE.changes.pop()


@contextmanager
def changes():
    """A block whose changes are taken back at its end."""
    _MINE.changes.append(start := lambda: None)  # undoes nothing: a place in the list that is found again
    try:
        yield
    finally:  # which comes late, if ever, where an interrupt hit the end of the block: then all is taken back already
        if any(one is start for one in _MINE.changes):
            _take_back(next(place for place, one in enumerate(_MINE.changes) if one is start))


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
    """Register a "forward" or "forward_pre" hook. Raises NotApplicable for TorchScript, which calls none."""
    if isinstance(module, torch.jit.ScriptModule):
        raise NotApplicable(SCRIPTED)
    _MINE.changes.append(partial(_unhook, getattr(module, f"_{kind}_hooks"), function))
    getattr(module, f"register_{kind}_hook")(function)


def _unhook(hooks, function):
    for key in [key for key, one in hooks.items() if one is function]:
        hooks.pop(key, None)


@contextmanager
def using(mode):
    """A block under a TorchFunctionMode."""
    with changes():
        before = mode_stack()
        _MINE.changes.append(partial(_leave, before, [*before, mode]))
        _push_mode(mode)
        yield mode


def _leave(before, during):
    """Set torch's stack of modes right, which an interrupt within torch's own code leaves too short or too long."""
    _MINE.torn = _MINE.torn or not _same(mode_stack(), during)
    _stack_modes(before)


def _stack_modes(modes):
    now = mode_stack()
    if not _same(now, modes):
        for _ in now:
            _pop_mode()
        for mode in modes:
            _push_mode(mode)


def _same(modes, others):
    return len(modes) == len(others) and all(one is other for one, other in zip(modes, others))

"""What a result depends on, as a short hash: the code a function rests on, weights, hyper-parameters."""

import ast
import functools
import hashlib
import importlib.util
import json
import re
import sys
import sysconfig
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch

# Names and messages: nothing in these modules can change a number.
_SILENT = {"xai_repro", "xai_repro.registry", "xai_repro.errors"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_INSTALLED = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"))


def digest(*parts):
    """Short sha256 (12 hexadecimal digits) of strings, bytes and JSON-able values, in order."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:12]


def of_code(function):
    """Fingerprint of a function, or of another thing that is called, and of every definition that it rests on.

    Followed are names, imports, decorators, defaults, and what a closure, a partial or a bound method holds, definition by
    definition, so that a change to one formula in a file leaves its neighbours alone. Comments, layout, docstrings and error
    messages do not count. A function without a source file, as one of a notebook, counts by its byte code and by what its global
    names stand for now. An object counts by its class and by what it would pickle: a memory that changes no value is best kept
    out of `__getstate__`, or every call makes another fingerprint. Of a file, a global that was given another number or text
    than is written there counts, too.

    Not noticed: what is looked up by a text, as by getattr; a function or class of a file that was replaced from outside; what
    an installed library does, of which only name and version count. A file that was edited after its import counts as edited.
    """
    code = _Code()
    own = code.described(function)
    return digest(*sorted(code.found), str(own))


def of_model(model):
    """Fingerprint of a model as it is now: structure, weights, plain attributes, and the code of modules that are no library's."""
    parts = [repr(model), *sorted({of_code(type(module)) for module in model.modules() if not _installed(type(module).__module__)})]
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        parts += [f"{name} {key} {value!r}" for key, value in own.items() if isinstance(value, (int, float))]
        parts += [of_code(getattr(value, "__func__", value)) for value in own.values() if isinstance(value, (FunctionType, MethodType))]
    return digest(*parts, *(part for name, tensor in model.state_dict().items() for part in (name, *_of_tensor(tensor))))


def of_samples(samples):
    """Fingerprint of a few samples: pixels, annotation and names."""
    fields = ("image", "labels", "boxes", "mask", "parts", "id", "regions", "scale", "hard")
    return _Code().described([[getattr(sample, field, None) for field in fields] for sample in samples])


def _of_tensor(tensor):
    """Type and shape, and the content as bytes, since numpy lacks some of torch's types."""
    data = tensor.detach().cpu().contiguous().flatten()
    return f"{tensor.dtype} {list(tensor.shape)}", data.view(torch.uint8).numpy().tobytes() if len(data) else b""


# -- which code is followed -------------------------------------------------------------------------------------------


@functools.lru_cache
def _installed(module):
    """Whether a module is of an installed library or of Python itself, this library left out."""
    top = module.split(".")[0]
    if top in ("xai_repro", "__main__"):
        return False
    return top in sys.builtin_module_names or top in sys.stdlib_module_names or _of_library(_path(top))


def _of_library(path):
    return path.startswith("<frozen") or any(part in path for part in _INSTALLED)


def _named(thing):
    """A thing of an installed library: its name and the library's version."""
    module = getattr(thing, "__module__", None) or ""
    library = sys.modules.get(module.split(".")[0])
    return ["name", f"{module}.{getattr(thing, '__qualname__', thing.__name__)}", str(getattr(library, "__version__", ""))]


def _path(module):
    """The file of a module, "" where it has none."""
    try:
        loaded = sys.modules.get(module)
        found = getattr(loaded, "__file__", None) if loaded else importlib.util.find_spec(module).origin
        return found or ""
    except (AttributeError, ValueError, ImportError):
        return ""


def _source_of(module):
    """Names that a module binds -> statements, and lines -> functions that begin there; as its file is now."""
    path = _path(module)
    try:
        state = Path(path).stat()
        return _parsed(path, (state.st_mtime_ns, state.st_size))
    except (OSError, ValueError, SyntaxError):
        return {}, {}


@functools.lru_cache(maxsize=1024)
def _parsed(path, version):
    if not path.endswith(".py"):
        return {}, {}
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    names, lines = {}, {}
    for statement in tree.body:
        for name in _bound(statement):
            names.setdefault(name, []).append(statement)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            lines.setdefault((first, getattr(node, "name", "<lambda>")), []).append(node)
    return names, lines


def _bound(statement):
    """Names that a statement binds, imports and blocks (if, try, with) included."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


class _Code:
    """Collects in `found` the text of every definition that something rests on."""

    def __init__(self):
        self.found, self.followed = set(), set()
        self.known = {}  # id -> the thing itself, so that nothing else takes its address, and its description

    # -- things as they are in memory --

    def described(self, thing):
        """A thing as a short text that is the same in every process: plain values as they are, code by what it does."""
        if isinstance(thing, _PLAIN):
            return f"{type(thing).__name__} {thing!r}"
        if id(thing) not in self.known:
            self.known[id(thing)] = thing, "itself"  # where it holds itself
            self.known[id(thing)] = thing, digest(*self._parts(thing))
        return self.known[id(thing)][1]

    def _parts(self, thing):
        if isinstance(thing, FunctionType):
            return self._function(thing)
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, functools.partial):
            return ["partial", *map(self.described, (thing.func, thing.args, thing.keywords))]
        if isinstance(thing, MethodType):
            return ["method", self.described(thing.__func__), self.described(thing.__self__)]
        if isinstance(thing, dict):
            return ["dict", *(self.described(one) for pair in thing.items() for one in pair)]
        if isinstance(thing, (list, tuple)):
            return [type(thing).__name__, *map(self.described, thing)]
        if isinstance(thing, (set, frozenset)):
            return ["set", *sorted(map(self.described, thing))]
        if isinstance(thing, torch.Tensor):
            return ["tensor", *_of_tensor(thing)]
        if isinstance(thing, np.ndarray) and thing.dtype != object:
            return ["array", f"{thing.dtype} {thing.shape}", thing.tobytes()]
        if isinstance(thing, torch.nn.Module):
            return ["model", of_model(thing)]
        return self._other(thing)

    def _other(self, thing):
        if isinstance(thing, (staticmethod, classmethod)) or hasattr(thing, "__wrapped__"):
            return ["wrapped", self.described(thing.__wrapped__)]
        if isinstance(thing, property):
            return ["property", *map(self.described, (thing.fget, thing.fset))]
        if isinstance(thing, (ModuleType, BuiltinFunctionType)):
            return _named(thing)
        if not _installed(type(thing).__module__):
            return ["object", self.described(type(thing)), self.described(_state(thing))]
        return ["object", re.sub(r" at 0x[0-9a-f]+", "", repr(thing))]

    def _function(self, function):
        module, name, code = function.__globals__.get("__name__", ""), function.__qualname__.split(".")[0], function.__code__
        if _of_library(code.co_filename) and _installed(module):
            return _named(function)
        bindings, lines = _source_of(module)
        here = lines.get((code.co_firstlineno, code.co_name), []) if _same_file(code.co_filename, _path(module)) else []
        if len(here) == 1:
            own = _text(here[0])
            self.follow(module, name) if name in bindings else self._follow_uses(module, here[0])
        else:  # no source, or several lambdas on one line
            own = self._byte_code(code, function.__globals__)
        held = [_content(cell) for cell in function.__closure__ or ()]
        about = held, function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None)
        return ["function", own, *map(self.described, about)]

    def _class(self, kind):
        module = kind.__module__
        if _installed(module):
            return _named(kind)
        name = kind.__qualname__.split(".")[0]
        if name in _source_of(module)[0]:
            self.follow(module, name)
            return ["class", f"{module}.{kind.__qualname__}"]
        body = {key: value for key, value in vars(kind).items() if not key.startswith("__") or callable(value)}
        return ["class", self.described(body), *map(self.described, kind.__bases__)]

    def _byte_code(self, code, names):
        """A code object as text, the same in every process, and what its global names stand for now."""
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        constants = [self._byte_code(one, names) if isinstance(one, CodeType) else self.described(one) for one in code.co_consts]
        bound = [names[name] for name in code.co_names if name in names]
        for module in [one for one in bound if isinstance(one, ModuleType) and not _installed(one.__name__)]:
            bound += [getattr(module, name) for name in code.co_names if name in dir(module)]
        return f"{code.co_code.hex()} {code.co_names} {arguments} {constants} {[self.described(one) for one in bound]}"

    # -- definitions as they are in files --

    def follow(self, module, name):
        """Add the text of a definition and of all that it uses."""
        if (module, name) in self.followed or module in _SILENT:
            return
        self.followed.add((module, name))
        statements = _source_of(module)[0].get(name, ())
        for statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._follow_import(module, statement, {name: {None}})
                continue
            rebound = _rebound(module, name, statement) if len(statements) == 1 else ""
            self.found.add(f"{module}.{name} {_text(statement)}{rebound}")
            self._follow_uses(module, statement)

    def _follow_uses(self, module, statement):
        bindings, uses = _source_of(module)[0], _uses(statement)
        for inner in _imports(statement):
            self._follow_import(module, inner, uses)
        for used, attributes in uses.items():
            for binding in bindings.get(used, ()):
                if isinstance(binding, (ast.Import, ast.ImportFrom)):
                    self._follow_import(module, binding, {used: attributes})
                else:
                    self.follow(module, used)

    def _follow_import(self, module, statement, uses):
        """Follow what an import brings in: a name of a module, or the attributes used of a module."""
        for alias in statement.names:
            attributes = uses.get((alias.asname or alias.name).split(".")[0])
            if attributes is None:
                continue
            if isinstance(statement, ast.Import):
                targets = [(alias.name, attribute) for attribute in attributes]
            else:
                source = _absolute(module, statement)
                inside = f"{source}.{alias.name}"
                is_module = not _installed(source) and alias.name not in _source_of(source)[0] and _source_of(inside)[0]
                targets = [(inside, attribute) for attribute in attributes] if is_module else [(source, alias.name)]
            for target, name in targets:
                if not _installed(target):
                    for one in [name] if name else list(_source_of(target)[0]):
                        self.follow(target, one)


def _same_file(one, other):
    return bool(other) and Path(one).resolve() == Path(other).resolve()


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None


def _state(thing):
    try:
        return thing.__getstate__()
    except Exception:  # noqa: BLE001 - an object that cannot be pickled
        return getattr(thing, "__dict__", None)


def _rebound(module, name, statement):
    """What a global that its file sets to a plain value is now, where that is another plain value; else ""."""
    try:
        written, now = ast.literal_eval(statement.value), getattr(sys.modules[module], name)
    except (AttributeError, ValueError, KeyError, TypeError, SyntaxError):
        return ""
    plain = isinstance(written, (*_PLAIN, tuple)) and isinstance(now, (*_PLAIN, tuple))
    return f" = {now!r}" if plain and repr(now) != repr(written) else ""


def _absolute(module, statement):
    """The absolute name of the module of a `from ... import`."""
    if not statement.level:
        return statement.module
    is_package = Path(_path(module)).name == "__init__.py"
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


@functools.cache
def _uses(statement):
    """Names a statement uses -> the attributes it takes of each (None: the name itself)."""
    uses, owners = {}, set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            uses.setdefault(node.value.id, set()).add(node.attr)
            owners.add(id(node.value))
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and id(node) not in owners:
            uses.setdefault(node.id, set()).add(None)
    return uses


@functools.cache
def _imports(statement):
    """The imports inside a statement, itself included."""
    return [node for node in ast.walk(statement) if isinstance(node, (ast.Import, ast.ImportFrom))]


@functools.cache  # by identity: nodes are those of a module's source, which is parsed once
def _text(statement):
    """A definition as a string without what cannot change a number: layout, comments, docstrings, error messages."""
    return ast.dump(_silent(statement))


def _silent(node):
    """A copy of a part of a syntax tree without docstrings and error messages."""
    if isinstance(node, list):
        return [_silent(one) for one in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Raise):
        return ast.Raise()
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return ast.Pass()
    return type(node)(**{name: _silent(value) for name, value in ast.iter_fields(node)})

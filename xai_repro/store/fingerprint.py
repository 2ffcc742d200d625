"""What a result depends on, as a short hash: the code a function rests on, weights, hyper-parameters."""

import ast
import copy
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import CodeType, FunctionType

import torch

# Names and messages: nothing in these modules can change a number.
_SILENT = {"xai_repro", "xai_repro.registry", "xai_repro.errors"}


def digest(*parts):
    """Short sha256 (12 hexadecimal digits) of strings, bytes and JSON-able values, in order."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:12]


def of_code(function):
    """Fingerprint of a function and of every definition of its package that it rests on.

    Followed are names, imports, decorators and what a closure holds, definition by definition, so that a change to
    one formula in a file leaves its neighbours alone. Comments, layout and docstrings do not count. A function
    without a source file counts by its byte code.
    """
    functions, found = _inner(function)
    seen = set()
    for root in functions:
        module, name = root.__globals__["__name__"], root.__qualname__.split(".")[0]
        if name in _bindings(module):
            _follow(module, name, module.split(".")[0], seen, found)
        else:
            found.append(_byte_code(root.__code__))
    return digest(*sorted(set(found)))


def _byte_code(code):
    """A code object as text: the same in every process, which its own representation is not."""
    inner = [_byte_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def of_model(model):
    """Fingerprint of a model's structure and weights as they are now."""
    parts = [repr(model)]
    for name, tensor in model.state_dict().items():
        data = tensor.detach().cpu().contiguous().flatten()
        # as bytes, since numpy lacks some of torch's types
        parts += [f"{name} {tensor.dtype} {list(tensor.shape)}", data.view(torch.uint8).numpy().tobytes() if len(data) else b""]
    return digest(*parts)


def of_samples(samples):
    """Fingerprint of a few samples: pixels, labels, boxes and masks."""
    return digest(*(_plain(getattr(sample, field, None)) for sample in samples for field in ("image", "labels", "boxes", "mask")))


def _plain(value):
    return value.numpy().tobytes() if hasattr(value, "numpy") else list(value) if isinstance(value, tuple) else value


def _inner(function):
    """What is inside a wrapped function, itself included: the functions, and the plain values they were made with."""
    functions, values, queue = [], [], [function]
    while queue:
        one = queue.pop(0)
        if isinstance(one, functools.partial):
            queue += [one.func, *one.args, one.keywords]
        elif isinstance(one, FunctionType) and one not in functions:
            functions.append(one)
            queue += [getattr(one, "__wrapped__", None), *(_content(cell) for cell in one.__closure__ or ())]
        elif isinstance(one, dict):
            queue += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            queue += one
        elif isinstance(one, (str, int, float)):
            values.append(repr(one))
    return functions, [" ".join(values)]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None


@functools.lru_cache
def _bindings(module):
    """Top-level names of a module -> the statements that bind them; empty where there is no source file."""
    try:
        path = getattr(sys.modules.get(module), "__file__", None) or importlib.util.find_spec(module).origin
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (AttributeError, ValueError, OSError, TypeError, ImportError):
        return {}
    names = {}
    for statement in tree.body:
        for name in _bound(statement):
            names.setdefault(name, []).append(statement)
    return names


def _bound(statement):
    """Names that a statement binds, imports and blocks (if, try, with) included."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _follow(module, name, package, seen, found):
    """Add to `found` the text of a definition and of all that it uses within the package."""
    if (module, name) in seen or module in _SILENT:
        return
    seen.add((module, name))
    for statement in _bindings(module).get(name, ()):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            _follow_import(module, statement, {name: {None}}, package, seen, found)
            continue
        found.append(f"{module}.{name} {_text(statement)}")
        uses = _uses(statement)
        for node in ast.walk(statement):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                _follow_import(module, node, uses, package, seen, found)
        for used, attributes in uses.items():
            for binding in _bindings(module).get(used, ()):
                if isinstance(binding, (ast.Import, ast.ImportFrom)):
                    _follow_import(module, binding, {used: attributes}, package, seen, found)
                else:
                    _follow(module, used, package, seen, found)


def _follow_import(module, statement, uses, package, seen, found):
    """Follow what an import brings in: a name of a module, or the attributes used of a module."""
    for alias in statement.names:
        attributes = uses.get((alias.asname or alias.name).split(".")[0])
        if attributes is None:
            continue
        if isinstance(statement, ast.Import):
            targets = [(alias.name, attribute) for attribute in attributes]
        else:
            source = _source(module, statement)
            inside = f"{source}.{alias.name}"
            is_module = alias.name not in _bindings(source) and source.split(".")[0] == package and _bindings(inside)
            targets = [(inside, attribute) for attribute in attributes] if is_module else [(source, alias.name)]
        for target, name in targets:
            if target.split(".")[0] == package:
                for one in [name] if name else list(_bindings(target)):
                    _follow(target, one, package, seen, found)


def _source(module, statement):
    """The absolute name of the module of a `from ... import`."""
    if not statement.level:
        return statement.module
    is_package = Path(getattr(sys.modules.get(module), "__file__", None) or "").name == "__init__.py"
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


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


def _text(statement):
    """A definition as a string without what cannot change a number: layout, comments, docstrings, error messages."""
    return ast.dump(_Silent().visit(copy.deepcopy(statement)))


class _Silent(ast.NodeTransformer):
    def visit_Expr(self, node):
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else node

    def visit_Raise(self, node):
        return ast.Raise()

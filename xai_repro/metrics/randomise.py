"""Parameter randomisation: the maps of a model whose parameters are drawn anew, block by block from the logits downwards."""

import zlib
from contextlib import contextmanager
from functools import partial
from itertools import dropwhile

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xai_repro.errors import like, unknown
from xai_repro.explain import check_classes, check_images, explain
from xai_repro.network.borrow import borrowed, changes, replace_parameter, using
from xai_repro.network.chunks import default_chunk
from xai_repro.network.forward import evaluating, outside_inference, top1
from xai_repro.registry import check_hyper, method_info

ORDERS = ("cascading", "independent")
STARTS = ("logits", "last-convolution")
PRODUCTS = {F.conv1d, F.conv2d, F.conv3d, F.linear}  # what a forward pass spends its time on
KEPT = 2**31  # bytes of products that are kept to be reused; what comes later is computed again


def randomised(model, x, y=None, method="grad-cam", order="cascading", seed=0, settings=None, layer=None, start="logits"):
    """Yield (block, maps [B,H,W]) for every block of the model, from the logits downwards: the maps of the randomised model.

    order: "cascading" draws the parameters of the block and of all blocks above it anew, "independent" those of the block
    alone [Adebayo et al. 2018, sections 3.1 and 3.2]. y: the classes explained, as in `explain`; None: the top-1 of the model as
    it is. start: "logits", or "last-convolution" where the blocks above it, which hold no convolution, are kept as they are
    [Collection-CAM, section IV.E]. settings, layer: the method's hyper-parameters and, where it has one, its layer. seed: of the parameters; a block gets
    the same ones in both orders. Maps are bit for bit those of `explain` on the randomised model. Whenever the caller has
    control, the model is as before.

    What lies below the randomised blocks is computed once and kept, in at most 2 GB, unless gradients flow through it.

    Raises UnknownName for a method, hyper-parameter or order that does not exist, ValueError for a model without blocks and for
    what `explain` refuses.
    """
    settings = like("settings", settings or {}, {}) | ({} if layer is None else {"layer": layer})
    check_hyper(method_info(method), {name: value for name, value in settings.items() if name != "chunk"})
    for name, given, possible in (("order", order, ORDERS), ("start", start, STARTS)):
        if given not in possible:
            raise unknown(name, given, possible)
    x = check_images(model, x)
    y = check_classes(x, y)
    y = top1(model, x, y)
    names = blocks(model, x)
    if start == "last-convolution":
        names = list(dropwhile(lambda name: all(p.dim() < 4 for p in model.get_submodule(name).parameters()), names))
    if not names:
        raise ValueError(f"{type(model).__name__} has no part whose parameters its forward pass uses, from the {start} on: nothing to randomise")
    sets = [names[: i + 1] if order == "cascading" else [name] for i, name in enumerate(names)]
    return _maps(model, x, y, method, settings, sets, seed)


def _maps(model, x, y, method, settings, sets, seed):
    chunk = default_chunk(x)
    slices = [slice(start, start + chunk) for start in range(0, len(x), chunk)]
    reuses, drawn = [_Reuse(model, KEPT // len(slices)) for _ in slices], {}

    def explained(names):
        parts = []
        with reinitialised(model, names, seed, drawn if names[1:] else None):
            for rows, reuse in zip(slices, reuses):
                with using(reuse):
                    parts.append(explain(model, x[rows], y[rows], method, **settings))
        return torch.cat(parts)

    for names in sets:
        for reuse in reuses:
            reuse.forget(model.get_submodule(names[-1]).parameters())
        yield names[-1], borrowed(model, partial(explained, names))


def blocks(model, x=None):
    """Names of what is randomised at a time, from the logits downwards: the model's children with parameters, last first.

    A Sequential of single layers (VGG's features and classifier) counts as its children, and so does the only child that holds
    convolutions (DenseNet's features); other containers (ResNet's layer4) are one block. Parameters that the model itself holds,
    in no child, belong to none. x: images; with them the order is that of the forward pass rather than of definition, and what it
    never uses (an auxiliary head) is left out.
    """
    names = _parts(model)
    return names if x is None else borrowed(model, partial(_used, model, x, names))


def _used(model, x, names):
    """Those of the names whose parameters the forward pass uses, the last used first."""
    with evaluating(model), torch.no_grad(), using(_Uses()) as uses:
        model(x[:1].clone())  # a clone, since the first module may write in place
    when = {name: max(uses.last.get(id(p), 0) for p in model.get_submodule(name).parameters()) for name in names}
    return sorted((name for name in names if when[name]), key=when.get, reverse=True)


def _parts(module):
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    convolving = [child for child in children.values() if any(p.dim() == 4 for p in child.parameters())]
    names = []
    for name, child in reversed(children.items()):
        row = isinstance(child, torch.nn.Sequential) and not any(list(one.children()) for one in child)
        whole = any(True for _ in child.parameters(recurse=False)) or not (row or [child] == convolving)
        inner = [] if whole else _parts(child)
        names += [f"{name}.{part}" for part in inner] or [name]
    return names


class _Uses(TorchFunctionMode):
    """While active, counts the calls of torch's functions: `last` tells in which one a parameter was used last."""

    def __init__(self):
        super().__init__()
        self.calls, self.last = 0, {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        self.last |= {id(p): self.calls for p in tree_leaves((args, kwargs)) if isinstance(p, torch.nn.Parameter)}
        return function(*args, **kwargs or {})


@contextmanager
def reinitialised(model, names, seed=0, drawn=None):
    """Give the named modules new parameters for a while; afterwards all have their own again, which nobody has written meanwhile.

    A module draws them by its own `reset_parameters`, from a generator seeded with the seed and the module's name, on the CPU:
    they depend neither on what else is drawn nor on the device. Normalisation layers thus get weight 1 and bias 0; buffers,
    such as running statistics, stay, for the test is one of trainable parameters. Frozen parameters count as trainable. A module
    without `reset_parameters` that holds parameters draws them from a normal distribution of mean 0 and standard deviation 0.02,
    as transformers do their tokens and positions. drawn: a dictionary that keeps the values for the next time; drawing takes
    longer than copying. The global random state is left alone. Raises UnknownName for a module that the model lacks.
    """
    drawn = {} if drawn is None else drawn
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise unknown("module", name, modules)
    name_of = {module: name for name, module in modules.items()}
    chosen = list(dict.fromkeys(module for name in names for module in modules[name].modules()))
    new = {}  # id of a parameter -> the one in its place: one that several modules share stays one
    with changes():
        for module in chosen:
            if module not in drawn:
                drawn[module] = _drawn(module, zlib.crc32(f"{seed} {name_of[module]}".encode()))
            for name, p in _own(module):
                new[id(p)] = torch.nn.Parameter(_like(drawn[module][name], p), p.requires_grad)
        for module in modules.values():
            for name, p in _own(module):
                if id(p) in new:
                    replace_parameter(module, name, new[id(p)])
        yield


def _own(module):
    """The parameters that a module itself holds, also one that it holds twice."""
    return [(name, p) for name, p in module._parameters.items() if p is not None]


def _like(values, parameter):
    """Values on a parameter's device, in its type and its layout in memory."""
    with outside_inference(), torch.no_grad():
        return torch.empty_like(parameter).copy_(values)


def _drawn(module, key):
    """New values of a module's own parameters, name -> tensor on the CPU; the module is left alone."""

    def copy(tensor):
        return None if tensor is None else tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)

    twin = object.__new__(type(module))  # has the settings of the module, and tensors of its own
    parameters = {name: None if p is None else torch.nn.Parameter(copy(p)) for name, p in module._parameters.items()}
    buffers = {name: copy(buffer) for name, buffer in module._buffers.items()}
    twin.__dict__.update(module.__dict__ | {"_parameters": parameters, "_buffers": buffers})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(key)  # torch.manual_seed would seed every device
        if hasattr(module, "reset_parameters"):
            twin.reset_parameters()
        else:
            for name, _ in module.named_parameters(recurse=False):
                parameters[name].normal_(0, 0.02)
    return parameters


class _Reuse(TorchFunctionMode):
    """While active, a product with a weight that repeats the first one with that weight takes its result from there.

    It does where the other arguments are equal, the operand has the same values in the same layout, the weight has not been
    written meanwhile, and nothing wants a gradient; so the result is the same to the last bit. Everything else runs as it is
    called: functions, hooks and modules that write in place see what they would have seen. model: whose weights count. room:
    bytes to keep at most.
    """

    def __init__(self, model, room):
        super().__init__()
        self.fresh, self.first, self.room = {id(p): p for p in model.parameters()}, {}, room

    def forget(self, parameters):
        """Neither keep nor reuse products with these weights from now on."""
        for p in parameters:
            self.fresh.pop(id(p), None)
            *_, size = self.first.pop(id(p), (0,))
            self.room += size

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in PRODUCTS or len(args) < 2 or kwargs or not self._may_keep(*args):
            return function(*args, **kwargs)
        operand, weight, *rest = args
        call = function, *(_name(value) for value in (weight, *rest))
        if id(weight) in self.first:
            first_call, first, version, result, _ = self.first[id(weight)]
            if call == first_call and first._version == version and _same(operand, first):
                return result.clone()  # a clone, since the next module may write in place
            return function(*args)
        result = function(*args)
        size = operand.nbytes + result.nbytes
        if size <= self.room:
            self.room -= size
            self.first[id(weight)] = call, operand, operand._version, result.clone(), size
        return result

    def _may_keep(self, operand, *others):
        weights = [value for value in others if isinstance(value, torch.Tensor)]
        known = all(id(w) in self.fresh for w in weights)
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (operand, *weights))
        return known and not wanted and not any(t.is_inference() for t in (operand, *weights))


def _name(value):
    return (id(value), value.data_ptr(), value._version) if isinstance(value, torch.Tensor) else value


def _same(a, b):
    alike = (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
    return alike and torch.equal(a, b)

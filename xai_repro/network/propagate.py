"""Relevance, sent back through a network that is used as it is: one mechanism, whose rules are a table.

Functions are caught where they are called, so functional, in-place and reused ones count like modules. The forward pass is the
network's own. Backwards, autograd carries relevance in place of gradients: every step hands to its inputs what its rule says;
autograd itself sums what comes back from the branches of a fork, slices what was concatenated, and gives the relevance of a
maximum to where it was. What has no rule is refused by name.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xai_repro.errors import NotApplicable
from xai_repro.network.borrow import borrowed, changes, freeze, hook, using
from xai_repro.network.forward import check_unscripted, evaluating, logits_of
from xai_repro.network.layers import place
from xai_repro.network.steps import activation, ACTIVATIONS, LAYERS, MOVING, reads, STEPS, vjp
from xai_repro.network.target import resolve_target, target_logit
from xai_repro.numerics.algebra import wide


class Layer:
    """A linear layer or convolution in one forward pass, as a rule sees it.

    x: its input; W, b: weights and bias (None without one), those of a folded BatchNorm included; z = of(x, W) + b. linear, first, last,
    bottom: whether it is no convolution, reads the images, gives the logits, reads what is there where relevance stops. gradient: of `Rules.score` at x, where there is one.
    """

    def __init__(self, W, b, options, first, bottom=False):
        self.W, self.b, self.options, self.first, self.last, self.bottom = wide(W), None if b is None else wide(b), options, first, False, bottom
        self.linear, self.kept, self.gradient, self.send = options is None, [None, None], None, None

    x, z = property(lambda self: self.kept[0]), property(lambda self: self.kept[1])

    def of(self, x, W):
        """sum_i x_i W_ij, without bias, for other inputs and weights."""
        return F.linear(x, W) if self.linear else F.conv2d(x, W, None, *self.options)

    def of_ones(self, W):
        """What `of` gives for an input of ones, [1,...]: as much as one channel of one image costs."""
        if self.linear:
            return W.sum(1)[None]
        ones = torch.ones_like(self.x[:1, :1])
        return F.conv2d(ones, W.sum(1, keepdim=True), None, *self.options[:3])

    def back(self, S, W):
        """sum_j S_j W_ij: the transpose of `of`; S may hold several stacked batches."""
        if self.linear:
            return S @ W
        stride, padding, dilation, groups = self.options
        like = self.x if len(self.x) == len(S) else self.x.new_empty(len(S), *self.x.shape[1:])
        wanted = [True, False, False]
        return torch.ops.aten.convolution_backward(S.contiguous(), like, W, None, stride, padding, dilation, False, [0, 0], groups, wanted)[0]

    def forward(self, x):
        return F.linear(x, self.W, self.b) if self.linear else F.conv2d(x, self.W, self.b, *self.options)

    @property
    def pointwise(self):
        """Whether it only mixes channels."""
        return self.linear or self.W.shape[-2:].numel() == 1

    def per_channel(self, b):
        """One number for each output channel, as it is added to outputs."""
        return b if self.linear else b.view(-1, 1, 1)

    def fold(self, scale, shift, z):
        """Take in a BatchNorm, scale z + shift channel by channel, which gave another z."""
        self.W = self.W * scale.view(-1, *[1] * (self.W.dim() - 1))
        self.b = shift if self.b is None else self.b * scale + shift
        self.kept[1] = z


class Propagation(TorchFunctionMode):
    """While active, what is computed from tensors that ask for gradients gets a backward pass of relevance by some Rules.

    layers: those met, in order; inputs: of each its input. gradients: while true, the backward pass is that of gradients after all. off: nothing is caught any more. y: the classes whose
    relevance is under way.
    """

    def __init__(self, rules):
        super().__init__()
        self.rules, self.layers, self.gradients, self.off, self.y = rules, [], False, False, None
        self.inputs, self._held = [], {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [one for one in tree_leaves((args, kwargs)) if reads(one)]
        if not given or self.off:
            return function(*args, **kwargs)
        name, inplace, args = _called(function, args, kwargs)
        if inplace:
            self._about_to_write(args[0])
            args[0].at_the_bottom = False
        inner = any(getattr(one, "behind_a_layer", False) for one in given)
        if name in STEPS or name in ACTIVATIONS:
            x, *rest = args if args else [kwargs.pop("input")]
            step = STEPS.get(name) or activation(function)
            made = step(self, x.clone() if inplace else x, *rest, **{key: value for key, value in kwargs.items() if key != "inplace"})
            made = x.copy_(made) if inplace else made
            inner = inner or name in LAYERS
        else:
            made = function(*args, **kwargs)
            if name == "setitem" or name not in MOVING and any(map(reads, tree_leaves(made))):
                raise NotApplicable(f"relevance has no rule for '{name}', which the network calls")
        for one in tree_leaves(made):
            if inner and isinstance(one, torch.Tensor):
                one.behind_a_layer = True  # no longer the images, moved or scaled
        return made

    def step(self, function, rule, *inputs):
        """function(*inputs), whose relevance R is handed to the inputs: rule(R, *inputs) -> [R at each input]."""
        kept = [one.detach() for one in inputs]
        self._hold(kept)
        return _Step.apply(function, lambda R: vjp(function, kept, R) if self.gradients else rule(R, *kept), *inputs)

    def layer(self, x, W, b, options):
        """A layer's output, whose relevance is handed to x by the layer's rule, which is made when it is first needed."""
        layer = Layer(W, b, options, not getattr(x, "behind_a_layer", False), getattr(x, "at_the_bottom", False))

        def forward(x):
            z = layer.forward(wide(x))
            layer.kept[:] = x, z.detach()  # not z itself, which will know this layer: a circle that nobody would clear away
            return z

        def back(R):
            if self.gradients:
                return vjp(layer.forward, [layer.x], R)
            layer.send = layer.send or self.rules.of(layer)
            return [layer.send(R)]

        z = _Step.apply(forward, back, x)
        self._hold(layer.kept)
        self.layers.append(layer)
        self.inputs.append(x)
        z.layer = layer
        return z

    def tell_gradients(self, score):
        """Give every layer the gradient of a score at its input."""
        self.gradients = True
        found = torch.autograd.grad(score.sum(), self.inputs, retain_graph=True)
        self.gradients = False
        for layer, gradient in zip(self.layers, found):
            layer.gradient = gradient

    def forget(self):
        """Let go of the graph, whose steps know this mode: a circle through autograd, which no garbage collector sees."""
        for layer in self.layers:
            layer.send = None  # which knows its layer
        for kept in (self.layers, self.inputs, self._held):
            kept.clear()

    def _hold(self, kept):
        for index, tensor in enumerate(kept):
            self._held.setdefault(tensor.untyped_storage().data_ptr(), []).append((kept, index))

    def _about_to_write(self, tensor):
        """Copy what is kept of a tensor that is written to."""
        for kept, index in self._held.pop(tensor.untyped_storage().data_ptr(), []):
            kept[index] = kept[index].clone()


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, back, *inputs):
        ctx.back = back
        return function(*[one.detach() for one in inputs])

    @staticmethod
    def backward(ctx, R):
        return None, None, *ctx.back(R)


def _called(function, args, kwargs):
    """The plain name of a function, whether it writes to its first argument (relu_, relu(x, inplace=True), x += y), and its arguments in order.

    1 - x is x.__rsub__(1).
    """
    name = getattr(function, "__name__", "")
    plain = name.strip("_")
    if name.startswith("__i") and plain[1:] in STEPS:
        return plain[1:], True, args
    if name.startswith("__r") and plain[1:] in STEPS:
        return plain[1:], False, args[::-1]
    written = name.endswith("_") and not name.endswith("__") or kwargs.get("inplace") or plain in ACTIVATIONS and any(one is True for one in args[1:])
    return plain, bool(written), args


# -- from the logits to the images, or to a layer; from a layer to the images -----------------------------------------------


def relevance(model, x, y, rules, start, layer=None, at=None):
    """R [B,C,H,W] at the images, or [B,K,h,w] at the output of a layer; and what is there, the images or that output.

    start(logits [B,C], y [B]) -> R [B,C]: where relevance begins. layer: a name; None for the images. Several classes of each image,
    y [B,N], give R [N,B,...]: what depends on the images alone is computed once. at: {name: function(A, R, y) -> R}, what is done to
    relevance where it arrives at the outputs A of layers. In float32 at least. Costs one forward pass and what the rules cost above the layer.
    Raises NotApplicable for a function that has no rule, UnknownName for a layer, ValueError for one that gives no maps.
    """

    def run():
        with _caught(model, x, rules, images=layer is None) as (mode, leaf):
            reached = [leaf]
            for name, function in (at or {}).items():
                _passing(model, mode, name, function)
            if layer is not None:
                reached = _at(model, layer, lambda output: wide(output).dtype)
            logits = wide(logits_of(model(leaf.clone()), len(x)))
            _check(mode.layers, reached, layer)
            mode.off, mode.layers[-1].last = True, True
            several = y is not None and y.dim() == 2
            classes = [resolve_target(logits.detach(), one) for one in (y.T if several else [y])]
            if rules.score is not None:
                mode.tell_gradients(rules.score(logits, classes[0]))
            found = []
            for mode.y in classes:
                found += torch.autograd.grad(logits, reached[0], start(logits.detach(), mode.y), retain_graph=True)
            return (torch.stack(found) if several else found[0]), reached[0].detach()

    return borrowed(model, run)


def relevance_from(model, x, y, rules, start, layer, every=False):
    """R [B,C,H,W] at the images, of relevance that begins at the output of a layer, above which nothing is caught.

    start(A, G) -> R [B,K,h,w]: A the layer's output, G the gradient of the logit of class y there. every: a list in its place, of
    pairs (input, R there) of all convolutions and linear layers from the images up, then of where it begins.
    Raises the errors of `relevance`.
    """

    def run():
        with _caught(model, x, rules) as (mode, leaf):
            tops, reached = _left(model, mode, layer, x.dtype)
            S = target_logit(wide(logits_of(model(leaf.clone()), len(x))), y)
            _check(mode.layers, reached, layer)
            (G,) = torch.autograd.grad(S.sum(), reached)
            A, inputs = reached[0].detach(), mode.inputs if every else [leaf]
            begun = start(A, G)
            found = torch.autograd.grad(tops, inputs, begun)
            return [*zip([one.detach() for one in inputs], found), (A, begun)] if every else found[0]

    return borrowed(model, run)


def relevance_between(model, x, y, rules, R, top, bottom, at=None):
    """R [B,K,h,w] at the output of layer bottom, of relevance R at that of layer top, and bottom's output; nothing else is caught.

    All that reaches bottom has to come through top. y, at: as for `relevance`, of layers between the two. Costs one forward pass and what the rules cost
    between the layers. Raises the errors of `relevance`.
    """

    def run():
        with _caught(model, x, rules, images=False) as (mode, leaf):
            mode.y = y
            for name, function in (at or {}).items():
                _passing(model, mode, name, function)
            reached = _at(model, bottom, lambda output: wide(output).dtype)
            tops, _ = _left(model, mode, top, x.dtype)
            model(leaf.clone())
            _check(mode.layers, reached, bottom)
            _check(mode.layers, tops, top)
            return torch.autograd.grad(tops, reached, R)[0], reached[0].detach()

    return borrowed(model, run)


@contextmanager
def _caught(model, x, rules, images=True):
    """The model, in eval mode, under a Propagation: (mode, the images; images: whether relevance goes down to them). What is caught is in float32."""
    check_unscripted(model, "layers")
    with evaluating(model), torch.enable_grad(), torch.autocast(x.device.type, enabled=False), changes():
        freeze(model)
        leaf = (wide(x) if images else x).detach().clone().requires_grad_(images)
        mode = Propagation(rules)
        try:
            with using(mode):
                yield mode, leaf
        finally:
            mode.forget()


def _at(model, layer, function):
    """At a layer, go on with a copy of its output, of type function(output), from which a new graph begins: a list that will hold its leaf."""
    where, reached, runs = place(model, layer), [], []

    def end(module, args, output):
        runs.append(1)
        if len(runs) != (where.call or 0) + 1:
            return None if where.call is not None else _twice(layer)
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            got = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"layer '{where.name}' gives {got}; relevance stops at maps [B,K,h,w]")
        dtype = function(output)
        reached.append(wide(output).detach().clone().requires_grad_())
        reached[0].behind_a_layer = True
        output = reached[0].clone().to(dtype)  # which the next module may write to
        output.at_the_bottom = True
        return output

    hook(where.module, "forward", end)
    return reached


def _left(model, mode, layer, dtype):
    """At a layer, catch nothing any more: lists that will hold its output, and the leaf in its place, which the rest of the network reads in dtype."""
    tops = []

    def leave(output):
        tops.append(output)
        mode.off = True
        return dtype

    return tops, _at(model, layer, leave)


def _passing(model, mode, layer, function):
    """At the output A of a layer, relevance R becomes function(A, R, y)."""
    where, runs = place(model, layer), []

    def end(module, args, output):
        runs.append(1)
        if where.call not in (None, len(runs) - 1) or not reads(output):
            return None
        made = mode.step(lambda A: A.clone(), lambda R, A: [function(A, R, mode.y)], output)
        for fact in ("layer", "behind_a_layer"):  # a BatchNorm behind it still belongs to its convolution
            if hasattr(output, fact):
                setattr(made, fact, getattr(output, fact))
        return made

    hook(where.module, "forward", end)


def _twice(layer):
    raise ValueError(f"layer '{layer}' runs several times in one forward pass: say which, {layer}#0 for the first")


def _check(layers, reached, layer):
    if not reached:
        raise ValueError(f"layer '{layer}' does not run in a forward pass, or not so often")
    if not layers:
        raise NotApplicable("relevance goes through linear layers and convolutions, and none is met on its way")

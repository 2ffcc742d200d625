"""The model cut at a layer: the trunk runs once, what lies above it (the head) runs again on other activations."""

import weakref
from collections import Counter, defaultdict
from copy import copy
from functools import partial

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from xai_repro.network.borrow import borrowed, change, changes, hook
from xai_repro.network.forward import check_differentiable, evaluating, logits_of, outside_inference
from xai_repro.network.layers import default_layer, place
from xai_repro.network.layout import layout_of
from xai_repro.network.standin import NeedsValues, StandIn
from xai_repro.network.target import resolve_target, target_logit


class Split:
    """The model cut at the output of one layer for a batch of images.

    A [B,K,h,w]: the activations there; logits [B,C]; `head(A')` runs only what lies above the layer, `grad(y)` differentiates
    only that. first: the first layer with weights above the cut; last: the linear layer whose output is the logits; both None
    where that layer runs more than once.
    layer: a name, "name#call" where it runs several times (-1: the last call), a module, or None for the `default_layer`.
    layout: how the layer's output holds the maps, None where its kind or its shape tells (see `layout_of`); tokens that belong
    to no position stay as they are.
    Any `nn.Module` works: the head is the model's own forward in which every module call that was over before the cut is
    skipped. head=False: nothing of these calls is kept, so that only A, logits and gradients can be asked for.

    Raises UnknownName for a layer or layout that does not exist, ValueError for a layer that does not run or runs more than
    once, or whose output holds no maps, NotApplicable for TorchScript.
    """

    def __init__(self, model, x, layer=None, head=True, layout=None):
        with outside_inference():
            self.model, self.x = model, x.clone() if x.is_inference() else x.detach()
        where = place(model, default_layer(model, x) if layer is None else layer)
        self.layer, self._cut, self._call, self._asked = where.name, where.module, where.call, layout
        self._with_head = head
        borrowed(model, self._record_once_or_twice)

    def _record_once_or_twice(self):
        with evaluating(self.model):
            if self._call is not None and self._call < 0:
                self._call = self._from_the_first(self._call)
            try:
                self._record(copies=False)
            except _WrittenLater:
                self._record(copies=True)

    def target(self, y):
        """Class indices [B]: y itself where given, else the model's top-1."""
        return resolve_target(self.logits, y)

    def grad(self, y):
        """G_kij = d logit_y / d A_kij, [B,K,h,w]; costs one backward pass of the head."""
        return self.grads(y, [])[0]

    def grads(self, y, above):
        """The gradient of logit_y with respect to A and to tensors that the forward pass computed above the cut."""
        with outside_inference(), torch.enable_grad():
            score, tensors = target_logit(self._graph, y).sum(), [self._leaf, *above]
            found = torch.autograd.grad(score, tensors, retain_graph=True, allow_unused=True)
        if any(G is None for G in found):
            check_differentiable(self.model)
        return [torch.zeros_like(tensor) if G is None else G for G, tensor in zip(found, tensors)]

    def head(self, A, of=None):
        """Logits [R,C] of activations A [R,K,h,w] put in the layer's place; row r belongs to image of[r].

        of: [R] indices of images, needed only when R differs from the batch. Differentiable in A where gradients are on.
        Raises ValueError where R differs from the batch and `of` is missing.
        """
        if of is None and len(A) != len(self.A):
            raise ValueError(f"{len(A)} rows of activations for {len(self.A)} images: say with `of` which image each row belongs to")
        of = torch.arange(len(A), device=A.device) if of is None else of
        return self._above({self._cut: self._in_place_of_the_output(A, of)}, of)

    def scores(self, A, y, of, beyond_first=False):
        """Logits [R] of the classes y [R] alone, for activations A [R,K,h,w] of the images of [R].

        The last linear layer computes only its row of that class. beyond_first: A is what `first` gives instead, and only
        what follows it runs. Where the head also uses the activations in another way, that is NeedsValues or another result:
        compare it once with the logits.
        """
        replaced = {self._cut: self._in_place_of_the_output(A, of)}
        if beyond_first:
            shape = StandIn.of((len(of), *self._shape[1:]), A.dtype)
            replaced = {self._cut: lambda *args, **kwargs: shape, self.first: lambda *args, **kwargs: A.clone()}
        if self.last is None or self.last in replaced:
            return self._above(replaced, of, not beyond_first).gather(1, y[:, None])[:, 0]

        def own_row(h):
            if isinstance(h, StandIn):
                raise NeedsValues
            bias = 0 if self.last.bias is None else self.last.bias[y]
            return (torch.einsum("rd,rd->r", h, self.last.weight[y]) + bias)[:, None]

        return self._above(replaced | {self.last: own_row}, of, not beyond_first)[:, 0]

    def first_input(self, A, of):
        """What `first` is given when the activations are A [R,K,h,w] of the images of [R]."""

        reached = []

        def stop(h, *args):
            reached.append(h.detach())
            raise _Reached

        try:
            self._above({self._cut: self._in_place_of_the_output(A, of), self.first: stop}, of)
        except _Reached:
            return reached[0]

    def _in_place_of_the_output(self, A, of):
        """What the layer gives instead: a clone, since the next module may write in place."""
        prefix = None if self._prefix is None else self._prefix.index_select(0, of)
        return lambda *args, **kwargs: self._layout.output(A, prefix).clone()

    def _above(self, replaced, of, record=True):
        """Logits with the forward of some modules replaced and every call that was over before the cut skipped.

        record: whether the trunk may run once more to keep the values of all its calls.
        """
        if not self._with_head:
            raise ValueError("this split was made without its head (head=False): only A, logits and gradients can be asked for")
        return borrowed(self.model, partial(self._replay_with_what_it_needs, replaced, of, record))

    def _replay_with_what_it_needs(self, replaced, of, record):
        with evaluating(self.model):
            while True:
                try:
                    return self._replay(replaced, of)
                except NeedsValues:
                    # The trunk computes something between its modules that shapes alone cannot stand in for:
                    # give it the images themselves, and where that is not enough, the values of all its calls.
                    if self._copies or self._images and not record:
                        raise
                    if self._images:
                        fuller = copy(self)  # so that an error in between leaves this split whole
                        fuller._record(copies=True)
                        self.__dict__ |= fuller.__dict__
                    self._images = True

    def _record(self, copies):
        """One forward pass: without a graph up to the layer, with one above it."""
        self._copies = self._images = copies
        frames, runs = [[]], Counter()  # a frame lists the calls that are over inside one open call
        self.first, last = None, (None, None)

        def begin(module, args):
            frames.append([])
            runs[module] += 1
            if runs["cut"] and self.first is None and isinstance(getattr(module, "weight", None), torch.Tensor):
                self.first = module

        def end(module, args, output):
            nonlocal last
            frames.pop()
            if module is self._cut:
                runs["all"] += 1
                if runs["all"] == (self._call or 0) + 1:
                    runs["cut"] = 1
                    return self._at_cut(output, frames)
            if not runs["cut"]:
                frames[-1].append((module, _Value(output, copies)))
            elif type(module).forward is torch.nn.Linear.forward and "forward" not in module.__dict__:
                last = module, output

        with changes(), torch.no_grad():
            for module in self.model.modules() if self._with_head else [self._cut]:
                hook(module, "forward_pre", begin)
                hook(module, "forward", end)
            output = self.model(self.x.clone())  # a clone, since the first module may write in place
        self._check_runs(runs["all"])
        self._graph = logits_of(output, len(self.x))
        self.logits = self._graph.detach()
        self.last = last[0] if last[1] is self._graph and runs[last[0]] == 1 else None
        self.first = self.first if runs[self.first] == 1 else None
        if any(tensor._version != version for tensor, version in self._crossing):
            raise _WrittenLater
        if not self._graph.requires_grad:
            raise ValueError(f"no gradient reaches layer '{self.layer}' from the logits: nothing differentiable lies between them")

    def _check_runs(self, runs):
        if self._call is None and runs > 1:
            name = self.layer
            raise ValueError(f"layer '{name}' runs {runs} times in one forward pass: say which, {name}#0 for the first or {name}#-1 for the last")
        if runs <= (self._call or 0):
            raise ValueError(f"layer '{self.layer}' runs {runs} times in one forward pass" + (", that call is not among them" if runs else ""))

    def _from_the_first(self, call):
        """The number of a call that is counted from the last one; costs a forward pass."""
        runs = []
        with changes(), torch.no_grad():
            hook(self._cut, "forward_pre", lambda module, args: runs.append(1))
            self.model(self.x.clone())
        if len(runs) + call < 0:
            self._check_runs(0) if not runs else self._refuse(len(runs))
        return len(runs) + call

    def _refuse(self, runs):
        raise ValueError(f"layer '{self.layer}' runs {runs} times in one forward pass, that call is not among them")

    def _at_cut(self, output, frames):
        self._layout = layout_of(output, self.x, self._cut, self.layer, self.model, self._asked)
        self._shape = output.shape
        self.A = self._layout.maps(output).detach()
        self._prefix = output[:, : self._layout.prefix].detach() if self._layout.prefix else None
        self._leaf = self.A.detach().requires_grad_()
        self._skipped = defaultdict(list)
        calls = [call for frame in frames for call in frame]
        owner = {id(tensor): value for _, value in calls for tensor in value.alive()}  # the last call that returned it
        owner.pop(id(output), None)  # the layer itself wrote in place: above the cut this tensor is A
        for module, value in calls:
            self._skipped[module].append(value.settle(owner))
        crossing = [tensor for tensor in tree_leaves(list(self._skipped.values())) if isinstance(tensor, torch.Tensor)]
        self._crossing = [(tensor, tensor._version) for tensor in crossing if not isinstance(tensor, StandIn)]
        torch.set_grad_enabled(True)  # until the forward pass ends: `_record` runs under no_grad, which restores the mode
        return self._layout.output(self._leaf, self._prefix).clone()  # a clone, since the next module may write in place

    def _replay(self, replaced, of):
        rows, seen = len(of), Counter()

        def rows_of(tensor):
            if isinstance(tensor, StandIn):
                return StandIn.of((rows, *tensor.rest), tensor.dtype) if tensor.rows == len(self.A) else tensor
            return tensor.index_select(0, of) if tensor.dim() and len(tensor) == len(self.A) else tensor.clone()

        def skipping(module, forward, instead):
            def skip(*args, **kwargs):
                seen[module] += 1
                over = self._skipped.get(module, ())
                if seen[module] <= len(over):
                    return tree_map_only(torch.Tensor, rows_of, over[seen[module] - 1])
                return (instead if instead and seen[module] == len(over) + 1 else forward)(*args, **kwargs)

            return skip

        with changes():
            for module in {*self._skipped, *replaced}:
                change(module, "forward", skipping(module, module.forward, replaced.get(module)))
            x = self.x.index_select(0, of) if self._images else StandIn.of((rows, *self.x.shape[1:]), self.x.dtype)
            logits = logits_of(self.model(x), rows)
        if isinstance(logits, StandIn):
            raise NeedsValues
        return logits


class _Reached(Exception):
    """The layer up to which the head was to be run."""


class _WrittenLater(Exception):
    """A tensor that crosses the cut was written in place after the call that returned it."""


class _Value:
    """What a call of the trunk returned. Whatever nobody holds any more when the cut is reached cannot matter above it,
    so tensors are held weakly until then and replaced by their shape when they have died."""

    def __init__(self, output, copies):
        self.refs = []
        self.copies = copies

        def note(tensor):
            tensor = tensor.detach().clone() if copies else tensor
            shape = tensor.shape, tensor.stride(), tensor.dtype
            self.refs.append((tensor if copies else weakref.ref(tensor), tensor._version, shape))
            return _Slot(len(self.refs) - 1)

        # What a tree does to a single tensor, without its bookkeeping: this runs for every module.
        self.output = note(output) if isinstance(output, torch.Tensor) else tree_map_only(torch.Tensor, note, output)

    def alive(self):
        return [] if self.copies else [ref() for ref, _, _ in self.refs if ref() is not None]

    def settle(self, owner):
        def value(slot):
            ref, version, shape = self.refs[slot.index]
            if self.copies:
                return ref
            tensor = ref()
            if tensor is None or owner.get(id(tensor)) is not self:
                return StandIn.of(shape[0], shape[2], shape[1])
            if tensor._version != version:
                raise _WrittenLater
            return tensor.detach()

        return tree_map_only(_Slot, value, self.output)


class _Slot:
    """The place of a tensor in an output of any structure."""

    def __init__(self, index):
        self.index = index

"""Activations and gradients of several layers at once."""

from collections import Counter
from functools import partial

from xai_repro.network.borrow import borrowed, changes, hook
from xai_repro.network.forward import predict
from xai_repro.network.layers import place, stages
from xai_repro.network.layout import layout_of
from xai_repro.network.split import Split


def pyramid(model, x, y=None, layers="all", layout=None):
    """Activations and gradients [(A, G), ...] of several layers, both [B,K,h,w], and the classes y [B] (the top-1 where y is None).

    G_kij = dS_y / dA_kij. layers: as `stages` takes them; layout: as `layout_of` does. Costs one forward pass, without a graph up
    to the first layer, and one backward pass to there.
    Raises ValueError for layers in another order, or that do not run once and give maps; UnknownName for a name.
    """
    return borrowed(model, partial(_pyramid, model, x, y, layers, layout))


def _pyramid(model, x, y, layers, layout):
    first, *others = layers = stages(model, layers, x)
    taken, runs = {}, Counter()
    if len(set(layers)) < len(layers):
        raise ValueError(f"layers names one twice: {', '.join(layers)}")

    def keep(name, call, module, args, output):
        runs[name] += 1
        if call is not None and runs[name] != call + 1:
            return None
        if name in taken:
            raise ValueError(f"layer '{name}' runs several times in one forward pass: say which, {name}#0 for the first call")
        found = layout_of(output, x, module, name, model, layout)
        if not output.requires_grad:
            raise ValueError(f"layer '{name}' runs before '{first}' or apart from it: name layers from the input to the logits")
        taken[name] = output, found
        return output.clone()  # the next module may write in place

    with changes():
        for name in others:
            where = place(model, name)
            if where.call is not None and where.call < 0:
                raise ValueError(f"layer '{name}' counts calls from the last; of several layers only the first may")
            hook(where.module, "forward", partial(keep, name, where.call))
        split = Split(model, x, first, head=False, layout=layout)
    if missing := [name for name in others if name not in taken]:
        raise ValueError(f"layer '{missing[0]}' does not run in a forward pass")
    y, above = split.target(y), [taken[name] for name in others]
    G, *gradients = split.grads(y, [output for output, _ in above])
    return [(split.A, G), *((form.maps(A.detach()), form.maps(one)) for (A, form), one in zip(above, gradients))], y


def activations(model, x, layers):
    """Outputs {layer: A [B,K,h,w]} of layers named, as they are before anything writes to them; costs one forward pass.

    Raises UnknownName for a name, ValueError for a layer that does not run, or several times.
    """
    taken = {name: [] for name in layers}

    def run():
        with changes():
            for name in layers:
                where = place(model, name)
                hook(where.module, "forward", lambda module, args, output, name=name: taken[name].append(output.detach().clone()))
            predict(model, x, len(x))
        for name, found in taken.items():
            if len(found) != 1:
                raise ValueError(f"layer '{name}' runs {len(found)} times in one forward pass; one run is needed")
        return {name: found[0] for name, found in taken.items()}

    return borrowed(model, run)

"""Activations and gradients of several layers at once."""

from xai_repro.network.layers import check_layer, stages
from xai_repro.network.split import Split


def pyramid(model, x, y=None, layers="all"):
    """Activations and gradients [(A, G), ...] of several layers, both [B,K,h,w], and the classes y [B] (the top-1 where y is None).

    G_kij = dS_y / dA_kij. layers: as `stages` takes them. Costs one forward pass, without a graph up to the first
    layer, and one backward pass to there.
    Raises ValueError for layers in another order, or that do not run once and give [B,K,h,w]; UnknownName for a name.
    """
    first, *others = layers = stages(model, layers)
    taken, handles = {}, []
    if len(set(layers)) < len(layers):
        raise ValueError(f"layers names one twice: {', '.join(layers)}")

    def keep(name):
        def hook(module, args, output):
            if getattr(output, "ndim", 0) != 4:
                raise ValueError(f"layer '{name}' gives {list(getattr(output, 'shape', []))}; activations [B,K,h,w] are needed")
            if not output.requires_grad:
                raise ValueError(f"layer '{name}' runs before '{first}' or apart from it: name layers from the input to the logits")
            taken[name] = output
            return output.clone()  # the next module may write in place

        return hook

    try:
        for name in others:
            handles.append(check_layer(model, name).register_forward_hook(keep(name)))
        split = Split(model, x, first, head=False)
    finally:
        for handle in handles:
            handle.remove()
    if len(taken) < len(others):
        raise ValueError(f"layer '{next(name for name in others if name not in taken)}' does not run in a forward pass")
    y, above = split.target(y), [taken[name] for name in others]
    return list(zip([split.A, *(A.detach() for A in above)], split.grads(y, above))), y

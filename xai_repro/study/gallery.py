"""The gallery: every method on the same images, a figure for a few methods of one family."""

import torch

from xai_repro.explain import explain_all
from xai_repro.registry import method_info, methods
from xai_repro.study import plots
from xai_repro.study.asked import load_pair

FAMILIES = {
    "cam": "Class activation maps", "shapley": "Shapley values of channels", "masks": "Masks", "gradient": "Gradients", "relevance": "Relevance", "attention": "Attention",
    "control": "Controls",
}  # fmt: skip


def by_family(names):
    """Names of methods in families: pairs (title, names), in the order of FAMILIES. A family that is not of this library goes by its own name, before the controls."""
    return [(_title(group), list(group)) for _, group in plots.families(dict.fromkeys(_ordered(names)), most=len(names))]


def panels(x, maps, titles, view):
    """Maps {method: [B,H,W]} of images x as figures of up to six methods of one family: pairs (title of the family, figure)."""
    for _, group in plots.families({name: maps[name] for name in _ordered(maps)}):
        signed = [name for name in group if method_info(name).signed]
        yield _title(group), plots.panel(x, group, titles=titles, signed=signed, view=view)


def explained(model_name, data_name, number, hyper):
    """Every method on the first images of a data set, for the first label of each: (maps {method: [B,H,W]}, reasons {method: why it is not there}, panels)."""
    model, data = load_pair(model_name, data_name, number)
    x, y = torch.stack([sample.image for sample in data]), torch.tensor([sample.labels[0] for sample in data])
    maps, reasons = explain_all(model, x, y, hyper={name: own for name, own in hyper.items() if name in methods()})
    return maps, reasons, list(panels(x, maps, [data.classes[label] for label in y.tolist()], model.view))


def counted(shown, hidden):
    """How many methods of which families are shown, and how many are not, in sentences. shown, hidden: names."""
    families = [f"{title} ({len(names)})" for title, names in by_family(shown)]
    left = {0: "", 1: " One method does not apply here; the page says why."}.get(len(hidden), f" {len(hidden)} methods do not apply here; the page says why.")
    return f"{len(shown)} methods are shown: {', '.join(families)}.{left}"


def _ordered(names):
    """Names by family, those of a family as they came."""
    order = list(FAMILIES)
    return sorted(names, key=lambda name: order.index(family) if (family := method_info(name).family) in order else len(order))


def _title(group):
    family = method_info(next(iter(group))).family
    return FAMILIES.get(family, family)

"""CLAM: relevance that learnt attributes of the class make stronger, layer by layer, on its way to the image.

What a CLA-layer computes is in cla.py, where they lie and how large they are in clam_layers.py; `xai_repro.study.fitting` learns the attributes.
"""

from functools import partial
from pathlib import Path

import torch

from xai_repro.errors import like, NotApplicable, unknown
from xai_repro.methods.cla import CLA, mean_distances, nearest, strengthened
from xai_repro.methods.clam_layers import specs
from xai_repro.methods.relevance import against_logits, NEEDS, one_hot, softmax_gradient, table
from xai_repro.models.reading import read_facts, read_weights
from xai_repro.models.zoo import SHIPPED
from xai_repro.network.propagate import relevance
from xai_repro.registry import method
from xai_repro.store import fingerprint
from xai_repro.store.files import path_of, recorded, sha256

RULES = table("alpha1beta0", "z-box")  # of all bases, which differ in where relevance begins
BASES = {"lrp": one_hot, "clrp": against_logits, "sglrp": softmax_gradient}
FEW, ALL_ALIKE, LESS = 10, 1.2, 0.05  # released: with fewer layers than this the strength is 1.2 in all, otherwise .05 less than in training
FACTS = ("network", "base", "layers")  # that the attributes of a file and a request have to share


# -- attributes, as they are kept --------------------------------------------------------------------------------------------


def network_of(model):
    """What attributes belong to: the fingerprint of a network's weights."""
    return getattr(model, "fingerprint", None) or fingerprint.of_model(model)


def packed(learnt):
    """{layer: CLA} as the tensors of a file, in half precision."""
    tensors = {}
    for name, one in learnt.items():
        parts = {"attributes": one.attributes.half(), "patterns": one.patterns.to(torch.uint8), "strength": torch.tensor(one.strength)}
        for which in ("first", "second"):
            weight, bias = getattr(one, which)
            parts |= {f"{which}.weight": weight.half(), f"{which}.bias": bias.half()}
        tensors |= {f"{name}/{part}": tensor.detach().cpu().contiguous() for part, tensor in parts.items()}
    return tensors


def unpacked(state, device="cpu", dtype=torch.float32):
    """The tensors of a file as {layer: CLA}."""
    found = {}
    for name in dict.fromkeys(key.rpartition("/")[0] for key in state):
        part = {key.rpartition("/")[2]: value.to(device, dtype) for key, value in state.items() if key.rpartition("/")[0] == name}
        pairs = [(part[f"{which}.weight"], part[f"{which}.bias"]) for which in ("first", "second")]
        found[name] = CLA(part["attributes"], *pairs, part["patterns"], round(float(part["strength"]), 4))
    return found


def candidates(attributes):
    """The files that may hold the attributes asked for: the one named, or those of the folder named and the shipped ones (None: these alone).

    Raises FileNotFoundError where there is nothing of the name.
    """
    shipped, place = sorted(SHIPPED.glob("clam--*.safetensors")), SHIPPED if attributes is None else path_of("attributes", attributes)
    if not place.exists():
        raise FileNotFoundError(f"no attributes file or folder {place}; `xai-repro fit clam` writes one")
    if place.is_dir():
        return shipped if attributes is None else [*sorted(place.glob("*.safetensors")), *shipped]
    return [place]


def digests(attributes):
    """What is in the files that may be read, so that kept results rest on it."""
    return [recorded(path) or sha256(path) for path in candidates(attributes)]


def file_of(model, base, layers, attributes=None):
    """The file of what was learnt of this network with this base and choice of layers. Raises the errors of `clam`.

    A folder may hold other files, and damaged ones: these are passed over.
    """
    wanted = dict(zip(FACTS, (network_of(model), base, layers)))
    for path in candidates(attributes):
        named = attributes is not None and path == Path(attributes)
        try:
            facts = read_facts(path)
        except ValueError:
            if named:
                raise
            continue
        if all(facts.get(key) == own for key, own in wanted.items()):
            return path
        if named:
            unlike = [f"{key} {facts.get(key, 'none')} in place of {own}" for key, own in wanted.items() if facts.get(key) != own]
            raise ValueError(f"the attributes in {path} were fitted to something else: {'; '.join(unlike)}")
    place = "" if attributes is None else f"; {attributes} holds none"
    raise NotApplicable(f"CLAM needs attributes that were fitted to this network, with base {base} and layers {layers}{place}: `xai-repro fit clam` writes them")


def attributes_of(model, base, layers, attributes=None, dtype=torch.float32):
    """{layer: CLA}, what was learnt of this network with this base and choice of layers. Raises the errors of `clam`."""
    state, _ = read_weights(file_of(model, base, layers, attributes))
    return unpacked(state, next((one.device for one in model.parameters()), "cpu"), dtype)


# -- the method ----------------------------------------------------------------------------------------------------------------


def refine(A, R, y, cla, strength, mask):
    """R times the mask of the places that are nearest to the attributes, wherever they lie."""
    corners = nearest(mean_distances(A, y, cla))
    return R * strengthened(corners, cla.p, A.shape[-2:], strength, mask).to(R)


def learnt_of(model, x, base, layers, attributes=None):
    """{layer: CLA} for images x, from the logits down. Raises the errors of `clam`."""
    if base not in list(BASES):
        raise unknown("base of CLAM", base, BASES)
    wanted = [one.name for one in specs(model, x, layers)]
    learnt = attributes_of(model, base, layers, attributes, torch.promote_types(x.dtype, torch.float32))
    if missing := [name for name in wanted if name not in learnt]:
        raise ValueError(f"the attributes lack {len(missing)} of {len(wanted)} layers, such as {missing[0]}: a fit that was interrupted goes on when it is started again")
    return {name: learnt[name] for name in wanted}


def at_layers(model, x, base, layers, strength=None, mask="corner", attributes=None):
    """{layer: what happens to relevance there} of all CLA-layers, from the logits down, for the engine."""
    strength = None if strength is None else like("strength of CLAM", strength, 1.2)
    learnt = learnt_of(model, x, base, layers, attributes)
    released = {name: ALL_ALIKE if len(learnt) < FEW else cla.strength - LESS for name, cla in learnt.items()}
    return {name: partial(refine, cla=cla, strength=released[name] if strength is None else strength, mask=mask) for name, cla in learnt.items()}


@method("clam", family="relevance", cite="clam", needs=NEEDS + "; attributes fitted to it", signed=True, files=digests)
def clam(model, x, y=None, *, base="clrp", layers="full", strength=None, mask="corner", attributes=None):
    """Relevance, made stronger at every layer where the features are nearest to what was learnt of the class.

    M_ij = sum_c R_cij, R of the base, and R_kij -> R_kij prod_n max(1, s .95^|ij - c_n|) at each CLA-layer, c_n = argmin_s d_n(s)   [CLAM, section 3.4]

    M [B,H,W], >= 0 for lrp and clrp. d_n(s): mean distance of the patch at s to attribute n, see `cla.mean_distances`; |ij - c_n|: the larger of rows
    and columns. base: "lrp", "clrp" (with a contrast of logits, as released) or "sglrp". layers: "full", behind every convolution, or "core", few. strength: s
    in all layers; None: as in training less .05, or 1.2 with fewer than ten layers, as released. mask: "corner" around the corner of the nearest
    patch, as released, which is (p - 1) / 2 off; "patch" within it. attributes: the file that `fit_clam` wrote, or a folder of them, where those
    that fit are looked for, and then among the shipped ones, of mini-vgg (None: among these alone). Costs at most twice a forward pass more than the base. With a strength of 1 it is the base's map.
    Raises UnknownName for another base, layers or mask, NotApplicable for networks that it has no sizes or attributes for, FileNotFoundError and ValueError
    for a file that is not there or was fitted to another network.
    *Deviation*: the released code takes the largest of the colours' relevance, and w+ alone at the images; it treats BatchNorm as a layer of its own, which is
    folded into the convolution here.
    """
    at = at_layers(model, x, base, layers, strength, mask, attributes)
    R, _ = relevance(model, x, y, RULES, BASES[base], at=at)
    return R.sum(1).clamp(min=0) if base == "clrp" else R.sum(1)

"""Explanation by example: the training patches that are most like those which the attributes of CLAM find in an image."""

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from safetensors.torch import save_file
from torch import Tensor

from xai_repro.data import denormalize, Sample
from xai_repro.errors import whole_number
from xai_repro.explain import check_classes, check_images, check_range, classes_of, usable
from xai_repro.methods.cla import cut, distances, embedded_patches, mean_distances
from xai_repro.methods.clam import BASES, at_layers, file_of, learnt_of, network_of, RULES
from xai_repro.models.reading import read_weights
from xai_repro.network.forward import predict
from xai_repro.network.propagate import relevance
from xai_repro.network.pyramid import activations
from xai_repro.store import fingerprint
from xai_repro.store.fetch import cache_dir
from xai_repro.store.files import path_of, record, sha256, turn, whole, writable
from xai_repro.store.progress import track
from xai_repro.study.asked import device_of, name_of
from xai_repro.study.fitting import labelled, recognised, SURE
from xai_repro.study.images import data_fingerprint, sample_of
from xai_repro.study.plots import COLOURS, HEAT, styled, WIDTH

TOP = 4  # places of each training image that an attribute may be compared at
COLUMNS = ["image", "layer", "attribute", "distance", "row", "column", "side", "rank", "example", "at_row", "at_column", "gap"]


@dataclass(frozen=True)
class Index:
    """What the attributes find in the training images that the network recognises.

    y: their classes [n]; ids, numbers: their names and their places in the data set. found: {layer: (corners [n,N,m,2] of the m nearest places of each
    attribute, the nearest first, maps D [n,N,m,q,q] there)}. base, layers: of the attributes. network: its fingerprint.
    """

    y: Tensor
    ids: tuple
    numbers: tuple
    found: dict
    base: str
    layers: str
    network: str


@dataclass(frozen=True)
class Found:
    """Where the attributes of a layer find their nearest patches. corners [B,N,m,2], the nearest first; maps D [B,N,m,q,q] there, and their means
    d [B,N,m]; stride, side: of a place and of a patch, in pixels of the image."""

    corners: Tensor
    maps: Tensor
    d: Tensor
    stride: float
    side: float


def found_by(model, x, y, learnt, top=1):
    """Where the attributes find their nearest patches in images x [B,3,H,W] of classes y [B]: {layer: Found} for learnt, {layer: CLA}."""
    return {name: found_at(A, y, learnt[name], x.shape[-1], top) for name, A in activations(model, x, list(learnt)).items()}


def found_at(A, y, cla, width, top=1):
    """The same at one layer, Found, from its outputs A [B,K,h,w]. width: of the images, in pixels."""
    A = A.to(cla.attributes.dtype)  # of a network in half precision
    stride, d = width / A.shape[-1], mean_distances(A, y, cla)
    least = (-d.flatten(2)).topk(min(top, d[0, 0].numel()), 2)
    corners = torch.stack([least.indices // d.shape[-1], least.indices % d.shape[-1]], 3)
    maps = [distances(embedded_patches(cut(A, place, cla.p), cla.patterns[y], cla), cla.attributes) for place in corners.unbind(2)]
    return Found(corners, torch.stack(maps, 2), -least.values, stride, cla.p * stride)


def build_index(model, data="mini-birds", base="clrp", layers="full", *, attributes=None, images=2000, out=None):
    """An Index of training images, built once and kept: read where it is there, made of the same network, data and attributes.

    model: a module, as from `load_model`; data: a name, whose training images are taken, or a sequence of images with labels, all of one size. base, layers,
    attributes: as for the method `clam`. images: how many are looked at; those are kept that the network recognises with p > .2. out: the file, by default
    one in the folder of caches.
    Raises the errors of `clam`, ValueError where no image is recognised, and OSError for a file that cannot be written.
    *Deviation*: the released code compares every place of every training image; here, of each attribute and image, the TOP nearest.
    """
    model, images = usable(model), whole_number("images", images)
    samples = labelled(data, images)
    first = check_images(model, sample_of(samples[0], classes_of(samples)).image[None].to(device_of(model)))
    learnt = learnt_of(model, first, base, layers, attributes)
    seen = range(min(images, len(samples)))
    facts = {"network": network_of(model), "base": base, "layers": layers, "data": str(data_fingerprint(samples, 0, len(seen))), "images": str(len(seen))}
    facts |= {"attributes": sha256(file_of(model, base, layers, attributes)), "code": fingerprint.of_code(found_by), "top": str(TOP)}
    name = f"{name_of(model)}--{base}--{layers}--{fingerprint.digest(*facts.values())}.safetensors"
    out = writable(path_of("out", out or cache_dir() / "examples" / name))
    with turn(out):  # who wants the same meanwhile waits, and finds it made
        if (kept := _read(out, facts)) is not None:
            return kept
        tensors, ids = _found_in(model, samples, seen, learnt)
        facts["ids"] = json.dumps(ids)
        Path(f"{out}.sha256").unlink(missing_ok=True)
        with whole(out) as temporary:
            save_file(tensors, temporary, facts)
        record(out, sha256(out))
        return _index(tensors, facts)


def _found_in(model, samples, seen, learnt):
    """Of the images seen that the network recognises: the tensors of an index, and their names. Raises ValueError where there are none."""
    parts, y, numbers, ids = [], [], [], []
    with track(len(seen), "training images") as step:
        for looked_at, some, x, labels in recognised(model, samples, seen):
            if some:
                found = found_by(model, x, labels, learnt, TOP)
                parts.append({name: (one.corners.to(torch.int16).cpu(), _halved(one.maps).cpu()) for name, one in found.items()})
                y.append(labels.cpu())
                numbers += [n for n, _ in some]
                ids += [one.id or str(n) for n, one in some]
            step(looked_at)
    if not parts:
        raise ValueError(f"the network recognises none of {len(seen)} training images with a probability above {SURE}: there are no examples")
    tensors = {"y": torch.cat(y), "numbers": torch.tensor(numbers)}
    for name in parts[0]:
        tensors[f"{name}/corners"], tensors[f"{name}/maps"] = (torch.cat([part[name][k] for part in parts]).contiguous() for k in (0, 1))
    return tensors, ids


def _halved(maps):
    """In half precision, where it holds what is there."""
    half = maps.half()
    return half if half.isfinite().all() else maps.float()


def _read(path, facts):
    """The Index of a file that was made of the same things; None where it is not there, damaged, or of others."""
    try:
        state, known = read_weights(path) if os.path.isfile(path) else ({}, {})
    except ValueError:
        return None
    if not state or any(known.get(key) != value for key, value in facts.items()):
        return None
    return _index(state, known)


def _index(state, known):
    """The Index of tensors and facts of a file."""
    names = sorted({key.rpartition("/")[0] for key in state if "/" in key})
    found = {name: (state[f"{name}/corners"].long(), state[f"{name}/maps"].float()) for name in names}
    return Index(state["y"], tuple(json.loads(known["ids"])), tuple(state["numbers"].tolist()), found, known["base"], known["layers"], known["network"])


def examples(model, x, index, y=None, *, attributes=None, number=3):
    """The training patches most like those that the attributes find in images x [B,3,H,W]: one row per image, layer, attribute and example.

    gap = min_m |D_i(x) - D_im(example)|, D_i: the map of distances to attribute i where it finds its nearest patch   [CLAM, section 3.4]

    Compared are the same attribute and the training images of the same class, y [B] or the network's top-1; of attributes that find the same place, the one with
    the least distance is kept. index: of `build_index`; attributes: as for it. number: how many images per attribute, the nearest first.
    Columns: image (its row in x), layer, attribute, distance (mean of D), row, column, side (of the patch in pixels of the image: place and size times the
    layer's stride), rank, example (the training image's id), at_row, at_column, gap. Raises the errors of `explain` and `clam`, and ValueError for an index
    that was made of another network.
    """
    model, number = usable(model), whole_number("number", number)
    x = check_images(model, x)
    if not isinstance(index, Index) or index.network != network_of(model):
        raise ValueError("the index was not made of this network: build_index makes one")
    learnt = learnt_of(model, x, index.base, index.layers, attributes)
    if y is None:
        y = predict(model, x).argmax(1)
    else:
        check_range(model, x, y := check_classes(x, y, model))
    rows = []
    for name, here in found_by(model, x, y, learnt).items():
        corners, there = index.found[name]
        for b, label in enumerate(y.tolist()):
            same = (index.y == label).nonzero()[:, 0]
            for i in without_doubles(here.corners[b, :, 0], here.d[b, :, 0]):
                gaps = (there[same, i] - here.maps[b, i, 0].cpu()).flatten(2).norm(dim=2)  # [images of the class, m]
                least = gaps.min(1)
                for rank, k in enumerate(least.values.argsort()[:number].tolist(), 1):
                    own, at = ((one * here.stride).tolist() for one in (here.corners[b, i, 0], corners[same[k], i, least.indices[k]]))
                    rows.append([b, name, i, float(here.d[b, i, 0]), *own, here.side, rank, index.ids[same[k]], *at, float(least.values[k])])
    return pd.DataFrame(rows, columns=COLUMNS)


def without_doubles(corners, d):
    """Numbers of the attributes, the least distance d [N] first, without those that find the place [N,2] of one before."""
    order = d.argsort().tolist()
    places = [tuple(one) for one in corners.tolist()]
    return [i for n, i in enumerate(order) if places[i] not in [places[other] for other in order[:n]]]


def maps_on_the_way(model, x, y, base="clrp", layers="full", attributes=None):
    """Relevance [B,h,w], summed over channels, behind the mask of every CLA-layer, from the logits down: {layer: map}."""
    found = {}

    def keep(name, refine, A, R, y):
        found[name] = refine(A, R, y)
        return found[name]

    at = {name: partial(keep, name, refine) for name, refine in at_layers(model, x, base, layers, attributes=attributes).items()}
    relevance(model, x, y, RULES, BASES[base], at=at)
    return {name: R.sum(1) for name, R in found.items()}


def explained(model, image, index, training, y=None, *, attributes=None, rows=5, shown=4):
    """One image [3,H,W] by examples: (its rows of `examples`, the picture of `draw`), at some layers of the upper two thirds.

    index, attributes: as for `examples`; training: the samples that the index is of; y: class [1], None: the top-1. rows, shown: how many layers, and of each the
    attributes that are nearest to the image. Raises the errors of `examples`, and ValueError where no training image of the class is in the index.
    """
    x = image[None].to(device_of(model))
    y = predict(model, x).argmax(1) if y is None else y
    found = examples(model, x, index, y, attributes=attributes)
    if found.empty:
        raise ValueError(f"of {len(training)} training images the network recognises none of class {(classes_of(model) or range(10**9))[int(y)]}: look at more images")
    maps = {name: R[0] for name, R in maps_on_the_way(model, x, y, index.base, index.layers, attributes).items()}
    numbers, upper = dict(zip(index.ids, index.numbers)), list(maps)[: -(-2 * len(maps) // 3)]
    sample = Sample(image=image.cpu(), labels=(int(y),))
    return found, draw(sample, found, maps, lambda name: sample_of(training[numbers[name]], classes_of(training)), evenly(upper, rows), shown)


def evenly(names, most):
    """At most so many of the names, from the first to the last in even steps."""
    return names if len(names) <= most else [names[round(n * (len(names) - 1) / (most - 1))] for n in range(most)]


@styled
def draw(sample, found, maps, training, layers=None, shown=4):
    """One image explained by examples: a row per layer with the places of its attributes, relevance there, and the nearest training patches.

    sample: the image; found: its rows of `examples`; maps: {layer: [h,w]} of `maps_on_the_way`. training: id -> `Sample`. layers: names, by default all of
    found; shown: how many attributes per layer, those with the least distance. A frame has the colour of its attribute.
    """
    found = found[(found["rank"] == 1) & found["layer"].isin(layers or found["layer"].unique())]
    rows = list(found.groupby("layer", sort=False))
    figure = Figure(figsize=(WIDTH, WIDTH / (shown + 2) * 1.12 * len(rows)), layout="constrained")
    for axes, (layer, part) in zip(figure.subplots(len(rows), shown + 2, squeeze=False), rows):
        part = part.sort_values("distance").head(shown)
        _picture(axes[0], sample, layer)
        axes[1].imshow(maps[layer].clamp(min=0).cpu().numpy(), cmap=HEAT, extent=(0, *sample.image.shape[:0:-1], 0))
        axes[1].set_title("relevance", fontsize=8)
        for number, row in enumerate(part.itertuples()):
            _picture(axes[2 + number], training(row.example), f"like {number + 1}")
            for axis, at in ((axes[0], (row.column, row.row)), (axes[2 + number], (row.at_column, row.at_row))):
                axis.add_patch(Rectangle(at, row.side, row.side, fill=False, edgecolor=COLOURS[1:][number % 7], linewidth=1.8))
        for axis in axes.flat:
            axis.set_axis_off()
    return figure


def _picture(axis, sample, title):
    H, W = sample.image.shape[-2:]
    axis.imshow(denormalize(sample.image).permute(1, 2, 0).clamp(0, 1).cpu().numpy(), extent=(0, W, H, 0))
    axis.set_title(title, fontsize=8)

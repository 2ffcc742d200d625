"""Fitting CLAM: the attributes of every CLA-layer, learnt from the logits down, each with the relevance that the layers above have refined."""

import os
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from filelock import Timeout
from safetensors.torch import save
from torch import nn

from xai_repro.data import load_data
from xai_repro.errors import short, unknown, whole_number
from xai_repro.explain import check_images, classes_of
from xai_repro.methods.cla import CLA, class_patterns, contrastive, cut, distances, embedded_patches, MASKS, NORMALISERS, strengthened, top_places
from xai_repro.methods.clam import BASES, network_of, packed, RULES, unpacked
from xai_repro.methods.clam_layers import specs
from xai_repro.models import load_model
from xai_repro.models.reading import read_weights
from xai_repro.models.zoo import EMBEDDED, pick_device
from xai_repro.network.forward import predict
from xai_repro.network.propagate import relevance, relevance_between
from xai_repro.store import fingerprint
from xai_repro.store.files import path_of, record, sha256, turn, whole, writable
from xai_repro.store.progress import track
from xai_repro.study.asked import device_of, name_of
from xai_repro.study.images import data_fingerprint, sample_of

NEGATIVES = ("patch", "random")
SURE = 0.2  # least probability of the class of an image that is learnt from
SLOWER = 0.95  # of the rate, after an epoch that improved
ALPHA = 0.1  # as released; .01 to .1 in the paper
LOW, LOWER_BETA, BETA = 2, 0.5, 0.6  # beta of a VGG's two layers next to the image, and of all others, as released
DRAWN = 16  # images explained at once
MOST = 4 << 30  # bytes of relevance that are kept at a layer


def fit_clam(
    model="mini-vgg", data="mini-birds", base="clrp", layers="full", *, weights=None, images=480, epochs=5, patience=1, batch=8, negatives="patch",
    normaliser="size", mask="corner", seed=0, out=None, device="auto",
):  # fmt: skip
    """Fit the attributes of CLAM to a network and write them to a .safetensors file; returns its path.

    model: a name, or a module; data: a name, whose training images are taken, or a sequence of `Sample`. base: "lrp", "clrp" or "sglrp"; layers: "full" or
    "core". weights: of a model given by name, as for `load_model`; None: those trained on the data. images: how many are looked at (480 of mini-birds are 30
    a class, as in CUB); those are learnt from whose class the network predicts with p > .2. epochs: 5 at most, as released (the paper: 100; 0, as a control: nothing is learnt); patience:
    epochs in which the distances of the right class's patches, less those of the negatives, get no better before a layer is done, 1 as released. batch: images
    a step, 8 of 480 as 80 of CUB's 5,994. negatives: "patch", the same patches with another class's pattern, as in the paper; "random", patches at random
    places with it, as released. normaliser: of the distances, see `cla.contrastive`. mask: of the layers above while a layer is learnt. out: default
    clam--MODEL--DATA--BASE--LAYERS.safetensors in the working directory.
    seed: of attributes, patterns, order and negatives. device: where a model given by name, or a module, is put ("auto": a GPU where there is one). alpha, beta: as released,
    .1 and .6, .5 in the two layers of a VGG next to the image.
    A layer is on disk as soon as it is learnt: a run that was interrupted, started again with the same arguments, goes on from there to the same
    attributes; one that is done is not done again. Numbers are kept in half precision.
    Raises UnknownName, ValueError or OSError before anything runs; ValueError where no image is recognised.
    *Deviation*: BatchNorm is folded into the convolution before it, as for all relevance here (released: a layer of its own); a layer is done by the rule of the
    distances above (text: 100 epochs), and the rate falls after an epoch that improved, both as released; sizes, strengths and numbers of attributes are the released
    lists, in proportion to the images' side.
    """
    for kind, given, possible in (("base of CLAM", base, BASES), ("negatives", negatives, NEGATIVES), ("normaliser", normaliser, NORMALISERS), ("mask", mask, MASKS)):
        if given not in list(possible):
            raise unknown(kind, given, possible)
    numbers = {name: whole_number(name, value) for name, value in dict(images=images, patience=patience, batch=batch).items()}
    numbers |= {name: whole_number(name, value, 0) for name, value in dict(epochs=epochs, seed=seed).items()}
    samples = labelled(data, images)
    numbers["images"] = min(numbers["images"], len(samples))
    net = _network(model, data, weights, device)
    out = path_of("out", out or f"clam--{name_of(model)}--{name_of(data)}--{base}--{layers}.safetensors")
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} does not end in .safetensors, by which attributes are found in a folder")
    part = writable(out).with_suffix(".part")
    sample = check_images(net, sample_of(samples[0], classes_of(samples)).image[None].to(device_of(net)))
    classes = predict(net, sample).shape[1]
    wanted = specs(net, sample, layers, classes)
    facts = {"network": network_of(net), "model": name_of(model), "data": str(data_fingerprint(samples, 0, numbers["images"])), "base": base, "layers": layers}
    facts |= {name: str(value) for name, value in numbers.items()} | {"negatives": negatives, "normaliser": normaliser, "mask": mask}
    facts["code"] = fingerprint.of_code(_fit)  # another formula: a new fit
    with turn(out):  # who asks for the same meanwhile waits, and finds it done
        if not _begun(out, facts, device_of(net)):
            _fit(net, samples, part, wanted, classes, base, facts, numbers, negatives, normaliser, mask)
            Path(f"{out}.sha256").unlink(missing_ok=True)  # of an older file: a run killed between here and the next lines leaves no record, not a wrong one
            os.replace(part, out)
            record(out, sha256(out))
    return out


def labelled(data, images):
    """The training images of a data set given by name, or the sequence of images with labels that was given. Raises ValueError for what is none."""
    samples = load_data(data, "train", limit=images) if isinstance(data, str) else data
    if not hasattr(samples, "__len__") or not len(samples):
        raise ValueError(f"a data set is a name or a sequence of images with labels; given: {short(repr(data))}")
    return samples


def busy(out):
    """Whether another process is fitting the attributes of a file just now."""
    lock = turn(out)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _fit(net, samples, part, wanted, classes, base, facts, numbers, negatives, normaliser, mask):
    """Learn the layers that the file part does not hold yet, and write each to it."""
    learnt, device = _begun(part, facts, device_of(net)), device_of(net)
    x, y = _learnt_from(net, samples, numbers["images"])
    way = Way(net, x, y, base)
    with track(len(wanted), f"layers of CLAM, {base}") as step:
        for number, spec in enumerate(wanted):
            generator = torch.Generator().manual_seed(crc32(f"{numbers['seed']} {spec.name}".encode()))
            found = way.down_to(spec.name, partial(_patches, spec=spec, negatives=negatives, generator=generator))
            if spec.name not in learnt:
                patches, *others = (torch.cat(some) for some in zip(*found))
                beta = LOWER_BETA if isinstance(getattr(net, "features", None), nn.Sequential) and number >= len(wanted) - LOW else BETA
                options = {name: numbers[name] for name in ("epochs", "patience", "batch")} | {"normaliser": normaliser, "device": device}
                one = learn(patches, others[0] if others else patches, y, spec, classes, generator, beta, **options)
                learnt |= unpacked(packed({spec.name: one}), device)  # rounded as after reading, so that who goes on from a file sees the same
                with whole(part) as temporary:
                    Path(temporary).write_bytes(save(packed(learnt), facts))
            way.refine(spec, partial(refined_by_own_patches, cla=learnt[spec.name], mask=mask))
            step()


class Way:
    """Relevance of images x [n,3,H,W] of classes y [n] on its way down a network, from CLA-layer to CLA-layer, DRAWN images at a time.

    Where all of it passes a layer, and it and the features there are not more than MOST bytes, it goes on from there; else from the last such layer, or
    from the logits.
    """

    def __init__(self, net, x, y, base):
        self.net, self.base, self.top, self.R, self.at, self.here = net, base, None, [], {}, []
        self.batches = [(some, y[start : start + DRAWN]) for start, some in zip(range(0, len(x), DRAWN), x.split(DRAWN))]

    def down_to(self, layer, function):
        """function(A, R) at a layer's output, on the CPU, of each batch."""
        found, room, device, self.here = [], MOST, device_of(self.net), []
        for number, (x, y) in enumerate(self.batches):
            x, y = x.to(device), y.to(device)
            if self.top is None:
                pair = relevance(self.net, x, y, RULES, BASES[self.base], layer, self.at)
            else:
                pair = relevance_between(self.net, x, y, RULES, self.R[number].to(device), self.top, layer, self.at)
            R, A = (one.cpu() for one in pair)
            found.append(function(A, R))
            room -= R.nbytes + A.nbytes
            if room >= 0:
                self.here.append((R, A))
        return found

    def refine(self, spec, function):
        """Make relevance stronger at the layer that it has come down to: now, or whenever it passes there."""
        if spec.whole and len(self.here) == len(self.batches):
            device = device_of(self.net)
            refined = (function(A.to(device), R.to(device), y.to(device)) for (R, A), (_, y) in zip(self.here, self.batches))
            self.top, self.R, self.at = spec.name, [R.cpu() for R in refined], {}
        else:
            self.at[spec.name] = function


def _network(model, data, weights, device):
    if not isinstance(model, str):
        return model.to(pick_device(device))
    return load_model(model, weights=weights or ((data if isinstance(data, str) else None) if model in EMBEDDED else "imagenet"), device=device)


def _begun(path, facts, device):
    """{layer: CLA} of a file that was written with the same arguments, on the device; nothing where there is none."""
    try:
        state, known = read_weights(path) if path.is_file() else ({}, {})
    except ValueError:
        return {}
    return unpacked(state, device) if known == facts else {}


def recognised(net, samples, numbers):
    """Of the images of these numbers, DRAWN at a time, those that the network recognises with p > SURE: (how many were looked at, [(number, Sample)], x, y)."""
    classes = classes_of(samples)
    for start in range(0, len(numbers), DRAWN):
        some = [(n, sample_of(samples[n], classes)) for n in numbers[start : start + DRAWN]]
        x = check_images(net, torch.stack([one.image for _, one in some]).to(device_of(net)))
        y = torch.tensor([one.labels[0] if one.labels else -1 for _, one in some], device=x.device)
        p, top = predict(net, x).softmax(1).max(1)
        right = (top == y) & (p > SURE)
        yield len(some), [pair for pair, good in zip(some, right.tolist()) if good], x[right], y[right]


def _learnt_from(net, samples, images):
    """The images and classes that are learnt from, on the CPU."""
    found = [(x.cpu(), y.cpu()) for _, _, x, y in recognised(net, samples, range(images))]
    x, y = map(torch.cat, zip(*found))
    if not len(y):
        raise ValueError(f"the network recognises none of {images} images with a probability above {SURE}: there is nothing to learn from")
    return x, y


def refined_by_own_patches(A, R, y, cla, mask):
    """While the layers below learn: attribute i is looked for within the i-th patch of most relevance alone.

    A mask around a corner lies at the corner of the window that is nearest, as released; one within the patch at the patch.
    """
    corners = top_places(R, cla.p, len(cla.attributes))
    if mask == "corner":
        E = embedded_patches(cut(A, corners, cla.p), cla.patterns[y], cla)
        inside = distances(E, cla.attributes).flatten(2).argmin(2)
        corners = corners + torch.stack([inside // cla.q, inside % cla.q], 2)
    return R * strengthened(corners, cla.p, A.shape[-2:], cla.strength, mask).to(R)


def _patches(A, R, spec, negatives, generator):
    """The patches of most relevance R among features A [B,K,H,W], and those of the negatives where they are others, [B,N,K,p,p] both."""
    corners = top_places(R, spec.p, spec.number)
    patches = cut(A, corners, spec.p)
    if negatives == "patch":
        return (patches,)
    places = [torch.randint(size - spec.p + 1, corners.shape[:2], generator=generator) for size in A.shape[-2:]]
    return patches, cut(A, torch.stack(places, 2), spec.p)


def learn(patches, others, y, spec, classes, generator, beta=BETA, epochs=5, patience=1, batch=8, normaliser="size", device="cpu"):
    """A CLA-layer from its patches and those of the negatives, [n,N,K,p,p], of images of classes y [n].

    Adam on attributes (uniform at first) and 1x1 convolutions, at a rate of .01 a / 2, less after each epoch that improved   [CLAM, appendix A.1].
    """
    channels = patches.shape[2] + 1
    attributes = torch.rand(spec.number, channels, spec.a, spec.a, generator=generator)
    pairs = [(torch.randn(channels, channels, generator=generator) * (2 / channels) ** 0.5, torch.zeros(channels)) for _ in range(2)]
    patterns = class_patterns(classes, spec.p, generator).to(device)
    made = [one.to(device).requires_grad_() for one in (attributes, *pairs[0], *pairs[1])]
    cla = CLA(made[0], tuple(made[1:3]), tuple(made[3:5]), patterns, spec.strength)
    optimizer = torch.optim.Adam(made, lr=0.01 * spec.a / 2)
    best, worse = float("inf"), 0
    for _ in range(epochs):
        gap = 0.0
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            wrong = (y[rows] + torch.randint(1, classes, (len(rows),), generator=generator)) % classes
            both = ((patches, y[rows]), (others, wrong))
            near, far = (distances(embedded_patches(some[rows].to(device), patterns[labels.to(device)], cla), cla.attributes) for some, labels in both)
            loss = contrastive(near, far, spec.a, ALPHA, beta, normaliser).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            gap += (near.mean() - far.mean()).item() * len(rows) / len(y)
        best, worse = (gap, 0) if gap < best else (best, worse + 1)
        if worse == patience:
            break
        for group in optimizer.param_groups:
            group["lr"] *= 1 if worse else SLOWER
    done = [one.detach() for one in made]
    return CLA(done[0], tuple(done[1:3]), tuple(done[3:5]), patterns, spec.strength)

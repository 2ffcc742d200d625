"""How good the attributes of CLAM are: does a patch that points at a beak retrieve beaks? Drawn birds know where every part is.

A patch shows what it holds most pixels of: a part of the bird, or *background*.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from xai_repro.methods.cla import correlated, cut, distances, embedded_patches, top_places
from xai_repro.methods.clam import BASES, learnt_of, RULES
from xai_repro.metrics.parts import worth
from xai_repro.network.forward import predict
from xai_repro.network.propagate import relevance
from xai_repro.network.pyramid import activations
from xai_repro.study.asked import device_of
from xai_repro.study.examples import found_at, found_by, without_doubles
from xai_repro.study.resampling import interval, mean_of
from xai_repro.study.shards import COLUMNS

NOTHING = "background"
WAYS = ("attributes", "nearest features", "any attribute", "anywhere")


def part_of_patches(sample, p, stride, names):
    """What the patch at every place shows, long [h,w]: the place of a part in names, the same for all samples, or their number for background.

    p: side of a patch in places; stride: of a place, in pixels.
    """
    unseen = torch.zeros(sample.image.shape[-2:], dtype=torch.bool)
    masks = torch.stack([sample.parts.get(name, unseen) for name in names])
    masks = torch.cat([masks, ~masks.any(0, keepdim=True)]).float()[None]
    return F.avg_pool2d(masks, round(p * stride), round(stride))[0].argmax(0)


def parts_of(samples):
    """Names of the parts that are seen in any of the samples."""
    return list(dict.fromkeys(name for sample in samples for name in sample.parts))


def retrieved(model, queries, index, training, attributes=None):
    """Whether the training patch that is found for each attribute shows the part that the attribute's own patch shows: rows as of `evaluate`.

    queries: samples with parts; index: of `build_index`; training: the samples that it is of. One row per query, layer and way of finding, the mean over
    the attributes without doubles, each image for its top-1:

    *attributes*: the nearest map of distances, as CLAM retrieves. *nearest features*: the patch of the layer's features, normalised place by place,
    that is nearest, anywhere in the training images of the class: nothing is learnt. *any attribute*: by chance, any place that any attribute of the layer finds in
    them; *anywhere*: any place at all.

    Columns: image_id, layer, method (the way), value, n (attributes that show a part; those that show background do not count). Queries without a training
    image of their class are left out, and layers whose attributes show no part.
    """
    x = torch.stack([one.image for one in queries]).to(device_of(model))
    y = predict(model, x).argmax(1)
    learnt, rows = learnt_of(model, x, index.base, index.layers, attributes), []
    for label in y.unique().tolist():
        own, same = (y == label).nonzero()[:, 0], (index.y == label).nonzero()[:, 0]
        if not len(same):
            continue
        samples = [training[index.numbers[k]] for k in same.tolist()]
        names = parts_of([*queries, *samples])
        theirs = activations(model, torch.stack([one.image for one in samples]).to(x.device), list(learnt))
        ours = activations(model, x[own], list(learnt))
        for name, cla in learnt.items():
            here, (corners, maps) = found_at(ours[name], y[own], cla, x.shape[-1]), (one[same] for one in index.found[name])
            there = torch.stack([part_of_patches(one, cla.p, here.stride, names) for one in samples])  # [n,h,w]
            at_attributes = there[torch.arange(len(same))[:, None, None], corners[..., 0], corners[..., 1]]  # [n,N,m]
            for b, query in enumerate(own.tolist()):
                parts = part_of_patches(queries[query], cla.p, here.stride, names)
                kept = without_doubles(here.corners[b, :, 0], here.d[b, :, 0])
                shown = parts[tuple(here.corners[b, kept, 0].cpu().T)]  # [N]
                kept, shown = [i for i, one in zip(kept, shown.tolist()) if one < len(names)], shown[shown < len(names)]
                if not kept:
                    continue
                gaps = (maps[:, kept] - here.maps[b, kept, :1].cpu()).flatten(3).norm(dim=3)  # [n,N,m]
                least = gaps.permute(1, 0, 2).flatten(1).argmin(1)
                by_attributes = at_attributes[:, kept].permute(1, 0, 2).flatten(1).gather(1, least[:, None])[:, 0]
                by_features = there.flatten()[_nearest(ours[name][b], here.corners[b, kept, 0], theirs[name], cla.p)]
                values = ((by_attributes == shown), (by_features == shown), _share(at_attributes[..., 0], shown), _share(there, shown))
                for way, value in zip(WAYS, values):
                    rows.append([queries[query].id, name, way, float(value.double().mean()), len(kept)])
    return pd.DataFrame(rows, columns=["image_id", "layer", "method", "value", "n"])


def _share(parts, shown):
    """Of all places, the share that shows each of the parts."""
    return torch.stack([(parts == one).double().mean() for one in shown])


def _nearest(A, corners, others, p):
    """The flat number [N] among all patches [n,h,w] of others [n,K,H,W] of the one nearest to each patch of A [K,H,W] at corners [N,2], place by place normalised."""
    A, others = (F.normalize(one, dim=-3) for one in (A, others))
    patches = cut(A[None], corners[None], p)[0]
    energy = F.avg_pool2d(others.square().sum(1, keepdim=True), p, 1) * p * p
    found = energy - 2 * correlated(others, patches)  # [n,N,h,w], less |patch|^2
    return found.transpose(0, 1).flatten(1).argmin(1).cpu()


def lying(model, samples, base="clrp", layers="full", attributes=None):
    """On which parts attributes lie, beside relevance and chance: (rows, parts).

    rows: one per image and way (*attributes*: where each finds its nearest patch; *relevance*: as many patches of most relevance of the base; *anywhere*), with the
    share of the patches, mean over layers, that show each part (a column of its name, and background), and `decides`: the share that shows the part that the
    logit depends on most (`parts.worth`). parts: name, effect (mean over images of its worth), of the parts that decide.
    """
    x = torch.stack([one.image for one in samples]).to(device_of(model))
    y = predict(model, x).argmax(1)
    learnt = learnt_of(model, x, base, layers, attributes)
    found, value = found_by(model, x, y, learnt), worth(model, x, y, samples)
    names = parts_of(samples)
    shares = {way: torch.zeros(len(samples), len(learnt), len(names) + 1) for way in ("attributes", "relevance", "anywhere")}
    for number, (name, cla) in enumerate(learnt.items()):
        R, _ = relevance(model, x, y, RULES, BASES[base], name)
        relevant = top_places(R, cla.p, len(cla.attributes)).cpu()
        for b, sample in enumerate(samples):
            parts = part_of_patches(sample, cla.p, found[name].stride, names)
            at = {"attributes": parts[tuple(found[name].corners[b, :, 0].cpu().T)], "relevance": parts[tuple(relevant[b].T)], "anywhere": parts.flatten()}
            for way, shown in at.items():
                shares[way][b, number] = torch.bincount(shown, minlength=len(names) + 1) / len(shown)
    rows = []
    for way, share in shares.items():
        for b, sample in enumerate(samples):
            strongest = list(sample.counterfactuals.shapes)[int(value.effect[b].nan_to_num(-torch.inf).argmax())]
            own = dict(zip([*names, NOTHING], share[b].mean(0).tolist()))
            rows.append({"image_id": sample.id, "method": way} | own | {"decides": own.get(strongest, 0.0)})
    effects = value.effect.double().nanmean(0).tolist()
    return pd.DataFrame(rows), pd.DataFrame({"part": list(samples[0].counterfactuals.shapes), "effect": effects})


def means(rows, by, value="value"):
    """Means with 95 % intervals over images: one row for each of the groups, with mean, low, high and n (images)."""
    found = []
    for key, part in rows.groupby(by, sort=False):
        per_image = part.groupby("image_id", sort=False)[value].mean()
        mean, samples = mean_of(per_image.to_numpy(), np.arange(len(per_image)), np.zeros(len(per_image), int))
        found.append(dict(zip(by, key)) | dict(zip(("mean", "low", "high", "n"), (mean, *interval(samples), len(per_image)))))
    return pd.DataFrame(found)


def as_rows(found, dataset, metric, value="value"):
    """Rows of one value per image, model and method, as `evaluate` gives them, for claims."""
    per_image = found.groupby(["model", "method", "image_id"], sort=False)[value].mean().rename("value").reset_index()
    empty = {"paper": "clam", "dataset": dataset, "run": 0, "target": 0, "hyper": "{}", "metric": metric, "seconds": np.nan, "status": "ok"}
    facts = dict.fromkeys(("empty", "negative", "difficult"), False) | {"correct": True}
    return per_image.assign(**empty, **facts)[COLUMNS]


def told_apart(model, samples, base="clrp", layers="full", attributes=None, seed=0):
    """What a CLA-layer has learnt: how often a patch is nearer with its class's pattern than with another's, and nearer than a patch elsewhere.

    One row per layer: classes, the share of patches of most relevance whose distance with the right pattern is less than with that of another class, drawn at
    random; places, than that of a patch at a random place (ties count half; .5: nothing is learnt); pattern, the median of 1 / |F| over places, which is what a bit of
    the pattern weighs beside the features.
    """
    x = torch.stack([one.image for one in samples]).to(device_of(model))
    y = predict(model, x).argmax(1)
    learnt, generator, found = learnt_of(model, x, base, layers, attributes), torch.Generator().manual_seed(seed), []
    for name, cla in learnt.items():
        R, A = relevance(model, x, y, RULES, BASES[base], name)
        other = (y + torch.randint(1, len(cla.patterns), y.shape, generator=generator).to(y)) % len(cla.patterns)
        corners = top_places(R, cla.p, len(cla.attributes))
        elsewhere = torch.stack([torch.randint(size - cla.p + 1, corners.shape[:2], generator=generator) for size in A.shape[-2:]], 2).to(corners)
        right, wrong, far = (
            distances(embedded_patches(cut(A, at, cla.p), cla.patterns[label], cla), cla.attributes).mean((2, 3)) for at, label in ((corners, y), (corners, other), (elsewhere, y))
        )
        classes, places = (((right < one).double() + (right == one).double() / 2).mean().item() for one in (wrong, far))
        found.append({"layer": name, "classes": classes, "places": places, "pattern": (1 / A.norm(dim=1).clamp(min=1e-6)).median().item()})
    return pd.DataFrame(found)

"""How many collections Collection-CAM makes of a layer's feature maps, which its paper leaves open."""

import pandas as pd
import torch

from xai_repro.methods.masks import features, membership
from xai_repro.network.pyramid import pyramid
from xai_repro.study.asked import load_pair

LEAST, RANGES = 2, (5, 10, 20)


def chosen(models, data, limit, ranges=RANGES):
    """The mean number of collections that the index chooses: one row per model, range and stage, from the image to the logits, each image for its top-1.

    models: names; data: name of a data set; limit: its images; ranges: their upper ends. Columns: model, range, stage, channels, collections, `at the upper end`: the share of the images in which
    the bound decided, not the index.
    """
    found = []
    for name in models:
        model, samples = load_pair(name, data, limit)
        pairs, _ = pyramid(model, torch.stack([sample.image for sample in samples]), None)
        for most in ranges:
            counts = pd.DataFrame([membership(features(A, G), LEAST, most).any(2).sum(1).numpy() for A, G in pairs])
            facts = {"stage": counts.index + 1, "channels": [A.shape[1] for A, _ in pairs], "collections": counts.mean(axis=1), "at the upper end": (counts == most).mean(axis=1)}
            found.append(pd.DataFrame({"model": name, "range": f"{LEAST} to {most}"} | facts))
    return pd.concat(found, ignore_index=True)

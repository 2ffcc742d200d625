"""Sanity checks: a map that stays the same when the model's parameters are drawn anew does not explain the model."""

import torch

from xai_repro.errors import unknown
from xai_repro.metrics.randomise import randomised
from xai_repro.metrics.similarity import SIMILARITIES
from xai_repro.registry import metric


@metric("sanity-cascading", higher_is_better=False, cite="adebayo2018sanity", maps="raw")
def sanity_cascading(
    model, x, y, maps, truth=None, *, method="grad-cam", settings=None, layer=None, similarity="spearman", start="logits", seed=0
):  # fmt: skip
    """How much of a map is left while the model is randomised from the logits downwards, block after block.

    (1/L) sum_l sim(M, M^l), M^l: the map of the model with blocks 1 to l drawn anew, block 1 that of the logits
    [Adebayo et al. 2018, section 3.1; Collection-CAM, figure 8]

    In [-1,1] per image, and 1 for a map that ignores the model; NaN where M is constant. M is the map as the method gives it,
    with its sign, at input resolution. method: what gave the maps; settings: its hyper-parameters; layer: its layer, where it
    has one. similarity: "spearman" (ranks of the pixels), "ssim" or "hog", see `xai_repro.metrics.similarity`. start: "logits", or
    "last-convolution" as Collection-CAM has it, which leaves what is above as trained. seed: of the parameters. The class stays y. Raises UnknownName for another similarity or method and for a hyper-parameter that the method
    does not have.
    *Deviation*: the paper shows curves over the blocks, whose mean this is, and its released code explains the top class of each
    randomised model, which mixes in a change of class. Where M^l is constant, the similarity is not defined and counts 0:
    nothing of M is left, and leaving l out would judge a method by the blocks that it survives. No map is clipped.

    *Misleads*: A map that changes with the parameters explains nothing by that: noise that is new each time passes best. And where all maps
    follow the edges of the image, they stay alike although the model has changed.
    """
    return _similarity("cascading", model, x, y, maps, method, settings, layer, similarity, start, seed)


@metric("sanity-independent", higher_is_better=False, cite="adebayo2018sanity", maps="raw")
def sanity_independent(
    model, x, y, maps, truth=None, *, method="grad-cam", settings=None, layer=None, similarity="spearman", start="logits", seed=0
):  # fmt: skip
    """How much of a map is left when one block of the model is randomised and all others are kept.

    (1/L) sum_l sim(M, M^l), M^l: the map of the model with block l alone drawn anew
    [Adebayo et al. 2018, section 3.2; Collection-CAM, figure 8]

    In [-1,1] per image. method, settings, layer, similarity, start, seed, undefined values, errors and *Deviation* as for
    sanity-cascading.

    *Misleads*: As for sanity-cascading. And where a block has a way around it, as in residual networks, little changes in the model when that
    block is drawn anew, and a map that says so is called insensitive.
    """
    return _similarity("independent", model, x, y, maps, method, settings, layer, similarity, start, seed)


def _similarity(order, model, x, y, maps, method, settings, layer, similarity, start, seed):
    if similarity not in SIMILARITIES:
        raise unknown("similarity", similarity, SIMILARITIES)
    alike = SIMILARITIES[similarity]
    steps = randomised(model, x, y, method, order, seed, settings, layer, start)
    values = torch.stack([alike(maps, others.to(maps)).nan_to_num(0) for _, others in steps])
    return torch.where(alike(maps, maps).isnan(), torch.nan, values.mean(0))

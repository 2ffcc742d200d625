"""Faithfulness: how the model's probability moves when the image is multiplied by the map.

Y = p_y(x), O = p_y(x M), D = p_y(x (1 - M)); p: softmax probability (sigmoid for a multi-label model); M in [0,1]. The mask
multiplies the normalised image, so what is masked becomes the mean colour.
"""

import torch

from xai_repro.network.forward import predict
from xai_repro.network.target import of_class, probabilities
from xai_repro.registry import metric
from xai_repro.store.sharing import shared


@shared
def logits(model, x, mask=None):
    """Logits [B,C] of the images, multiplied by their masks [B,H,W] where these are given."""
    return predict(model, x if mask is None else x * mask[:, None])


def probability(model, x, y, mask=None):
    """p_y(x_b) for every image b, or p_y(x_b M_b), [B]."""
    return of_class(probabilities(model, logits(model, x, mask)), y)


@metric("increase-in-confidence", higher_is_better=True, cite="chattopadhay2018gradcampp")
def increase_in_confidence(model, x, y, maps, truth=None):
    """Whether the part of the image that the map keeps convinces the model more than the whole image.

    1[O > Y]   [LIFT-CAM supplement, tables 3 to 5 and 7; Collection-CAM, eq. 27]

    0 or 1 per image, NaN where the model gives NaN; its mean is the share of images.
    *Deviation*: Collection-CAM prints Y > O in eq. 27, which contradicts its own "higher is better".

    *Misleads*: Showing less can raise the probability for reasons of its own: the mean colour covers what spoke for another class, wherever
    the map comes from. It counts how often, not by how much, and a network that is certain already cannot become surer.
    """
    O, Y = probability(model, x, y, maps), probability(model, x, y)  # noqa: E741
    return (O > Y).to(x.dtype).where(~(O - Y).isnan(), torch.nan)


@metric("confidence-gain", higher_is_better=True, cite="")
def confidence_gain(model, x, y, maps, truth=None):
    """By how much the probability grows, or shrinks, when only what the map keeps is shown.

    O - Y

    In [-1,1] per image. No paper of the five prints it: it says how large the increases are that increase-in-confidence counts.

    *Misleads*: A map that is near 1 everywhere selects nothing and loses nothing: it stands above maps that are right and narrow.
    """
    return probability(model, x, y, maps) - probability(model, x, y)


@metric("average-drop", higher_is_better=False, cite="chattopadhay2018gradcampp")
def average_drop(model, x, y, maps, truth=None):
    """How much of the probability is lost when only what the map keeps is shown.

    max(0, Y - O) / Y   [LIFT-CAM supplement, tables 3 to 5 and 8; Collection-CAM, eq. 26]

    In [0,1] per image; NaN where Y is 0 (the probability underflows).

    *Misleads*: A map that is near 1 everywhere selects nothing and loses nothing: the wider a map, the better, whatever it lies on.
    """
    Y = probability(model, x, y)
    return ((Y - probability(model, x, y, maps)).clamp(min=0) / Y).where(Y > 0, torch.nan)


@metric("average-drop-in-deletion", higher_is_better=True, cite="jung2021liftcam")
def average_drop_in_deletion(model, x, y, maps, truth=None):
    """How much of the probability is lost when what the map marks is taken away.

    (Y - D) / Y   [LIFT-CAM supplement, tables 3 to 5 and 9]

    At most 1, and negative where the model gains; NaN where Y is 0 (the probability underflows).
    *Deviation*: the supplement does not say whether gains are clipped; they are kept here, as in two independent implementations.

    *Misleads*: A map that is near 1 everywhere takes the whole image away: the wider a map, the better, whatever it lies on. Images of which
    the network is unsure, with a small Y, can have values far below 0, and these weigh most in a mean.
    """
    Y = probability(model, x, y)
    return ((Y - probability(model, x, y, 1 - maps)) / Y).where(Y > 0, torch.nan)

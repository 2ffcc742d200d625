"""Maps of relevance: what comes back to each pixel of what begins at the logits, by rules that differ in who gets how much.

The engine is network/propagate.py, the formulas of a layer are network/rules.py; a method is a start and a table of rules.
"""

import torch

from xai_repro.errors import NotApplicable, unknown
from xai_repro.methods.lifts import upsample
from xai_repro.network import rules
from xai_repro.network.layers import default_layer, stages
from xai_repro.network.propagate import relevance
from xai_repro.network.rules import contribution, Rules
from xai_repro.registry import method

LAYER_RULES = {
    "zero": rules.zero, "epsilon": rules.epsilon, "gamma": rules.gamma, "alpha1beta0": rules.alpha1beta0, "alpha2beta1": rules.alpha2beta1,
    "z-box": rules.z_box, "flat": rules.flat, "w-square": rules.w_square,
}  # fmt: skip
COMPOSITES = {  # the rules of convolutions and of linear layers, named as in zennit
    "epsilon-plus": ("alpha1beta0", "epsilon"), "epsilon-gamma": ("gamma", "epsilon"), "epsilon-alpha2beta1": ("alpha2beta1", "epsilon"),
}  # fmt: skip
NEEDS = "linear layers and convolutions, called from Python"


def table(rule, first):
    """The Rules of a rule's or composite's name, with another rule for the layers that read the images.

    Raises UnknownName for a name.
    """
    if rule not in LAYER_RULES and rule not in COMPOSITES:
        raise unknown("rule", rule, [*LAYER_RULES, *COMPOSITES])
    if first not in LAYER_RULES:
        raise unknown("rule of the first layer", first, LAYER_RULES)
    convolution, linear = COMPOSITES.get(rule, (rule, rule))
    return Rules(LAYER_RULES[convolution], LAYER_RULES[linear], LAYER_RULES[first])


# -- where relevance begins: (logits [B,N], y [B]) -> R [B,N] ----------------------------------------------------------------


def one_hot(logits, y):
    """1 at the class. (Begun with the logit itself, a map only changes its scale, and its sign where the logit is negative.)"""
    return torch.zeros_like(logits).scatter_(1, y[:, None], 1.0)


def against_all(logits, y):
    """1 at the class, -1/(N-1) at each of the others: no class has more in sum."""
    others = _others(logits)
    return one_hot(logits, y) * (1 + 1 / others) - 1 / others


def against_logits(logits, y):
    """z_t at the class t, -z_n / (N-1) at each of the others: nearly as without a contrast, since other logits are of both signs and add up to little."""
    others = _others(logits)
    return one_hot(logits, y) * logits * (1 + 1 / others) - logits / others


CONTRASTS = {"alike": against_all, "logits": against_logits}  # of clrp


def softmax_gradient(logits, y):
    """1 at the class t, -p_n / (1 - p_t) at the others: dp_t/dz_n over p_t (1 - p_t), which vanishes where the network is sure."""
    _others(logits)
    chosen = one_hot(logits, y)
    return chosen - logits.masked_fill(chosen.bool(), -torch.inf).softmax(1)


def against_the_mean(logits, y):
    """1 at the class, -1/N at the others."""
    return one_hot(logits, y) * (1 + 1 / logits.shape[1]) - 1 / logits.shape[1]


def _others(logits):
    if logits.shape[1] < 2:
        raise NotApplicable("a class is set against others here, and the model has one logit")
    return logits.shape[1] - 1


def summed(model, x, y, which, start, layer, least=-torch.inf):
    """sum_c R_cij [B,H,W], at least as much as given, upsampled where it is that of a layer; None and "input": the images."""
    layer = None if layer == "input" else layer
    M = relevance(model, x, y, which, start, layer)[0].sum(1).clamp(min=least)
    return M if layer is None else upsample(M, x.shape[-2:])


# -- methods -----------------------------------------------------------------------------------------------------------------


@method("lrp", family="relevance", cite="bach2015lrp", needs=NEEDS, signed=True)
def lrp(model, x, y=None, *, rule="alpha1beta0", first="z-box", layer=None):
    """The share of every pixel in the evidence for the class, handed back from layer to layer.

    M_ij = sum_c R_cij, R_i = sum_j a_ij / (sum_i' a_i'j) R_j layer by layer, where a_ij is by default (x_i w_ij)+   [Bach et al. 2015, eq. 60]

    M [B,H,W] sums to what it begins with, 1 at the class, for rules that keep relevance: alpha1beta0 (z+), alpha2beta1, z-box, flat,
    w-square. rule: one of these, zero, epsilon, gamma (which have the bias in their denominators and leave its share there), or a
    composite: epsilon-plus, epsilon-gamma, epsilon-alpha2beta1 (epsilon in linear layers). first: the rule of the layers that read the
    images; "z-box" takes the range of each image. layer: where to stop; None, or "input", for the images. A BatchNorm belongs to the convolution
    before it, and is passed elsewhere. Sums and averages share by positive parts. By default M >= 0. Costs 3 forward passes.
    Raises UnknownName for a rule, NotApplicable where the network calls a function that has none.
    *Deviation*: the paper begins with the logit; relevance of a negative one would have the opposite sign everywhere.
    """
    return summed(model, x, y, table(rule, first), one_hot, layer)


@method("clrp", family="relevance", cite="gu2018clrp", needs=NEEDS + "; several classes")
def clrp(model, x, y=None, *, rule="alpha1beta0", first="z-box", layer=None, contrast="alike"):
    """Relevance of the class, less that of all other classes alike.

    M_ij = max(0, sum_c R_cij), R as in `lrp` from 1 at the class and -1/(N-1) at the N - 1 others   [Gu et al. 2018, section 3.2, CLRP1]

    M [B,H,W] >= 0. Rules are linear in R: one signed pass is the difference of the two, which have the same sum. rule, first,
    layer, costs and errors are those of `lrp`; NotApplicable for a model of one logit. contrast: "alike"; "logits", the logit z_t at the class and
    -z_n / (N-1) at the others, as CLAM's released code has it, where the two no longer have the same sum. Raises UnknownName for another.
    *Deviation*: the released code begins the contrast with the absolute values of all other logits.
    """
    if contrast not in CONTRASTS:
        raise unknown("contrast", contrast, CONTRASTS)
    return summed(model, x, y, table(rule, first), CONTRASTS[contrast], layer, least=0)


@method("sglrp", family="relevance", cite="iwana2019sglrp", needs=NEEDS + "; several classes", signed=True)
def sglrp(model, x, y=None, *, rule="alpha1beta0", first="z-box", layer=None):
    """Relevance of the class, less that of the classes that compete with it, each by its probability.

    M_ij = sum_c R_cij, R as in `lrp` from 1 at the class t and -p_n / (1 - p_t) at the others n   [Iwana et al. 2019, eq. 10]

    M [B,H,W], signed, sums to 0. rule, first, layer, costs and errors are those of `clrp`.
    *Deviation*: the paper begins with dp_t/dz_n, p_t (1 - p_t) times as much, which is 0 in float32 where the network is sure.
    """
    return summed(model, x, y, table(rule, first), softmax_gradient, layer)


EXCITATION = Rules(rules.excitation, weight=contribution, fold=False, summed=True)
CONTRAST = Rules(rules.excitation, last=rules.contrast, weight=contribution, fold=False, summed=True)


def middle(model, x, layer):
    """Where excitation backprop stops: at the layer named, at the images for "input", else at the end of the stage before the last."""
    return stages(model, "all", x)[-2:][0] if layer is None else layer  # TorchRay's: pool4 of a VGG, layer3 of a ResNet


@method("excitation-backprop", family="relevance", cite="zhang2018excitation", needs=NEEDS, signed=True)
def excitation_backprop(model, x, y=None, *, layer=None):
    """The probability that a walk from the class down the network, to one likely winner after the other, passes a place.

    M_ij = sum_c R_cij, R_i = sum_j x_i w+_ij / (sum_i' x_i' w+_i'j) R_j layer by layer, from 1 at the class   [Zhang et al. 2018, eq. 5]

    M [B,H,W], sums to 1 over the layer and is not negative where layers are given what rectifiers gave. layer: where to stop, by
    default the end of the stage before the last, as TorchRay's benchmark has it (pool4 of a VGG, layer3 of a ResNet); "input" for
    the images. BatchNorms are passed; summands share as they contribute. Costs 1.1 to 1.3 forward passes, 3 to the images.
    Raises NotApplicable where the network calls a function that has no rule.
    *Deviation*: TorchRay adds 1e-20 to denominators; here what has none gets nothing.
    """
    return summed(model, x, y, EXCITATION, one_hot, middle(model, x, layer))


@method("contrastive-excitation-backprop", family="relevance", cite="zhang2018excitation", needs=NEEDS)
def contrastive_excitation_backprop(model, x, y=None, *, layer=None):
    """Excitation of the class, less excitation of what speaks against it.

    M_ij = max(0, sum_c R_cij), R as in `excitation-backprop`, at the last layer through w+ less through (-w)+   [Zhang et al. 2018, eq. 7]

    M [B,H,W] >= 0. The class's weights with the other sign are the dual of the class. layer, costs and errors are those of
    `excitation-backprop`.
    """
    return summed(model, x, y, CONTRAST, one_hot, middle(model, x, layer), least=0)


RELEVANCE_CAM = Rules(rules.alpha1beta0, weight=contribution, fold=False)


@method("relevance-cam", family="relevance", cite="lee2021relevancecam", needs=NEEDS + "; a layer with maps", signed=True)
def relevance_cam(model, x, y=None, *, layer=None):
    """Activations, weighted by the mean relevance of their channel.

    M_ij = sum_k alpha_k A_kij, alpha_k = (1/hw) sum_ij R_kij, R by z+ from 1 at the class and -1/N at the others   [Lee et al. 2021, eq. 8]

    M [B,H,W], signed: there is no ReLU. layer: its A; by default the last one that gives a map. Costs one forward pass and what lies
    above the layer twice. Raises NotApplicable where the network calls a function that has no rule.
    *Deviation*: the released code adds a convolution's bias twice to the denominators, and relevance is no longer kept; here biases
    get nothing.
    """
    layer = default_layer(model, x) if layer is None else layer
    R, A = relevance(model, x, y, RELEVANCE_CAM, against_the_mean, layer)
    return upsample(torch.einsum("bk,bkij->bij", R.mean((2, 3)), A), x.shape[-2:])

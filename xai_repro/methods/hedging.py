"""Gradient Hedging: positive and negative relevance are made equally large at every layer, and share by influence, not by contribution."""

import torch

from xai_repro.errors import unknown
from xai_repro.network.layers import default_layer, listed
from xai_repro.network.propagate import relevance_from
from xai_repro.network.rules import negative, positive, positive_part, Rules, z_box
from xai_repro.numerics.algebra import ratio
from xai_repro.registry import method

PARTS = ("C", "A", "U", "Psi")
SKIPS = ("branch", "proportional")
START_LAYERS = {"AlexNet": "features"}  # where it is not the default layer


def hedging(gamma, parts):
    """The rule of one layer, for its input x, absolute weights |W| and parts C, A, U and Psi; see `gradient_hedging`."""

    def rule(layer):
        W, x = layer.W.abs(), positive(layer.x)
        active = layer.x > 0
        D_C, D_A = layer.of(torch.cat([x, active.to(x)]), W).chunk(2)
        D_U = layer.of_ones(W) - D_A  # where every input is active it is rounding, and nobody is there to take what is divided by it
        share = 1 if layer.pointwise else gamma  # which only mixes channels: no evidence to weigh, nothing to shift

        def send(R):
            P, N = hedged(R)
            S = torch.cat([ratio(share * P + N, D_C), ratio(P, D_A), ratio(N, D_U)])
            c, a, u = layer.back(S, W).chunk(3)
            C = x * c
            reached = (C != 0).to(C)
            Psi = ratio(reached, total(reached)) * (not layer.pointwise)
            terms = {"C": C, "A": torch.where(active, a, 0), "U": torch.where(active, 0, u), "Psi": -Psi}
            return sum(terms[part] for part in parts)

        return send

    return rule


def hedged(R):
    """The positive and the negative part of relevance, each image's scaled to sum to 1 and to -1   [eq. 6]."""
    P, N = positive(R), negative(R)
    return ratio(P, total(P)), ratio(N, -total(N))


def total(T):
    """The sum over all but the first dimension, kept."""
    return T.sum(tuple(range(1, T.dim())), keepdim=True)


def gradient_activation(A, G):
    """A_kij times the mean gradient of its channel, over the absolute value of its sum   [eq. 5]."""
    R = A * G.mean((2, 3), keepdim=True)
    return ratio(R, total(R).abs())


def table(gamma, parts, skip):
    """The Rules, once the hyper-parameters are found to be right."""
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma!r}; a number from 1 to 2 is meant, at least 0")
    chosen = parts.split()
    for part in chosen:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    if not chosen:
        raise ValueError(f"no part is left; possible: {', '.join(PARTS)}")
    if skip not in SKIPS:
        raise unknown("skip", skip, SKIPS)
    return Rules(hedging(gamma, chosen), first=z_box, weight=positive_part, branch=skip == "branch", fold=False)


def start_layer(model, x, layer):
    """Where it begins: the features before the average pooling; of AlexNet, after the last max-pooling, as released."""
    return layer if layer is not None else listed(model, START_LAYERS) or default_layer(model, x)


def on_the_way(model, x, y=None, *, gamma=1.0, parts="C A U Psi", skip="branch", layer=None):
    """What `gradient_hedging` computes at every layer: a list of pairs (input A, relevance R), [B,K,h,w] both, from the images up   [figure 3].

    The last pair is where it begins, the first are the images. Arguments and errors are those of `gradient_hedging`.
    """
    return relevance_from(model, x, y, table(gamma, parts, skip), gradient_activation, start_layer(model, x, layer), every=True)


@method("gradient-hedging", family="relevance", cite="gradient_hedging", needs="convolutions below a layer with maps, called from Python", signed=True)
def gradient_hedging(model, x, y=None, *, gamma=1.0, parts="C A U Psi", skip="branch", layer=None):
    """Evidence is what positive attributions are ahead of negative ones; everything else is driven below zero on its way to the image.

    M_ij = sum_c R_cij; at the layer R = A_k mean(G_k) / |sum|; at each convolution below, with J(g, R) = g_i sum_j |W_ij| R_j / sum_i' g_i' |W_i'j|,
    R_i = J(x+, gamma P + N) + J(1[x > 0], P) + J(1[x <= 0], N) - Psi_i, P = R+ / sum R+, N = R- / |sum R-|   [Gradient Hedging, eq. 5 to 13]

    M [B,H,W], signed. Psi is 1 / n at the n neurons that the first term reaches. gamma: from 1 (the paper's figures and, it seems, table 1) to 2;
    the sum of R is gamma - 2 below a convolution, except a 1x1, which has gamma = 1 and no Psi, and except where no inactive (or active) neuron
    is there to take a part. parts: those of "C A U Psi" that count, as in table 2. skip: of a residual sum, "branch" gives all to the
    convolutions, as released, "proportional" shares by positive parts. layer: where it begins, by default the last one that gives a map.
    The images get relevance by z-box. BatchNorms are passed. Costs, of what lies below the layer: 3 forward passes, 3 backward passes.
    Raises ValueError for a gamma below 0, UnknownName for a part or skip, NotApplicable where the network calls a function that has no rule.
    *Deviation*: P and N are scaled to 1 and -1 (eq. 6 says to the sum of |G|, with which the paper's own sum of R would not hold), for each image by
    itself. Relevance of what a DenseNet's blocks concatenate is kept where it is; the released code drops some. A 1x1 is told by its
    area, not by its height.
    """
    return relevance_from(model, x, y, table(gamma, parts, skip), gradient_activation, start_layer(model, x, layer)).sum(1)

"""CAMs whose coefficients are the channels' shares in the logit: M_ij = ReLU(sum_k alpha_k A_kij).

v(a') = S(h_A(a')) is the logit when h_A keeps the activation maps A_k with a'_k = 1 and sets the others to zero, so that
v(1) = S(A) and v(0) = S(0); K channels. `xai_repro.network.game` evaluates v at the cost that the head allows.
"""

import warnings
from functools import partial

import torch

from xai_repro.errors import whole_number
from xai_repro.methods import lifts
from xai_repro.network.borrow import borrowed, changes, freeze, using
from xai_repro.network.chunks import in_chunks
from xai_repro.network.forward import check_differentiable
from xai_repro.network.game import Game
from xai_repro.network.rescale import RescaleRule
from xai_repro.network.target import target_logit
from xai_repro.numerics.algebra import wide
from xai_repro.numerics.coalitions import coalitions as drawn_coalitions
from xai_repro.numerics.regression import shapley_regression, weighted_lasso
from xai_repro.registry import method

TOGETHER = 2**26  # elements of channel contributions held at once


def by_game(values, split, y, chunk):
    """values(game) for all images, in groups whose channel contributions fit in memory together, of at most chunk images."""
    K, positions = split.A.shape[1], split.A[0, 0].numel()
    outputs = split.first.weight.shape[0] if split.first else 1
    size = K * outputs * (positions if isinstance(split.first, torch.nn.Conv2d) else 1)
    together = max(1, TOGETHER // size)
    if chunk is not None:
        together = min(whole_number("chunk", chunk, most=2**62), together)
    return in_chunks(lambda rows: values(Game(split, y, rows, chunk)), len(split.A), together)


def draw_permutations(channels, n, sampling, seed):
    """Permutations [n,K] of the channels, each of them uniformly distributed.

    sampling: "plain": independent; "antithetic": each with its reverse, so that a channel that came early comes late; "sobol": the
    orders of the coordinates of scrambled Sobol points, which fill the cube more evenly than independent ones.
    Raises ValueError for another sampling or fewer than one permutation.
    """
    whole_number("permutations", n)
    generator = torch.Generator().manual_seed(seed)
    if sampling == "plain":
        return torch.rand(n, channels, generator=generator).argsort(1)
    if sampling == "antithetic":
        drawn = torch.rand(-(-n // 2), channels, generator=generator).argsort(1)
        return torch.stack([drawn, drawn.flip(1)], 1).flatten(0, 1)[:n]
    if sampling == "sobol":
        return torch.quasirandom.SobolEngine(channels, scramble=True, seed=seed).draw(n).argsort(1)
    raise ValueError(f"sampling is '{sampling}'; possible: plain, antithetic, sobol")


@method("ablation-cam", family="shapley", cite="desai2020ablationcam", lift=lifts.coefficients)
def ablation_cam(split, y, *, chunk=None):
    """What the logit loses when one channel is removed is its coefficient.

    alpha_k = v(1) - v(1 without k)   [Desai & Ramaswamy 2020, eq. 3]

    alpha [B,K], in logits. chunk: rows of the head per forward pass. Where the head is linear this is the Shapley value.
    *Deviation*: the paper divides by v(1), which turns the map upside down for a negative logit; the division is left out,
    a positive factor otherwise.
    """
    return by_game(lambda game: game.drops(), split, y, chunk)


@method("shap-cam", family="shapley", cite="lift_cam", lift=lifts.coefficients)
def shap_cam(split, y, *, permutations=100, sampling="plain", seed=0, chunk=None):
    """The Shapley value of a channel: what it adds to the logit when the channels join in random order.

    alpha_k = (1/n) sum_pi [v(pre_pi(k) and k) - v(pre_pi(k))], pre_pi(k): the channels before k in permutation pi
    [LIFT-CAM supplement, section 1]

    alpha [B,K], in logits; sum_k alpha_k = v(1) - v(0) for any number of permutations. Exact where the head is linear.
    permutations: n; the paper takes 10,000 as the truth. sampling: "plain" as in the paper, "antithetic" or
    "sobol" for less variance (see `draw_permutations`). seed: of the permutations, the same for every image. chunk: rows of the head per
    forward pass. Raises ValueError for another sampling or fewer than one permutation.
    """

    def alpha(game):
        if game.linear:
            return game.u[..., 0]
        return game.marginals(draw_permutations(game.channels, permutations, sampling, seed).to(game.A.device)) / permutations

    draw_permutations(1, permutations, sampling, seed)  # refuses wrong arguments also where nothing is drawn
    return by_game(alpha, split, y, chunk)


@method("lift-cam", family="shapley", cite="lift_cam", lift=lifts.coefficients)
def lift_cam(split, y):
    """DeepLIFT's contribution of a channel, against activations of zero: one backward pass that nears the Shapley value.

    alpha_k = sum_ij C_kij, C_kij = A_kij m_kij, with m the multipliers of the rescale rule   [LIFT-CAM supplement, section 3.1]

    alpha [B,K], in logits; sum_k alpha_k = v(1) - v(0) where everything above the layer has a rule: linear layers, elementwise
    functions, max-pooling, products, quotients, layer and group normalisation, softmax and attention (see `network.rescale`). Where
    the shares miss the change of the logit by more than 1 %, a warning says by how much. Equal to the Shapley value where the head
    is linear. DeepSHAP averages DeepLIFT over references; with the one reference zero it is this method (section 5.1). No
    hyper-parameters.
    *Deviation*: DeepLIFT has no rule for products and normalisations; ours are described there.
    """
    return borrowed(split.model, partial(_lift_cam, split, y))


def _lift_cam(split, y):
    check_differentiable(split.model)
    leaf = split.A.clone().requires_grad_()
    rows = len(leaf)
    of = torch.arange(rows, device=leaf.device).repeat(2)
    with torch.enable_grad(), changes():
        freeze(split.model)
        with using(RescaleRule(2 * rows)):
            S = target_logit(split.head(torch.cat([leaf, torch.zeros_like(leaf)]), of), y.repeat(2))
            (multiplier,) = torch.autograd.grad(S[:rows].sum(), leaf)
    alpha = (wide(multiplier) * wide(split.A)).sum((2, 3))
    _say_what_is_missed(split, alpha, (wide(S[:rows]) - wide(S[rows:])).detach())
    return alpha


def _say_what_is_missed(split, alpha, gain):
    missed, rounding = (alpha.sum(1) - gain).abs(), 1e-3 * alpha.abs().sum(1)
    if (missed > (0.01 * gain.abs()).maximum(rounding)).any():
        worst = int((missed / gain.abs().clamp(min=1e-12)).argmax())
        warnings.warn(
            f"lift-cam: the shares sum to {alpha[worst].sum():.4g} where the logit changes by {gain[worst]:.4g} (image {worst}): something "
            f"above '{split.layer}' has no rescale rule, so the map is an approximation",
            stacklevel=2,
        )


@method("lrp-cam", family="shapley", cite="lift_cam", lift=lifts.coefficients)
def lrp_cam(split, y):
    """The relevance that layer-wise relevance propagation sends to a channel.

    alpha_k = sum_ij R(A_kij) = sum_ij A_kij G_kij   [LIFT-CAM supplement, eq. 1]

    alpha [B,K], in logits; they do not sum to v(1) - v(0), since the biases of the head keep their share. The paper names no
    rule; its released code uses epsilon = 1e-9 with biases in the denominators, which on ReLUs and pooling is gradient times
    activation. No hyper-parameters.
    """
    return (wide(split.grad(y)) * wide(split.A)).sum((2, 3))


@method("lime-cam", family="shapley", cite="lift_cam", lift=lifts.coefficients)
def lime_cam(split, y, *, samples=512, beta=0.01, gamma=0.5, units="logit", seed=0, chunk=None):
    """The coefficients of a sparse linear model of the logit, fitted to random coalitions of channels near the image.

    argmin (1/n) sum_a' psi(a') (v(a') - alpha_0 - sum_k alpha_k a'_k)^2 + beta g sum_k |alpha_k|, g = 1,
    psi(a') = exp(-||A - h_A(a')||^2 / (gamma^2 ||A||^2)), a'_k ~ Bernoulli(1/2)   [LIFT-CAM supplement, eq. 3]

    alpha [B,K], in logits. samples: n; the paper runs K and 10 K. beta, gamma: as in the paper. seed: of the coalitions, the
    same for every image. units: what beta counts, "logit": logits, as in the text, or "share": shares of the logit's change, g = |v(1) - v(0)|
    (1 where that is 0), so that the map depends on no unit. chunk: rows of the head per forward pass. Raises ValueError for other units,
    no samples or no width.
    *Deviation*: the released code has captum's default kernel of cosine distances in place of psi; the text is followed. Of
    many channels each has a small share, and at the paper's beta all coefficients may vanish: the map is empty. Shares as units do not
    help there, since g is above 1 for most images and the penalty grows with it; they need a smaller beta.
    """
    whole_number("samples", samples)
    if units not in ("share", "logit"):
        raise ValueError(f"units is '{units}'; possible: share, logit")
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}; a width of the kernel above 0 is needed")
    coalitions = torch.bernoulli(torch.full((samples, split.A.shape[1]), 0.5), generator=torch.Generator().manual_seed(seed))
    coalitions = coalitions.to(wide(split.A))
    energy = wide(split.A).square().sum((2, 3))
    energy = energy / energy.sum(1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)
    kernel = torch.exp(-(energy @ (1 - coalitions).T) / gamma**2)
    ends = torch.stack([torch.zeros_like(coalitions[0]), torch.ones_like(coalitions[0])])
    values = by_game(lambda game: game.values(torch.cat([ends, coalitions])), split, y, chunk)
    gain = (values[:, 1] - values[:, 0]).abs().double()
    penalty = beta * gain.where(gain > 0, 1) if units == "share" else beta
    return weighted_lasso(coalitions, values[:, 2:], kernel, penalty).to(coalitions)


@method("kshap-cam", family="shapley", cite="lift_cam", lift=lifts.coefficients)
def kshap_cam(split, y, *, samples=512, sampling="plain", seed=0, chunk=None):
    """Kernel SHAP over the channels: a linear model of the logit, weighted so that its coefficients are Shapley values.

    argmin sum_a' psi(a') (v(a') - alpha_0 - sum_k alpha_k a'_k)^2, psi(a') = (K-1) / (binom(K,|a'|) |a'| (K-|a'|)),
    with alpha_0 = v(0) and sum_k alpha_k = v(1) - v(0)   [LIFT-CAM supplement, eq. 4]

    alpha [B,K], in logits. samples: n; the paper runs K and 10 K. sampling: "plain" or "paired", which draws every coalition with its
    complement and none twice, so that the result is exact where the game is of order two (from about 2 K samples on) and wherever
    all coalitions are drawn (see `numerics.coalitions`). seed: of the coalitions, the same for every image. chunk: rows of the head
    per forward pass. Raises ValueError for another sampling or too few samples. With about K samples (paired: 2 K) a fit just passes
    through all values and is worse than one of half as many: take fewer or clearly more.
    *Deviation*: the paper does not say how coalitions are drawn; here in proportion to psi (so each counts alike), with the
    infinite weights of |a'| = 0 and K as constraints. Directions that the samples leave open get equal shares.
    """
    K = split.A.shape[1]
    drawn, weights = (one.to(wide(split.A)) for one in drawn_coalitions(K, whole_number("samples", samples), sampling, seed))
    ends = torch.stack([torch.zeros(K), torch.ones(K)]).to(drawn)
    values = by_game(lambda game: game.values(torch.cat([ends, drawn])), split, y, chunk)
    return shapley_regression(drawn, values[:, 2:], values[:, 0], values[:, 1], weights).to(drawn)

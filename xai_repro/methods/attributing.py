"""Relative and sectional attributing, and attribution-guided factorisation: rules that look at the sign or the shape of relevance.

They are not linear in it, so that none can be had as the difference of two others.
"""

import torch
import torch.nn.functional as F

from xai_repro.errors import NotApplicable
from xai_repro.methods.hedging import start_layer, total
from xai_repro.methods.relevance import NEEDS, one_hot, summed
from xai_repro.network.propagate import relevance_from
from xai_repro.network.rules import contribution, evenly, negative, of_sign, positive, positive_part, Rules, shared, z_box
from xai_repro.numerics.algebra import ratio
from xai_repro.registry import method

STEEPNESS = 10  # of the sigmoid through which activations and gradients are compared with their means


def level(R, surplus, C):
    """R less the same amount wherever C is not 0, so that each image's sum is less by its surplus."""
    reached = (C != 0).to(C)
    return R - surplus * ratio(reached, total(reached))


# -- RAP ---------------------------------------------------------------------------------------------------------------------


def relative(layer):
    """Relevance goes fully to the positive influences Z1, and once more, by their share, to the negative ones Z2; then it is levelled."""
    halves = [(positive(layer.x), positive(layer.W), -negative(layer.W)), (-negative(layer.x), -negative(layer.W), positive(layer.W))]
    halves = halves if (layer.x < 0).any() else halves[:1]
    sums = [(g, up, down, layer.of(g, up), layer.of(g, down)) for g, up, down in halves]

    def send(R):
        C = 0
        for g, up, down, Z1, Z2 in sums:
            P, N = (positive(R), negative(R)) if not layer.linear else (R, torch.zeros_like(R))
            again = ratio(R, Z1 + Z2)
            C = C + g * (layer.back(ratio(P, Z1), up) + layer.back(ratio(N, Z2) + again, down))
        return level(C, total(C) - total(R), C)

    return send


def by_influence(layer):
    """The logit's contributions, their signs forgotten: each neuron gets its share of influence   [Nam et al. 2020, eq. 5 and 6]."""
    up, down = of_sign(layer, 1), of_sign(layer, -1)
    plus, minus = (sum(layer.of(g, W) for g, W in pairs) for pairs in (up, down))
    bias = 0 if layer.b is None else layer.per_channel(layer.b)
    spread = ratio(bias + torch.zeros_like(plus), plus - minus)

    def send(R):
        S = ratio(R, layer.z)
        found = sum(g * layer.back(S * (1 + spread), W) for g, W in up)
        found = found + sum(g * layer.back(S * (1 - spread), W) for g, W in down)
        return ratio(found.abs(), total(found.abs())) * total(R)

    return send


RAP = Rules(relative, first=z_box, last=by_influence, weight=contribution, fold=False)


@method("rap", family="relevance", cite="nam2020rap", needs=NEEDS, signed=True)
def rap(model, x, y=None, *, layer=None):
    """Neurons that influence the class much stay positive, those that hardly do become negative, whatever the sign of their weights.

    M_ij = sum_c R_cij, R_i = sum_j x_i w+_ij R_j / Z1_j + sum_j x_i w-_ij R_j / (Z1_j - Z2_j) - Psi_i, Z1_j = sum_i x_i w+_ij, Z2_j = sum_i x_i w-_ij,
    Psi_i the surplus of the sum, the same at all neurons reached   [Nam et al. 2020, eq. 7 to 9; released code]

    M [B,H,W], signed, sums to 1; it hardly depends on the class. The class's logit is shared by absolute contribution, its bias by
    the two signs' shares; images get relevance by z-box. layer: where to stop; None for the images. Costs 5 forward passes.
    Raises NotApplicable where the network calls a function that has no rule.
    *Deviation*: begins with 1 in place of the logit. BatchNorms are passed (the released code shares out their bias, with the
    variance squared by mistake). As released, negative relevance goes to the negative influences of a convolution alone.
    """
    return summed(model, x, y, RAP, one_hot, layer)


# -- RSP ---------------------------------------------------------------------------------------------------------------------


def sectional(layer):
    """Relevance of either sign is shared in proportion to how inputs go together with it; the weights play no part."""
    if layer.linear:
        raise NotApplicable("RSP has no rule for a linear layer below the one where it begins")
    x, (stride, padding, dilation, groups) = positive(layer.x), layer.options
    B, own = len(x), (stride, padding, dilation, groups * len(x))  # an image has weights of its own: as many groups as images
    flat = x.flatten(0, 1)[None]

    def correlated(R):
        """J(x, G, R), G_ij the correlation of x_i with R_j."""
        R = R.flatten(0, 1)[None]
        shape = (B * layer.W.shape[0], *layer.W.shape[1:])
        G = torch.nn.grad.conv2d_weight(flat, shape, R, *own)
        S = ratio(R, F.conv2d(flat, G, None, *own))
        return (flat * torch.nn.grad.conv2d_input(flat.shape, G, S, *own))[0].unflatten(0, (B, -1))

    def send(R):
        C = correlated(positive(R)) - correlated(-negative(R))
        return C if layer.pointwise else level(2 * C, total(R), C)

    return send


RSP = Rules(sectional, first=z_box, weight=positive_part, fold=False)


def by_its_maximum(A, G):
    """A_kij times the mean gradient of its channel, over the greatest absolute value (the paper's greatest may be negative)."""
    R = A * G.mean((2, 3), keepdim=True)
    return ratio(R, R.abs().amax((1, 2, 3), keepdim=True))


@method("rsp", family="relevance", cite="nam2021rsp", needs="convolutions below a layer with maps, called from Python", signed=True)
def rsp(model, x, y=None, *, layer=None):
    """Relevance of the target and of what is hostile to it go down the network apart, each to the neurons that are active where it is.

    M_ij = sum_c R_cij; at the layer R = A_k mean(G_k) / max |.|; below, R_i = 2 (J(x, G+, R+) - J(x, G-, |R-|)) - Psi_i, J as in `gradient-hedging`
    with G+_ij = sum over places of x_i R+_j in place of |W_ij|, Psi_i sharing sum R evenly   [Nam et al. 2021, eq. 6 to 9; released code]

    M [B,H,W], signed, sums to what it begins with. A 1x1 convolution has neither the 2 nor Psi. layer: where it begins, by default
    the last one that gives a map. Sums and averages share by positive parts. Costs about 10 forward passes of what lies below.
    Raises NotApplicable where the network calls a function that has no rule.
    *Deviation*: begins with one class; the paper's subtracts the maps of the other classes predicted. The weights of convolutions
    below the first one play no part, as released. ResNets, which the released code cannot run, go as gradient-hedging's do.
    """
    return relevance_from(model, x, y, RSP, by_its_maximum, start_layer(model, x, layer)).sum(1)


# -- AGF ---------------------------------------------------------------------------------------------------------------------


def gaussian_softmax(logits, y):
    """Softmax of the class among y_t exp(-((y - y_t) / sigma)^2 / 2), sigma = max |y - y_t|   [Gur et al. 2021, eq. 8]."""
    own = logits.gather(1, y[:, None])
    sigma = (logits - own).abs().amax(1, keepdim=True)
    return (own * torch.exp(-0.5 * ratio(logits - own, sigma) ** 2)).softmax(1).gather(1, y[:, None])[:, 0]


def guided(layer):
    """What activations and gradients say beside the contributions, added where there is relevance and levelled."""
    x, g, W = layer.x, layer.gradient, layer.W.abs()
    by_size = shared(layer, (x.abs(), W))
    if layer.pointwise:
        return by_size
    alike = evenly(layer, W)
    mean = positive((x * g).mean(1, keepdim=True))
    M = ratio(mean, mean.amax((1, 2, 3), keepdim=True))

    def send(R):
        C = by_size(R)
        found = (factorised(x, C) + M) * torch.sigmoid(C) + factorised(g, C) + alike(R)
        found = torch.where(C != 0, found, 0)
        return level(C + found, total(found), C)

    return send


def factorised(H, C):
    """How much more a place is like the places of positive C than like those of negative C, [B,1,h,w]   [Gur et al. 2021, eq. 14 to 17]."""
    B, K, h, w = H.shape
    H = torch.sigmoid(STEEPNESS * ratio(H, H.amax((1, 2, 3), keepdim=True))).flatten(2)
    sign = C.mean(1).flatten(1)
    means = torch.stack([ratio((H * side[:, None]).sum(2), side.sum(1, keepdim=True)) for side in ((sign > 0).to(H), (sign < 0).to(H))], 2)
    fit = torch.linalg.solve(means.mT @ means + torch.eye(2).to(H), means.mT @ H)
    up, down = positive(fit).unbind(1)
    return positive(up - down).view(B, 1, h, w)


AGF = Rules(guided, first=z_box, last=lambda layer: lambda R: layer.x * layer.gradient, weight=contribution, fold=False, score=gaussian_softmax)


@method("agf", family="relevance", cite="gur2021agf", needs=NEEDS, signed=True)
def agf(model, x, y=None, *, layer=None):
    """Contributions, corrected at every convolution by a factorisation of its activations and of its gradients.

    M_ij = sum_c R_cij, R = C + r - mean of r, C = J(|x|, |W|, R), r = (F(x) + M) / (1 + exp(-C)) + F(g) + J(1, |W|, R), g the gradient of the class's
    share at x, M its mean with x over channels, F(.) the places more like those of C > 0 than those of C < 0   [Gur et al. 2021, eq. 9 to 19]

    M [B,H,W], signed; begins with input times gradient of the last layer. Linear layers and 1x1 convolutions have C alone. layer: where to
    stop; None for the images, which get relevance by z-box. Costs about 8 forward passes.
    Raises NotApplicable where the network calls a function that has no rule.
    *Deviation*: the released code adds M at the linear layer that reads the flattened map, too, and leaves out r at the second
    convolution of a ResNet's basic block.
    """
    return summed(model, x, y, AGF, one_hot, layer)

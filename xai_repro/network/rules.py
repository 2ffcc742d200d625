"""Rules of relevance: of a layer's input x, weights W and output z, and of the relevance R at its output.

A rule is a function of a `Layer` that returns R -> R at the input; what depends on the images alone is computed once for all
classes. Most are one formula, J: relevance is shared in proportion to contributions g_i W_ij,

    R_i = sum_j g_i W_ij / (sum_i' g_i' W_i'j) R_j

for some g made of x and some W made of the weights, several such pairs with one denominator.
"""

from dataclasses import dataclass
from typing import Callable

import torch

from xai_repro.numerics.algebra import ratio

TINY = 1e-9  # what even an inactive summand weighs, so that relevance is not lost where all are inactive


def contribution(x):
    """Summands share relevance as they contribute, sign included: what nearly cancels gets huge and opposite relevance."""
    return x


def positive_part(x):
    """Summands share relevance as their positive parts contribute, all alike where none has one."""
    return x.clamp(min=0) + TINY


@dataclass(frozen=True)
class Rules:
    """How relevance goes through the steps of a network. A rule is a function of a `Layer` that returns R -> R at the layer's input.

    convolution: the rule of convolutions, and of all layers that have no other. linear, first, last: of linear layers, of those that
    read the images, of the one that gives the logits. weight: of a summand, in sums and averages. branch: of two summands, the first
    alone gets relevance (a block's convolutions, not its shortcut). summed: only the sums of R over channels are asked for where relevance stops. fold: whether a BatchNorm belongs to the convolution before it;
    otherwise, and elsewhere, relevance passes it unchanged. score(logits, y) -> [B]: whose gradient the layers are told, if any.
    """

    convolution: Callable
    linear: Callable | None = None
    first: Callable | None = None
    last: Callable | None = None
    weight: Callable = positive_part
    branch: bool = False
    summed: bool = False
    fold: bool = True
    score: Callable | None = None

    def of(self, layer):
        """The rule of one layer, made for it."""
        if self.summed and stays(layer):
            return in_place(layer)
        own = (layer.last and self.last) or (layer.first and self.first) or (layer.linear and self.linear)
        return (own or self.convolution)(layer)


def shared(layer, *pairs):
    """R_i = sum_m g_mi sum_j W_mij R_j / D_j, D_j = sum_m sum_i g_mi W_mij, for pairs (g_m, W_m); 0 where D_j is."""
    D = sum(layer.of(g, W) for g, W in pairs)

    def send(R):
        S = ratio(R, D)
        return sum(g * layer.back(S, W) for g, W in pairs)

    return send


def evenly(layer, W):
    """R_i = sum_j W_ij R_j / sum_i' W_i'j: the share that `shared` gives inputs of 1; the denominator is the same for all images."""
    D = layer.of_ones(W)
    return lambda R: layer.back(ratio(R, D), W)


def positive(T):
    return T.clamp(min=0)


def negative(T):
    return T.clamp(max=0)


def zero(layer):
    """LRP-0: R_i = x_i sum_j W_ij R_j / z_j, the bias in z   [Bach et al. 2015, eq. 52 without the stabiliser]."""
    return lambda R: layer.x * layer.back(ratio(R, layer.z), layer.W)


def epsilon(layer, eps=1e-6):
    """LRP-epsilon: R_i = x_i sum_j W_ij R_j / (z_j + eps sign(z_j)), sign(0) = 1   [Bach et al. 2015, eq. 58]."""
    return lambda R: layer.x * layer.back(R / _away_from_zero(layer.z, eps), layer.W)


def _away_from_zero(z, eps):
    return torch.where(z < 0, z - eps, z + eps)


def gamma(layer, strength=0.25, eps=1e-6):
    """LRP-gamma: as epsilon with W + gamma W+ and b + gamma b+ [Montavon et al. 2019, section 10.2.3]; for x >= 0."""
    W = layer.W + strength * positive(layer.W)
    z = layer.of(layer.x, W)
    if layer.b is not None:
        z = z + layer.per_channel(layer.b + strength * positive(layer.b))
    return lambda R: layer.x * layer.back(R / _away_from_zero(z, eps), W)


def alpha1beta0(layer):
    """z+: relevance goes to the positive contributions x+ W+ and x- W-   [Bach et al. 2015, eq. 60; Montavon et al. 2017, eq. 13]."""
    return shared(layer, *of_sign(layer, 1))


def alpha2beta1(layer):
    """Twice to the positive contributions, less once to the negative ones x+ W- and x- W+   [Bach et al. 2015, eq. 60]."""
    up, down = shared(layer, *of_sign(layer, 1)), shared(layer, *of_sign(layer, -1))
    return lambda R: 2 * up(R) - down(R)


def of_sign(layer, sign):
    """Pairs whose products are all the contributions of one sign; one pair where no input is negative."""
    own, other = (positive, negative) if sign > 0 else (negative, positive)
    pairs = [(positive(layer.x), own(layer.W)), (negative(layer.x), other(layer.W))]
    return pairs if (layer.x < 0).any() else pairs[:1]


def excitation(layer):
    """x W+, whatever the sign of x: the probability that a neuron was the winner   [Zhang et al. 2018, eq. 5]."""
    return shared(layer, (layer.x, positive(layer.W)))


def stays(layer):
    """Whether a layer reads, unchanged, what is there where relevance stops, and hands all that arrives at a place to one place: a 1x1 convolution."""
    return layer.bottom and layer.pointwise and not layer.linear and layer.options[1] == [0, 0] and layer.options[3] == 1 and bool((layer.x >= 0).all())


def in_place(layer, some=64):
    """`excitation` through a 1x1 convolution in sum over its inputs, all put into the first: each output's relevance, where an input can take it.

    An output has a taker where x W+ is not 0: some of the inputs tell that of almost all outputs, and only if that leaves a doubt all are asked.
    So the sum costs next to nothing, where each input's share costs the convolution twice.
    """
    x, W, stride = layer.x, positive(layer.W), layer.options[0]
    taken, alive = layer.of(x[:, :some], W[:, :some]) > 0, (x > 0).any(1, keepdim=True)[..., :: stride[0], :: stride[1]]
    if (alive & ~taken).any():
        taken = layer.of(x, W) > 0

    def send(R):
        found = torch.zeros_like(x)
        found[:, :1, :: stride[0], :: stride[1]] = torch.where(taken, R, 0).sum(1, keepdim=True)
        return found

    return send


def contrast(layer):
    """Excitation through W less that through -W: what speaks for a class less what speaks against it   [Zhang et al. 2018, eq. 7]."""
    up, down = shared(layer, (layer.x, positive(layer.W))), shared(layer, (layer.x, positive(-layer.W)))
    return lambda R: up(R) - down(R)


def z_box(layer, low=None, high=None):
    """z^B: x W - L W+ - H W-, for inputs that lie between L and H   [Montavon et al. 2017, eq. 15].

    With W = W+ + W- that is (x - L) W+ + (x - H) W-: two terms, of which none is negative. low, high: L and H; without, the least and
    greatest value of each image. Zero padding stands for inputs that cannot be anything else (L = H = 0 there).
    """
    x, dims = layer.x, tuple(range(1, layer.x.dim()))
    low = x.amin(dims, keepdim=True) if low is None else low
    high = x.amax(dims, keepdim=True) if high is None else high
    return shared(layer, (x - low, positive(layer.W)), (x - high, negative(layer.W)))


def w_square(layer):
    """w^2: in proportion to squared weights, whatever the input   [Montavon et al. 2017, eq. 12]."""
    return evenly(layer, layer.W**2)


def flat(layer):
    """The same for every input of a neuron   [Lapuschkin et al. 2019, rule "flat"]."""
    return evenly(layer, torch.ones_like(layer.W))

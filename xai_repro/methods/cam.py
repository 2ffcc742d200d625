"""Class activation maps by gradients: M_ij = ReLU(sum_k alpha_k A_kij), or a combination of A and G at each position.

A_kij: activations of channel k at position (i,j) of the target layer; G_kij = dS/dA_kij with S the logit of the explained
class; Z = h w positions.
"""

import torch

from xai_repro.errors import NotApplicable
from xai_repro.methods import lifts
from xai_repro.numerics.algebra import ratio, wide
from xai_repro.registry import method


@method("cam", family="cam", cite="zhou2016cam", needs="a head of global average pooling and one linear layer", lift=lifts.gradients)
def cam(split, y):
    """The class's row of the last linear layer weighs the channels.

    alpha_k = w_k, with S = sum_k w_k (1/Z) sum_ij A_kij + b   [Zhou et al. 2016, eq. 2]

    alpha [B,K], in logits per unit of mean activation. No hyper-parameters. Raises NotApplicable where the head is not global
    average pooling followed by one linear layer (checked by value, so any way of writing such a model will do).
    *Deviation*: the map is passed through ReLU, as in every comparison of the reproduced papers; the released code keeps
    negative values and subtracts the minimum.
    """
    K = split.A.shape[1]
    pooled = split.A.mean((2, 3))
    for linear in (m for m in split.model.modules() if isinstance(m, torch.nn.Linear) and m.in_features == K and m.weight.dtype == pooled.dtype):
        logits = torch.nn.functional.linear(pooled, linear.weight, linear.bias).detach()
        if logits.shape == split.logits.shape and torch.allclose(logits, split.logits, rtol=1e-3, atol=1e-3):
            return linear.weight.detach()[y]
    raise NotApplicable(
        f"cam needs a head of global average pooling and one linear layer above '{split.layer}'; "
        f"{type(split.model).__name__} has another head (grad-cam is the same map where cam exists)"
    )


@method("mean-features", family="cam", cite="lfi_cam", lift=lifts.gradients)
def mean_features(split, y):
    """All channels count alike: where the layer's features are large on average, for whatever class.

    alpha_k = 1/K   [LFI-CAM, supplement, figure 1: the "pixel-wise mean feature map"]

    alpha [B,K], without unit. It is for no class: what a method shows beyond it comes from its coefficients. No hyper-parameters.
    """
    return split.A.new_full(split.A.shape[:2], 1 / split.A.shape[1])


@method("grad-cam", family="cam", cite="selvaraju2017gradcam", lift=lifts.gradients)
def grad_cam(split, y):
    """The mean gradient of a channel is its coefficient.

    alpha_k = (1/Z) sum_ij G_kij   [Selvaraju et al. 2017, eq. 1]

    alpha [B,K], in logits per unit of activation. No hyper-parameters.
    *Deviation*: the released code sums over positions instead, which the normalised map does not show.
    """
    return split.grad(y).mean((2, 3))


@method("grad-cam++", family="cam", cite="chattopadhay2018gradcampp", lift=lifts.gradients)
def grad_cam_plus_plus(split, y, *, alpha_norm=True):
    """Positive gradients are summed with weights that make every occurrence of the class count alike.

    a_kij = G_kij^2 / (2 G_kij^2 + G_kij^3 sum_uv A_kuv)
    alpha_k = sum_ij a_kij ReLU(G_kij)   [Chattopadhay et al. 2018, eqs. 5 and 19]

    alpha [B,K]. alpha_norm: divide a_kij by its sum over the positions with a positive gradient, as the authors' released
    code does; the paper's text has no such step.
    *Deviation*: the paper differentiates exp(S); the factor exp(S) is common to all channels and dropped, since it
    overflows. A zero denominator gives 0, no epsilon is added.
    """
    G, A = split.grad(y).double(), split.A.double()  # 2 + G sum A can come near 0, where float32 has no digits left
    # G^2 is cancelled: G^3 would underflow. Only positions with a positive gradient reach the sum.
    a = (G > 0) * ratio(torch.ones_like(G), 2 + G * A.sum((2, 3), keepdim=True))
    if alpha_norm:
        a = ratio(a, a.sum((2, 3), keepdim=True))
    return (a * G.relu()).sum((2, 3))


@method("xgrad-cam", family="cam", cite="fu2020xgradcam", lift=lifts.gradients)
def xgrad_cam(split, y):
    """Gradients are averaged with the activations as weights, which meets sensitivity and conservation best.

    alpha_k = sum_ij G_kij A_kij / sum_ij A_kij   [Fu et al. 2020, eq. 8]

    alpha [B,K], in logits per unit of activation. No hyper-parameters.
    *Deviation*: a channel whose activations sum to 0 gets coefficient 0; the released code adds 1e-6 to the sum.
    """
    A, G = wide(split.A), wide(split.grad(y))
    return ratio((G * A).sum((2, 3)), A.sum((2, 3)))


@method("layer-cam", family="cam", cite="jiang2021layercam", lift=lifts.pixels)
def layer_cam(A, G):
    """Every position of every channel is weighed by its own positive gradient.

    M_ij = ReLU(sum_k ReLU(G_kij) A_kij)   [Jiang et al. 2021, eqs. 6 and 7]

    M [B,h,w], in logits. No hyper-parameters. Over several layers, which is how Collection-CAM uses it, the largest over the layers
    of their maps, each divided by its maximum m, the shallow ones as tanh(2 M / m) [eq. 9].
    """
    return (G.relu() * A).sum(1).relu()

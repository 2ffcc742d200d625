"""Maps from the gradient of the logit with respect to the image: g_cij = dS/dx_cij."""

import torch

from xai_repro.registry import method
from xai_repro.split import evaluating, logits_of
from xai_repro.target import target_logit


def input_gradient(model, x, y):
    """g = dS_b/dx_b for every image b, [B,3,H,W]; S is the logit of class y_b. Costs one forward and one backward pass."""
    with evaluating(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(target_logit(logits_of(model(leaf.clone())), y).sum(), leaf)
    return g


@method("gradient", family="gradient", cite="simonyan2014deep")
def gradient(model, x, y=None):
    """How strongly the logit reacts to a change of a pixel, in its most sensitive colour.

    M_ij = max_c |g_cij|   [Simonyan et al. 2014, section 3.1]

    M [B,H,W] >= 0, in logits per unit of normalised colour. No hyper-parameters.
    """
    return input_gradient(model, x, y).abs().amax(1)


@method("linear-approximation", family="gradient", cite="fong2019torchray", signed=True)
def linear_approximation(model, x, y=None):
    """The first-order share of every pixel in the logit: gradient times input.

    M_ij = sum_c x_cij g_cij   [TorchRay, linear_approx]

    M [B,H,W], signed, in logits; x is the normalised image, so a pixel of the mean colour has share 0. On a network of
    ReLUs without biases the map sums to the logit. No hyper-parameters.
    """
    return (x * input_gradient(model, x, y)).sum(1)

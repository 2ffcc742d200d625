"""Maps from the gradient of the logit with respect to the image: g_cij = dS/dx_cij."""

from functools import partial

import numpy as np
import torch

from xai_repro.errors import NotApplicable, whole_number
from xai_repro.network.borrow import borrowed, using
from xai_repro.network.chunks import gradient_chunk, in_chunks
from xai_repro.network.forward import check_differentiable, check_unscripted, evaluating, logits_of, top1
from xai_repro.network.rectify import RectifierRule
from xai_repro.network.target import target_logit
from xai_repro.numerics.algebra import wide
from xai_repro.numerics.seeds import seed_of
from xai_repro.registry import method

PIECE = 100  # nodes of one Gauss-Legendre rule at most


def input_gradient(model, x, y):
    """g = dS_b/dx_b for every image b, [B,C,H,W]; S is the logit of class y_b. Costs one forward and one backward pass."""
    return borrowed(model, partial(_input_gradient, model, x, y))


def _input_gradient(model, x, y):
    with evaluating(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        S = target_logit(logits_of(model(leaf.clone()), len(leaf)), y)
        if not S.requires_grad:
            raise NotApplicable(f"no gradient reaches the images from the logits of {type(model).__name__}: nothing differentiable lies between them")
        (g,) = torch.autograd.grad(S.sum(), leaf, allow_unused=True)
    if g is None:  # the logits do not read the images
        check_differentiable(model)
        return torch.zeros_like(x)
    return g


def mean_gradient(model, x, y, points, n, chunk=None, weights=None):
    """sum_s w_s g(p_bs) over n points p_bs of every image, [B,C,H,W], in passes of at most `chunk` rows; w_s = 1/n without weights [n].

    points(images, some) -> p [b,s,C,H,W] makes those of two slices when they are needed. Points and gradients are not kept, so
    memory does not grow with n; the sum is in float32 at least. Costs n forward and n backward passes.
    """
    weights = torch.full((n,), 1 / n, dtype=torch.float64) if weights is None else weights

    def of_images(images):
        total, own = torch.zeros_like(wide(x[images])), y[images]

        def add(some):
            p = points(images, some)
            g = input_gradient(model, p.flatten(0, 1).to(x.dtype), own.repeat_interleave(p.shape[1]))
            total.add_((weights[some].to(total).view(-1, 1, 1, 1) * g.unflatten(0, p.shape[:2])).sum(1))
            return total[:0]  # nothing to join: the sum is all that is kept

        in_chunks(add, n, max(1, chunk // len(total)))
        return total

    chunk = gradient_chunk(model, x) if chunk is None else chunk
    return in_chunks(of_images, len(x), chunk)


def path_integral(model, x, x0, y, steps, chunk=None):
    """(x - x0) times the integral of g over the straight path from x0 to x, [B,C,H,W], by Gauss-Legendre's rule."""
    nodes, weights = gauss_legendre(whole_number("steps", steps))
    t, path = nodes.to(x.device).view(-1, 1, 1, 1).to(wide(x)), wide(x) - wide(x0)

    def points(images, some):
        return wide(x0)[images, None] + t[some] * path[images, None]

    return path * mean_gradient(model, x, y, points, steps, chunk, weights)


def gauss_legendre(n):
    """Nodes and weights [n] on [0,1]: of as many equal pieces as have at most 100 nodes each, exact for polynomials of degree 2n - 1 on one."""
    pieces = -(-n // PIECE)
    nodes, weights = [], []
    for piece in range(pieces):
        own, share = np.polynomial.legendre.leggauss(n // pieces + (piece < n % pieces))
        nodes.append((piece + (own + 1) / 2) / pieces)
        weights.append(share / 2 / pieces)
    return torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(np.concatenate(weights))


def gradient_through(model, x, y, rule):
    """The map of `gradient` where every rectifier hands back rule(g, own), own: what it would hand back itself.

    Raises NotApplicable for TorchScript, which hides its rectifiers, and where none is met.
    """
    check_unscripted(model, "ReLUs")
    with using(RectifierRule(rule)) as found:
        maps = gradient(model, x, y)
    if not found.met:
        raise NotApplicable(f"no ReLU is met in the forward pass of {type(model).__name__}: this would be its plain gradient")
    return maps


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
    return (wide(x) * wide(input_gradient(model, x, y))).sum(1)


@method("deconvnet", family="gradient", cite="zeiler2014deconvnet", needs="ReLUs, called from Python (no TorchScript)")
def deconvnet(model, x, y=None):
    """The gradient with ReLUs that let positive gradients pass, whatever their input was.

    M_ij = max_c |g_cij|, where backwards through y = ReLU(z): g_z = max(g_y, 0)   [Zeiler & Fergus 2014, section 2.1]

    M [B,H,W] >= 0. Max-pooling hands the gradient to the position of the maximum (the paper's switches). Every ReLU
    counts, also functional, in-place and reused ones, and ReLU6, whose ceiling is ignored here; other non-linearities (and a ReLU
    written as a clamp) keep their gradient. No hyper-parameters. Raises NotApplicable for a TorchScript model and where no ReLU is
    met (networks of GELU or SiLU).
    *Deviation*: the paper starts at one activation of a layer and shows the colours; here at the logit, with the largest of the
    colours, as in TorchRay, whose benchmark then also blurs the map.
    """
    return gradient_through(model, x, y, lambda g, own: g.clamp(min=0))


@method("guided-backprop", family="gradient", cite="springenberg2015guided", needs="ReLUs, called from Python (no TorchScript)")
def guided_backprop(model, x, y=None):
    """The gradient with ReLUs that let only positive gradients pass, and only where their input was positive.

    M_ij = max_c |g_cij|, where backwards through y = ReLU(z): g_z = max(g_y, 0) 1[z > 0]   [Springenberg et al. 2015, figure 1]

    M [B,H,W] >= 0. Equal to the gradient where no gradient at a ReLU is negative. Every ReLU counts, also functional, in-place and
    reused ones, and ReLU6, which is open between 0 and 6; other non-linearities (and a ReLU written as a clamp) keep their gradient.
    No hyper-parameters. Raises NotApplicable for a TorchScript model and where no ReLU is met (networks of GELU or SiLU).
    *Deviation*: TorchRay's benchmark also blurs the map.
    """
    return gradient_through(model, x, y, lambda g, own: own.clamp(min=0))


@method("integrated-gradients", family="gradient", cite="sundararajan2017ig", signed=True)
def integrated_gradients(model, x, y=None, *, steps=50, baseline="zero", chunk=None):
    """What every pixel contributes to the logit on the way from an image without content to this one.

    M_ij = sum_c (x_cij - x0_cij) int_0^1 g_cij(x0 + t (x - x0)) dt   [Sundararajan et al. 2017, eq. 1]

    M [B,H,W], signed, in logits; it sums to S(x) - S(x0) up to the error of the integral, which the metric `completeness` tells.
    steps: n points on the path (the paper: 20 to 300), those of Gauss and Legendre with their weights. baseline: x0, "zero", the
    mean colour in normalised images. chunk: rows per forward pass, images times steps. Costs n forward and n backward passes and,
    where y is not given, one forward pass more. Raises ValueError for fewer than one step or another baseline.
    *Deviation*: the paper's sum takes the ends of equal pieces (eq. 3) and the released code points from 0 to 1 with both ends
    counted in full; both miss the integral by more with as many points. Colours are summed, not taken by their absolute values.
    """
    if baseline != "zero":
        raise ValueError(f"baseline is {baseline!r}; possible: zero")
    y = top1(model, x, y, chunk)
    return path_integral(model, x, torch.zeros_like(x), y, steps, chunk).sum(1)


@method("smoothgrad", family="gradient", cite="smilkov2017smoothgrad")
def smoothgrad(model, x, y=None, *, samples=25, noise=0.15, seed=0, chunk=None):
    """The gradient, averaged over copies of the image with noise.

    M_ij = max_c |(1/n) sum_s g_cij(x + e_s)|, e_s ~ Normal(0, sigma^2), sigma = noise (max x - min x)   [Smilkov et al. 2017]

    M [B,H,W] >= 0, in logits per unit of normalised colour. samples: n, 25 in the released code (the paper sees little change
    beyond 50). noise: 0.15 in the released code (the paper: 0.1 to 0.2); without noise this is the gradient. The noise is drawn
    from the seed and the pixels of the image, so that a map depends on its own image alone and every image has other noise.
    chunk: rows per forward pass, images times samples. Costs n forward and n backward passes and, where y is not given, one forward
    pass more. Raises ValueError for fewer than one sample or negative noise.
    """
    whole_number("samples", samples)
    if not noise >= 0:
        raise ValueError(f"noise is {noise!r}; a fraction of the image's range is needed, at least 0")
    y = top1(model, x, y, chunk)
    sigma = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(-1, 1, 1, 1, 1)
    seeds = [seed_of(image, seed) for image in x]

    def draw(number):
        return torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(number))

    def points(images, some):
        drawn = torch.stack([draw(first + s) for first in seeds[images] for s in range(samples)[some]])
        return x[images, None] + sigma[images] * drawn.to(x).unflatten(0, (len(seeds[images]), -1))

    return mean_gradient(model, x, y, points, samples, chunk).abs().amax(1)

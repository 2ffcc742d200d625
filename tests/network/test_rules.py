"""Every rule against dense algebra in float64: the layer as a matrix, the sums written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xai_repro.network import rules
from xai_repro.network.propagate import Layer

CONVOLUTIONS = {  # (shape of x, shape of W, stride, padding, dilation, groups)
    "plain": ((2, 3, 5, 5), (4, 3, 3, 3), [1, 1], [1, 1], [1, 1], 1),
    "strided": ((2, 3, 6, 5), (4, 3, 3, 2), [2, 1], [1, 0], [1, 1], 1),
    "grouped": ((2, 4, 5, 4), (6, 2, 3, 3), [1, 2], [1, 1], [1, 1], 2),
    "dilated": ((2, 2, 6, 6), (3, 2, 2, 3), [1, 1], [0, 2], [2, 2], 1),
    "pointwise": ((2, 3, 4, 4), (5, 3, 1, 1), [1, 1], [0, 0], [1, 1], 1),
    "depthwise": ((2, 3, 5, 5), (3, 1, 3, 3), [2, 2], [1, 1], [1, 1], 3),
}


def linear(signed, seed=0):
    x, W, b = _drawn([(2, 7), (5, 7), (5,)], signed, seed)
    layer = Layer(W, b, None, False)
    layer.kept = [x, F.linear(x, W, b)]
    return layer, x[:, :, None] * 0 + W.T[None]


def convolution(kind, signed, seed=0):
    """The layer, and W as a matrix [i, j] for each image: what output j is for an input of nothing but a 1 at i."""
    shape, weights, *options = CONVOLUTIONS[kind]
    x, W, b = _drawn([shape, weights, weights[:1]], signed, seed)
    layer = Layer(W, b, tuple(options), False)
    layer.kept = [x, F.conv2d(x, W, b, *options)]
    return layer, dense(layer, W)


def dense(layer, W):
    n = layer.x[0].numel()
    if layer.linear:
        return W.T[None].expand(len(layer.x), -1, -1)
    return F.conv2d(torch.eye(n, dtype=torch.float64).view(n, *layer.x.shape[1:]), W, None, *layer.options).flatten(1)[None].expand(len(layer.x), -1, -1)


def _drawn(shapes, signed, seed):
    generator = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (x if signed else x.clamp(min=0)), W, b


LAYERS = [*((lambda signed, kind=kind: convolution(kind, signed)) for kind in CONVOLUTIONS), linear]
NAMES = [*CONVOLUTIONS, "linear"]


def bias_of(layer):
    """b at every output, flat."""
    b = layer.b.view(1, -1) if layer.linear else layer.b.view(1, -1, 1, 1)
    return (torch.zeros_like(layer.z) + b).flatten(1).numpy()


def by_hand(contributions, R, denominators=None):
    """R_i = sum_j c_ij / D_j R_j, D_j = sum_i c_ij unless given; 0 where D_j is. Loops, in numpy."""
    c, R = np.asarray(contributions), np.asarray(R.flatten(1))
    D = c.sum(1) if denominators is None else denominators
    found = np.zeros(c.shape[:2])
    for b in range(c.shape[0]):
        for j in range(c.shape[2]):
            if D[b, j] != 0:
                found[b] += c[b, :, j] / D[b, j] * R[b, j]
    return found


def check(rule, layer, expected):
    R = torch.randn(layer.z.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    np.testing.assert_allclose(rule(layer)(R).flatten(1), expected(R), rtol=1e-9, atol=1e-10)


def cases(function):
    made = [pytest.param(make, signed, id=f"{name}-{'signed' if signed else 'positive'}") for name, make in zip(NAMES, LAYERS) for signed in (False, True)]
    return pytest.mark.parametrize("make, signed", made)(function)


@cases
def test_zero_and_epsilon(make, signed):
    layer, W = make(signed)
    c, z = np.asarray(layer.x.flatten(1)[:, :, None] * W), np.asarray(layer.z.flatten(1))
    np.testing.assert_allclose(c.sum(1) + bias_of(layer), z)
    check(rules.zero, layer, lambda R: by_hand(c, R, z))
    check(lambda layer: rules.epsilon(layer, 0.1), layer, lambda R: by_hand(c, R, np.where(z < 0, z - 0.1, z + 0.1)))


@cases
def test_gamma(make, signed):
    layer, W = make(signed)
    W = np.asarray(W)
    c, b = np.asarray(layer.x.flatten(1))[:, :, None] * (W + 0.4 * np.maximum(W, 0)), bias_of(layer)
    z = c.sum(1) + b + 0.4 * np.maximum(b, 0)
    check(lambda layer: rules.gamma(layer, 0.4, 0.01), layer, lambda R: by_hand(c, R, z + np.where(z < 0, -0.01, 0.01)))


@cases
def test_alpha_beta(make, signed):
    layer, W = make(signed)
    c = np.asarray(layer.x.flatten(1)[:, :, None] * W)
    up, down = np.maximum(c, 0), np.minimum(c, 0)
    check(rules.alpha1beta0, layer, lambda R: by_hand(up, R))
    check(rules.alpha2beta1, layer, lambda R: 2 * by_hand(up, R) - by_hand(down, R))


@cases
def test_excitation_and_contrast(make, signed):
    layer, W = make(signed)
    x, W = np.asarray(layer.x.flatten(1))[:, :, None], np.asarray(W)
    up, down = x * np.maximum(W, 0), x * np.maximum(-W, 0)
    check(rules.excitation, layer, lambda R: by_hand(up, R))
    check(rules.contrast, layer, lambda R: by_hand(up, R) - by_hand(down, R))


@cases
def test_z_box(make, signed):
    layer, W = make(signed)
    x, W = np.asarray(layer.x.flatten(1))[:, :, None], np.asarray(W)
    for low, high in ((x.min(1, keepdims=True), x.max(1, keepdims=True)), (x.min() - 1, x.max() + 2)):
        c = x * W - low * np.maximum(W, 0) - high * np.minimum(W, 0)
        given = {} if np.ndim(low) else {"low": torch.tensor(low), "high": torch.tensor(high)}
        check(lambda layer, given=given: rules.z_box(layer, **given), layer, lambda R, c=c: by_hand(c, R))
        assert (c >= -1e-12).all(), "no contribution is negative between the bounds"


@cases
def test_w_square_and_flat(make, signed):
    """Whatever the input; where windows overlap the edge, padding has weights and no input."""
    layer, W = make(signed)
    there = np.asarray(dense(layer, torch.ones_like(layer.W)))
    check(rules.w_square, layer, lambda R: by_hand(np.asarray(W) ** 2, R))
    check(rules.flat, layer, lambda R: by_hand(there, R))


@cases
def test_the_layer_itself(make, signed):
    """of, of_ones and back are the matrix, its column sums and its transpose; back takes stacked batches."""
    layer, W = make(signed)
    S = torch.randn(2 * len(layer.z), *layer.z.shape[1:], dtype=torch.float64)
    found = layer.back(S, layer.W)
    torch.testing.assert_close(found.flatten(1), torch.einsum("bij,bj->bi", W.repeat(2, 1, 1), S.flatten(1)))
    torch.testing.assert_close(layer.of(layer.x, layer.W).flatten(1), torch.einsum("bij,bi->bj", W, layer.x.flatten(1)))
    torch.testing.assert_close(layer.of_ones(layer.W).flatten(1), W[:1].sum(1))


KEEPING = {"alpha1beta0": rules.alpha1beta0, "alpha2beta1": rules.alpha2beta1, "z-box": rules.z_box, "w-square": rules.w_square, "flat": rules.flat}


@pytest.mark.parametrize("name", KEEPING)
@cases
def test_these_keep_relevance(make, signed, name):
    """Where every output has a contribution of each sign that the rule uses; a padded corner may have none."""
    layer, _ = make(signed)
    R = torch.rand(layer.z.shape, dtype=torch.float64)
    c = layer.x.flatten(1)[:, :, None] * dense(layer, layer.W)
    enough = torch.ones_like(R, dtype=torch.bool).flatten(1)
    for sign, used in ((1, name.startswith("alpha")), (-1, name == "alpha2beta1")):
        enough = enough & (((sign * c) > 0).any(1) if used else True)
    R = R * enough.view_as(R)
    torch.testing.assert_close(KEEPING[name](layer)(R).flatten(1).sum(1), R.flatten(1).sum(1))


@cases
def test_all_are_linear_in_relevance(make, signed):
    layer, _ = make(signed)
    R, T = (torch.randn(layer.z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    for rule in (*KEEPING.values(), rules.zero, rules.epsilon, rules.gamma, rules.excitation, rules.contrast):
        send = rule(layer)
        torch.testing.assert_close(send(2 * R - 3 * T), 2 * send(R) - 3 * send(T), rtol=1e-9, atol=1e-9)


def test_excitation_is_alpha1beta0_on_inputs_that_are_not_negative_and_not_on_others():
    for signed in (False, True):
        layer, _ = convolution("plain", signed)
        R = torch.rand(layer.z.shape, dtype=torch.float64)
        difference = (rules.excitation(layer)(R) - rules.alpha1beta0(layer)(R)).abs().max()
        assert (difference < 1e-12) != signed


def test_dead_outputs_lose_relevance_and_nothing_is_infinite():
    layer, _ = linear(False)
    layer.kept[0][:] = 0
    for rule in (rules.alpha1beta0, rules.alpha2beta1, rules.excitation, rules.zero, rules.epsilon, rules.z_box):
        found = rule(layer)(torch.ones(layer.z.shape, dtype=torch.float64))
        assert (found == 0).all()


# -- through a 1x1 convolution at the bottom, only the sum of the inputs' shares is asked for -----------------------------------


def pointwise(stride=1, padding=0, groups=1, kernel=1, bottom=True, signed=False):
    """A dead place, an output that no input can feed, and one that only a late input feeds."""
    x, W, b = _drawn([(2, 6, 5, 4), (8, 6 // groups, kernel, kernel), (8,)], signed, 0)
    x[1, :, 2, 2] = 0
    if kernel == 1 and groups == 1:
        W[3], W[5, :5], W[5, 5] = -W[3].abs(), -W[5, :5].abs(), 1.0
    options = [stride] * 2, [padding] * 2, [1, 1], groups
    layer = Layer(W, b, options, False, bottom)
    layer.kept = [x, F.conv2d(x, W, b, *options)]
    return layer


@pytest.mark.parametrize("some", [1, 4, 6, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_in_place_gives_the_sum_of_the_shares(stride, some):
    layer = pointwise(stride)
    R = torch.randn(layer.z.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    shares, found = rules.excitation(layer)(R), rules.in_place(layer, some)(R)
    torch.testing.assert_close(found.sum(1), shares.sum(1))
    assert (found[:, 1:] == 0).all() and found.shape == layer.x.shape
    assert not torch.allclose(found.sum((1, 2, 3)), R.sum((1, 2, 3)))  # not all of it can be taken
    summed = rules.Rules(rules.excitation, summed=True)
    torch.testing.assert_close(summed.of(layer)(R), found)


def test_in_place_is_for_what_stays_in_its_place():
    assert rules.stays(pointwise()) and rules.stays(pointwise(stride=2))
    for other in ({"padding": 1}, {"groups": 2}, {"kernel": 3}, {"bottom": False}, {"signed": True}):
        assert not rules.stays(pointwise(**other)), other
    layer, _ = linear(False)
    layer.bottom = True
    assert not rules.stays(layer) and rules.Rules(rules.excitation).of(pointwise())(torch.ones(2, 8, 5, 4))[:, 1:].any()

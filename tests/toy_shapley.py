"""What the tests of the coefficients share."""

import functools
import itertools
import math

import torch
import xai_repro as xr
from toy_heads import Y, activations, played, setting

CURVED = ["vgg", "gap, before a convolution", "residual, between blocks", "functional"]


def alphas(name, method, **options):
    model, x, layer = setting(name)
    return xr.coefficients(model, x, Y, method, layer=layer, **options)


# -- the second way: every coalition ------------------------------------------------------------------------------------------


def all_coalitions(K):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=K)))


def shapley_values(v, K):
    """alpha [B,K] from v [B,2^K] in the order of all_coalitions: the textbook's sum over coalitions without k."""
    order = {tuple(map(int, row)): i for i, row in enumerate(all_coalitions(K).tolist())}
    alpha = torch.zeros(len(v), K, dtype=torch.float64)
    for without, i in order.items():
        s = sum(without)
        for k in range(K):
            if not without[k]:
                joined = order[without[:k] + (1,) + without[k + 1 :]]
                alpha[:, k] += math.factorial(s) * math.factorial(K - s - 1) / math.factorial(K) * (v[:, joined] - v[:, i])
    return alpha


@functools.cache
def exact(name):
    """(alpha [B,K], v(1) - v(0) [B]) of a case, by enumeration."""
    model, x, layer = setting(name)
    K = activations(model, x, layer).shape[1]
    v = played(model, x, Y, layer, all_coalitions(K))
    return shapley_values(v, K), v[:, -1] - v[:, 0]

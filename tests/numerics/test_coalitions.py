"""Coalitions by pairs, without replacement: what is drawn, how often, and with which weight."""

import itertools
import math

import pytest
import torch

from xai_repro.numerics.coalitions import coalitions


def psi(K, s):
    return (K - 1) / (math.comb(K, s) * s * (K - s))


@pytest.mark.parametrize("K", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("samples", [2, 3, 8, 13, 30, 62, 500])
def test_pairs_without_replacement(K, samples):
    for seed in range(5):
        X, weights = coalitions(K, samples, "paired", seed)
        assert len(X) == len(weights) == min(2 * (samples // 2), 2**K - 2)
        assert len({tuple(row) for row in X.tolist()}) == len(X)
        assert torch.equal(X[::2], 1 - X[1::2]) and torch.equal(weights[::2], weights[1::2])
        assert (X.sum(1) > 0).all() and (X.sum(1) < K).all()


@pytest.mark.parametrize("K", [2, 3, 4, 5, 6])
def test_all_of_them_have_the_kernels_weights(K):
    X, weights = coalitions(K, 2**K, "paired", 0)
    expected = torch.tensor([psi(K, int(row.sum())) for row in X])
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum())


@pytest.mark.parametrize("K, samples", [(4, 4), (5, 12), (6, 10), (6, 40), (7, 30)])
def test_the_weights_make_up_for_how_often_a_coalition_is_drawn(K, samples):
    """The mean over seeds of the weight with which a coalition counts is in proportion to the kernel."""
    seeds, total = 3000, {row: 0.0 for row in itertools.product((0.0, 1.0), repeat=K) if 0 < sum(row) < K}
    for seed in range(seeds):
        X, weights = coalitions(K, samples, "paired", seed)
        for row, weight in zip(X.tolist(), weights.tolist()):
            total[tuple(row)] += weight / seeds
    ratio = torch.tensor([value / psi(K, int(sum(row))) for row, value in total.items()])
    assert (ratio / ratio.mean() - 1).abs().max() < 0.25
    by_size = [sum(v for row, v in total.items() if sum(row) == s) * s * (K - s) for s in range(1, K)]
    assert max(by_size) / min(by_size) < 1.05


def test_many_channels_and_one():
    X, weights = coalitions(2048, 60, "paired", 1)
    assert X.shape == (60, 2048) and torch.isfinite(weights).all() and (weights == weights[0]).all()
    for sampling in ("plain", "paired"):
        X, weights = coalitions(1, 10, sampling, 0)
        assert X.shape == (0, 1) and weights.shape == (0,)


def test_seeds():
    for sampling in ("plain", "paired"):
        assert torch.equal(coalitions(9, 20, sampling, 4)[0], coalitions(9, 20, sampling, 4)[0])
        assert not torch.equal(coalitions(9, 20, sampling, 4)[0], coalitions(9, 20, sampling, 5)[0])

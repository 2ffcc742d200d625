"""Coalitions of channels, drawn for Kernel SHAP: psi(a') = (K-1) / (binom(K,s) s (K-s)) of a coalition of s = |a'| of K channels."""

from itertools import combinations
from math import comb

import torch


def coalitions(K, samples, sampling, seed):
    """Coalitions [n,K] of zeros and ones, neither empty nor full, and weights [n] with which they stand for all in proportion to psi.

    sampling: "plain": n = samples independent ones in proportion to psi, all of weight 1; "paired": each with its complement, no two
    alike, n = 2 (samples // 2) or, where there are fewer, all 2^K - 2. The pairs of a size s are drawn with equal probability q_s,
    in proportion to psi up to 1, and weigh psi / q_s, so that each counts psi in expectation.
    Raises ValueError for another sampling and for a single sample where pairs are drawn.
    """
    if sampling not in ("plain", "paired"):
        raise ValueError(f"sampling is '{sampling}'; possible: plain, paired")
    if sampling == "paired" and samples < 2:
        raise ValueError(f"samples is {samples}; at least 2 are needed for a pair")
    generator = torch.Generator().manual_seed(seed)
    if K < 2:
        return torch.zeros(0, K), torch.zeros(0)
    if sampling == "paired":
        return _paired(K, samples // 2, generator)
    sizes = torch.arange(1, K)
    size = 1 + torch.multinomial(1 / (sizes * (K - sizes)).double(), samples, replacement=True, generator=generator)
    places = torch.rand(samples, K, generator=generator).argsort(1).argsort(1)
    return (places < size[:, None]).float(), torch.ones(samples)


def _paired(K, pairs, generator):
    sizes = range(1, K // 2 + 1)
    there = {s: comb(K, s) // (1 + (2 * s == K)) for s in sizes}  # pairs of that size, counted by the smaller of the two
    share = {s: 1 / (s * (K - s)) / (1 + (2 * s == K)) for s in sizes}  # psi of all of them together
    pairs = min(pairs, sum(there.values()))
    full, scale = [], 0.0  # the sizes of which all pairs are taken, and how many of each other size are per share
    while (left := [s for s in sizes if s not in full]):
        scale = (pairs - sum(there[s] for s in full)) / sum(share[s] for s in left)
        if not (more := [s for s in left if scale * share[s] >= there[s]]):
            break
        full += more
    expected = torch.tensor([scale * share[s] for s in left], dtype=torch.float64)
    ends = (expected.cumsum(0) + torch.rand((), generator=generator)).round(decimals=9).floor().long().tolist()
    some = {s: after - before for s, before, after in zip(left, [0, *ends], ends)}
    rows, weights = [], []
    for s in sizes:
        drawn = _distinct(K, s, there[s] if s in full else some[s], there[s], generator)
        rows.append(drawn)
        weights += [share[s] / there[s] if s in full else 1 / scale] * (2 * len(drawn))
    one = torch.cat(rows)
    return torch.stack([one, 1 - one], 1).flatten(0, 1), torch.tensor(weights)


def _distinct(K, size, number, there, generator):
    """Different coalitions [number,K] of a size, no two of them complements of each other."""
    if 2 * number > there:
        every = list(combinations(range(K), size))[:there]  # of half the channels, the first half of the list holds channel 0
        chosen = [every[i] for i in torch.randperm(there, generator=generator)[:number].tolist()]
    else:
        found = {}
        while len(found) < number:
            members = torch.randperm(K, generator=generator)[:size].tolist()
            if 2 * size == K and 0 not in members:
                members = set(range(K)) - set(members)
            found[tuple(sorted(members))] = None
        chosen = list(found)
    rows = torch.zeros(number, K)
    for row, members in zip(rows, chosen):
        row[list(members)] = 1
    return rows

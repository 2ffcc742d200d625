"""Ward's hierarchy and the separation of clusters, written plainly."""

import numpy as np


def ward(psi, k):
    """Merges the two clusters whose union adds least to the squared error, until k are left (eqs. 10 and 11 as they stand)."""

    def error(members):
        points = psi[list(members)]
        return sum(((point - points.mean(0)) ** 2).sum() for point in points)

    clusters = [frozenset([i]) for i in range(len(psi))]
    while len(clusters) > k:
        pairs = [(error(a | b) - error(a) - error(b), i, j) for i, a in enumerate(clusters) for j, b in enumerate(clusters) if i < j]
        _, i, j = min(pairs)
        merged = clusters[i] | clusters[j]
        clusters = [c for n, c in enumerate(clusters) if n not in (i, j)] + [merged]
    return set(clusters)


def as_sets(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def plain_dsra(psi, labels):
    """Eqs. 12 to 15, cluster by cluster."""
    clusters = [psi[labels == label] for label in sorted(set(labels.tolist()))]
    centres = [c.mean(0) for c in clusters]
    ratios = []
    for i, cluster in enumerate(clusters):
        DIC = np.mean([((point - centres[i]) ** 2).sum() for point in cluster])
        SIC = min(((centres[i] - other) ** 2).sum() for j, other in enumerate(centres) if j != i)
        ratios.append((SIC - DIC) / (SIC + DIC))
    return np.mean(ratios)

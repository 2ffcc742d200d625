"""Partitions of Ward's hierarchy, and which of them is taken."""

import numpy as np
import pytest
from plain_clustering import as_sets, plain_dsra, ward

from xai_repro.numerics.clustering import best_partition, dsra, partitions


def vectors(K, seed=0):
    return np.random.default_rng(seed).standard_normal((K, 4))


@pytest.mark.parametrize("seed", range(3))
def test_partitions_are_ward(seed):
    """I15, against the definition."""
    psi = vectors(14, seed)
    for k, labels in zip(range(2, 14), partitions(psi, range(2, 14))):
        assert as_sets(labels) == ward(psi, k)


def test_dsra():
    psi = vectors(20)
    for labels in partitions(psi, range(2, 10)):
        assert dsra(psi, labels) == pytest.approx(plain_dsra(psi, labels), rel=1e-12)


def test_dsra_of_single_vectors_is_the_most_there_is():
    """I16."""
    psi = vectors(9)
    assert dsra(psi, np.arange(9)) == 1
    assert all(dsra(psi, labels) < 1 for labels in partitions(psi, range(2, 9)))


def test_dsra_by_hand():
    """Two clusters on a line, at 0 and 1, and at 10: DIC 1/4 and 0, SIC (9.5)^2."""
    psi = np.array([[0.0], [1.0], [10.0]])
    separation = 9.5**2
    expected = ((separation - 0.25) / (separation + 0.25) + 1) / 2
    assert dsra(psi, np.array([0, 0, 1])) == pytest.approx(expected)


def test_clusters_far_apart_are_found():
    rng = np.random.default_rng(1)
    for clusters in (2, 3, 5):
        centres = 100 * np.eye(5)[:clusters]
        truth = np.repeat(np.arange(clusters), 12)
        psi = centres[truth] + rng.uniform(-1, 1, (12 * clusters, 5))
        assert as_sets(best_partition(psi, 2, 10)) == as_sets(truth)


def test_the_best_of_the_range():
    psi = vectors(30, 4)
    for least, most in ((2, 10), (4, 6), (7, 7)):
        found = partitions(psi, range(least, most + 1))
        assert as_sets(best_partition(psi, least, most)) == as_sets(max(found, key=lambda labels: plain_dsra(psi, labels)))


def test_equal_vectors():
    """Dead channels have equal vectors: they share a cluster, and no ratio is undefined."""
    psi = np.concatenate([np.zeros((5, 4)), np.ones((4, 4))])
    assert as_sets(best_partition(psi, 2, 6)) == {frozenset(range(5)), frozenset(range(5, 9))}
    assert len(as_sets(best_partition(np.zeros((6, 4)), 2, 4))) == 1
    assert dsra(psi, np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])) == pytest.approx(1 / 3)  # 0 where SIC = DIC = 0, twice


def test_one_cluster_separates_nothing():
    """It counts 0, so that two clusters that lie a little apart are better."""
    psi = np.array([[0.0], [1.0], [3.0], [4.0]])
    assert dsra(psi, np.zeros(4, int)) == 0 < dsra(psi, np.array([0, 0, 1, 1])) < 1
    assert len(as_sets(best_partition(psi, 1, 2))) == 2


def test_few_vectors():
    psi = vectors(3)
    assert len(as_sets(best_partition(psi, 2, 10))) == 2
    assert as_sets(best_partition(psi[:2], 2, 10)) == {frozenset([0]), frozenset([1])}
    assert as_sets(best_partition(psi[:1], 2, 10)) == {frozenset([0])}

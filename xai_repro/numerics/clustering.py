"""Collections of similar feature maps: Ward's hierarchy, and the partition in it whose clusters lie apart best."""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage


def best_partition(psi, least, most):
    """Labels [K] in 0..k-1 of the partition of the vectors psi [K,D], k in least..most, with the largest `dsra`; of equals the coarsest.

    The partitions are those of Ward's hierarchy, all taken from one linkage   [Collection-CAM, eqs. 8 to 16, algorithm 1].
    Fewer vectors than clusters: k is at most K - 1, unless least asks for more, then K (a cluster for each).
    """
    K = len(psi)
    if K <= least:
        return np.arange(K)
    found = partitions(psi, range(least, min(most, K - 1) + 1))
    return found[int(np.argmax([dsra(psi, labels) for labels in found]))]


def partitions(psi, sizes):
    """Labels [K] of the partition into k clusters for each k of sizes, from one Ward linkage of psi [K,D].

    Where merges tie, as those of equal vectors do, a partition may have fewer clusters.
    """
    hierarchy = linkage(psi, "ward")
    return [fcluster(hierarchy, k, "maxclust") - 1 for k in sizes]


def dsra(psi, labels):
    """How well the clusters of psi [K,D] lie apart: the mean over clusters of (SIC - DIC) / (SIC + DIC), in [-1,1].

    DIC_i: mean squared distance to the centroid; SIC_i: least squared distance to another centroid   [Collection-CAM, eqs. 12 to 15]

    1 for a partition into distinct single vectors, the most that is possible, which is why the number of clusters has to be
    bounded. A cluster with SIC = DIC = 0 (another one at the same place) counts 0, and so does a partition into one.
    """
    if labels.max() == 0:
        return 0.0
    member = np.eye(labels.max() + 1)[labels]  # [K,k]
    centroid = member.T @ psi / member.sum(0)[:, None]
    DIC = member.T @ np.square(psi - centroid[labels]).sum(1) / member.sum(0)
    between = np.square(centroid[:, None] - centroid).sum(2)
    np.fill_diagonal(between, np.inf)
    SIC = between.min(1)
    total = SIC + DIC
    return float(np.mean(np.where(total > 0, (SIC - DIC) / np.where(total > 0, total, 1), 0)))

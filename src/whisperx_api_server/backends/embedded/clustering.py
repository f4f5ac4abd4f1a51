"""Voice vectors -> which of them are one speaker's.

Agglomerative clustering of unit vectors by Euclidean distance. When the number of speakers is open,
average linkage is cut at a distance, which does not drift with the recording's length; when it is
given, Ward's linkage is cut at that number, which separates best once the number is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .ge2e import Vectors, unit

DISTANCE = 0.83
"""Between the means of different speakers; found on dialogues of synthetic voices."""

SMALLEST_SECONDS = 2.0
SMALLEST_SHARE = 0.15
"""A speaker has at least this much of the speech (whichever is less), or is no speaker."""

MOST_VECTORS = 4_000
"""Linkage needs memory with the square of them (64 MB); of more, an even choice is clustered."""

Labels = NDArray[np.intp]


def cluster(vectors: Vectors, seconds: NDArray[np.float64], *, least: int, most: int) -> Labels:
    """A label from 0 for each vector, for between `least` and `most` speakers.

    `seconds` is how much speech each vector stands for. Fewer than `least` come out when there are
    not that many distinct vectors.
    """
    chosen = np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_VECTORS)).round().astype(int)
    labels = _cluster_all(vectors[chosen], seconds[chosen], least, most)
    means = centroids(vectors[chosen], labels)
    nearest: Labels = np.argmax(vectors @ means.T, axis=1)
    return np.unique(nearest, return_inverse=True)[1]


def centroids(vectors: Vectors, labels: Labels) -> Vectors:
    """The mean direction of each label's vectors; shape (labels, EMBEDDING)."""
    return unit(np.stack([vectors[labels == k].mean(axis=0) for k in range(labels.max() + 1)]))


def _cluster_all(vectors: Vectors, seconds: NDArray[np.float64], least: int, most: int) -> Labels:
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) < 2 or most == 1:
        return np.zeros(len(vectors), np.intp)
    if least < most:
        tree = linkage(vectors, method="average")
        labels = _fold_small(vectors, fcluster(tree, DISTANCE, "distance"), seconds)
        count = labels.max() + 1
        if least <= count <= most:
            return labels
        least = least if count < least else most
    tree = linkage(vectors, method="ward")
    best: Labels = np.zeros(len(vectors), np.intp)
    # Folding takes clusters away, so more than `least` must be asked for until that many are left.
    for count in range(least, min(len(vectors), 10 * least) + 1):
        labels = _fold_small(vectors, fcluster(tree, count, "maxclust"), seconds)
        if labels.max() + 1 == least:
            return labels
        if abs(labels.max() + 1 - least) < abs(best.max() + 1 - least):
            best = labels
    return best


def _fold_small(
    vectors: Vectors, clusters: Sequence[int] | Labels, seconds: NDArray[np.float64]
) -> Labels:
    """Give the vectors of clusters too small for a speaker to the nearest large one."""
    labels: Labels = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(labels, weights=seconds)
    large = np.flatnonzero(sizes >= min(SMALLEST_SECONDS, SMALLEST_SHARE * seconds.sum()))
    if len(large) == 0:
        large = np.array([sizes.argmax()])
    nearest = np.argmax(vectors @ centroids(vectors, labels)[large].T, axis=1)
    folded: Labels = np.where(np.isin(labels, large), np.searchsorted(large, labels), nearest)
    return folded

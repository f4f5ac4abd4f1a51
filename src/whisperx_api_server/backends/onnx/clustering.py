"""Clustering of voice vectors: which voices of all windows are one speaker.

Agglomerative, average linkage over cosine distances. Two voices of one window are two speakers.
Long recordings are clustered in blocks whose centroids are clustered again, which bounds memory
and time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .voices import Vectors, unit

DISTANCE = 0.65
"""Mean cosine distance up to which two clusters are one speaker. On `../shared/real/meetings` any
value from 0.55 to 0.70 gives a DER of 0.243 to 0.253."""

APART = 1.5
"""Distance between two voices of one window, longer than DISTANCE."""

BLOCK = 2_000
"""Voices that are clustered in one go: about an hour of conversation, 32 MB of distances."""

SPEAKERS = 200
"""Clusters of one block at most, if there are several blocks: noise can sound different in each
window, and the centroids of 10 h must not need the memory that blocks save."""

Labels = NDArray[np.intp]


def cluster(
    vectors: Vectors, windows: NDArray[np.intp], *, least: int, most: int, hierarchy: Any
) -> Labels:
    """Return the speaker of each voice, numbered from 0.

    `windows` has each voice's window; `least` and `most` bound the number of speakers, as far as
    there are voices. `hierarchy` is `scipy.cluster.hierarchy`.
    """
    if len(vectors) <= BLOCK:
        return _linked(vectors, windows, least, most, hierarchy)
    labels = np.empty(len(vectors), np.intp)
    means: list[Vectors] = []
    found = 0
    for first in range(0, len(vectors), BLOCK):
        part = slice(first, first + BLOCK)
        inside = _linked(vectors[part], windows[part], 1, SPEAKERS, hierarchy)
        labels[part] = inside + found
        means.append(centroids(vectors[part], inside))
        found += len(means[-1])
    joined = np.concatenate(means)
    blocks = np.repeat(np.arange(len(means)), [len(each) for each in means])
    return cluster(joined, blocks, least=least, most=most, hierarchy=hierarchy)[labels]


def centroids(vectors: Vectors, labels: Labels) -> Vectors:
    """Return the mean vector of each cluster, of unit length."""
    means = np.stack([vectors[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    return unit(means)


def _linked(
    vectors: Vectors, groups: NDArray[np.intp], least: int, most: int, hierarchy: Any
) -> Labels:
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.intp)
    distances = 1.0 - vectors @ vectors.T
    np.maximum(distances, 0.0, out=distances)  # equal vectors, rounded; scipy refuses less than 0
    distances[groups[:, None] == groups[None, :]] = APART
    upper = np.triu_indices(len(vectors), k=1)
    tree = hierarchy.linkage(distances[upper], "average")
    labels = hierarchy.fcluster(tree, DISTANCE, "distance")
    count = labels.max()
    wanted = min(max(count, least), most, len(vectors))
    if wanted != count:
        labels = hierarchy.cut_tree(tree, n_clusters=wanted).ravel()
    return np.unique(labels, return_inverse=True)[1].astype(np.intp)

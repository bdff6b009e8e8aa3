"""The best pairs of a table of scores."""

from __future__ import annotations

import numpy as np


def best_pairs(scores: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[tuple[int, int]]:
    """The assignment with the largest sum (by shortest augmenting paths)."""
    if scores.shape[0] > scores.shape[1]:
        return [(i, j) for j, i in best_pairs(scores.T)]
    cost = -scores
    n, m = cost.shape
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, int)
    for i in range(1, n + 1):
        owner[0], j = i, 0
        least = np.full(m + 1, np.inf)
        way = np.zeros(m + 1, int)
        used = np.zeros(m + 1, bool)
        while True:
            used[j] = True
            free = ~used[1:]
            reduced = cost[owner[j] - 1] - u[owner[j]] - v[1:]
            better = free & (reduced < least[1:])
            least[1:][better] = reduced[better]
            way[1:][better] = j
            candidates = np.where(free, least[1:], np.inf)
            following = int(candidates.argmin()) + 1
            delta = candidates[following - 1]
            u[owner[used]] += delta
            v[used] -= delta
            least[1:][free] -= delta
            j = following
            if owner[j] == 0:
                break
        while j:
            owner[j] = owner[way[j]]
            j = way[j]
    return [(owner[j] - 1, j - 1) for j in range(1, m + 1) if owner[j]]

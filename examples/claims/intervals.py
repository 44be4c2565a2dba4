"""How sure a number is: over seeds, and over the documents that it was measured on.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
import random
import statistics
from typing import List, NamedTuple, Optional, Sequence, Tuple

RESAMPLES = 2000
# Student's t, two-sided 95 %, by degrees of freedom.
_T = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Document = Sequence[float]  # sum of -log p, targets, of them greedy


class Estimate(NamedTuple):
    """A value, and half the width of its 95 % interval."""

    value: float
    half: float


def loss_of(documents: Optional[Sequence[Document]]) -> float:
    """Mean -log p of a target; infinite where a run diverged."""
    if documents is None:
        return math.inf
    return math.fsum(part[0] for part in documents) / math.fsum(part[1] for part in documents)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of runs that differ in the seed alone, by Student's t."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1 or not math.isfinite(mean):
        return Estimate(mean, math.nan)
    return Estimate(mean, _T[n - 1] * statistics.stdev(values) / math.sqrt(n))


def difference(
    ours: List[Optional[List[Document]]], theirs: List[Optional[List[Document]]]
) -> Estimate:
    """Mean of ours - theirs over paired seeds.

    Its interval is Student's over the seeds' differences and, in quadrature, a bootstrap's over
    the documents of their mean.
    """
    seeds = over_seeds([loss_of(a) - loss_of(b) for a, b in zip(ours, theirs)])
    if not math.isfinite(seeds.value):
        return Estimate(seeds.value, math.nan)
    pairs = [_by_document(a or [], b or []) for a, b in zip(ours, theirs)]
    return Estimate(seeds.value, math.hypot(seeds.half, _over_documents(pairs)))


def _by_document(a: List[Document], b: List[Document]) -> List[Tuple[float, float]]:
    if [part[1] for part in a] != [part[1] for part in b]:
        raise ValueError("documents of two runs are not the same")
    return [(x[0] - y[0], x[1]) for x, y in zip(a, b)]


def _over_documents(pairs: List[List[Tuple[float, float]]]) -> float:
    """Half the width of the interval, of a loss that is the mean over seeds."""
    means = [statistics.fmean(seed[i][0] for seed in pairs) for i in range(len(pairs[0]))]
    n_targets = [n for _, n in pairs[0]]
    draw = random.Random(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(range(len(means)), k=len(means))
        found.append(math.fsum(means[i] for i in drawn) / sum(n_targets[i] for i in drawn))
    return 1.96 * statistics.stdev(found)

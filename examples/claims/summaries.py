"""What there is to say of runs: losses over seeds, norms over measurements, seconds over steps.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
import statistics
from typing import Dict, List, NamedTuple, Sequence

import studies
from intervals import Estimate, difference, loss_of, over_seeds
from lines import TIMES, NotYet, Result, Results, read_lines
from spec import Spec
from timing import timed_before
from training import Phases

PHASES = Phases._fields


class Group(NamedTuple):
    """The runs of a spec with every seed."""

    runs: List[Result]

    @property
    def losses(self) -> List[float]:
        """Of the part to judge by."""
        return [loss_of(run.end["test"]) for run in self.runs]

    @property
    def finite(self) -> List[float]:
        """Losses of the runs that came to their end."""
        return [loss for loss in self.losses if math.isfinite(loss)]

    @property
    def loss(self) -> Estimate:
        """Over seeds."""
        return over_seeds(self.losses)

    def than(self, other: Group) -> Estimate:
        """How much more than another's, paired."""
        ours, theirs = ([run.end["test"] for run in group.runs] for group in (self, other))
        return difference(ours, theirs)

    @property
    def greedy(self) -> float:
        """The part of the targets that were the most likely token."""
        return statistics.fmean(map(greedy, self.runs))

    @property
    def layers(self) -> float:
        """How many of LISA's train at a time."""
        return statistics.fmean(
            len(line["layers"]) for run in self.runs for line in run.of("layers")
        )

    @property
    def layers_ever(self) -> float:
        """How many trained in the end."""
        return statistics.fmean(map(layers_ever, self.runs))

    @property
    def resident(self) -> float:
        """By how much the process grew, at the most."""
        return max(float(run.end["resident"]) for run in self.runs)


def greedy(run: Result) -> float:
    """Of one run."""
    documents = run.end["test"]
    if documents is None:
        return math.nan
    return math.fsum(part[2] for part in documents) / math.fsum(part[1] for part in documents)


def layers_ever(run: Result) -> int:
    """How many trained in the end; all of full AdamW and LoRA."""
    drawn = {layer for line in run.of("layers") for layer in line["layers"]}
    return len(drawn) or len(next(run.of("norms"))["norms"]) - 2


def group_of(results: Results, spec: Spec) -> Group:
    """NotYet while a seed is missing."""
    return Group([results.need(seeded) for seeded in studies.seeded(spec)])


def groups_of(results: Results, text: str) -> Dict[str, Group]:
    """The methods of the study of quality, each at its best rate."""
    return {name: group_of(results, studies.best_of(results, text, name)) for name in studies.BASE}


def mean_norms(run: Result, key: str) -> List[float]:
    """Of each group, over the measurements behind step 0."""
    measured = [line[key] for line in run.of(key) if line["step"] > 0]
    return [statistics.fmean(values) for values in zip(*measured)]


def changes(run: Result) -> List[float]:
    """Of each group's norm, from the first measurement to the end: a part of what it was."""
    first, *_, last = (line["norms"] for line in run.of("norms"))
    last = run.end.get("merged", last)
    return [end / begin - 1 for begin, end in zip(first, last)]


def norm_results(results: Results) -> Dict[str, Dict[str, Result]]:
    """Runs by shape and method."""
    found: Dict[str, Dict[str, Result]] = {"GPT-2": {}, "LLaMA": {}}
    for name in studies.NORMS_OF:
        small = studies.at_best_rate(results, studies.of_gpt2(name))
        found["GPT-2"][name] = results.need(small)
        found["LLaMA"][name] = results.need(studies.best_of(results, studies.TEXTS[1], name))
    return found


class Steps(NamedTuple):
    """Seconds of the phases of a method's steps."""

    phases: List[Sequence[float]]

    def mean(self, phase: str) -> float:
        """Of one phase."""
        return statistics.fmean(step[PHASES.index(phase)] for step in self.phases)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return statistics.fmean(map(sum, self.phases))

    @property
    def middle(self) -> str:
        """Where the middle half of the steps lies."""
        low, _, high = statistics.quantiles(map(sum, self.phases), n=4, method="inclusive")
        return f"{low:.3f} to {high:.3f}"


def phases(results: Results) -> Dict[str, Steps]:
    """Seconds by method and phase; of a swap, which is timed in every step, a step's share."""
    path, methods = results.directory / TIMES, studies.timed(results)
    if timed_before(path) != methods:
        raise NotYet([])
    lines = read_lines(path)
    if "rounds" not in lines[-1]:
        raise ValueError(f"{path}: it ends too early")
    found: Dict[str, Steps] = {name: Steps([]) for name in methods}
    for line in lines[1:-1]:
        swap, *others = line["seconds"]
        interval = methods[line["method"]].interval
        found[line["method"]].phases.append((swap / interval, *others))
    return found

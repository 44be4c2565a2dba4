"""The studies: each names the runs that it needs, by what is known of those that are through.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from liblisa import UNLIMITED_CLASSES

from lines import NotYet, Result, Results
from models import GPT2, UNTIED
from spec import ADAPTIVE, Spec

TEXTS = ("gsm8k", "instructions")
SEEDS = (1, 2, 3)
DRAWS = (11, 12, 13, 14, 15)  # seeds of the layers' draws, all else the same
ACTIVE = (1, 2, 4, 8)
NEVER = Spec.steps  # an interval in which one draw lasts for the whole run
INTERVALS = (1, 5, 20, 50, NEVER)
SAMPLERS = ("uniform", "reshuffle", "bernoulli", "weighted", ADAPTIVE)
OFTEN = 5  # steps of a period where samplings are compared: 24 draws a run, not 6
ALWAYS = {  # embedding, head: which of them train all the time
    "embedding and head": (True, True),
    "head alone": (False, True),
    "embedding alone": (True, False),
    "neither": (False, False),
}
NORMS_OF = ("full AdamW", "LoRA r 16", "LISA")
# LoRA's largest multiple of 16 that stores all activations in LISA's bytes, by a few threads.
EQUAL_RANK = 96

# Where a sweep begins, as a power of ten: 3 is 10^-3.
FIRST_RATE = {"lisa": 3.0, "lora": 3.0, "full": 4.0}
MOST_RATES = 9  # that may diverge, before a sweep is given up
BASE = {
    "LISA": Spec("", "lisa"),
    "LoRA r 16": Spec("", "lora", rank=16),
    "LoRA r 128": Spec("", "lora", rank=128),
    "full AdamW": Spec("", "full"),
}


class Sweep(NamedTuple):
    """Rates that were asked for, and the best of them when both its neighbours were tried."""

    runs: List[Spec]
    best: Optional[Spec]


def rate(exponent: float) -> float:
    """10^-exponent to two digits."""
    return float(f"{10 ** -exponent:.2g}")


def chosen_by(result: Result) -> float:
    """Loss of the part to choose by, at the end of a run; infinite where it diverged."""
    if result.end["test"] is None:
        return math.inf
    loss = float(list(result.of("valid"))[-1]["valid"])
    return loss if math.isfinite(loss) else math.inf


def sweep(results: Results, base: Spec) -> Sweep:
    """Half decades up and down from the method's first, until the best lies between two worse."""
    places = [0, 1, -1]
    while True:
        runs = [replace(base, lr=rate(FIRST_RATE[base.method] - place / 2)) for place in places]
        found = [results.get(spec) for spec in runs]
        losses = [chosen_by(result) for result in found if result is not None]
        if len(losses) < len(runs):
            return Sweep(runs, None)
        if math.isinf(min(losses)) and len(places) == MOST_RATES:
            raise ValueError(f"{base.text}, {base.method}: every rate of {runs} diverged")
        best = min(places) if math.isinf(min(losses)) else places[losses.index(min(losses))]
        if min(places) < best < max(places):
            return Sweep(runs, runs[places.index(best)])
        places.append(best + (1 if best == max(places) else -1))


def at_best_rate(results: Results, base: Spec) -> Spec:
    """NotYet while rates are missing."""
    found = sweep(results, base)
    if found.best is None:
        raise NotYet(found.runs)
    return found.best


def method(text: str, name: str) -> Spec:
    """One of the study of quality, without a rate."""
    return replace(BASE[name], text=text)


def best_of(results: Results, text: str, name: str) -> Spec:
    """A method of the study of quality at its best rate."""
    return at_best_rate(results, method(text, name))


def seeded(spec: Spec) -> List[Spec]:
    """The same with every seed."""
    return [replace(spec, seed=seed) for seed in SEEDS]


def _swept_and_seeded(results: Results, base: Spec) -> List[Spec]:
    found = sweep(results, base)
    return found.runs + (seeded(found.best) if found.best is not None else [])


def quality(results: Results) -> List[Spec]:
    """Every method at the rate that is best for it, with three seeds."""
    runs: List[Spec] = []
    for text in TEXTS:
        runs.append(Spec(text, "none"))
        for name in BASE:
            runs += _swept_and_seeded(results, method(text, name))
    return runs


def table(best: Spec) -> Dict[Tuple[int, int], Spec]:
    """By layers that train at a time and steps of a period."""
    return {
        (active, interval): replace(best, active=active, interval=interval)
        for active in ACTIVE
        for interval in INTERVALS
    }


def drawn(best: Spec) -> List[Spec]:
    """Other draws of layers, all else the same."""
    return [replace(best, draws=draws) for draws in DRAWS]


def again(best: Spec) -> Spec:
    """The same run by another name: its draws have the seed that they would have."""
    return replace(best, draws=best.seed)


def drawn_once(best: Spec) -> List[Spec]:
    """Other layers, which train from the beginning to the end."""
    return drawn(replace(best, interval=NEVER))


def ablation(results: Results) -> List[Spec]:
    """Layers that train at a time against steps of a period; and other draws of layers."""
    best = best_of(results, TEXTS[0], "LISA")
    return [*table(best).values(), again(best), *drawn(best), *drawn_once(best)]


def samplings(best: Spec) -> Dict[str, Spec]:
    """What differs from uniform sampling in one thing."""
    often = replace(best, interval=OFTEN)
    found = {name: replace(often, sampler=name) for name in SAMPLERS}
    return {**found, "uniform, states kept": replace(often, state="keep")}


def sampling(results: Results) -> List[Spec]:
    """Samplers, and states that are kept."""
    best = best_of(results, TEXTS[0], "LISA")
    return [run for spec in samplings(best).values() for run in seeded(spec)]


def frozen_embedding(text: str) -> Spec:
    """LISA that leaves embedding and tied head alone, without a rate."""
    return replace(BASE["LISA"], text=text, embedding=False)


def always(results: Results) -> Dict[str, Spec]:
    """What trains all the time beside LISA's layers, where the head is a tensor of its own."""
    best = best_of(results, TEXTS[0], "LISA")
    layers = at_best_rate(results, frozen_embedding(TEXTS[0]))
    return {
        name: replace(
            best if embedding or head else layers, embedding=embedding, head=head, model=UNTIED
        )
        for name, (embedding, head) in ALWAYS.items()
    }


def ends(results: Results) -> List[Spec]:
    """Embedding and head, on and off."""
    return [run for spec in always(results).values() for run in seeded(spec)]


def limited(by_class: Dict[str, int]) -> int:
    """Bytes of the classes that a memory limit counts."""
    return sum(n for name, n in by_class.items() if name not in UNLIMITED_CLASSES)


def still_mapped(result: Result) -> int:
    """Bytes of the model's file that every step reads: what has no private copy, or never will."""
    planned = result.begin["planned"]
    copied = 0 if result.spec.method == "lora" else planned.get("private weights", 0)
    return int(planned["mapped weights"]) - copied


def footprint(result: Result) -> int:
    """All bytes that a run plans to have in use, the model's own among them."""
    return limited(result.begin["planned"]) + still_mapped(result)


class Rivals(NamedTuple):
    """Methods in the same memory: the first is the one that set the limit."""

    bytes: int
    methods: Dict[str, Spec]


def _within(results: Results, bytes: int, like: Spec, **changes: Any) -> Spec:
    """A spec without a rate, limited so that with its part of the model's file it has so much."""
    rest = bytes - still_mapped(results.need(like))
    if rest < 1 << 20:  # no limit would be none
        raise ValueError(f"{like.name}: the model's file alone takes {bytes} bytes")
    return replace(like, lr=0.0, limit_mib=rest >> 20, **changes)


def budgets(results: Results, text: str) -> List[Rivals]:
    """In LISA's memory, and in that of LoRA of rank 16."""
    lisa, small_lora, large_lora, full = (best_of(results, text, name) for name in BASE)
    much, little = (footprint(results.need(spec)) for spec in (lisa, small_lora))
    lora = _within(results, much, large_lora, rank=EQUAL_RANK)
    squeezed = _within(results, much, full, moments="8bit", in_backward=True)
    frozen = at_best_rate(results, frozen_embedding(text))
    small_lisa = _within(results, little, frozen)
    return [
        Rivals(
            much,
            {
                "LISA": lisa,
                f"LoRA r {EQUAL_RANK}": at_best_rate(results, lora),
                "full AdamW, 8-bit moments": at_best_rate(results, squeezed),
            },
        ),
        Rivals(
            little,
            {
                "LoRA r 16": small_lora,
                "LISA, embedding frozen": replace(small_lisa, lr=frozen.lr),
            },
        ),
    ]


def budget(results: Results) -> List[Spec]:
    """Every method in the same memory, with three seeds."""
    return [
        run
        for text in TEXTS
        for rivals in budgets(results, text)
        for spec in rivals.methods.values()
        for run in seeded(spec)
    ]


def of_gpt2(name: str) -> Spec:
    """A method on a GPT-2 that is small enough to be taught from nothing."""
    return replace(BASE[name], text=TEXTS[1], model=GPT2)


def norms(results: Results) -> List[Spec]:
    """Weight norms of GPT-2's shape; those of LLaMA's are in the study of quality."""
    return [run for name in NORMS_OF for run in sweep(results, of_gpt2(name)).runs]


def timed(results: Results) -> Dict[str, Spec]:
    """What is timed: the methods, and how they fit into others' memory."""
    methods = {name: best_of(results, TEXTS[0], name) for name in BASE}
    for rivals in budgets(results, TEXTS[0]):
        methods.update(rivals.methods)
    return methods


def time(results: Results) -> List[Spec]:
    """Where the time of a step goes: the runs by which it is known what is timed."""
    return list(timed(results).values())


STUDIES: Dict[str, Callable[[Results], List[Spec]]] = {
    "quality": quality,
    "ablation": ablation,
    "sampling": sampling,
    "budget": budget,
    "ends": ends,
    "norms": norms,
    "time": time,
}


def missing(study: str, results: Results) -> List[Spec]:
    """What is known by now to be missing; a sweep says more when its first rates are through."""
    try:
        asked = STUDIES[study](results)
    except NotYet as error:
        asked = error.runs
    return [spec for spec in dict.fromkeys(asked) if results.get(spec) is None]

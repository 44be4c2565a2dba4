"""Where the time of a step goes, method by method, on the same rows in turn.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Dict

from lines import Writer, publish
from run import machine
from spec import Spec
from texts import Text
from training import Training

ROUNDS = 40  # two of LISA's periods
WARM = 2  # rounds that are not written down: memory comes in


def timing(methods: Dict[str, Spec], text: Text, model: Path, path: Path, part: Path) -> None:
    """A line a step: its method and the seconds of its phases; in `part` until all are there."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(part, 0))
        writer.add(
            {"specs": {k: spec.as_json() for k, spec in methods.items()}, "machine": machine()}
        )
        trainings = {k: stack.enter_context(Training(s, model)) for k, s in methods.items()}
        rows = text.order(seed=1)
        for number in range(WARM + ROUNDS):
            row = next(rows)
            for name, training in trainings.items():
                step = training.step(number, row)
                if number >= WARM:
                    seconds = [round(part, 6) for part in step.seconds]
                    writer.add({"method": name, "tokens": len(row.tokens), "seconds": seconds})
        writer.add({"rounds": ROUNDS})
    publish(part, path)

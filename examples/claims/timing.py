"""Where the time of a step goes, method by method, on the same rows in turn.

How far back a LISA step goes depends on its layers: here they are drawn for every step, so that
forty draws are measured and not two. A swap then comes with each, and not with every twentieth.
All methods are open at once, and take the sum of their memory.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Dict

import liblisa

from lines import Writer, publish, read_lines
from run import machine
from spec import Spec
from texts import Text
from training import Training

ROUNDS = 40
WARM = 2  # rounds that are not written down: memory comes in


def timed_before(path: Path) -> Dict[str, Spec]:
    """The methods of a file; none where there is none."""
    if not path.is_file():
        return {}
    return {name: Spec(**values) for name, values in read_lines(path)[0]["specs"].items()}


def timing(methods: Dict[str, Spec], text: Text, model: Path, path: Path, part: Path) -> None:
    """A line a step: its method and the seconds of its phases; in `part` until all are there."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(part, 0))
        writer.add(
            {
                "specs": {name: spec.as_json() for name, spec in methods.items()},
                "liblisa": liblisa.library_version(),
                "machine": machine(),
                "load": os.getloadavg()[0],  # before it begins, by the minute
            }
        )
        trainings = {
            name: stack.enter_context(Training(replace(spec, interval=1), model))
            for name, spec in methods.items()
        }
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

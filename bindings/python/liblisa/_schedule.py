"""The learning rate of a step."""

from __future__ import annotations

import math

from ._errors import InvalidArgument
from ._options import real, unsigned

SCHEDULES = ("cosine", "linear", "constant")


def scheduled_lr(
    step: int,
    n_steps: int,
    lr: float,
    *,
    schedule: str = "cosine",
    warmup_steps: int = 0,
    min_ratio: float = 0.0,
) -> float:
    """The rate of a step, counted from 0, for Optimizer.set_lr: linear warm-up, then a schedule.

    lr: the highest, which the last of warmup_steps has first.
    schedule: "cosine" (arXiv 1608.03983 without restarts), "linear" or "constant".
    min_ratio: the part of lr that cosine and linear come down to at n_steps, and stay at.
    """
    if schedule not in SCHEDULES:
        raise InvalidArgument(f"schedule: expected one of {SCHEDULES}, got {schedule!r}")
    step, n_steps = unsigned(step, 64, "step"), unsigned(n_steps, 64, "n_steps")
    warmup_steps = unsigned(warmup_steps, 64, "warmup_steps")
    lr, min_ratio = real(lr, "lr"), real(min_ratio, "min_ratio")
    if not 0 <= min_ratio <= 1:
        raise InvalidArgument(f"min_ratio: expected 0 to 1, got {min_ratio:g}")
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, n_steps - warmup_steps))
    left = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[schedule]
    return lr * (min_ratio + (1 - min_ratio) * left)

"""What `finetune` says of a step in its JSON lines."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from .._metrics import log_metrics, read_metrics
from .._output import write_whole
from .._train import StepStats


class Measured(NamedTuple):
    """What is known of a step besides its stats."""

    n_tokens: int
    seconds: float  # of the step itself: no validation, no checkpoint
    layers: Optional[List[int]]  # that LISA has trained; None: another method
    peak_bytes: int  # of all memory that a limit counts, so far
    eval_loss: Optional[float]


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=int(seconds)))


class Metrics:
    """Call step() after every step."""

    def __init__(self, path: Path, n_steps: int, per_epoch: int) -> None:
        self._n_steps, self._per_epoch = n_steps, per_epoch
        self._path = path
        self._begin = time.monotonic()
        self._steps_begin: Optional[float] = None  # of the first step of this process
        self._first = 0
        self._first_tokens = 0
        self.tokens = 0  # of all steps that are done

    def resume(self, step: int, tokens: int) -> List[Dict[str, Any]]:
        """Goes on behind `step` steps and returns their lines: later ones are forgotten."""
        self._first, self._first_tokens, self.tokens = step, tokens, tokens
        if not self._path.exists():
            return []
        before = read_metrics(self._path) if step else []
        kept = [values for values in before if values["current_steps"] <= step]
        write_whole(self._path, "".join(json.dumps(values) + "\n" for values in kept))
        return kept

    def before(self, eval_loss: float) -> Dict[str, Any]:
        """Records what was measured before the first step."""
        return log_metrics(self._path, 0, **self._position(0), eval_loss=eval_loss)

    def step(self, step: int, stats: StepStats, measured: Measured) -> Dict[str, Any]:
        """Records a step, counted from 1, and returns its line."""
        self.tokens += measured.n_tokens
        now = time.monotonic()
        seconds = now - self._begin
        if self._steps_begin is None:
            self._steps_begin = now - measured.seconds
        step_seconds = (now - self._steps_begin) / (step - self._first)
        throughput = (self.tokens - self._first_tokens) / seconds
        values = {
            **self._position(step),
            "elapsed_time": clock(seconds),
            "remaining_time": clock(step_seconds * (self._n_steps - step)),
            "throughput": round(throughput, 2),
            "total_tokens": self.tokens,
            "step_tokens": measured.n_tokens,
            "step_time": round(measured.seconds, 6),
            "peak_bytes": measured.peak_bytes,
        }
        if measured.eval_loss is not None:
            values["eval_loss"] = measured.eval_loss
        return log_metrics(self._path, step, stats, layers=measured.layers, **values)

    def _position(self, step: int) -> Dict[str, Any]:
        return {
            "total_steps": self._n_steps,
            "epoch": round(step / self._per_epoch, 4),
            "percentage": round(100 * step / self._n_steps, 2),
        }

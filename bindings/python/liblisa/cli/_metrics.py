"""A run's figures as JSON lines, one object a step."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

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


def read_metrics(path: Path) -> List[Dict[str, Any]]:
    """The objects of a file; a last line that a killed process has torn is left out."""
    found = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            values = None
        if not _is_line(values):
            raise ValueError(f"{path}: line {number} is not a step's figures")
        found.append(values)
    return found


def _is_line(values: Any) -> bool:
    """An object that has what is read of a line."""
    if not isinstance(values, dict):
        return False
    numbers = {"current_steps"} | (values.keys() & {"loss", "eval_loss"})
    if "loss" in numbers:
        numbers.add("learning_rate")
    layers = values.get("lisa_layers", [])
    return (
        all(isinstance(values.get(name), (int, float)) for name in numbers)
        and isinstance(layers, list)
        and all(isinstance(layer, int) for layer in layers)
    )


class Metrics:
    """Call step() after every step. Keys are those of others' logs, where they have them."""

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
        return self._write({**self._position(0), "eval_loss": eval_loss})

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
            "loss": stats.loss,
            "learning_rate": stats.lr,
            "elapsed_time": clock(seconds),
            "remaining_time": clock(step_seconds * (self._n_steps - step)),
            "throughput": round(throughput, 2),
            "total_tokens": self.tokens,
            "step_tokens": measured.n_tokens,
            "step_time": round(measured.seconds, 6),
            "grad_norm": stats.grad_norm,
            "lisa_active_layers": stats.n_active_layers,
            "peak_bytes": measured.peak_bytes,
        }
        if measured.layers is not None:
            values["lisa_layers"] = measured.layers
        if measured.eval_loss is not None:
            values["eval_loss"] = measured.eval_loss
        if not stats.updated:
            values["skipped"] = True
        return self._write(values)

    def _position(self, step: int) -> Dict[str, Any]:
        return {
            "current_steps": step,
            "total_steps": self._n_steps,
            "epoch": round(step / self._per_epoch, 4),
            "percentage": round(100 * step / self._n_steps, 2),
        }

    def _write(self, values: Dict[str, Any]) -> Dict[str, Any]:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        return values

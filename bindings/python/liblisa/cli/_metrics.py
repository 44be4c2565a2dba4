"""A run's figures: JSON lines for machines, one object a step, and lines for people."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any, Dict, Optional

from .._train import StepStats


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class Metrics:
    """Call step() after every step. Keys are those of others' logs, where they have them."""

    def __init__(self, path: Path, n_steps: int, per_epoch: int, quiet: bool, every: int) -> None:
        self._n_steps, self._per_epoch = n_steps, per_epoch
        self._quiet, self._every = quiet, every
        self._path = path
        self._begin = time.monotonic()
        self._first = 0
        self._first_tokens = 0
        self.tokens = 0  # of all steps that are done

    def resume(self, step: int, tokens: int) -> None:
        """Goes on behind `step` steps: lines of later ones are forgotten."""
        self._first, self._first_tokens, self.tokens = step, tokens, tokens
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["current_steps"] <= step]
        self._path.write_text("".join(kept), encoding="utf-8")

    def step(self, step: int, n_tokens: int, stats: StepStats, eval_loss: Optional[float]) -> None:
        """Records a step, counted from 1."""
        self.tokens += n_tokens
        seconds = time.monotonic() - self._begin
        done = step - self._first
        throughput = (self.tokens - self._first_tokens) / seconds
        values: Dict[str, Any] = {
            "current_steps": step,
            "total_steps": self._n_steps,
            "loss": stats.loss,
            "learning_rate": stats.lr,
            "epoch": round(step / self._per_epoch, 4),
            "percentage": round(100 * step / self._n_steps, 2),
            "elapsed_time": _clock(seconds),
            "remaining_time": _clock(seconds / done * (self._n_steps - step)),
            "throughput": round(throughput, 2),
            "total_tokens": self.tokens,
            "grad_norm": stats.grad_norm,
            "lisa_active_layers": stats.n_active_layers,
        }
        if eval_loss is not None:
            values["eval_loss"] = eval_loss
        if not stats.updated:
            values["skipped"] = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        due = step % self._every == 0 or step == self._n_steps or eval_loss is not None
        if due and not self._quiet:
            self._print(values)

    def _print(self, values: Dict[str, Any]) -> None:
        evaluated = f" | eval {values['eval_loss']:.4f}" if "eval_loss" in values else ""
        print(
            f"step {values['current_steps']}/{values['total_steps']} | loss {values['loss']:.4f}"
            f"{evaluated} | lr {values['learning_rate']:.2e} | norm {values['grad_norm']:.3f} | "
            f"{values['throughput']:.0f} tok/s | left {values['remaining_time']}",
            flush=True,
        )

"""Progress of a training run: a bar on a terminal, plain lines elsewhere.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import NamedTuple, Optional

from tqdm import tqdm

MIB = 1 << 20


class Reading(NamedTuple):
    """What there is to say about one step."""

    loss: float
    heldout: Optional[float]  # the latest held-out loss
    lr: float
    layers: list[int]  # that trained
    n_tokens: int
    memory: int  # bytes in use


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Call step() after every step and close() at the end."""

    def __init__(self, n_steps: int, every: int = 10) -> None:
        self._n_steps = n_steps
        self._every = every
        self._done = 0
        self._tokens = 0
        self._smooth = 0.0
        self._begin = time.monotonic()
        self._bar: Optional[tqdm] = None
        if sys.stdout.isatty():
            width, height = shutil.get_terminal_size((120, 24))
            self._bar = tqdm(total=n_steps, desc="training", unit="step", file=sys.stdout,
                             ncols=width, nrows=height)

    def step(self, reading: Reading) -> None:
        self._done += 1
        self._tokens += reading.n_tokens
        self._smooth += (reading.loss - self._smooth) / min(self._done, self._every)
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(reading), refresh=False)
            self._bar.update()
        elif self._done % self._every == 0 or self._done == self._n_steps:
            print(f"step {self._done:3d}/{self._n_steps} | {self._text(reading)} | "
                  f"ETA {clock(self._remaining())}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _remaining(self) -> float:
        return (time.monotonic() - self._begin) / self._done * (self._n_steps - self._done)

    def _text(self, reading: Reading) -> str:
        speed = self._tokens / (time.monotonic() - self._begin)
        heldout = "" if reading.heldout is None else f" | held-out {reading.heldout:.3f}"
        layers = ",".join(str(layer) for layer in reading.layers)
        return (f"loss {self._smooth:.3f}{heldout} | lr {reading.lr:.1e} | layers {layers} | "
                f"{speed:.0f} tok/s | {reading.memory / MIB:.0f} MiB")

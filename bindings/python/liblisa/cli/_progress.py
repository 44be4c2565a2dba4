"""What a person sees of a run: a bar that is redrawn in place on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any, Dict, List, Optional, Sequence, TextIO

from ._report import amount

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_REDRAW_SECONDS = 0.1
_BAR_LEAST, _BAR_MOST = 10, 30  # columns
_ECHO = 3  # columns that stay free: a full row would wrap, and Ctrl-C leaves ^C behind it
_WIDE = 60  # columns from which on a bar is worth its place


class Average:
    """A moving average by a factor a value; its first values are not pulled towards zero."""

    def __init__(self, factor: float = 0.9) -> None:
        self._factor = factor
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """The average, `value` included."""
        self._sum = self._factor * self._sum + (1 - self._factor) * value
        self._weight = self._factor * self._weight + (1 - self._factor)
        return self._sum / self._weight


def layer_list(layers: List[int]) -> str:
    """Layers in few characters: 0-3,7."""
    runs: List[List[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def bar(fraction: float, width: int, encoding: Optional[str]) -> str:
    """A bar of so many columns, in eighths of a column where the terminal can write them."""
    eighths = int(min(max(fraction, 0.0), 1.0) * width * 8)
    whole, part = divmod(eighths, 8)
    drawn = _EIGHTHS[8] * whole + (_EIGHTHS[part] if part else "")
    try:
        drawn.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        drawn = "#" * whole
    return drawn.ljust(width)


class Progress:
    """Call step() with every line of metrics.jsonl. Prints nothing: --quiet."""

    def __init__(self) -> None:
        self._loss, self._tokens, self._seconds = Average(), Average(), Average()
        self._latest: Dict[str, str] = {}  # in the order in which they are shown

    def step(self, values: Dict[str, Any]) -> None:
        """A step is done, or what was measured before the first."""
        if "loss" in values:
            self._take(values)
        if "eval_loss" in values:
            self._latest["val"] = f"val {values['eval_loss']:.4f}"
        self._show(values)

    def resume(self, values: Dict[str, Any]) -> None:
        """A step that an earlier process has shown."""
        if "loss" in values:
            self._loss.add(values["loss"])
        if "eval_loss" in values:
            self._latest["val"] = f"val {values['eval_loss']:.4f}"

    def busy(self, text: str) -> None:
        """Something else than a step is under way; "" when it is over."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Leaves the terminal as it was, at the start of a line."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _take(self, values: Dict[str, Any]) -> None:
        loss = self._loss.add(values["loss"])
        tokens = self._tokens.add(values["step_tokens"])
        seconds = self._seconds.add(values["step_time"])
        said = {
            "loss": f"loss {loss:.4f}",
            "val": self._latest.get("val", ""),
            "lr": f"lr {values['learning_rate']:.2e}",
            "norm": f"norm {values['grad_norm']:.3f}",
            "speed": f"{tokens / max(seconds, 1e-9):.0f} tok/s",
            "left": f"left {values['remaining_time']}",
            "memory": amount(values["peak_bytes"]),
        }
        if "lisa_layers" in values:
            said["layers"] = f"layers {layer_list(values['lisa_layers'])}"
        self._latest = said

    def _words(self, without: Sequence[str] = ()) -> List[str]:
        return [word for name, word in self._latest.items() if word and name not in without]

    def _show(self, values: Dict[str, Any]) -> None:
        pass


def _steps(values: Dict[str, Any]) -> str:
    return f"step {values['current_steps']}/{values['total_steps']}"


class Lines(Progress):
    """A line every so many steps, and with every validation."""

    def __init__(self, every: int, stream: TextIO) -> None:
        super().__init__()
        self._every, self._stream = every, stream

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _show(self, values: Dict[str, Any]) -> None:
        step = values["current_steps"]
        measured = "eval_loss" in values
        if measured or step % self._every == 0 or step == values["total_steps"]:
            words = self._words(without=() if measured else ("val",))
            self.note(" | ".join([_steps(values), *words]))


class Bar(Progress):
    """One row of a terminal, redrawn in place and never wider; validations leave a line above."""

    # What is left out first where a terminal is narrow stands last.
    _RANKS = ("loss", "left", "val", "speed", "lr", "layers", "norm", "memory")
    _PASSING = ("speed", "left", "memory", "layers")  # of no interest once it has scrolled away

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._row: Dict[str, Any] = {}
        self._busy = ""
        self._drawn = False
        self._drawn_at = 0.0

    def busy(self, text: str) -> None:
        self._busy = text
        self._draw()

    def note(self, text: str) -> None:
        drawn = self._drawn
        self._erase()
        print(text, file=self._stream, flush=True)
        if drawn:
            self._draw(at_once=True)

    def close(self) -> None:
        if self._drawn:
            self._draw(at_once=True)
            print(file=self._stream, flush=True)
            self._drawn = False

    def _show(self, values: Dict[str, Any]) -> None:
        self._row = values
        if "eval_loss" in values:
            self.note(" | ".join([_steps(values), *self._words(without=self._PASSING)]))
        self._draw(at_once="eval_loss" in values)

    def _draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and self._drawn and now - self._drawn_at < _REDRAW_SECONDS:
            return
        columns = shutil.get_terminal_size().columns - _ECHO
        self._stream.write("\r" + self.text(columns) + "\x1b[K")
        self._stream.flush()
        self._drawn, self._drawn_at = True, now

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False

    def text(self, columns: int) -> str:
        """The row, in so many columns."""
        row = self._row
        done, total = row.get("current_steps", 0), row.get("total_steps", 0)
        fraction = done / total if total else 0.0
        head = f"{100 * fraction:3.0f}%"
        steps = f"{done}/{total}" if total else ""
        fixed = len(head) + len(steps) + 2
        kept_free = _BAR_LEAST if columns >= _WIDE else 0
        words = [self._busy] if self._busy else self._fitting(columns - fixed - kept_free)
        tail = "".join(f" | {word}" for word in words)
        width = min(_BAR_MOST, columns - fixed - len(tail))
        if width < _BAR_LEAST:
            return f"{head} {steps}{tail}".strip()[: max(columns, 0)]
        return f"{head} {bar(fraction, width, self._stream.encoding)} {steps}{tail}"

    def _fitting(self, columns: int) -> List[str]:
        chosen = set()
        for name in self._RANKS:
            word = self._latest.get(name)
            if word and len(word) + 3 <= columns:
                chosen.add(name)
                columns -= len(word) + 3
        return self._words(without=[name for name in self._latest if name not in chosen])


def progress(quiet: bool, every: int) -> Progress:
    """How stdout is written to."""
    if quiet:
        return Progress()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(sys.stdout)
    return Lines(every, sys.stdout)

"""A run's figures as JSON lines, one object a step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Sequence, Union

from ._errors import InvalidArgument
from ._options import unsigned
from ._train import StepStats


def log_metrics(
    path: Union[str, "os.PathLike[str]"],
    step: int,
    stats: Optional[StepStats] = None,
    *,
    layers: Optional[Sequence[int]] = None,
    **values: Any,
) -> Dict[str, Any]:
    """Appends a step, counted from 1, to a file as a line of JSON, and returns what it says.

    Keys are those of others' logs, where they have them. `liblisa plot DIR` draws metrics.jsonl.
    stats: of the step; None for a line that has none, as of a validation before the first.
    layers: that train, where that changes: Optimizer.active_layers.
    values: more that JSON can hold, e.g. eval_loss; without stats loss and learning_rate too.
    Where the line cannot be written whole, none of it stays; half of a line that a killed process
    has left at the end goes.
    """
    found: Dict[str, Any] = {"current_steps": unsigned(step, 64, "step")}
    if stats is not None:
        found["loss"] = stats.loss
        found["learning_rate"] = stats.lr
        found["grad_norm"] = stats.grad_norm
        found["lisa_active_layers"] = stats.n_active_layers
        if not stats.updated:
            found["skipped"] = True
    if layers is not None:
        found["lisa_layers"] = list(layers)
    twice = found.keys() & values.keys()
    if twice:
        raise InvalidArgument(f"{min(twice)}: given beside step, stats or layers, which have it")
    found.update(values)
    if not _is_line(found):
        raise InvalidArgument("expected numbers as loss (with learning_rate) and eval_loss")
    _append(path, json.dumps(found).encode() + b"\n")
    return found


def _append(path: Union[str, "os.PathLike[str]"], line: bytes) -> None:
    with open(path, "ab+", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(end)
            raise


def _end_of_lines(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) in (b"", b"\n"):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def read_metrics(path: Union[str, "os.PathLike[str]"]) -> List[Dict[str, Any]]:
    """The objects of a file; a last line that a killed process has torn is left out."""
    found = []
    lines = Path(path).read_bytes().splitlines(keepends=True)
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

"""What a training would be, without training: nothing is written."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ._columns import Column, column_rows, column_title
from ._metrics import clock
from ._prepare import Prepared
from ._progress import Progress
from ._report import table
from ._run import Run, Trial


def _data_words(prepared: Prepared) -> str:
    data, settings = prepared.data, prepared.settings
    tokens = sum(len(item.tokens) for item in data.train)
    learned = sum(item.n_targets for item in data.train)
    epochs = prepared.n_steps / settings.steps_per_epoch(len(data.train))
    return (
        f"{tokens:,} tokens an epoch, {learned:,} of them learned "
        f"({100 * learned / tokens:.1f} %); {epochs * tokens:,.0f} in "
        f"{'one epoch' if epochs == 1 else f'{epochs:.4g} epochs'}"
    )


def _existing(path: Path) -> Path:
    return path if path.is_dir() else _existing(path.parent)


def _tried(prepared: Prepared) -> Trial:
    """The first steps are taken, and forgotten."""
    with Run(prepared, Progress()) as training:
        training.open()
        return training.rehearse()


def _tried_with_room(prepared: Prepared) -> Trial:
    """The same with a scratch file that was to lie in a directory that is not there yet."""
    near = _existing(Path(prepared.options.scratch_dir).resolve())
    with tempfile.TemporaryDirectory(dir=near) as room:
        changed = {**vars(prepared.options), "scratch_dir": room}
        return _tried(prepared._replace(options=argparse.Namespace(**changed)))


def _time_words(prepared: Prepared) -> str:
    """How long it would take."""
    scratch = prepared.options.scratch_dir
    needs_room = scratch is not None and not Path(scratch).exists()
    trial = _tried_with_room(prepared) if needs_room else _tried(prepared)
    return (
        f"{trial.n_steps} steps were tried: {trial.step_seconds:.2f} s a step, "
        f"{trial.tokens_per_second:.0f} tok/s; {trial.n_validations} validations of "
        f"{trial.validation_seconds:.1f} s; about {clock(trial.total_seconds)} in all"
    )


def dry_run(prepared: Prepared) -> int:
    """Prints data, plan and time; the exit status, 1 where it does not fit."""
    options, memory = prepared.options, prepared.memory
    print(f"{options.model}: {prepared.config.family}, {memory.plan.n_parameters:,} parameters")
    print(prepared.words, _data_words(prepared), "", sep="\n")
    column = Column(column_title(options, False), memory, None)
    print(table(column_rows([column])), "", sep="\n")
    if prepared.too_much:
        print(prepared.too_much)
        return 1
    print(_time_words(prepared), flush=True)
    return 0

"""A training from its first step, or from a checkpoint, to its result."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Union

from .._adapter import Adapter
from .._checkpoint import (
    checkpoint_blob,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from .._context import UNLIMITED_CLASSES, Context
from .._errors import NotFound
from .._model import Model
from .._sampler import Sampler
from .._train import Batch, Optimizer, train_step
from ..data import Example, Padded, Row, in_order, shuffled
from ._metrics import Measured, Metrics
from ._progress import Progress
from ._settings import Settings


class Signals:
    """Ctrl-C and SIGTERM ask for an end after the step that is running; again, they end it."""

    def __init__(self) -> None:
        self.seen: Optional[int] = None
        self._before: List[Any] = []

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before.append((number, signal.signal(number, self._note)))
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.seen is not None:
            raise KeyboardInterrupt
        self.seen = number


class Data(NamedTuple):
    """What is trained on and what is measured on."""

    train: Sequence[Union[Example, Row]]
    valid: Sequence[Example]

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(len(item.tokens) for part in self for item in part)


class Saving(NamedTuple):
    """When and what is kept."""

    every: int  # steps; 0: at a signal alone
    keep: int


class Run:
    """The parts of a training, opened by `with`."""

    def __init__(
        self,
        settings: Settings,
        data: Data,
        out: Path,
        saving: Saving,
        metrics: Metrics,
        progress: Progress,
    ) -> None:
        self._settings, self._data, self._saving = settings, data, saving
        self._checkpoints = out / "checkpoints"
        self._out = out
        self._metrics, self._progress = metrics, progress
        self._n_steps = settings.n_steps(len(data.train))
        self._stack = contextlib.ExitStack()
        self._epoch: List[Padded] = []
        self._epoch_number = -1
        self.first = 0

    def open(self, model: str, budget: Optional[int], threads: Optional[int]) -> None:
        """Opens everything that the training takes."""
        settings, enter = self._settings, self._stack.enter_context
        self._context = enter(Context(settings.backend, memory_limit=budget, n_threads=threads))
        self._model = enter(Model.open(self._context, model))
        self._adapter: Optional[Adapter] = None
        if settings.method == "lora":
            self._adapter = enter(Adapter.create(self._model, **settings.adapter()))
            self._adapter.attach()
        self._batch = enter(Batch(self._model, settings.batch, self._data.longest))
        self._optimizer = enter(Optimizer(self._model, **settings.optimizer()))
        self._sampler: Optional[Sampler] = None
        if settings.method == "lisa":
            self._sampler = Sampler(
                self._model.config.n_layers,
                kind=settings.sampler,
                n_active=settings.active,
                interval_steps=settings.interval,
                seed=settings.seed,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def resume(self) -> None:
        """Goes on from the newest whole checkpoint; without one, from the beginning."""
        tokens = 0
        with contextlib.suppress(NotFound):
            path = find_checkpoint(self._checkpoints)
            self.first = load_checkpoint(self._optimizer, path).step
            tokens = json.loads(checkpoint_blob(path))["tokens"]
        for values in self._metrics.resume(self.first, tokens):
            self._progress.resume(values)

    def train(self) -> Optional[int]:
        """Runs the steps that are left; the number of the signal that ended it early, or None."""
        with Signals() as signals:
            if self.first == 0 and self._data.valid:
                self._progress.step(self._metrics.before(self._evaluate()))
            for step in range(self.first, self._n_steps):
                self._step(step)
                done = step + 1
                if done == self._n_steps:
                    break
                if signals.seen or (self._saving.every and done % self._saving.every == 0):
                    self._save(done)
                if signals.seen:
                    self.first = done
                    return signals.seen
        return None

    def save(self) -> Path:
        """Writes the result: a Hugging Face directory, or a PEFT adapter."""
        result = self._out / ("model" if self._adapter is None else "adapter")
        (self._model if self._adapter is None else self._adapter).save(result)
        return result

    def _step(self, step: int) -> None:
        settings = self._settings
        begin = time.monotonic()
        data = self._batch_at(step)
        self._batch.set(data.tokens, data.labels, documents=data.documents)
        self._optimizer.set_lr(settings.lr_at(step, self._n_steps))
        stats = train_step(self._model, self._sampler, self._optimizer, self._batch, step)
        seconds = time.monotonic() - begin
        done = step + 1
        due = done == self._n_steps or (settings.eval_every and done % settings.eval_every == 0)
        loss = self._evaluate() if due and self._data.valid else None
        measured = Measured(data.n_tokens, seconds, self._layers(), self._peak_bytes(), loss)
        self._progress.step(self._metrics.step(done, stats, measured))

    def _layers(self) -> Optional[List[int]]:
        if self._sampler is None:
            return None
        return [layer for layer, on in enumerate(self._optimizer.mask[1:-1]) if on]

    def _peak_bytes(self) -> int:
        memory = self._context.memory().items()
        return sum(use.peak for name, use in memory if name not in UNLIMITED_CLASSES)

    def _batch_at(self, step: int) -> Padded:
        epoch, number = divmod(step, self._settings.steps_per_epoch(len(self._data.train)))
        if epoch != self._epoch_number:
            seed = self._settings.seed + epoch
            self._epoch = shuffled(self._data.train, self._settings.batch, seed)
            self._epoch_number = epoch
        return self._epoch[number]

    def _evaluate(self) -> float:
        """Mean loss over all targets of the validation part, however they fall into batches."""
        total, n_targets = 0.0, 0
        n_batches = math.ceil(len(self._data.valid) / self._settings.batch)
        for number, data in enumerate(in_order(self._data.valid, self._settings.batch), 1):
            self._progress.busy(f"validating {number}/{n_batches}")
            self._batch.set(data.tokens, data.labels, documents=data.documents)
            total += self._model.evaluate(self._batch).loss * self._batch.n_targets
            n_targets += self._batch.n_targets
        self._progress.busy("")
        return total / n_targets

    def _save(self, step: int) -> None:
        save_checkpoint(
            self._optimizer,
            self._checkpoints,
            step,
            sampler=self._sampler,
            blob=json.dumps({"tokens": self._metrics.tokens}).encode(),
            keep=self._saving.keep,
        )

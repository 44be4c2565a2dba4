"""A training from its first step, or from a checkpoint, to its result."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from .._adapter import Adapter
from .._checkpoint import (
    checkpoint_blob,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from .._context import UNLIMITED_CLASSES, Context
from .._errors import LisaError, NonFinite, NotFound
from .._model import Model
from .._sampler import Sampler
from .._train import Batch, Optimizer, StepStats, backward, forward
from ..data import Padded, in_order, windows
from ._best import Best
from ._metrics import Measured, Metrics
from ._prepare import Prepared
from ._progress import Progress
from ._resident import AnonymousPeak
from ._signals import Signals

_TRIED_STEPS = 3


def _area(data: Padded) -> int:
    """Places of a batch, the filling included: what a step's time goes by."""
    return len(data.tokens) * len(data.tokens[0])


class Trial(NamedTuple):
    """How long steps took that were tried, and what follows from that."""

    n_steps: int  # that were tried
    step_seconds: float  # of a step of average length
    tokens_per_second: float
    n_validations: int  # of the whole run
    validation_seconds: float
    total_seconds: float


class Run:
    """The parts of a training, opened by `with`."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._options, self._settings = prepared.options, prepared.settings
        self._data, self._n_steps = prepared.data, prepared.n_steps
        self._out = out = Path(prepared.options.out)
        self._checkpoints, self._best_one = out / "checkpoints", out / "best"
        per_epoch = self._settings.steps_per_epoch(len(self._data.train))
        self._metrics = Metrics(out / "metrics.jsonl", self._n_steps, per_epoch)
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._epoch: List[List[Padded]] = []
        self._epoch_number = -1
        self._best = Best(self._settings.patience, self._settings.min_delta)
        self._resident = AnonymousPeak()
        self.done = 0  # steps

    def open(self) -> None:
        """Opens everything that the training takes."""
        options, settings, enter = self._options, self._settings, self._stack.enter_context
        self._resident.start()
        self._stack.callback(self._resident.stop)
        self._context = enter(
            Context(options.backend, memory_limit=options.budget, n_threads=options.threads)
        )
        self._model = enter(
            Model.open(self._context, options.model, scratch_dir=options.scratch_dir)
        )
        self._adapter: Optional[Adapter] = None
        if settings.method == "lora":
            self._adapter = enter(Adapter.create(self._model, **settings.adapter()))
            self._adapter.attach()
        # Before the batch, which stores as many layers as there is memory left for.
        self._optimizer = enter(
            Optimizer(self._model, scratch_dir=options.scratch_dir, **settings.optimizer())
        )
        self._batch = enter(
            Batch(
                self._model,
                settings.batch,
                self._data.longest,
                activations=options.activations,
                head_rows=settings.head_rows,
            )
        )
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
        path = self._newest()
        if path is not None:
            self.done = load_checkpoint(self._optimizer, path).step
            blob = json.loads(checkpoint_blob(path))
            tokens = blob["tokens"]
            self._best.restore(blob.get("best", {}))
        for values in self._metrics.resume(self.done, tokens):
            self._progress.resume(values)

    def train(self, signals: Signals) -> Optional[int]:
        """Runs the steps that are left; the number of the signal that ended it early, or None."""
        if self.done == 0 and self._data.valid:
            self._progress.step(self._metrics.before(self._evaluate()))
        while self.done < self._n_steps and not self._best.gives_up:
            self._guarded_step()
            if self._is_over():
                break
            every, seen = self._options.save_every, signals.seen  # once: it may come at any time
            if seen or (every and self.done % every == 0):
                self._save(self._checkpoints, self._options.keep)
            if seen:
                return seen
        return None

    def rehearse(self) -> Trial:
        """Times the first steps and a batch of the validation. The model is changed by that."""
        n_tried = min(_TRIED_STEPS, self._n_steps)
        rates = []
        for step in range(n_tried):
            begin = time.monotonic()
            window = self._window_at(step)
            self._update(step, window)
            rates.append((time.monotonic() - begin, sum(map(_area, window))))
        warm = rates[1:] or rates  # the first brings the weights into memory
        per_place = sum(seconds for seconds, _ in warm) / sum(places for _, places in warm)
        places = sum(_area(data) for window in self._epoch for data in window)
        step_seconds = per_place * places / len(self._epoch)
        n_tokens = sum(data.n_tokens for window in self._epoch for data in window)
        validation_seconds = self._time_validation()
        every = self._settings.eval_every or self._n_steps
        n_validations = 1 + math.ceil(self._n_steps / every) if self._data.valid else 0
        return Trial(
            n_tried,
            step_seconds,
            n_tokens / len(self._epoch) / step_seconds,
            n_validations,
            validation_seconds,
            self._n_steps * step_seconds + n_validations * validation_seconds,
        )

    def _time_validation(self) -> float:
        batches = list(in_order(self._data.valid, self._settings.batch))
        if not batches:
            return 0.0
        tried = batches[len(batches) // 2]
        begin = time.monotonic()
        self._measure(tried)
        seconds = time.monotonic() - begin
        return seconds / _area(tried) * sum(map(_area, batches))

    def save(self) -> Path:
        """Writes the result: a Hugging Face directory, or a PEFT adapter."""
        if self._settings.keeps_best and self._best.step not in (0, self.done):
            self._return_to_best()
            return self._write()
        try:
            return self._write()
        except (LisaError, OSError) as error:
            self._save_instead(error)
            raise

    @property
    def outcome(self) -> str:
        """What there is to say of the validations, in words; empty where nothing."""
        best = self._best
        if best.step == 0:
            return ""
        gave_up = f"stopped after step {self.done}, " if best.gives_up else ""
        said = f"{gave_up}best validation loss {best.loss:.4f} at step {best.step}"
        if self._settings.keeps_best:
            return f"{said}, which is the result"
        return said if best.step == self.done else f"{said}; the result is of step {self.done}"

    @property
    def memory(self) -> Dict[str, Any]:
        """The most bytes held so far, by class and by the system's count of anonymous memory."""
        held = {name: use.peak for name, use in self._context.memory().items() if use.peak}
        found = {"backend": self._context.backend, "held": held, "held_total": self._peak_bytes()}
        if self._resident.grown is not None:
            found["anonymous"] = self._resident.grown
        return found

    def _is_over(self) -> bool:
        return self.done == self._n_steps or self._best.gives_up

    def _newest(self) -> Optional[str]:
        found = []
        for directory in (self._checkpoints, self._best_one):
            with contextlib.suppress(NotFound):
                found.append(find_checkpoint(directory))
        return max(found, key=lambda path: Path(path).name) if found else None

    def _return_to_best(self) -> None:
        """Where the best is not there any more, what there is is written before that is said."""
        step, path = self._best.step, self._best_one
        with contextlib.suppress(NotFound):
            if load_checkpoint(self._optimizer, find_checkpoint(path)).step == step:
                return
        raise ValueError(
            f"{path}: the checkpoint of step {step}, the best, is gone; "
            f"{self._write()} is of step {self.done}"
        )

    def _save_instead(self, error: Exception) -> None:
        """Where the result cannot be written, the steps are not lost if a checkpoint can."""
        with contextlib.suppress(LisaError, OSError):
            self._save(self._checkpoints, self._options.keep)
            raise ValueError(
                f"{error}; the steps are saved, --resume writes their result"
            ) from None

    def _write(self) -> Path:
        result = self._out / ("model" if self._adapter is None else "adapter")
        (self._model if self._adapter is None else self._adapter).save(result)
        return result

    def _guarded_step(self) -> None:
        """A step; where it diverges the best is written, which --resume would not come to again."""
        step = self.done
        try:
            self._step(step)
        except NonFinite as error:
            lower = f"try a lower --lr than {self._settings.lr:g}"
            said = f"step {step + 1}: {error}; {lower}"
            if self._settings.keeps_best and self._best.step:
                self._return_to_best()
                said += f"; {self._write()} is the best, of step {self._best.step}"
            raise ValueError(said) from None

    def _step(self, step: int) -> None:
        settings = self._settings
        begin = time.monotonic()
        window = self._window_at(step)
        self._optimizer.set_lr(settings.lr_at(step, self._n_steps))
        stats = self._update(step, window)
        seconds = time.monotonic() - begin
        self.done = done = step + 1
        due = done == self._n_steps or (settings.eval_every and done % settings.eval_every == 0)
        loss = self._evaluate() if due and self._data.valid else None
        n_tokens = sum(data.n_tokens for data in window)
        measured = Measured(n_tokens, seconds, self._layers(), self._peak_bytes(), loss)
        values = self._metrics.step(done, stats, measured)
        if loss is not None and self._best.take(done, loss) and settings.keeps_best:
            if not self._is_over():
                self._save(self._best_one, keep=1)
        self._progress.step(values)

    def _update(self, step: int, window: List[Padded]) -> StepStats:
        """One update by the gradient of the window's mean loss over all its targets."""
        if self._sampler is not None:
            self._optimizer.apply_mask(self._sampler.mask(step))
        for data in window:
            self._batch.set(data.tokens, data.labels, documents=data.documents)
            forward(self._model, self._batch, loss=False)
            backward(self._model, self._batch)
        return self._optimizer.step()

    def _layers(self) -> Optional[List[int]]:
        return None if self._sampler is None else self._optimizer.active_layers

    def _peak_bytes(self) -> int:
        memory = self._context.memory().items()
        return sum(use.peak for name, use in memory if name not in UNLIMITED_CLASSES)

    def _window_at(self, step: int) -> List[Padded]:
        settings = self._settings
        epoch, number = divmod(step, settings.steps_per_epoch(len(self._data.train)))
        if epoch != self._epoch_number:
            self._epoch = windows(
                self._data.train, settings.batch, settings.accumulate, settings.seed + epoch
            )
            self._epoch_number = epoch
        return self._epoch[number]

    def _evaluate(self) -> float:
        """Mean loss over all targets of the validation part, however they fall into batches."""
        total, n_targets = 0.0, 0
        n_batches = math.ceil(len(self._data.valid) / self._settings.batch)
        for number, data in enumerate(in_order(self._data.valid, self._settings.batch), 1):
            self._progress.busy(f"validating {number}/{n_batches}")
            total += self._measure(data) * self._batch.n_targets
            n_targets += self._batch.n_targets
        self._progress.busy("")
        return total / n_targets

    def _measure(self, data: Padded) -> float:
        self._batch.set(data.tokens, data.labels, documents=data.documents)
        return self._model.evaluate(self._batch).loss

    def _save(self, directory: Path, keep: int) -> None:
        blob = {"tokens": self._metrics.tokens, "best": self._best.state()}
        save_checkpoint(
            self._optimizer,
            directory,
            self.done,
            sampler=self._sampler,
            blob=json.dumps(blob).encode(),
            keep=keep,
        )

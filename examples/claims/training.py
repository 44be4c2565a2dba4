"""A model in training by one of the methods: its parts, a step, and what it scores.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional

import liblisa
from liblisa.data import Row, pad
from liblisa.evaluation import Score

from drawing import Drawing
from spec import Spec

HEAD_ROWS = 64  # rows of logits that exist at once
MAX_GRAD_NORM = 1.0
WARMUP = 4  # steps
LAST_RATE = 0.1  # of the highest, at the end of the cosine


class Phases(NamedTuple):
    """Seconds of a step."""

    swap: float
    forward: float
    backward: float
    update: float


class Step(NamedTuple):
    """What there is to say of a step."""

    loss: float
    grad_norm: float
    layers: List[int]  # that train
    seconds: Phases


def rate_at(spec: Spec, step: int) -> float:
    """Linear warm-up, then a cosine."""
    return liblisa.scheduled_lr(step, spec.steps, spec.lr, warmup_steps=WARMUP, min_ratio=LAST_RATE)


def batch_options(spec: Spec) -> Dict[str, Any]:
    """Keywords of Batch."""
    return {"head_rows": HEAD_ROWS, "inference_only": spec.method == "none"}


def adapter_options(spec: Spec) -> Optional[Dict[str, Any]]:
    """Keywords of Adapter.create; None without one."""
    if spec.method != "lora":
        return None
    return {
        "rank": spec.rank,
        "alpha": 2.0 * spec.rank,
        "targets": ["all-linear"],
        "seed": spec.seed,
    }


def optimizer_options(spec: Spec) -> Optional[Dict[str, Any]]:
    """Keywords of Optimizer; None without one."""
    if spec.method == "none":
        return None
    options: Dict[str, Any] = {
        "lr": spec.lr,
        "seed": spec.seed,
        "max_grad_norm": 0.0 if spec.in_backward else MAX_GRAD_NORM,
        "update_in_backward": spec.in_backward,
    }
    for part in ("embedding", "layers", "head"):
        options[f"moments_{part}"] = spec.moments
    if spec.method == "lisa":
        options["max_active_layers"] = spec.active
        options["state_policy"] = spec.state
        options["train_embedding"] = spec.embedding
        options["train_head"] = spec.head
    return options


def settings(spec: Spec) -> Dict[str, Any]:
    """What a run does by its spec, in full."""
    return {
        "warmup": WARMUP,
        "last_rate": LAST_RATE,
        "batch": batch_options(spec),
        "optimizer": optimizer_options(spec),
        "adapter": adapter_options(spec),
    }


def plan(spec: Spec, config: liblisa.ModelConfig, n_threads: int = 0) -> liblisa.Plan:
    """The memory that a run will take; every thread has some of its own."""
    return liblisa.plan(
        config,
        1,
        spec.tokens,
        context={"memory_limit": spec.limit_mib << 20, "n_threads": n_threads},
        batch=batch_options(spec),
        optimizer=optimizer_options(spec),
        adapter=adapter_options(spec),
    )


class Training:
    """Everything that a run of a spec holds, opened by `with`."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        self.spec = spec
        self._directory = directory
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Training:
        spec, enter = self.spec, self._stack.enter_context
        try:
            self.context = enter(liblisa.Context(memory_limit=spec.limit_mib << 20))
            self.model = enter(liblisa.Model.open(self.context, self._directory))
            adapter = adapter_options(spec)
            self.adapter: Optional[liblisa.Adapter] = None
            if adapter is not None:
                self.adapter = enter(liblisa.Adapter.create(self.model, **adapter))
                self.adapter.attach()
            # Before the batch, which stores as many layers as there is memory left for.
            optimizer = optimizer_options(spec)
            if optimizer is not None:
                self.optimizer = enter(liblisa.Optimizer(self.model, **optimizer))
            self.batch = enter(liblisa.Batch(self.model, 1, spec.tokens, **batch_options(spec)))
            self.drawing = Drawing(spec, self.model) if spec.method == "lisa" else None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def step(self, step: int, row: Row) -> Step:
        """One update by one row."""
        self.optimizer.set_lr(rate_at(self.spec, step))
        self._set(row)
        times = [time.perf_counter()]
        if self.drawing is not None:
            self.optimizer.apply_mask(self.drawing.mask(step))
        times.append(time.perf_counter())
        liblisa.forward(self.model, self.batch, loss=False)
        times.append(time.perf_counter())
        liblisa.backward(self.model, self.batch)
        times.append(time.perf_counter())
        if self.drawing is not None:
            self.drawing.observe(self.optimizer, row.n_targets)
        stats = self.optimizer.step()
        times.append(time.perf_counter())
        seconds = Phases(*(end - start for start, end in zip(times, times[1:])))
        return Step(stats.loss, stats.grad_norm, self.optimizer.active_layers, seconds)

    def score(self, rows: Iterable[Row]) -> List[Score]:
        """Every document of the rows, in their order."""
        found: List[Score] = []
        for row in rows:
            self._set(row)
            evaluation: Any = self.model.evaluate(self.batch, per_token=True)
            log_probs, greedy = evaluation.log_probs.tolist()[0], evaluation.greedy.tolist()[0]
            found.extend(_documents(row, log_probs, greedy))
        return found

    def norms(self) -> List[float]:
        """Of the weights of each group, without an adapter's."""
        return [self.model.weight_norm(group) for group in range(self.model.config.n_layers + 2)]

    def adapter_norms(self) -> List[float]:
        """Of each group's A and B together; empty without an adapter."""
        if self.adapter is None:
            return []
        groups = range(self.model.config.n_layers + 2)
        return [self.adapter.weight_norm(group) for group in groups]

    def merge(self) -> None:
        """Puts an adapter into the weights: the end of training."""
        self.optimizer.close()
        if self.adapter is not None:
            self.adapter.merge()

    def held(self) -> Dict[str, int]:
        """The most bytes so far, by class."""
        return {name: use.peak for name, use in self.context.memory().items() if use.peak}

    def _set(self, row: Row) -> None:
        padded = pad([row])
        self.batch.set(padded.tokens, padded.labels, documents=padded.documents)


def _documents(row: Row, log_probs: List[float], greedy: List[int]) -> Iterator[Score]:
    for document in dict.fromkeys(row.documents):
        targets = [
            t
            for t in range(1, len(row.tokens))
            if row.documents[t - 1] == row.documents[t] == document and row.labels[t] >= 0
        ]
        likelihood = math.fsum(log_probs[t] for t in targets)
        yield Score(likelihood, len(targets), sum(greedy[t] for t in targets))

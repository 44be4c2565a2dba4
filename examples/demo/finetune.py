"""Fine-tunes a chat model with LISA through liblisa: the loop that a host drives.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional

import liblisa
from liblisa.data import Example, Padded, in_order, shuffled


@dataclass(frozen=True)
class Recipe:
    """What the run depends on."""

    n_active: int = 2  # gamma: layers that train at a time
    interval_steps: int = 6  # K: steps between two draws
    kind: str = "reshuffle"  # every layer once before any layer twice
    lr: float = 2e-3
    warmup_steps: int = 6
    epochs: int = 3
    batch_size: int = 4
    head_rows: int = 64  # logits that exist at once: an answer is short
    max_grad_norm: float = 1.0
    seed: int = 1

    def optimizer(self) -> dict[str, Any]:
        """Keywords of liblisa.Optimizer; liblisa.plan takes the same."""
        return {"lr": self.lr, "max_grad_norm": self.max_grad_norm, "seed": self.seed,
                "max_active_layers": self.n_active}

    def batch(self) -> dict[str, Any]:
        """Keywords of liblisa.Batch; liblisa.plan takes the same."""
        return {"head_rows": self.head_rows}

    def sampler(self, n_layers: int) -> liblisa.Sampler:
        return liblisa.Sampler(n_layers, kind=self.kind, n_active=self.n_active,
                               interval_steps=self.interval_steps, seed=self.seed)

    def lr_at(self, step: int, n_steps: int) -> float:
        """Linear warm-up, then half a cosine down to a tenth."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, n_steps - self.warmup_steps)
        return self.lr * (0.55 + 0.45 * math.cos(math.pi * done))


class Step(NamedTuple):
    """What happened in one step."""

    number: int  # from 1
    stats: liblisa.StepStats
    layers: list[int]  # that trained
    n_tokens: int
    heldout: Optional[float]  # measured behind this step


@dataclass
class History:
    """A run, step by step; heldout[0] was measured before the first step."""

    steps: list[Step] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)


def mean_loss(model: liblisa.Model, batch: liblisa.Batch, examples: list[Example],
              batch_size: int) -> float:
    """Mean over all answer tokens, however they fall into batches."""
    total, count = 0.0, 0
    for part in in_order(examples, batch_size):
        batch.set(part.tokens, part.labels)
        total += model.evaluate(batch).loss * batch.n_targets
        count += batch.n_targets
    return total / count


def schedule(train: list[Example], recipe: Recipe) -> list[Padded]:
    """The batch of every step."""
    return [batch for epoch in range(recipe.epochs)
            for batch in shuffled(train, recipe.batch_size, recipe.seed + epoch)]


def finetune(model: liblisa.Model, optimizer: liblisa.Optimizer, batch: liblisa.Batch,
             train: list[Example], heldout: list[Example], recipe: Recipe,
             on_step: Callable[[Step], None], evaluations: int = 6) -> History:
    """Trains for recipe.epochs epochs and measures the held-out loss every so often."""
    steps = schedule(train, recipe)
    every = math.ceil(len(steps) / evaluations)
    sampler = recipe.sampler(model.config.n_layers)
    history = History()
    history.heldout.append((0, mean_loss(model, batch, heldout, recipe.batch_size)))
    for step, data in enumerate(steps):
        batch.set(data.tokens, data.labels)
        optimizer.set_lr(recipe.lr_at(step, len(steps)))
        stats = liblisa.train_step(model, sampler, optimizer, batch, step)
        layers = [layer for layer, on in enumerate(sampler.mask(step)[1:-1]) if on]
        measured = None
        if (step + 1) % every == 0 or step + 1 == len(steps):
            measured = mean_loss(model, batch, heldout, recipe.batch_size)
            history.heldout.append((step + 1, measured))
        history.steps.append(Step(step + 1, stats, layers, data.n_tokens, measured))
        on_step(history.steps[-1])
    return history

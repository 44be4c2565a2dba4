"""What a training depends on: the same settings and data come to the same bits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional

from .._schedule import scheduled_lr
from ._memory import optimizer_keywords


@dataclass(frozen=True)
class Settings:
    """Everything that a resumed run must have as the run before it."""

    method: str
    active: int
    interval: int
    sampler: str
    rank: int
    alpha: float
    targets: str
    lr: float
    schedule: str
    warmup: float
    min_lr: float
    epochs: int
    steps: Optional[int]
    batch: int
    accumulate: int
    max_tokens: int
    pack: bool
    weight_decay: float
    max_grad_norm: float
    moments: str
    head_rows: Optional[int]
    state_policy: str
    embedding_rows: Optional[int]
    frozen_embedding: bool
    frozen_head: bool
    update_in_backward: bool
    valid_fraction: float
    eval_every: int
    patience: Optional[int]
    min_delta: float
    save_best: bool
    seed: int
    backend: str

    def n_steps(self, n_items: int) -> int:
        """Steps of the run on so many examples or packed rows."""
        return self.steps or self.epochs * self.steps_per_epoch(n_items)

    def steps_per_epoch(self, n_items: int) -> int:
        """The last window of an epoch may be smaller."""
        return math.ceil(n_items / (self.batch * self.accumulate))

    @property
    def keeps_best(self) -> bool:
        """The result is the best by validation loss, not the last."""
        return self.save_best or self.patience is not None

    def lr_at(self, step: int, n_steps: int) -> float:
        """The learning rate of a step; of the run so many steps."""
        return scheduled_lr(
            step,
            n_steps,
            self.lr,
            schedule=self.schedule,
            warmup_steps=math.ceil(self.warmup * n_steps),
            min_ratio=self.min_lr,
        )

    def optimizer(self) -> Dict[str, Any]:
        """Keywords of Optimizer."""
        return {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seed,
            **optimizer_keywords(self),
        }

    def adapter(self) -> Dict[str, Any]:
        """Keywords of Adapter.create."""
        targets = self.targets.split(",")
        return {"rank": self.rank, "alpha": self.alpha, "targets": targets, "seed": self.seed}

    def differences(self, before: Dict[str, Any]) -> str:
        """What another run had otherwise, in words; empty where nothing."""
        found = (
            f"{name.replace('_', '-')} was {before.get(name)}, now {value}"
            for name, value in asdict(self).items()
            if before.get(name) != value
        )
        return "; ".join(found)

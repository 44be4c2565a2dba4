"""The memory that this run and others like it would take, by liblisa's own plan.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from typing import NamedTuple

import liblisa

from finetune import Recipe


class Shape(NamedTuple):
    """What is planned for beside the optimizer."""

    batch_size: int
    max_tokens: int  # of a training sequence
    generate_tokens: int  # prompt and answer


def plan(config: liblisa.ModelConfig, shape: Shape, **optimizer: object) -> liblisa.Plan:
    return liblisa.plan(config, shape.batch_size, shape.max_tokens,
                        generate_tokens=shape.generate_tokens, optimizer=optimizer)


def alternatives(config: liblisa.ModelConfig, shape: Shape,
                 recipe: Recipe) -> dict[str, liblisa.Plan]:
    """Plans by name; the first is this run's own."""
    own = recipe.optimizer()
    frozen = {**own, "train_embedding": False, "train_head": False}
    plans = {f"LISA, {recipe.n_active} layers (this run)": plan(config, shape, **own)}
    for n_active in (1, 4):
        name = f"LISA, {n_active} layer{'s' if n_active > 1 else ''}"
        plans[name] = plan(config, shape, **{**own, "max_active_layers": n_active})
    plans[f"LISA, {recipe.n_active} layers, embedding and head off"] = plan(config, shape, **frozen)
    plans["full AdamW"] = plan(config, shape, **{**own, "max_active_layers": 0})
    return plans

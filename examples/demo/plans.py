"""The memory that this run and others like it would take, by liblisa's own plan.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import liblisa

from finetune import Recipe


def alternatives(config: liblisa.ModelConfig, recipe: Recipe, max_tokens: int,
                 generate_tokens: int, backend: str) -> dict[str, liblisa.Plan]:
    """Plans by name; the first is this run's own.

    max_tokens: of a training sequence. generate_tokens: of a prompt with its answer.
    """
    def plan(**changed: object) -> liblisa.Plan:
        return liblisa.plan(config, recipe.batch_size, max_tokens, generate_tokens=generate_tokens,
                            context={"backend": backend}, batch=recipe.batch(),
                            optimizer={**recipe.optimizer(), **changed})

    return {
        f"LISA, {recipe.n_active} layers (this run)": plan(),
        "LISA, 1 layer": plan(max_active_layers=1),
        "LISA, 4 layers": plan(max_active_layers=4),
        f"LISA, {recipe.n_active} layers, embedding and head off":
            plan(train_embedding=False, train_head=False),
        "full AdamW": plan(max_active_layers=0),
    }

"""Which layers train: the library's samplers, and one that goes by the layers' gradients.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import liblisa

from spec import ADAPTIVE, Spec

MEMORY = 0.8  # of a layer's score, per step in which it trains
FLOOR = 0.1  # of the highest score: the weight that a layer has at least


class Drawing:
    """Masks of a LISA run.

    Adaptive, every period has a weighted sampler of its own, by moving averages of the gradients'
    norms; a layer that was never seen counts as much as the best. The same as examples/adaptive.c.
    """

    def __init__(self, spec: Spec, model: liblisa.Model) -> None:
        self._spec = spec
        self._n_layers = model.config.n_layers
        self._weights: Optional[List[float]] = None
        if spec.sampler == "weighted":
            self._weights = [model.weight_norm(1 + layer) for layer in range(self._n_layers)]
        if spec.sampler == "bernoulli":
            self._weights = [spec.active / self._n_layers] * self._n_layers
        self._scores: Dict[int, float] = {}
        self._period = -1
        self._sampler: Any = None

    def mask(self, step: int) -> bytes:
        """Of a step; steps come in their order."""
        period = step // self._spec.interval if self._spec.sampler == ADAPTIVE else 0
        if period != self._period:
            self._sampler, self._period = self._new_sampler(period), period
        mask: bytes = self._sampler.mask(step)
        return mask

    def observe(self, optimizer: liblisa.Optimizer, n_targets: int) -> None:
        """Between backward and step, where there are gradients."""
        if self._spec.sampler != ADAPTIVE:
            return
        for layer in optimizer.active_layers:
            seen = optimizer.gradient_norm(1 + layer) / n_targets
            before = self._scores.get(layer, seen)
            self._scores[layer] = MEMORY * before + (1 - MEMORY) * seen

    def state(self) -> Dict[str, Any]:
        """What a resumed run needs besides the step."""
        period, weights = self._period, self._weights
        return {"scores": list(self._scores.items()), "period": period, "weights": weights}

    def restore(self, state: Dict[str, Any]) -> None:
        """Goes on from another's state."""
        self._scores = dict(state["scores"])
        self._weights = state["weights"]
        self._period = state["period"]
        self._sampler = self._made(self._period)

    def _new_sampler(self, period: int) -> liblisa.Sampler:
        if self._spec.sampler == ADAPTIVE:
            self._weights = self._by_scores()
        return self._made(period)

    def _by_scores(self) -> List[float]:
        top = max(self._scores.values(), default=0.0) or 1.0
        return [self._scores.get(layer, top) + FLOOR * top for layer in range(self._n_layers)]

    def _made(self, period: int) -> liblisa.Sampler:
        spec, adaptive = self._spec, self._spec.sampler == ADAPTIVE
        seed = spec.draws or spec.seed
        options: Dict[str, Any] = {}
        if spec.sampler == "bernoulli":
            options["max_active"] = spec.active
        return liblisa.Sampler(
            self._n_layers,
            kind="weighted" if adaptive else spec.sampler,
            n_active=spec.active,
            interval_steps=spec.interval,
            # Of each period, so that its sampler does not draw what the last one drew.
            seed=1000 * seed + period if adaptive else seed,
            first_step=period * spec.interval,
            train_embedding=spec.embedding,
            train_head=spec.head,
            weights=self._weights,
            **options,
        )

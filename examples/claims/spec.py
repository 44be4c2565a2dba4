"""What a run is: everything that its result lines depend on, and the name of their file.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Dict

ADAPTIVE = "adaptive"  # a sampler of ours, beside the library's kinds


@dataclass(frozen=True)
class Spec:
    """One training. What is not said is as in the study of quality."""

    text: str
    method: str  # "lisa", "lora", "full", or "none", which only scores
    lr: float = 0.0
    seed: int = 1  # order of the rows; draws of layers, A of LoRA, rounding
    draws: int = 0  # of layers, where they have a seed of their own
    active: int = 2
    interval: int = 20
    sampler: str = "uniform"
    state: str = "drop"
    embedding: bool = True
    head: bool = True
    rank: int = 16
    moments: str = "f32"
    in_backward: bool = False  # the update; without clipping then
    limit_mib: int = 0  # of memory; 0: none
    steps: int = 120
    tokens: int = 512  # of a row; a step is one row
    model: str = "SmolLM2-135M-Instruct"

    @property
    def name(self) -> str:
        """Text, method and rate, then what is not as usual."""
        usual = {field.name: field.default for field in fields(self)}
        words = [self.text, self.method]
        if self.method != "none":
            words.append(f"lr{self.lr:g}")
        for name, value in asdict(self).items():
            if name not in ("text", "method", "lr") and value != usual[name]:
                words.append(f"{name}-{value}".lower())
        return "_".join(words)

    def as_json(self) -> Dict[str, Any]:
        """Every field."""
        return asdict(self)

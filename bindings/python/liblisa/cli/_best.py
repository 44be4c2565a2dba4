"""Which validation was the best, and for how long none has been better."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional


@dataclass
class Best:
    """Call take() with every validation loss. `patience` None: it never gives up."""

    patience: Optional[int]
    min_delta: float
    step: int = 0  # of the lowest loss; 0: none yet
    loss: float = math.inf
    mark: float = math.inf  # what patience compares with: falls by more than min_delta at a time
    waited: int = 0  # validations since it fell

    def take(self, step: int, loss: float) -> bool:
        """Whether this is the lowest so far."""
        if loss < self.mark - self.min_delta:
            self.mark, self.waited = loss, 0
        else:
            self.waited += 1
        if not loss < self.loss:
            return False
        self.step, self.loss = step, loss
        return True

    @property
    def gives_up(self) -> bool:
        """Patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> Dict[str, Any]:
        """What restore() takes."""
        names = ("step", "loss", "mark", "waited")
        return {name: value for name, value in asdict(self).items() if name in names}

    def restore(self, state: Dict[str, Any]) -> None:
        """Goes on where another left off."""
        for name, value in state.items():
            setattr(self, name, value)

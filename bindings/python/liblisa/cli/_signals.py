"""Ctrl-C and SIGTERM as a wish."""

from __future__ import annotations

import signal
from typing import Any, List, Optional, Tuple


class Signals:
    """Ctrl-C and SIGTERM are noted while this is open, and raise nothing: they may come inside a
    callback of the library. Again, they end what is running, or where the end is near nothing."""

    def __init__(self, *, end_is_near: bool = False) -> None:
        self.seen: Optional[int] = None
        self._end_is_near = end_is_near
        self._before: List[Tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Signals:
        self.seen = None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before.append((number, signal.signal(number, self._note)))
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._before:
            signal.signal(*self._before.pop())

    def _note(self, number: int, _frame: object) -> None:
        if self.seen is None:
            self.seen = number
        elif not self._end_is_near:
            raise KeyboardInterrupt

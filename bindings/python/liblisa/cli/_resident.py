"""What the operating system says that this process takes, where there is /proc."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Optional

_STATUS = Path("/proc/self/status")


def anonymous_bytes() -> Optional[int]:
    """Anonymous memory in use: what is not a file's page. None where the system does not say."""
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


class AnonymousPeak:
    """The most anonymous memory from start() to stop(), looked at every few milliseconds.

    The kernel keeps a high-water mark of all resident pages only, a mapped model's included.
    """

    def __init__(self, interval: float = 0.03) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start: Optional[int] = None
        self._peak = 0

    def start(self) -> None:
        """Begins to look."""
        self._start = anonymous_bytes()
        if self._start is not None:
            self._peak = self._start
            self._thread.start()

    def stop(self) -> None:
        """Ends it; more than once does no harm."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def grown(self) -> Optional[int]:
        """Bytes of the peak that were not there at the start; None where it cannot be known."""
        if self._start is None:
            return None
        self._look()
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, anonymous_bytes() or 0)

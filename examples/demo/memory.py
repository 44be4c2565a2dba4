"""What the operating system says that this process takes.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Optional, Type

STATUS = Path("/proc/self/status")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status, e.g. RssAnon: anonymous memory in use."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"{STATUS} has no {field}")


class AnonymousPeak:
    """The highest RssAnon while the block runs, looked at every few milliseconds.

    The kernel keeps a high-water mark of all resident pages only, file pages included.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.start = self.peak = status_bytes("RssAnon")
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.peak = max(self.peak, status_bytes("RssAnon"))

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, status_bytes("RssAnon"))

    @property
    def grown(self) -> int:
        """Bytes of the peak that were not there at the start."""
        return self.peak - self.start

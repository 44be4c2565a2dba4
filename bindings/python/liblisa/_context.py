"""A backend, its threads, memory accounting and callbacks."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Dict, NamedTuple, Optional, Union

from . import _ffi
from ._choices import LogLevel, parse
from ._handles import Callbacks, Handle, Host
from ._options import make, text_bytes

LogFunction = Callable[[int, str], Any]
InterruptFunction = Callable[[], Any]

MEMORY_CLASSES = tuple(
    _ffi.lisa_memory_class_name(number).decode() for number in range(_ffi.LISA_MEM_CLASSES)
)
"""Names of the memory classes, in the order of LISA_MEM_*."""


UNLIMITED_CLASSES = frozenset({"mapped weights", "disk", "driver", "host"})
"""Those that a memory_limit and Plan.total do not count."""


class MemoryUse(NamedTuple):
    """Bytes of one memory class."""

    current: int
    peak: int


def context_options(
    *,
    backend: Optional[str] = None,
    memory_limit: Optional[int] = None,
    n_threads: Optional[int] = None,
    log_level: Union[LogLevel, int, str, None] = None,
) -> _ffi.lisa_context_options:
    """The C options of Context's keywords, callbacks apart."""
    values = {
        "backend": None if backend is None else text_bytes(backend, "backend"),
        "memory_limit": memory_limit,
        "n_threads": n_threads,
        "log_level": None if log_level is None else parse(LogLevel, log_level),
    }
    return make(_ffi.lisa_context_options, _ffi.lisa_context_options_init, values)


class Context(Handle):
    """One backend, its threads and its memory; everything else is made from a context.

    Calls on one context and on what was made from it run one at a time; distinct contexts are
    independent. Ctrl-C ends a running call between two layers with KeyboardInterrupt.
    """

    def __init__(
        self,
        backend: Optional[str] = None,
        *,
        memory_limit: Optional[int] = None,
        n_threads: Optional[int] = None,
        log: Optional[LogFunction] = None,
        log_level: Union[LogLevel, int, str, None] = None,
        interrupt: Optional[InterruptFunction] = None,
    ) -> None:
        """Starts a backend.

        backend: "cpu" (default), "cuda", "auto", "reference" or "reference64".
        memory_limit: bytes for all memory classes but mapped weights and disk; 0 means none.
        n_threads: 0 (default): as many as the process may run on. Results do not depend on it.
        log: called as log(level, line), up to log_level ("info" where log is given).
        interrupt: called between layers; true stops the running call with Cancelled.
        What log or interrupt raise comes out of the call that was running.
        """
        if log is not None and log_level is None:
            log_level = LogLevel.INFO
        options = context_options(
            backend=backend, memory_limit=memory_limit, n_threads=n_threads, log_level=log_level
        )
        self._callbacks = Callbacks(log, interrupt)
        self._host = Host(self._callbacks)
        options.interrupt = self._host.interrupt_fn
        if log is not None:
            options.log = self._host.log_fn
        pointer = self._host.create(
            _ffi.lisa_context,
            _ffi.lisa_context_create,
            _ffi.lisa_context_destroy,
            ctypes.byref(options),
        )
        super().__init__(pointer, self._host.release, _ffi.lisa_context_destroy)

    @property
    def backend(self) -> str:
        """The backend in use: "cpu", "cuda", ..."""
        return self._host.call(_ffi.lisa_context_backend, self._c()).decode()

    @property
    def n_threads(self) -> int:
        """Threads in use, the calling one included."""
        return self._host.call(_ffi.lisa_context_n_threads, self._c())

    def memory(self) -> Dict[str, MemoryUse]:
        """Bytes held now and at most so far, by memory class."""
        use = {}
        current, peak = ctypes.c_uint64(), ctypes.c_uint64()
        for number, name in enumerate(MEMORY_CLASSES):
            self._host.call(
                _ffi.lisa_context_memory,
                self._c(),
                number,
                ctypes.byref(current),
                ctypes.byref(peak),
            )
            use[name] = MemoryUse(current.value, peak.value)
        return use

    def __repr__(self) -> str:
        return f"<liblisa.Context {'closed' if self.closed else self.backend}>"

"""What all handles share: who destroys them and when, and what happens in callbacks."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Generator, Optional, Tuple, TypeVar

from . import _ffi
from ._errors import StateError

Self = TypeVar("Self", bound="Handle")


class Callbacks:
    """The host's own callables. The context alone owns them, so that they may refer to it."""

    def __init__(
        self,
        log: Optional[Callable[[int, str], Any]],
        interrupt: Optional[Callable[[], Any]],
    ) -> None:
        self.log = log
        self.interrupt = interrupt


class Host:
    """The Python side of one context: calls one at a time, callbacks, and late destroys.

    The garbage collector may finalise a handle on any thread, even while another thread is inside
    a call on the same context. Such a handle is destroyed when that call has ended.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = weakref.ref(callbacks)
        self._lock = threading.Lock()
        self._owner: Optional[int] = None
        self._dead: Deque[Tuple[Callable[[Any], None], Any]] = deque()
        self._raised: Optional[BaseException] = None
        polls = self._polls()
        next(polls)
        self.interrupt_fn = _ffi.lisa_interrupt_fn(polls.send)
        self.log_fn = _ffi.lisa_log_fn(self._log)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls into the library; what a callback raised meanwhile is raised here."""
        if self._owner == threading.get_ident():
            raise StateError("a callback must not call back into its own context")
        try:
            with self._lock:
                self._owner = threading.get_ident()
                try:
                    return function(*arguments)
                finally:
                    self._owner = None
                    self._raise_again()
        finally:
            self._bury()

    def create(self, kind: Any, create: Any, destroy: Any, *arguments: Any) -> Any:
        """Calls create(&out, ...) and returns the pointer."""
        pointer = ctypes.POINTER(kind)()
        try:
            self.call(create, ctypes.byref(pointer), *arguments)
        except BaseException:
            if pointer:  # made, but a callback raised
                self.release(destroy, pointer)
            raise
        return pointer

    def release(self, destroy: Callable[[Any], None], pointer: Any) -> None:
        """Destroys now, or when the call that is running has ended."""
        self._dead.append((destroy, pointer))
        self._bury()

    def remember(self, error: BaseException) -> None:
        """Keeps what a callback raised until the C call has returned."""
        if self._raised is None:
            self._raised = error

    def _raise_again(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised from None

    def _bury(self) -> None:
        while self._dead and self._lock.acquire(blocking=False):
            try:
                self._owner = threading.get_ident()
                while self._dead:
                    destroy, pointer = self._dead.popleft()
                    destroy(pointer)
            finally:
                self._owner = None
                self._lock.release()

    def _polls(self) -> Generator[int, Any, None]:
        # A generator, because Python delivers Ctrl-C on entering a function, where no `try` of that
        # function is in force yet: the KeyboardInterrupt would be lost inside ctypes. A generator
        # is entered at its yield, which lies inside.
        stop = 0
        while True:
            try:
                yield stop
                stop = self._poll()
            except GeneratorExit:
                return
            except BaseException as error:
                # Without this frame in the traceback: who clears its frames would end the generator.
                tail = error.__traceback__.tb_next if error.__traceback__ else None
                self.remember(error.with_traceback(tail))
                stop = 1

    def _poll(self) -> int:
        callbacks = self._callbacks()
        if self._raised is not None:
            return 1
        if callbacks is None or callbacks.interrupt is None:
            return 0
        return 1 if callbacks.interrupt() else 0

    def _log(self, _user: Any, level: int, line: bytes) -> None:
        try:
            callbacks = self._callbacks()
            if callbacks is not None and callbacks.log is not None:
                callbacks.log(level, line.decode("utf-8", "replace"))
        except BaseException as error:
            self.remember(error)


class Handle:
    """A C object: destroyed by close(), after a with block, or when nothing refers to it."""

    def __init__(self, pointer: Any, release: Callable[..., None], *arguments: Any) -> None:
        self._pointer = pointer
        self._finalizer = weakref.finalize(self, release, *arguments, pointer)

    @property
    def closed(self) -> bool:
        """True after close()."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Destroys the C object; again is harmless. Order does not matter: children live on."""
        self._finalizer()

    def _c(self) -> Any:
        if self.closed:
            raise StateError(f"{type(self).__name__} is closed")
        return self._pointer

    def __enter__(self: Self) -> Self:
        self._c()
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.close()

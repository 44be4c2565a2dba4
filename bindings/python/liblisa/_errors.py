"""One exception class per status of the C library."""

from __future__ import annotations

from typing import Dict, Type


class LisaError(Exception):
    """A call into liblisa failed. `status` is the C constant, `text` the library's line."""

    status: int = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class InvalidArgument(LisaError, ValueError):
    """An argument or option has a value that is not allowed (LISA_E_INVAL)."""

    status = -1


class OutOfMemory(LisaError, MemoryError):
    """The allocator had no more (LISA_E_NOMEM)."""

    status = -2


class IOFailure(LisaError, OSError):
    """A file could not be read or written (LISA_E_IO); the text has the system's words."""

    status = -3


class FormatError(LisaError):
    """A file is truncated, contradictory or hostile (LISA_E_FORMAT)."""

    status = -4


class Unsupported(LisaError):
    """Well-formed, but not something this version implements (LISA_E_UNSUPPORTED)."""

    status = -5


class StateError(LisaError):
    """The call is not allowed now: order of calls, bound or closed objects (LISA_E_STATE)."""

    status = -6


class BudgetExceeded(LisaError):
    """A memory limit or a planned capacity would be exceeded (LISA_E_BUDGET)."""

    status = -7


class NonFinite(LisaError):
    """A loss, gradient or weight is NaN or infinite (LISA_E_NONFINITE)."""

    status = -8


class BackendError(LisaError):
    """A backend is missing, refused to start, or was lost (LISA_E_BACKEND)."""

    status = -9


class AbiError(LisaError, ImportError):
    """Library and package do not fit each other (LISA_E_ABI)."""

    status = -10


class Cancelled(LisaError):
    """The interrupt callback said stop (LISA_E_CANCELLED)."""

    status = -11


class NotFound(LisaError, KeyError):
    """No tensor, key or file of that name (LISA_E_NOTFOUND)."""

    status = -12


class InternalError(LisaError):
    """A broken promise inside the library (LISA_E_INTERNAL): please report it."""

    status = -13


BY_STATUS: Dict[int, Type[LisaError]] = {cls.status: cls for cls in LisaError.__subclasses__()}


def error_for(status: int, text: str) -> LisaError:
    """The exception of a status; a plain LisaError where a newer library has a newer number."""
    error = BY_STATUS.get(status, LisaError)(text)
    error.status = status
    return error

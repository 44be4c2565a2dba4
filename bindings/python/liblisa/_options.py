"""Filling option structs: defaults from the library, then what the caller gave, range-checked."""

from __future__ import annotations

import ctypes
import operator
import os
from typing import Any, Callable, Mapping, Type, TypeVar, Union

from ._errors import InvalidArgument

PathLike = Union[str, bytes, "os.PathLike[Any]"]
Struct = TypeVar("Struct", bound=ctypes.Structure)


def path_bytes(path: PathLike, name: str) -> bytes:
    """A path as the C library takes it."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise InvalidArgument(f"{name}: a path must not contain a NUL byte")
    return encoded


def text_bytes(text: str, name: str) -> bytes:
    """A name as the C library takes it."""
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected str, got {type(text).__name__}")
    if "\0" in text:
        raise InvalidArgument(f"{name}: text must not contain a NUL character")
    return text.encode("utf-8")


def integer(value: Any, name: str) -> int:
    """An integer of any kind, numpy's too."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def unsigned(value: int, bits: int, name: str) -> int:
    """An integer argument: ctypes would cut a value that is out of range in silence."""
    number = integer(value, name)
    if not 0 <= number < 1 << bits:
        raise InvalidArgument(f"{name}: expected 0 to {(1 << bits) - 1}, got {number}")
    return number


def real(value: float, name: str) -> float:
    """A number as a double."""
    try:
        return ctypes.c_double(value).value
    except OverflowError:
        raise InvalidArgument(f"{name}: expected a number that a double can hold") from None
    except TypeError:
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None


def _field(kind: Any, value: Any, name: str) -> Any:
    """A value as a field of this C type takes it."""
    if kind is ctypes.c_double:
        return real(value, name)
    if kind in (ctypes.c_uint32, ctypes.c_uint64):
        return unsigned(value, 8 * ctypes.sizeof(kind), name)
    return value


def fill(struct: ctypes.Structure, values: Mapping[str, Any]) -> None:
    """Sets the given fields; None leaves a field as it is."""
    kinds = {field[0]: field[1] for field in struct._fields_}
    for name, value in values.items():
        if value is not None:
            setattr(struct, name, _field(kinds[name], value, name))


def make(kind: Type[Struct], init: Callable[..., Any], values: Mapping[str, Any]) -> Struct:
    """A struct with the library's defaults and the given values."""
    struct = kind()
    init(ctypes.byref(struct), ctypes.sizeof(struct))
    fill(struct, values)
    return struct

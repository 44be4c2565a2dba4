"""Filling option structs: defaults from the library, then what the caller gave, range-checked."""

from __future__ import annotations

import ctypes
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


def unsigned(value: int, bits: int, name: str) -> int:
    """An integer argument: ctypes would cut a value that is out of range in silence."""
    if not 0 <= value < 1 << bits:
        raise InvalidArgument(f"{name}: expected 0 to {(1 << bits) - 1}, got {value}")
    return value


def fill(struct: ctypes.Structure, values: Mapping[str, Any]) -> None:
    """Sets the given fields; None leaves a field as it is."""
    for name, value in values.items():
        if value is None:
            continue
        setattr(struct, name, value)
        if isinstance(value, int) and getattr(struct, name) != value:
            raise InvalidArgument(f"{name}: {value} is out of range")


def make(kind: Type[Struct], init: Callable[..., Any], values: Mapping[str, Any]) -> Struct:
    """A struct with the library's defaults and the given values."""
    struct = kind()
    init(ctypes.byref(struct), ctypes.sizeof(struct))
    fill(struct, values)
    return struct

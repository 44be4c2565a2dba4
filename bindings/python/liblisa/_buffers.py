"""Arrays in and out without numpy.

In: any object with the buffer protocol (numpy, array, bytes, memoryview), or (nested) sequences.
Out: memoryviews with a shape; numpy.asarray(view) is an array on the same memory.
"""

from __future__ import annotations

import array
import ctypes
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ._choices import DType
from ._errors import InvalidArgument

Shape = Tuple[int, ...]

# The letters mean the same to array, struct and memoryview.
CODES: Dict[Any, Any] = {
    ctypes.c_int32: "i",
    ctypes.c_uint32: "I",
    ctypes.c_uint8: "B",
    ctypes.c_float: "f",
    ctypes.c_double: "d",
}
_NATIVE = "@=" + ("<" if sys.byteorder == "little" else ">")
_FLOATS = {DType.F32: ctypes.c_float, DType.F64: ctypes.c_double}


class CArray(NamedTuple):
    """Elements for a C call, and the shape in which they were given."""

    data: Any
    shape: Shape


def _flatten(data: Any, name: str) -> Tuple[List[Any], Shape]:
    rows = list(data.tolist() if hasattr(data, "tolist") else data)
    if not rows or not hasattr(rows[0], "__len__"):
        return rows, (len(rows),)
    lists = [list(row) for row in rows]
    if len({len(row) for row in lists}) != 1:
        raise InvalidArgument(f"{name}: expected rows of equal length")
    return [value for row in lists for value in row], (len(lists), len(lists[0]))


def _convert(data: Any, ctype: Any, name: str) -> CArray:
    values, shape = _flatten(data, name)
    try:
        converted = array.array(CODES[ctype], values)
    except OverflowError as error:
        raise InvalidArgument(f"{name}: {error}") from None
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    return CArray((ctype * len(converted)).from_buffer(converted), shape)


def _format_of(data: Any) -> Optional[str]:
    try:
        return memoryview(data).format.lstrip(_NATIVE)
    except TypeError:
        return None


def c_array(data: Any, ctype: Any, name: str) -> CArray:
    """The elements of `data` as a C array: in place where type and layout allow, else a copy."""
    if _format_of(data) != CODES[ctype]:
        return _convert(data, ctype, name)
    view: Any = memoryview(data)
    kind = ctype * (view.nbytes // ctypes.sizeof(ctype))
    if view.c_contiguous and not view.readonly:
        return CArray(kind.from_buffer(view), view.shape)
    return CArray(kind.from_buffer_copy(view.tobytes()), view.shape)


def c_floats(data: Any, name: str) -> Tuple[CArray, DType]:
    """As c_array: float32 for buffers of float32, float64 for everything else."""
    dtype = DType.F32 if _format_of(data) == "f" else DType.F64
    return c_array(data, _FLOATS[dtype], name), dtype


def new_array(ctype: Any, shape: Sequence[int]) -> Tuple[memoryview, Any]:
    """Zeros: a memoryview for the caller, and a C array on the same memory."""
    count = 1
    for extent in shape:
        count *= extent
    memory = bytearray(count * ctypes.sizeof(ctype))
    view: Any = memoryview(memory)
    # A memoryview cannot have a shape with a zero in it.
    shaped = view.cast(CODES[ctype], list(shape)) if count else view.cast(CODES[ctype])
    return shaped, (ctype * count).from_buffer(memory)


def float_output(
    out: Any, dtype: Any, shape: Sequence[int], name: str = "out"
) -> Tuple[Any, Any, DType]:
    """What a reader fills, `out` or a new array of `dtype`: (result, C array, element type)."""
    if out is None:
        if dtype not in _FLOATS:
            raise InvalidArgument(f"dtype: expected 'f32' or 'f64', got {dtype.name.lower()!r}")
        view, data = new_array(_FLOATS[dtype], shape)
        return view, data, dtype
    view = memoryview(out)
    dtype = {"f": DType.F32, "d": DType.F64}.get(view.format.lstrip(_NATIVE))
    if dtype is None or view.readonly or not view.c_contiguous:
        raise InvalidArgument(f"{name}: expected a writable, contiguous buffer of float or double")
    return out, (_FLOATS[dtype] * (view.nbytes // view.itemsize)).from_buffer(out), dtype

"""Arrays in and out without numpy.

In: any object with the buffer protocol (numpy, array, bytes, memoryview) or with __array__ (PyTorch
in host memory), or (nested) sequences.
Out: memoryviews with a shape; numpy.asarray(view) is an array on the same memory.
"""

from __future__ import annotations

import array
import ctypes
import operator
import sys
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

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
_LETTERS = tuple("?bBhHiIlLqQfd")  # of elements that a memoryview takes apart
_FLOATS = {DType.F32: ctypes.c_float, DType.F64: ctypes.c_double}


class CArray(NamedTuple):
    """Elements for a C call, and the shape in which they were given."""

    data: Any
    shape: Shape


def _buffer(data: Any) -> Any:
    """A memoryview of an object's own memory; None where it has no buffer protocol."""
    try:
        return memoryview(data)
    except (TypeError, ValueError, BufferError):  # none, or elements that no buffer can have
        return None


def _view(data: Any) -> Any:
    """As _buffer; of an object without, that of the array which it makes of itself."""
    view = _buffer(data)
    if view is not None or not hasattr(data, "__array__"):
        return view
    try:
        return _buffer(data.__array__())
    except Exception:  # PyTorch's of another device or type: its tolist() will do
        return None


def _format(view: Any) -> Any:
    return view.format.lstrip(_NATIVE)


def _flatten(data: Any, name: str) -> Tuple[List[Any], Shape]:
    """Elements of nested sequences, and their shape."""
    data = data.tolist() if hasattr(data, "tolist") else list(data)
    if not isinstance(data, list):
        return [data], ()
    if not data or isinstance(data[0], (str, bytes)) or not hasattr(data[0], "__len__"):
        return data, (len(data),)
    parts = [_flatten(part, name) for part in data]
    if len({shape for _, shape in parts}) != 1:
        raise InvalidArgument(f"{name}: expected rows of equal length")
    return [value for values, _ in parts for value in values], (len(parts), *parts[0][1])


def _elements(data: Any, view: Any, name: str) -> Tuple[List[Any], Shape]:
    if view is not None and _format(view) in _LETTERS:
        return memoryview(view.tobytes()).cast(_format(view)).tolist(), view.shape
    values, shape = _flatten(data, name)
    return values, view.shape if view is not None and not values else shape


def _convert(data: Any, view: Any, ctype: Any, name: str) -> CArray:
    try:
        values, shape = _elements(data, view, name)
        if ctype not in _FLOATS.values():
            values = list(map(operator.index, values))  # array would cut some kinds of fractions
        converted = array.array(CODES[ctype], values)
    except OverflowError as error:
        raise InvalidArgument(f"{name}: {error}") from None
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"{name}: {error}") from None
    return CArray((ctype * len(converted)).from_buffer(converted), shape)


def c_array(data: Any, ctype: Any, name: str) -> CArray:
    """The elements of `data` as a C array: in place where type and layout allow, else a copy."""
    view = _view(data)
    if view is None or _format(view) != CODES[ctype]:
        return _convert(data, view, ctype, name)
    kind = ctype * (view.nbytes // ctypes.sizeof(ctype))
    if view.c_contiguous and not view.readonly:
        return CArray(kind.from_buffer(view), view.shape)
    return CArray(kind.from_buffer_copy(view.tobytes()), view.shape)


def c_floats(data: Any, name: str) -> Tuple[CArray, DType]:
    """As c_array: float32 for buffers of float32, float64 for everything else."""
    view = _view(data)
    dtype = DType.F32 if view is not None and _format(view) == "f" else DType.F64
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
    view = _buffer(out)  # never _view: what __array__ made of it may be a copy
    if view is None:
        raise TypeError(f"{name}: expected a buffer, such as numpy's, got {type(out).__name__}")
    dtype = {"f": DType.F32, "d": DType.F64}.get(_format(view))
    if dtype is None or view.readonly or not view.c_contiguous:
        raise InvalidArgument(f"{name}: expected a writable, contiguous buffer of float or double")
    return out, (_FLOATS[dtype] * (view.nbytes // view.itemsize)).from_buffer(out), dtype

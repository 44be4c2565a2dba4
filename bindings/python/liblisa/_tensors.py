"""Handles that hold named tensors: a model and an adapter."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, List, Tuple, Union

from . import _ffi
from ._buffers import c_floats, float_output
from ._choices import DType, parse
from ._errors import InvalidArgument
from ._handles import Handle, Host
from ._options import unsigned

DTypeLike = Union[DType, int, str]
TensorKey = Union[str, int]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a model or an adapter."""

    index: int
    name: str  # Hugging Face name, or PEFT's
    shape: Tuple[int, ...]  # as in the file
    dtype: DType  # as stored
    group: int


class TensorHandle(Handle):
    """A handle with tensors. A subclass names the C functions and finds an index by name."""

    _host: Host
    _tensor_count: Any
    _tensor_info: Any
    _tensor_get: Any
    _tensor_put: Any

    def tensors(self) -> List[TensorInfo]:
        """All tensors in group order; a tied head is not listed apart."""
        count = self._host.call(self._tensor_count, self._c())
        return [self.tensor(index) for index in range(count)]

    def tensor(self, key: TensorKey) -> TensorInfo:
        """One tensor by its name (NotFound) or index."""
        index = self._find(key) if isinstance(key, str) else unsigned(key, 32, "tensor index")
        info = _ffi.lisa_tensor_info()
        info.struct_size = ctypes.sizeof(info)
        self._host.call(self._tensor_info, self._c(), index, ctypes.byref(info))
        shape = tuple(info.shape[: info.n_dims])
        return TensorInfo(index, info.name.decode(), shape, DType(info.dtype), info.group)

    def tensor_read(self, key: TensorKey, *, dtype: DTypeLike = DType.F32, out: Any = None) -> Any:
        """A copy of a tensor in its shape, as "f32" or "f64"; or fills `out` and returns it."""
        info = self.tensor(key)
        result, data, kind = float_output(out, parse(DType, dtype), info.shape)
        self._host.call(self._tensor_get, self._c(), info.index, data, kind, len(data))
        return result

    def tensor_write(self, key: TensorKey, data: Any) -> None:
        """Replaces a tensor's values, fp32 master included. Data is flat or of its shape."""
        info = self.tensor(key)
        values, kind = c_floats(data, "data")
        if len(values.shape) > 1 and values.shape != info.shape:
            raise InvalidArgument(
                f"{info.name}: expected shape {list(info.shape)}, got {list(values.shape)}"
            )
        self._host.call(
            self._tensor_put, self._c(), info.index, values.data, kind, len(values.data)
        )

    def _find(self, name: str) -> int:
        raise NotImplementedError

"""A GGUF file that somebody else made: checked metadata, tensors as rows of floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Optional, Set, Tuple

from ._packages import gguf, np

MAX_SIZE = 1 << 22  # of a width or a count that the file states
MAX_PIECES = 1 << 24  # lengths, keys and values that the reader makes an object of
BLOCK_ELEMENTS = 1 << 22  # that are floats at a time
FILE_KEYS = ("GGUF.", "general.alignment", "general.file_type", "general.quantization_version")


class ConversionError(ValueError):
    """What in the file is not understood."""


class _BoundedReader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's reader takes what lies behind the end of the file for empty; this one refuses it."""

    _pieces = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise ValueError("too much metadata")
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("the file ends too early")
        return super()._get(offset, dtype, count, override_order)


def _check_places(reader: gguf.GGUFReader) -> None:
    """Offsets are somebody else's sums: they may wrap, or put a tensor into another one."""
    end, last = int(reader.data_offset), "the header"
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.data_offset):
        if tensor.data_offset < end:
            raise ValueError(f"tensor {tensor.name!r} begins within {last}")
        end, last = tensor.data_offset + int(tensor.n_bytes), repr(tensor.name)


def _read(path: Path) -> gguf.GGUFReader:
    try:
        with np.errstate(over="ignore"):
            reader = _BoundedReader(str(path))
        _check_places(reader)
        return reader
    except OSError:
        raise
    except Exception as error:  # the reader promises nothing about damaged files
        raise ConversionError(f"not a GGUF file that can be read: {error}") from error


class Source:
    """A GGUF model. Keys without a dot in front of them belong to its architecture."""

    def __init__(self, path: Path) -> None:
        reader = _read(path)
        if reader.byte_order != "I":
            raise ConversionError("the byte order is not this machine's")
        self._fields = reader.fields
        self._asked: Set[str] = set()
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.text("general.architecture")
        if self.text("general.type", "model") != "model":
            raise ConversionError(f"general.type is {self.text('general.type')!r}, not 'model'")
        if self.value("split.count", 1) != 1:
            raise ConversionError("one of several parts: join them with gguf-split first")

    def _key(self, key: str) -> str:
        shared = key.split(".")[0] in ("general", "tokenizer", "split")
        return key if shared else f"{self.architecture}.{key}"

    def value(self, key: str, default: Any = None) -> Any:
        key = self._key(key)
        self._asked.add(key)
        field = self._fields.get(key)
        if field is None:
            return default
        try:
            return field.contents()
        except ValueError as error:
            raise ConversionError(f"{key}: {error}") from error

    def _required(self, key: str, default: Any) -> Any:
        value = self.value(key, default)
        if value is None:
            raise ConversionError(f"the key {self._key(key)!r} is missing")
        return value

    def text(self, key: str, default: Optional[str] = None) -> str:
        value = self._required(key, default)
        if not isinstance(value, str):
            raise ConversionError(f"{self._key(key)}: expected a text")
        return value

    def size(self, key: str, default: Optional[int] = None) -> int:
        value = self._required(key, default)
        if type(value) is not int or not 0 < value <= MAX_SIZE:
            raise ConversionError(f"{self._key(key)}: expected one number from 1 to {MAX_SIZE}")
        return value

    def number(self, key: str, default: Optional[float] = None) -> float:
        """The shortest decimal of a number stored in 32 bits: 1e-05, not 9.99999974e-06."""
        value = self._required(key, default)
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise ConversionError(f"{self._key(key)}: expected a number above 0")
        return float(str(np.float32(value)))

    def refuse_unasked(self) -> None:
        """A key of the architecture that nobody has asked for may change its mathematics."""
        for key in self._fields:
            if key.startswith(self.architecture + ".") and key not in self._asked:
                raise ConversionError(f"the key {key!r} is not understood")

    def unasked(self, *, tokenizer_too: bool) -> List[str]:
        """Keys that nobody has asked for, those apart that say how the file itself is made."""
        passed_over = FILE_KEYS if tokenizer_too else (*FILE_KEYS, "tokenizer.")
        return [
            ascii(key)[1:-1]
            for key in self._fields
            if key not in self._asked and not key.startswith(passed_over)
        ]

    def shape(self, name: str) -> Tuple[int, ...]:
        """As numpy has it: rows first."""
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def floats(
        self, name: str, rows: slice, order: Optional[np.ndarray] = None, whole: bool = False
    ) -> Iterator[np.ndarray]:
        """A tensor's rows, dequantised to float32 block by block, or in one block.

        order: rows are taken in this order, and `rows` counts in it.
        """
        tensor = self.tensors[name]
        step = rows.stop - rows.start
        if not whole and tensor.data.ndim > 1:
            step = max(1, BLOCK_ELEMENTS // self.shape(name)[-1])
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            stored = tensor.data[start:stop] if order is None else tensor.data[order[start:stop]]
            try:
                yield gguf.quants.dequantize(np.ascontiguousarray(stored), tensor.tensor_type)
            except NotImplementedError as error:
                raise ConversionError(
                    f"tensor {name!r} is of type {tensor.tensor_type.name}, which "
                    "the package gguf cannot turn into floats"
                ) from error

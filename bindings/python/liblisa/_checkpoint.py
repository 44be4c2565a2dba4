"""A training on disk, from which it goes on bit for bit."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple, Optional

from . import _ffi
from ._handles import Handle
from ._options import PathLike, make, path_bytes, unsigned
from ._sampler import Sampler
from ._train import Optimizer


class CheckpointInfo(NamedTuple):
    """What a checkpoint says of itself."""

    step: int
    blob_bytes: int
    bytes: int  # of all weights and state
    format: int
    n_layers: int
    has_sampler: bool
    adapted: bool  # of an optimizer that trained an adapter


def _new_info() -> _ffi.lisa_checkpoint_info:
    info = _ffi.lisa_checkpoint_info()
    info.struct_size = ctypes.sizeof(info)
    return info


def _read_info(info: _ffi.lisa_checkpoint_info) -> CheckpointInfo:
    values = {name: getattr(info, name) for name in CheckpointInfo._fields}
    values.update(has_sampler=bool(info.has_sampler), adapted=bool(info.adapted))
    return CheckpointInfo(**values)


def save_checkpoint(
    optimizer: Optimizer,
    directory: PathLike,
    step: int,
    *,
    sampler: Optional[Sampler] = None,
    blob: bytes = b"",
    keep: Optional[int] = None,
) -> None:
    """Writes DIRECTORY/checkpoint-<step>.safetensors: whole, or not at all.

    blob: bytes of the caller's own, such as a position in the data. keep: files in the directory,
    the newest by step; None or 0: all. StateError inside an accumulation window.
    """
    values = {
        "sampler": None if sampler is None else sampler._c(),
        "blob": ctypes.cast(ctypes.c_char_p(blob), ctypes.c_void_p) if blob else None,
        "blob_bytes": len(blob),
        "keep": keep,
    }
    options = make(_ffi.lisa_checkpoint_options, _ffi.lisa_checkpoint_options_init, values)
    optimizer._host.call(
        _ffi.lisa_checkpoint_save,
        optimizer._c(),
        path_bytes(directory, "directory"),
        unsigned(step, 64, "step"),
        ctypes.byref(options),
    )


def load_checkpoint(optimizer: Optimizer, path: PathLike) -> CheckpointInfo:
    """Makes optimizer, model and adapter what they were. What does not fit changes nothing."""
    info = _new_info()
    optimizer._host.call(
        _ffi.lisa_checkpoint_load,
        optimizer._c(),
        path_bytes(path, "path"),
        ctypes.byref(info),
    )
    return _read_info(info)


def verify_checkpoint(path: PathLike) -> CheckpointInfo:
    """Reads a whole file and compares every checksum; FormatError says what is damaged."""
    info = _new_info()
    _ffi.lisa_checkpoint_verify(path_bytes(path, "path"), ctypes.byref(info))
    return _read_info(info)


def find_checkpoint(directory: PathLike) -> str:
    """The path of the newest whole checkpoint in a directory; NotFound where there is none."""
    path = ctypes.create_string_buffer(4096)
    _ffi.lisa_checkpoint_find(path_bytes(directory, "directory"), path, len(path))
    return os.fsdecode(path.value)


def checkpoint_blob(path: PathLike) -> bytes:
    """The bytes that the caller of save_checkpoint added."""
    n = verify_checkpoint(path).blob_bytes
    blob = ctypes.create_string_buffer(max(n, 1))
    _ffi.lisa_checkpoint_blob(path_bytes(path, "path"), blob, n)
    return blob.raw[:n]


def checkpoint_sampler(path: PathLike) -> Sampler:
    """The sampler that was stored; NotFound where none was."""
    pointer = ctypes.POINTER(_ffi.lisa_sampler)()
    _ffi.lisa_checkpoint_sampler(ctypes.byref(pointer), path_bytes(path, "path"))
    sampler = Sampler.__new__(Sampler)
    Handle.__init__(sampler, pointer, _ffi.lisa_sampler_destroy)
    return sampler

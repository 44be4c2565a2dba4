"""Directories and small files that come whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Iterator


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode_of_empty(out: Path, path: Path) -> int:
    """The mode of a directory that is there; an error where no other one can take its place."""
    if not out.is_dir() or any(out.iterdir()):
        raise FileExistsError(f"{path} is not empty: give another directory")
    if out.is_mount() or out.samefile("."):
        what = "a mount point" if out.is_mount() else "the working directory"
        raise FileExistsError(f"{path} is {what} and stays in its place: give a directory in it")
    return stat.S_IMODE(out.stat().st_mode)


@contextlib.contextmanager
def own_directory(path: Path) -> Iterator[None]:
    """A directory that no other process has until the block ends. One that has to be made goes
    again where nothing was put into it."""
    was_there = path.is_dir()
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FileExistsError(f"{path}: another process is at work there") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        if not was_there:
            with contextlib.suppress(OSError):
                path.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to fill. It lies beside `path` under a name of its own, takes that of `path` when
    the block ends, and is removed when the block fails. `path` is not there, or is empty
    and keeps its mode."""
    out = path.resolve()
    mode = _mode_of_empty(out, path) if out.exists() else None
    out.parent.mkdir(parents=True, exist_ok=True)
    # No process id: a container's is always the same, and who was killed leaves its directory.
    partial = out.with_name(f".{out.name}-{secrets.token_hex(8)}.tmp")
    partial.mkdir()
    try:
        yield partial
        for written in [*partial.rglob("*"), partial]:
            _sync(written)
        if mode is not None:
            partial.chmod(mode)
        partial.rename(out)
        _sync(out.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # of a write that failed
        raise


def write_whole(path: Path, text: str) -> None:
    """A small file in place of the one that was there, if any."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise

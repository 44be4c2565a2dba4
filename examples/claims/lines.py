"""Result lines: one JSON object a line, a file a run. The last line is its summary.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, Dict, Hashable, Iterator, List, NamedTuple, Optional, Tuple

from spec import Spec

Line = Dict[str, Any]
TIMES = "time.jsonl"  # the one file that is no run's


class NotYet(Exception):
    """Something is asked of runs that are not through."""

    def __init__(self, runs: List[Spec]) -> None:
        super().__init__(", ".join(spec.name for spec in runs))
        self.runs = runs


class Result(NamedTuple):
    """A run."""

    spec: Spec
    begin: Line  # the first line: versions, machine, settings, the plan
    lines: List[Line]  # steps and measurements
    end: Line  # the last: losses of the part to judge by, memory

    def of(self, key: str) -> Iterator[Line]:
        """The lines that have a key."""
        return (line for line in self.lines if key in line)


class Results:
    """The files of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: Dict[Spec, Optional[Result]] = {}
        self._made_of: Dict[Hashable, Tuple[str, Path]] = {}

    def path(self, spec: Spec) -> Path:
        """Where a run's lines are, or will be."""
        return self.directory / f"{spec.name}.jsonl"

    def get(self, spec: Spec) -> Optional[Result]:
        """A whole run; None where it has not come to its end."""
        if self._read.get(spec) is None:
            result = read(self.path(spec), spec)
            if result is not None:
                self._compare(result)
            self._read[spec] = result
        return self._read[spec]

    def need(self, spec: Spec) -> Result:
        """A whole run; NotYet where it has not come to its end."""
        result = self.get(spec)
        if result is None:
            raise NotYet([spec])
        return result

    def _compare(self, result: Result) -> None:
        """Runs on one text have the same rows, and those of one model the same weights."""
        spec, path = result.spec, self.path(result.spec)
        for kind, of in (("rows", (spec.text, spec.tokens)), ("weights", spec.model)):
            if kind not in result.begin:
                continue
            digest = result.begin[kind]
            known, first = self._made_of.setdefault((kind, of), (digest, path))
            if digest != known:
                raise ValueError(f"{path}: not the {kind} of {first}")


def read(path: Path, spec: Spec) -> Optional[Result]:
    """None where there is no file."""
    if not path.is_file():
        return None
    lines = read_lines(path)
    if lines[0]["spec"] != spec.as_json() or "test" not in lines[-1]:
        raise ValueError(f"{path}: not the lines of {spec}")
    return Result(spec, lines[0], lines[1:-1], lines[-1])


def read_lines(path: Path) -> List[Line]:
    """Every line of a file."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(lines) < 2:
        raise ValueError(f"{path}: no whole run's lines")
    return lines


def publish(part: Path, path: Path) -> None:
    """Puts a whole file where it belongs, which may be another file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    try:
        shutil.copyfile(part, beside)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise
    part.unlink()


class Writer:
    """Appends to a run's file, from a place up to which it is good."""

    def __init__(self, path: Path, good: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path}: another process writes it") from None
        except OSError:
            pass  # a file system without locks
        self._file.truncate(good)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def add(self, line: Line) -> None:
        """One line, at once on its way to the disk."""
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def tell(self) -> int:
        """Bytes so far."""
        return self._file.seek(0, 2)

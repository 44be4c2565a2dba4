"""Verifies checkpoints, every checksum, and says what they hold. The exit status is 1 where one is
damaged or there is none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

from .._checkpoint import verify_checkpoint
from .._choices import Moments, SamplerKind, StatePolicy, Target
from .._errors import LisaError, NotFound
from ._parser import add_json
from ._report import amount, print_json, table

NAME = "checkpoint"
HELP = "what checkpoints hold, verified"

_SINGLE_TARGETS = [bit for bit in Target.__members__.values() if bit & (bit - 1) == 0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("path", metavar="DIR|FILE", help="a checkpoint, or a directory of them")
    add_json(parser)


def _sections(path: Path) -> Dict[str, Any]:
    """The header of a verified file, and its own description under "lisa.meta"."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        begin, end = header["lisa.meta"]["data_offsets"]
        file.seek(8 + length + begin)
        meta = file.read(end - begin)
    header["lisa.meta"] = json.loads(meta[: meta.rindex(b"\n")])
    return header


def _named(options: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """Options as a checkpoint writes them, with words for its numbers."""
    if options is None:
        return None
    named: Dict[str, Any] = {
        name: int(value, 16) if isinstance(value, str) else value
        for name, value in options.items()
    }
    for name, choices in (("kind", SamplerKind), ("state_policy", StatePolicy)):
        if name in named:
            named[name] = choices(named[name]).name.lower()
    if "moments" in named:
        named["moments"] = [_moments(number) for number in named["moments"]]
    if "targets" in named:
        named["targets"] = [
            str(bit.name).lower() for bit in _SINGLE_TARGETS if bit & named["targets"]
        ]
    return named


def _moments(number: int) -> str:
    return Moments(number).name.lower()


def _bytes(header: Dict[str, Any], prefix: str) -> int:
    offsets = (entry["data_offsets"] for name, entry in header.items() if name.startswith(prefix))
    return sum(end - begin for begin, end in offsets)


def _describe(path: Path) -> Dict[str, Any]:
    found: Dict[str, Any] = {"file": str(path), "file_bytes": path.stat().st_size}
    try:
        info = verify_checkpoint(path)
    except LisaError as error:
        return {**found, "whole": False, "error": str(error)}
    header = _sections(path)
    meta = header["lisa.meta"]
    held = {kind: _bytes(header, kind + "/") for kind in ("weights", "adapter", "m", "v", "low")}
    return {
        **found,
        "whole": True,
        **info._asdict(),
        "written_by": meta["written_by"],
        "bytes_by_kind": held,
        "weights": [name[8:] for name in header if name.startswith("weights/")],
        "optimizer": _named(meta["optimizer"]),
        "sampler": _named(meta["sampler"]),
        "adapter": _named(meta["adapter"]),
    }


def _print_one(found: Dict[str, Any]) -> None:
    sampler = found["sampler"]
    print(f"{found['file']}: step {found['step']}, whole, {amount(found['file_bytes'])}")
    held = found["bytes_by_kind"]
    rows = [["holds", "size"], [f"weights that have changed ({len(found['weights'])})"]]
    rows[1].append(amount(held["weights"]))
    rows.append(["adapter", amount(held["adapter"])])
    rows.append(["moments", amount(held["m"] + held["v"])])
    rows.append(["low bits", amount(held["low"])])
    rows.append(["the caller's own", amount(found["blob_bytes"])])
    print("", table(rows), "", sep="\n")
    print(f"optimizer: {_words(found['optimizer'])}")
    print(f"sampler: {_words(sampler) if sampler else 'none'}")
    if found["adapter"]:
        print(f"adapter: {_words(found['adapter'])}")
    print(f"written by {found['written_by']}, format {found['format']}, {found['n_layers']} layers")


def _words(values: Dict[str, Any]) -> str:
    said = {name: value for name, value in values.items() if value not in ([], 0)}
    for name, value in said.items():
        if isinstance(value, list):
            said[name] = " ".join(map(str, value))
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _print_all(found: List[Dict[str, Any]]) -> None:
    rows = [["checkpoint", "step", "size", "trains", "sampler", "whole"]]
    for each in found:
        name, size = Path(each["file"]).name, amount(each["file_bytes"])
        if each["whole"]:
            trains = "adapter" if each["adapted"] else "weights"
            sampler = "yes" if each["has_sampler"] else "no"
            rows.append([name, str(each["step"]), size, trains, sampler, "yes"])
        else:
            rows.append([name, "", size, "", "", "no"])
    print(table(rows))


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    path = Path(options.path)
    files = sorted(path.glob("checkpoint-*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise NotFound(f"{path}: no checkpoint in this directory")
    found = [_describe(file) for file in files]
    damaged = [each for each in found if not each["whole"]]
    if options.json:
        print_json({"checkpoints": found})
    elif path.is_dir():
        _print_all(found)
    elif not damaged:
        _print_one(found[0])
    if damaged:
        raise ValueError("; ".join(each["error"] for each in damaged))
    return 0

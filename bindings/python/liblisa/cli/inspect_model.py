"""Says what a Hugging Face directory holds: family, parameters by group, types, files. Weights are
mapped, not read."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Sequence

from .._config import ModelConfig
from .._context import Context
from .._model import Model
from .._tensors import TensorInfo
from ._parser import add_json
from ._report import amount, print_json, table

NAME = "inspect-model"
HELP = "what a model directory holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("directory", metavar="DIR", help="a Hugging Face directory")
    add_json(parser)


def _parameters(tensors: Sequence[TensorInfo]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _group(name: str, tensors: Sequence[TensorInfo]) -> Dict[str, Any]:
    dtypes = sorted({tensor.dtype.name.lower() for tensor in tensors})
    return {
        "name": name,
        "tensors": len(tensors),
        "parameters": _parameters(tensors),
        "dtypes": dtypes,
    }


def _groups(tensors: Sequence[TensorInfo], n_layers: int) -> List[Dict[str, Any]]:
    names = ["embedding", *(f"layer {layer}" for layer in range(n_layers)), "norm and head"]
    return [
        _group(name, [tensor for tensor in tensors if tensor.group == number])
        for number, name in enumerate(names)
    ]


def _describe(directory: Path) -> Dict[str, Any]:
    with Context() as context, Model.open(context, directory) as model:
        config, tensors = model.config, model.tensors()
    dtypes = Counter({tensor.dtype.name.lower(): 0 for tensor in tensors})
    for tensor in tensors:
        dtypes[tensor.dtype.name.lower()] += math.prod(tensor.shape)
    shape = {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}
    for name in ("weights_dtype", "norm", "activation", "rope"):
        shape[name] = shape[name].name.lower()
    return {
        "directory": str(directory),
        "family": config.family,
        "config": shape,
        "parameters": _parameters(tensors),
        "parameters_by_dtype": dict(dtypes),
        "tied": ["head"] if config.tied_head else [],
        "groups": _groups(tensors, config.n_layers),
        "files": {
            path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()
        },
    }


def _group_rows(groups: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """One row a group; layers that are alike share a row."""
    rows = [["group", "tensors", "parameters", "type"]]
    first = 0
    for number, group in enumerate(groups):
        following = groups[number + 1] if number + 1 < len(groups) else None
        alike = all(following and group[key] == following[key] for key in group if key != "name")
        if alike and 0 < number < len(groups) - 2:
            continue
        name = group["name"]
        if first < number:
            name = f"layers {first - 1} to {number - 1}, each"
        rows.append(
            [name, str(group["tensors"]), f"{group['parameters']:,}", " ".join(group["dtypes"])]
        )
        first = number + 1
    return rows


def _print(found: Dict[str, Any]) -> None:
    config = found["config"]
    print(
        f"{found['directory']}: {found['family']}, {found['parameters']:,} parameters, "
        f"{config['n_layers']} layers of width {config['d_model']}, {config['n_heads']} heads "
        f"({config['n_kv_heads'] or config['n_heads']} of keys and values), "
        f"vocabulary {config['vocab_size']}, {config['max_positions']} positions"
    )
    print(
        "The head is tied to the embedding: one tensor, counted and trained once, in its group."
        if found["tied"]
        else "Nothing is tied."
    )
    print("", table(_group_rows(found["groups"])), "", sep="\n")
    files = ([name, amount(size)] for name, size in found["files"].items())
    print(table([["file", "size"], *files]))


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    found = _describe(Path(options.directory))
    if options.json:
        print_json(found)
    else:
        _print(found)
    return 0

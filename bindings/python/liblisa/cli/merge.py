"""Adds a LoRA adapter to the weights of its model and writes a Hugging Face directory, whole or not
at all."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from .._adapter import Adapter
from .._choices import DType, parse
from .._config import ModelConfig
from .._context import Context
from .._model import Model
from .._output import whole_directory
from ._parser import add_json
from ._report import print_json

NAME = "merge"
HELP = "put a LoRA adapter into the weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a Hugging Face directory")
    add("adapter", metavar="ADAPTER", help="a PEFT directory")
    add("--out", required=True, metavar="DIR", help="gets the model; empty, or not there")
    add("--dtype", choices=("f32", "bf16", "f16"), help="of the weights (each tensor's own)")
    add_json(parser)


def _merge(model: Path, adapter: Path, out: Path, dtype: Optional[str]) -> Dict[str, Any]:
    """Writes the model with the adapter in its weights; what the adapter is."""
    with Context() as context, Model.open(context, model) as base:
        with Adapter.open(base, adapter) as opened:
            opened.merge()
            base.save(out, dtype=dtype)
            return {
                "rank": opened.rank,
                "alpha": opened.alpha,
                "use_rslora": opened.use_rslora,
                "merged_weights": len(opened.tensors()) // 2,
            }


def _widen(model: Path, out: Path) -> Path:
    """A copy in f32, where the model is not f32 itself."""
    with Context() as context, Model.open(context, model) as base:
        if all(tensor.dtype is DType.F32 for tensor in base.tensors()):
            return model
        base.save(out, dtype="f32")
    return out


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    with whole_directory(Path(options.out)) as out:
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            model = Path(options.model)
            if options.dtype is not None:  # a sum takes its weight's type: it is rounded once
                model = _widen(model, Path(scratch))
            found = _merge(model, Path(options.adapter), out, options.dtype)
        dtype = parse(DType, ModelConfig.read(out).weights_dtype).name.lower()
    found = {"model": options.model, "adapter": options.adapter, "dtype": dtype, **found}
    if options.json:
        print_json({"out": options.out, **found})
    else:
        print(
            f"{options.out}: {found['merged_weights']} weights with the adapter in them (rank "
            f"{found['rank']}, alpha {found['alpha']:g}), {dtype}"
        )
    return 0

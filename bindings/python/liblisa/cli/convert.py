"""Turns a GGUF file into a Hugging Face directory, whole or not at all."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ._parser import add_json, size
from ._report import print_json

if TYPE_CHECKING:
    from ..gguf import Converted

NAME = "convert"
HELP = "make a model directory of a GGUF file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add = parser.add_argument
    add("file", metavar="FILE.gguf", help="a model of llama, qwen2, qwen3, gpt2 or phi2")
    add("--out", required=True, metavar="DIR", help="gets the model; empty, or not there")
    add("--dtype", choices=("bf16", "f16", "f32"), default="bf16", help="of the weights (bf16)")
    add(
        "--tokenizer",
        metavar="DIR|none",
        help="a directory whose tokenizer is copied (rebuilt from FILE where that is exact)",
    )
    add(
        "--max-shard-bytes",
        type=size,
        default=5 * 10**9,
        metavar="SIZE",
        help="of a file of weights (5GB)",
    )
    add_json(parser)


def _print(out: str, found: Converted) -> None:
    types = ", ".join(f"{number} {name}" for name, number in sorted(found.types.items()))
    print(
        f"{out}: {found.family}, {found.parameters:,} parameters in {found.tensors} tensors of "
        f"{found.dtype} (from {types})"
    )
    if found.reordered:
        print(f"rows of q and k put back in their order: {found.reordered} tensors")
    none = "none; --tokenizer copies that of another directory of this model"
    print(f"tokenizer: {none if found.tokenizer is None else f'from {found.tokenizer}'}")
    if found.left_out:
        print(f"not carried over: {', '.join(found.left_out)}")


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    from ..gguf import convert

    found = convert(
        options.file,
        options.out,
        dtype=options.dtype,
        tokenizer=options.tokenizer,
        max_shard_bytes=options.max_shard_bytes,
    )
    if options.json:
        print_json({"out": options.out, **found._asdict()})
    else:
        _print(options.out, found)
    return 0

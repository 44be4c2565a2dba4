"""Turns a GGUF file into a Hugging Face directory.

    convert.py MODEL.gguf DIRECTORY [--dtype bf16|f16|f32] [--max-shard-bytes N]

Needs the Python packages gguf and numpy, and tokenizers for a tokenizer.json. What the file holds
and this program does not understand is refused by name; then nothing is written.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Sequence

from families import plan
from source import ConversionError, Source
from vocabulary import (Unfaithful, generation_config, special_ids, tokenizer_config,
                        tokenizer_json)
from weights import KINDS, Kind, write_weights


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(source: Source, ids: dict[str, int], n_positions: int,
                    directory: Path) -> None:
    config = tokenizer_config(source, ids, n_positions)
    try:
        write_json(directory / "tokenizer.json", tokenizer_json(source, ids))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    except Unfaithful as reason:
        print(f"note: no tokenizer.json: {reason}; copy the tokenizer's files from the model's own "
              "repository", file=sys.stderr)
    write_json(directory / "tokenizer_config.json", config)


def write_all(source: Source, directory: Path, kind: Kind, max_shard_bytes: int) -> None:
    config, pieces = plan(source)
    ids = special_ids(source, config["vocab_size"])
    generation = generation_config(ids)
    config.update({f"{name}_token_id": ids.get(name) for name in ("bos", "eos")})
    if "pad" in ids:
        config["pad_token_id"] = ids["pad"]
    config.update({"torch_dtype": kind.torch, "use_cache": True, "initializer_range": 0.02})
    write_weights(source, pieces, directory, kind, max_shard_bytes)
    write_json(directory / "config.json", dict(sorted(config.items())))
    write_json(directory / "generation_config.json", generation)
    n_positions = source.size("context_length")
    write_tokenizer(source, ids, n_positions, directory)


def convert(path: Path, directory: Path, kind: Kind, max_shard_bytes: int) -> None:
    """Writes DIRECTORY whole or not at all."""
    if directory.exists():
        raise ConversionError(f"{directory} exists")
    source = Source(path)
    partial = directory.with_name(directory.name + ".part")
    partial.mkdir(parents=True)
    try:
        write_all(source, partial, kind, max_shard_bytes)
        os.rename(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Turns a GGUF file into a Hugging Face directory.")
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("directory", type=Path, help="a directory that does not exist yet")
    parser.add_argument("--dtype", choices=KINDS, default="bf16", help="of the weights (bf16)")
    parser.add_argument("--max-shard-bytes", type=int, default=5 * 10**9, metavar="N",
                        help="of a file of weights (5 GB)")
    return parser.parse_args(arguments)


def main(words: Sequence[str]) -> int:
    arguments = read_arguments(words)
    try:
        convert(arguments.model, arguments.directory, KINDS[arguments.dtype],
                arguments.max_shard_bytes)
    except (ConversionError, OSError) as error:
        print(" ".join(f"{arguments.model}: {error}".split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A tokenizer's files from a Hugging Face directory, which must have the GGUF file's tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict

from ._source import ConversionError, Source
from ._vocabulary import NORMAL

NAMES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def _vocabulary(path: Path) -> Dict[int, str]:
    """The tokens of a tokenizer.json by id."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        vocabulary: Any = document["model"]["vocab"]
        if isinstance(vocabulary, list):  # [token, score] by id
            tokens = {number: entry[0] for number, entry in enumerate(vocabulary)}
        else:
            tokens = {int(number): token for token, number in vocabulary.items()}
        tokens.update({int(token["id"]): token["content"] for token in document["added_tokens"]})
    except Exception as error:  # somebody else's file may have any shape
        raise ValueError(f"{path}: not a tokenizer.json that can be read: {error}") from None
    return tokens


def _compare(source: Source, path: Path, n_rows: int) -> None:
    """Refuses tokens beyond the embedding, and other ones than the file's ordinary tokens."""
    vocabulary = _vocabulary(path)
    highest = max(vocabulary, default=-1)
    if highest >= n_rows:
        raise ConversionError(f"{path} has a token {highest}, the embedding has {n_rows} rows")
    tokens = source.value("tokenizer.ggml.tokens")
    kinds = source.value("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list):
        return
    for number, (token, kind) in enumerate(zip(tokens, kinds)):
        if kind == NORMAL and vocabulary.get(number) != token:
            raise ConversionError(
                f"{path} is not this model's: its token {number} is {vocabulary.get(number)!r}, "
                f"in the GGUF file {token!r}"
            )


def copy_tokenizer(source: Source, home: Path, n_rows: int, directory: Path) -> None:
    """Copies the tokenizer's files from `home`."""
    if not (home / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{home}: no tokenizer.json")
    _compare(source, home / "tokenizer.json", n_rows)
    for name in NAMES:
        if (home / name).is_file():
            shutil.copyfile(home / name, directory / name)

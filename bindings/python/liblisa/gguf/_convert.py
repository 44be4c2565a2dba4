"""A GGUF file as a Hugging Face directory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from .._options import PathLike
from .._output import whole_directory
from ._pieces import Piece, plan
from ._source import ConversionError, Source
from ._tokenizer_files import copy_tokenizer
from ._vocabulary import (
    Unfaithful,
    generation_config,
    special_ids,
    tokenizer_config,
    tokenizer_json,
)
from ._weights import KINDS, Kind, n_values, write_weights


class Converted(NamedTuple):
    """What came of a file."""

    family: str
    parameters: int
    tensors: int
    dtype: str
    types: Dict[str, int]  # the file's tensors by their type
    reordered: int  # tensors of q and k whose rows were put back in their order
    tokenizer: Optional[str]  # where tokenizer.json is from; None: there is none
    left_out: List[str]  # what the file holds and the directory has not, with the reason


def _write_json(path: Path, document: Dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_configs(
    config: Dict[str, Any], ids: Dict[str, int], kind: Kind, directory: Path
) -> None:
    config = {**config, **{f"{name}_token_id": ids.get(name) for name in ("bos", "eos")}}
    if "pad" in ids:
        config["pad_token_id"] = ids["pad"]
    config.update({"torch_dtype": kind.torch, "use_cache": True, "initializer_range": 0.02})
    _write_json(directory / "config.json", dict(sorted(config.items())))
    _write_json(directory / "generation_config.json", generation_config(ids))


def _rebuild_tokenizer(source: Source, ids: Dict[str, int], directory: Path) -> Optional[str]:
    """Writes the file's own tokenizer; why there is no tokenizer.json, where there is none."""
    config = tokenizer_config(source, ids, source.size("context_length"))
    reason = None
    try:
        _write_json(directory / "tokenizer.json", tokenizer_json(source, ids))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    except Unfaithful as error:
        reason = str(error)
    _write_json(directory / "tokenizer_config.json", config)
    return reason


def _report(
    source: Source, pieces: List[Piece], family: str, dtype: str, tokenizer: Optional[str]
) -> Converted:
    return Converted(
        family=family,
        parameters=sum(n_values(piece) for piece in pieces),
        tensors=len(pieces),
        dtype=dtype,
        types=dict(Counter(tensor.tensor_type.name for tensor in source.tensors.values())),
        reordered=sum(piece.order is not None for piece in pieces),
        tokenizer=tokenizer,
        left_out=[],
    )


def _fill(
    source: Source, directory: Path, dtype: str, tokenizer: Optional[str], max_shard_bytes: int
) -> Converted:
    config, pieces = plan(source)
    ids = special_ids(source, config["vocab_size"])
    reason: Optional[str] = "none was asked for"
    if tokenizer is None:
        reason = _rebuild_tokenizer(source, ids, directory)
    elif tokenizer != "none":
        copy_tokenizer(source, Path(tokenizer), config["vocab_size"], directory)
        reason = None
    _write_configs(config, ids, KINDS[dtype], directory)
    write_weights(source, pieces, directory, KINDS[dtype], max_shard_bytes)
    from_where = None if reason else tokenizer or "the file"
    found = _report(source, pieces, config["model_type"], dtype, from_where)
    found.left_out.extend([] if reason is None else [f"tokenizer.json ({reason})"])
    found.left_out.extend(source.unasked(tokenizer_too=tokenizer is None))
    return found


def convert(
    file: PathLike,
    directory: PathLike,
    *,
    dtype: str = "bf16",
    tokenizer: Optional[str] = None,
    max_shard_bytes: int = 5 * 10**9,
) -> Converted:
    """Writes a Hugging Face directory, whole or not at all; it is empty or not there before.

    dtype: "bf16", "f16" or "f32", of the weights.
    tokenizer: None: rebuilt from the file, where that can be done faithfully. A directory: its
    files are copied, if they have the file's tokens. "none": no tokenizer.
    max_shard_bytes: of a file of weights.
    """
    try:
        with whole_directory(Path(directory)) as partial:  # type: ignore[arg-type]
            source = Source(Path(file))  # type: ignore[arg-type]
            return _fill(source, partial, dtype, tokenizer, max_shard_bytes)
    except ConversionError as error:
        raise ConversionError(f"{file!s}: {error}") from error

"""Writes safetensors piece by piece: no more than one tensor is in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, NamedTuple

from ._packages import gguf, np

from ._pieces import Piece
from ._source import ConversionError, Source


class Kind(NamedTuple):
    safetensors: str
    torch: str
    quantization: Any
    n_bytes: int


KINDS = {
    "bf16": Kind("BF16", "bfloat16", gguf.GGMLQuantizationType.BF16, 2),
    "f16": Kind("F16", "float16", gguf.GGMLQuantizationType.F16, 2),
    "f32": Kind("F32", "float32", gguf.GGMLQuantizationType.F32, 4),
}


def n_values(piece: Piece) -> int:
    """Elements of a tensor."""
    return int(np.prod(piece.shape, dtype=object))


def _size(piece: Piece, kind: Kind) -> int:
    return n_values(piece) * kind.n_bytes


def _header(pieces: List[Piece], kind: Kind) -> bytes:
    entries: Dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for piece in pieces:
        end = begin + _size(piece, kind)
        entries[piece.name] = {
            "dtype": kind.safetensors,
            "shape": list(piece.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_piece(file: BinaryIO, source: Source, piece: Piece, kind: Kind) -> None:
    for values in source.floats(piece.source, piece.rows, piece.order, whole=piece.transposed):
        if piece.transposed:
            values = np.ascontiguousarray(values.T)
        with np.errstate(over="ignore"):
            stored = gguf.quants.quantize(values, kind.quantization)
        held = gguf.quants.dequantize(stored, kind.quantization)
        if not np.isfinite(held).all():
            raise ConversionError(
                f"tensor {piece.source!r} holds a value that is not finite in " f"{kind.torch}"
            )
        file.write(stored.tobytes())


def _shards(pieces: List[Piece], kind: Kind, max_bytes: int) -> List[List[Piece]]:
    """Pieces in order, a file as full as the limit lets it be."""
    shards: List[List[Piece]] = []
    held = 0
    for piece in pieces:
        size = _size(piece, kind)
        if not shards or held + size > max_bytes:
            shards.append([])
            held = 0
        shards[-1].append(piece)
        held += size
    return shards


def _write_file(path: Path, source: Source, pieces: List[Piece], kind: Kind) -> None:
    with path.open("wb") as file:
        file.write(_header(pieces, kind))
        for piece in pieces:
            _write_piece(file, source, piece, kind)


def write_weights(
    source: Source, pieces: List[Piece], directory: Path, kind: Kind, max_shard_bytes: int
) -> None:
    """model.safetensors, or shards and their index."""
    pieces = sorted(pieces)
    shards = _shards(pieces, kind, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / "model.safetensors", source, pieces, kind)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(directory / name, source, shard, kind)
        weight_map.update({piece.name: name for piece in shard})
    total = sum(_size(piece, kind) for piece in pieces)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

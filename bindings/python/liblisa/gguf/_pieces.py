"""Which tensors a model's directory has, and which rows of the GGUF file each is made of."""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ._families import FAMILIES, Choice, Family, Place, Sizes
from ._packages import np
from ._source import ConversionError, Source


class Piece(NamedTuple):
    """A tensor of the directory and where its values come from."""

    name: str
    shape: Tuple[int, ...]
    source: str
    rows: slice
    order: Optional[np.ndarray]  # of the source's rows
    transposed: bool


def sizes_of(source: Source) -> Sizes:
    """A model's widths, from its keys and the rows of its embedding."""
    hidden, heads = source.size("embedding_length"), source.size("attention.head_count")
    kv_heads = source.size("attention.head_count_kv", heads)
    head = source.size("attention.key_length", max(1, hidden // heads))
    if heads % kv_heads:
        raise ConversionError(f"{heads} heads on {kv_heads} key heads: expected a multiple")
    if "token_embd.weight" not in source.tensors:
        raise ConversionError("the tensor 'token_embd.weight' is missing")
    rows = int(np.prod(source.shape("token_embd.weight")[:-1]))
    if source.size("vocab_size", rows) != rows:
        raise ConversionError(f"vocab_size is not the {rows} rows of token_embd.weight")
    return Sizes(
        source.size("block_count"),
        heads,
        kv_heads,
        {
            "d": hidden,
            "f": source.size("feed_forward_length"),
            "n": rows,
            "p": source.size("context_length"),
            "h": head,
            "q": heads * head,
            "k": kv_heads * head,
            "v": kv_heads * head,
        },
    )


def _choose(choices: Tuple[Choice, ...], names: Set[str], where: str) -> Choice:
    """The choice of exactly these tensors; the error is by the one that comes nearest."""
    for choice in choices:
        if names == choice.table.keys():
            return choice
    nearest = min(choices, key=lambda choice: len(names ^ choice.table.keys())).table
    for name in sorted(nearest.keys() - names):
        raise ConversionError(f"the tensor {where + name!r} is missing")
    name = min(names - nearest.keys())
    raise ConversionError(f"the tensor {where + name!r} has no place in such a model")


def _row_order(letter: str, sizes: Sizes) -> Optional[np.ndarray]:
    """Undoes GGUF's order of a LLaMA's q and k, which interleaves the two halves of every head."""
    heads = {"q": sizes.heads, "k": sizes.kv_heads}.get(letter)
    if heads is None:
        return None
    rows = np.arange(sizes.letters[letter])
    return rows.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _pieces(
    source: Source, name: str, place: Place, prefix: str, family: Family, sizes: Sizes
) -> List[Piece]:
    counts = [sizes.letters[letter] for letter in place.rows.split()]
    columns = (sizes.letters[place.columns],) if place.columns else ()
    expected = (sum(counts), *columns)
    if source.shape(name) != expected:
        raise ConversionError(
            f"tensor {name!r} has shape {list(source.shape(name))}, expected {list(expected)}"
        )
    order = _row_order(place.rows, sizes) if family.interleaved else None
    names = place.names.split()
    if len(names) == 1:
        counts = [sum(counts)]
    pieces, start = [], 0
    for target, count in zip(names, counts):
        shape = (*columns, count) if place.transposed else (count, *columns)
        rows = slice(start, start + count)
        pieces.append(Piece(prefix + target, shape, name, rows, order, place.transposed))
        start += count
    return pieces


def _by_place(source: Source, family: Family, n_layers: int) -> Tuple[Set[str], List[Set[str]]]:
    """Names outside the layers, and each layer's without its prefix."""
    if n_layers > len(source.tensors):
        raise ConversionError(
            f"{source.architecture}.block_count is {n_layers}, but there are "
            f"{len(source.tensors)} tensors"
        )
    top: Set[str] = set()
    layers: List[Set[str]] = [set() for _ in range(n_layers)]
    for name in source.tensors.keys() - family.ignored:
        match = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,6})\.(.+)", name)
        if match is None:
            top.add(name)
        elif int(match[1]) < n_layers:
            layers[int(match[1])].add(match[2])
        else:
            raise ConversionError(f"the tensor {name!r} is beyond the last layer")
    return top, layers


def _head_is_embedding(source: Source) -> bool:
    head, embedding = source.tensors.get("output.weight"), source.tensors["token_embd.weight"]
    return (
        head is not None
        and head.tensor_type == embedding.tensor_type
        and np.array_equal(head.data, embedding.data)
    )


def plan(source: Source) -> Tuple[Dict[str, Any], List[Piece]]:
    """config.json without its data type, and the directory's tensors."""
    family = FAMILIES.get(source.architecture)
    if family is None:
        raise ConversionError(
            f"general.architecture is {source.architecture!r}, expected one of "
            f"{', '.join(FAMILIES)}"
        )
    sizes = sizes_of(source)
    config = {**family.config(source, sizes), "vocab_size": sizes.letters["n"]}
    source.refuse_unasked()
    top_names, layer_names = _by_place(source, family, sizes.layers)
    if family.repeats_head and _head_is_embedding(source):
        top_names.discard("output.weight")
    top = _choose(family.top, top_names, "")
    config.update(top.config)
    pieces = [
        piece
        for name, place in top.table.items()
        for piece in _pieces(source, name, place, "", family, sizes)
    ]
    choices = family.layer
    for index, names in enumerate(layer_names):
        chosen = _choose(choices, names, f"blk.{index}.")
        choices = (chosen,)  # all layers are alike
        config.update(chosen.config)
        pieces += [
            piece
            for name, place in chosen.table.items()
            for piece in _pieces(
                source, f"blk.{index}.{name}", place, f"{family.prefix}{index}.", family, sizes
            )
        ]
    return config, pieces

"""Examples as the rectangles that Batch.set takes: padded on the right, or packed."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from typing import Iterator, List, NamedTuple, Sequence, Tuple, Union

from ._formatter import IGNORE_LABEL, Example


class Padded(NamedTuple):
    """[B, T] each; the filling has no label and a document of its own in each row."""

    tokens: List[List[int]]
    labels: List[List[int]]
    documents: List[List[int]]
    n_tokens: int  # without the filling


class Row(NamedTuple):
    """Examples one behind the other; documents[t] says which one token t is of, from 0."""

    tokens: List[int]
    labels: List[int]
    documents: List[int]

    @property
    def n_targets(self) -> int:
        """Labels that count: the first of a document is predicted from nothing."""
        return sum(
            label != IGNORE_LABEL and t > 0 and self.documents[t] == self.documents[t - 1]
            for t, label in enumerate(self.labels)
        )


Item = Union[Example, Row]


def _row(examples: Sequence[Example]) -> Row:
    row = Row([], [], [])
    for number, example in enumerate(examples):
        row.tokens.extend(example.tokens)
        row.labels.extend(example.labels)
        row.documents.extend([number] * len(example.tokens))
    return row


def _rectangle(rows: Sequence[Row]) -> Padded:
    longest = max(len(row.tokens) for row in rows)
    padded = Padded([], [], [], sum(len(row.tokens) for row in rows))
    for row in rows:
        missing = longest - len(row.tokens)
        padded.tokens.append(row.tokens + [0] * missing)
        padded.labels.append(row.labels + [IGNORE_LABEL] * missing)
        filling = row.documents[-1] + 1 if row.documents else 0
        padded.documents.append(row.documents + [filling] * missing)
    return padded


def pad(items: Sequence[Item]) -> Padded:
    """A batch of examples or packed rows, as long as the longest."""
    if not items:
        raise ValueError("a batch needs an example")
    return _rectangle([item if isinstance(item, Row) else _row([item]) for item in items])


def pack(examples: Sequence[Example], max_tokens: int) -> List[Row]:
    """Rows of at most max_tokens: the longest examples first, each where it leaves least room."""
    rows: List[List[Example]] = []
    room: List[Tuple[int, int]] = []  # tokens that are free in a row, and its number; ascending
    for example in sorted(examples, key=lambda example: -len(example.tokens)):
        length = len(example.tokens)
        if length > max_tokens:
            raise ValueError(f"an example of {length} tokens does not fit a row of {max_tokens}")
        place = bisect_left(room, (length, -1))
        if place < len(room):
            left, number = room.pop(place)
        else:
            left, number = max_tokens, len(rows)
            rows.append([])
        rows[number].append(example)
        insort(room, (left - length, number))
    return [_row(row) for row in rows]


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: expected 1 or more, got {value}")


def _alike(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Groups of so many items of similar length, the shortest first."""
    ordered = sorted(items, key=lambda item: len(item.tokens))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def in_order(items: Sequence[Item], batch_size: int) -> Iterator[Padded]:
    """Batches of similar length, for measuring."""
    _check_count("batch_size", batch_size)
    return map(pad, _alike(items, batch_size))


def windows(
    items: Sequence[Item], batch_size: int, n_batches: int, seed: int
) -> List[List[Padded]]:
    """One epoch of updates, each of n_batches batches: the items of one large batch, in parts.

    Items of similar length share a window, and chance rules the rest. The last may be smaller.
    """
    _check_count("batch_size", batch_size)
    _check_count("n_batches", n_batches)
    chance = random.Random(seed)
    mixed = chance.sample(list(items), len(items))
    size = batch_size * n_batches
    pool = 8 * size
    groups = [
        group
        for start in range(0, len(mixed), pool)
        for group in _alike(mixed[start : start + pool], size)
    ]
    chance.shuffle(groups)
    return [[pad(part) for part in _alike(group, batch_size)] for group in groups]


def shuffled(items: Sequence[Item], batch_size: int, seed: int) -> List[Padded]:
    """One epoch of updates that take one batch each."""
    return [window[0] for window in windows(items, batch_size, 1, seed)]

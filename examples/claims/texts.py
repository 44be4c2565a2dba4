"""The texts that are trained on, as packed rows: to train on, to choose by, to judge by.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple

from liblisa.data import Conversation, Example, Formatter, Row, pack, read_records

INSTRUCTIONS = Path(__file__).resolve().parent.parent / "data"
GSM8K_TRAINED_ON = 1000  # questions, of 7473
GSM8K_CHOSEN_BY = 32
GSM8K_JUDGED_BY = 128


class Text(NamedTuple):
    """Rows of at most so many tokens; no example is in two parts."""

    train: List[Row]
    valid: List[Row]  # rates are chosen by it, and curves drawn
    test: List[Row]  # looked at once, at the end of a run

    @property
    def digest(self) -> str:
        """Of all tokens, labels and documents."""
        found = hashlib.sha256()
        # Piece by piece: in one, it would be memory that a run is measured to take.
        for piece in json.JSONEncoder().iterencode(self):
            found.update(piece.encode())
        return found.hexdigest()

    def order(self, seed: int) -> Iterator[Row]:
        """The rows to train on, for ever: every epoch in an order of its own."""
        draw = random.Random(seed)
        while True:
            yield from draw.sample(self.train, len(self.train))


def _gsm8k_examples(path: Path, formatter: Formatter) -> Iterator[Example]:
    """Lines {"question": ..., "answer": ...}, as https://github.com/openai/grade-school-math has."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            messages = [
                {"role": "user", "content": record["question"]},
                {"role": "assistant", "content": record["answer"]},
            ]
            yield formatter.example(Conversation(messages))


def _fitting(examples: Iterable[Example], n: int, tokens: int) -> List[Example]:
    """The first n that fit into a row."""
    found: List[Example] = []
    for example in examples:
        if len(found) == n:
            break
        if len(example.tokens) <= tokens:
            found.append(example)
    return found


def gsm8k(directory: Path, formatter: Formatter, tokens: int) -> Text:
    """Questions of its first part to train and to choose by, of its second to judge by."""
    n = GSM8K_TRAINED_ON + GSM8K_CHOSEN_BY
    known = _fitting(_gsm8k_examples(directory / "train.jsonl", formatter), n, tokens)
    unknown = _gsm8k_examples(directory / "test.jsonl", formatter)
    return Text(
        pack(known[:GSM8K_TRAINED_ON], tokens),
        pack(known[GSM8K_TRAINED_ON:], tokens),
        pack(_fitting(unknown, GSM8K_JUDGED_BY, tokens), tokens),
    )


def instructions(formatter: Formatter, tokens: int) -> Text:
    """The project's own questions and answers; every other held-out one is to choose by."""
    train, heldout = (
        [formatter.example(record.content) for record in read_records(INSTRUCTIONS / name)]
        for name in ("train.jsonl", "heldout.jsonl")
    )
    return Text(pack(train, tokens), pack(heldout[::2], tokens), pack(heldout[1::2], tokens))

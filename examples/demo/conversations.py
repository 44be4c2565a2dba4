"""Conversations as tokens: the model's own chat template, labels on the answers, padded batches.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, NamedTuple, NoReturn

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

IGNORE_LABEL = -100

Message = dict[str, str]


class Example(NamedTuple):
    """One conversation; labels[t] labels token t, IGNORE_LABEL outside the last answer."""

    tokens: list[int]
    labels: list[int]


class Padded(NamedTuple):
    """A batch, padded on the right to its longest example; int32 [B, T]."""

    tokens: np.ndarray
    labels: np.ndarray
    n_tokens: int  # without the padding


def read_conversations(path: Path) -> list[list[Message]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(f"chat template: {message}")


@dataclass
class ChatTokenizer:
    """A tokenizer with its chat template, from a Hugging Face directory."""

    tokenizer: Tokenizer
    template: Any
    end_of_turn: int
    special: dict[str, str]

    @classmethod
    def open(cls, directory: Path) -> ChatTokenizer:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        template = environment.from_string(config["chat_template"])
        special = {name: config[name] for name in ("bos_token", "eos_token")}
        end_of_turn = tokenizer.token_to_id(special["eos_token"])
        if end_of_turn is None:
            raise ValueError(f"{directory}: the tokenizer has no token {special['eos_token']!r}")
        return cls(tokenizer, template, end_of_turn, special)

    def encode(self, messages: list[Message], *, prompt: bool) -> list[int]:
        """Tokens of a conversation; with `prompt` the opening of an answer follows."""
        text = self.template.render(
            messages=messages, add_generation_prompt=prompt, **self.special)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def example(self, messages: list[Message]) -> Example:
        """Labels on the last answer, its end-of-turn token included and nothing behind it."""
        prompt = self.encode(messages[:-1], prompt=True)
        tokens = self.encode(messages, prompt=False)
        if tokens[:len(prompt)] != prompt:
            raise ValueError(f"the template rewrites the prompt of {messages[0]['content']!r}")
        end = tokens.index(self.end_of_turn, len(prompt)) + 1
        labels = [IGNORE_LABEL] * len(prompt) + tokens[len(prompt):end]
        return Example(tokens[:end], labels)


def pad(examples: list[Example]) -> Padded:
    longest = max(len(example.tokens) for example in examples)
    tokens = np.zeros((len(examples), longest), dtype=np.int32)
    labels = np.full((len(examples), longest), IGNORE_LABEL, dtype=np.int32)
    for row, example in enumerate(examples):
        tokens[row, :len(example.tokens)] = example.tokens
        labels[row, :len(example.labels)] = example.labels
    return Padded(tokens, labels, sum(len(example.tokens) for example in examples))


def in_order(examples: list[Example], batch_size: int) -> Iterator[Padded]:
    """Batches of similar length, for measuring."""
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    for start in range(0, len(ordered), batch_size):
        yield pad(ordered[start:start + batch_size])


def shuffled(examples: list[Example], batch_size: int, seed: int) -> list[Padded]:
    """One epoch: examples of similar length share a batch, and chance rules the rest."""
    chance = random.Random(seed)
    mixed = chance.sample(examples, len(examples))
    pool = 8 * batch_size
    batches = [batch for start in range(0, len(mixed), pool)
               for batch in in_order(mixed[start:start + pool], batch_size)]
    chance.shuffle(batches)
    return batches

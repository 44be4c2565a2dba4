"""What a training is made of before anything is opened: options, data, memory."""

from __future__ import annotations

import argparse
import random
from dataclasses import fields
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple, Union

from .._config import ModelConfig
from ..data import Example, Formatter, Row, pack, read_records, survey
from ._given import Taken
from ._memory import Search, Setting, resolved
from ._report import amount
from ._settings import Settings

_LR = {"lisa": 1e-5, "full": 1e-5, "lora": 2e-4}


class Data(NamedTuple):
    """What is trained on and what is measured on."""

    train: Sequence[Union[Example, Row]]
    valid: Sequence[Example]

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(len(item.tokens) for part in self for item in part)


class Prepared(NamedTuple):
    """A training that could begin."""

    options: argparse.Namespace  # as they are in force
    config: ModelConfig
    settings: Settings
    data: Data
    memory: Setting

    @property
    def n_steps(self) -> int:
        """Of the whole run."""
        return self.settings.n_steps(len(self.data.train))

    @property
    def words(self) -> str:
        """What is about to happen."""
        settings, memory = self.settings, self.memory
        batches = f"{settings.accumulate} batches of " if settings.accumulate > 1 else ""
        said = (
            f"{len(self.data.train)} {'rows' if settings.pack else 'examples'}, "
            f"{len(self.data.valid)} to validate on; {self.n_steps} steps of {batches}{settings.batch}, "
            f"up to {self.data.longest} tokens long; {amount(memory.plan.total)} planned"
        )
        if self.options.budget is None:
            return said
        return f"{said}\nbudget {amount(self.options.budget)}: {memory.words()}"

    @property
    def too_much(self) -> str:
        """What the budget lacks, in words; empty where nothing."""
        if self.memory.missing == 0:
            return ""
        budget, missing = amount(self.options.budget), amount(self.memory.missing)
        return f"--budget {budget}: {missing} are missing even with {self.memory.words()}"


def _examples(path: str, formatter: Formatter, config: ModelConfig) -> List[Example]:
    """A file's examples; what inspect-data calls an error is one here."""
    found = survey(read_records(path), formatter, vocab_size=config.vocab_size)
    for finding in found.findings:
        if finding.fatal:
            raise ValueError(f"{path}: {finding}")
    return found.examples


Parts = Tuple[List[Example], List[Example]]


def split(examples: List[Example], fraction: float, seed: int) -> Parts:
    """What is trained on and what is held out, by chance."""
    n_valid = round(fraction * len(examples))
    if n_valid >= len(examples):
        raise ValueError(f"--valid-fraction {fraction} leaves nothing to train on")
    held_out = set(random.Random(seed).sample(range(len(examples)), n_valid))
    parts: Parts = ([], [])
    for number, example in enumerate(examples):
        parts[number in held_out].append(example)
    return parts


def _data(options: argparse.Namespace, config: ModelConfig) -> Data:
    """What is trained on, and what is held out of it or has a file of its own."""
    formatter = Formatter.open(options.model, max_tokens=options.max_tokens)
    train = _examples(options.data, formatter, config)
    if options.valid is not None:
        valid = _examples(options.valid, formatter, config)
    else:
        train, valid = split(train, options.valid_fraction, options.seed)
    if (options.save_best or options.patience is not None) and not valid:
        raise ValueError("--patience and --save-best need validation: --valid, --valid-fraction")
    if options.patience is not None and options.eval_every == 0:
        raise ValueError("--patience waits for validations on the way: --eval-every")
    return Data(pack(train, options.max_tokens) if options.pack else train, valid)


def _complete(options: argparse.Namespace, config: ModelConfig) -> None:
    """Fills in what depends on other options and on the model."""
    options.lr = _LR[options.method] if options.lr is None else options.lr
    options.max_tokens = min(options.max_tokens, config.max_positions)
    options.active = min(options.active, config.n_layers)
    options.backend = resolved(options.backend)
    for name in ("model", "data", "valid", "scratch_dir"):
        if getattr(options, name) is not None:
            setattr(options, name, str(Path(getattr(options, name)).resolve()))
    if options.update_in_backward and (options.accumulate > 1 or options.max_grad_norm > 0):
        raise ValueError("--update-in-backward needs --accumulate 1 and --max-grad-norm 0")


def prepare(taken: Taken) -> Prepared:
    """Reads model description and data, and chooses what a budget decides."""
    options = argparse.Namespace(**vars(taken.options))
    config = ModelConfig.read(options.model)
    _complete(options, config)
    data = _data(options, config)
    fixed = {"accumulate", "batch"} if options.update_in_backward else set()
    search = Search(
        config,
        options,
        data.longest,
        given=taken.given | fixed,
        scratch=str(Path(options.out).resolve()),
    )
    memory = search.choose()
    options = argparse.Namespace(**{**vars(options), **memory.changes})
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    return Prepared(options, config, settings, data, memory)

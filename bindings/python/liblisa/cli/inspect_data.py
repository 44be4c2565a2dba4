"""Says what training data comes to as tokens: how much of it is learned, what is too long, and what
is wrong with it. The exit status is 1 where training on it would be wrong."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import Any, Dict

from .. import _ffi
from .._config import ModelConfig
from ..data import Example, Formatter, Survey, pack, read_records, survey
from ._parser import add_json, count
from ._report import print_json

NAME = "inspect-data"
HELP = "what training data comes to as tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add = parser.add_argument
    add("data", metavar="DATA.jsonl", help="one JSON object a line")
    add(
        "--model",
        required=True,
        metavar="DIR",
        help="a Hugging Face directory: tokenizer, chat template, config.json",
    )
    add(
        "--max-tokens",
        type=count,
        metavar="N",
        help="longer examples are cut (as many as the model has positions)",
    )
    add("--show", type=int, default=1, metavar="N", help="examples that are printed (1)")
    add_json(parser)


def marked(example: Example, formatter: Formatter) -> str:
    """An example as text, with what is learned in [[ ]]."""
    pieces = []
    labelled = zip(example.tokens, example.labels)
    for learned, run_of in groupby(labelled, key=lambda pair: pair[1] != _ffi.LISA_IGNORE_LABEL):
        tokens = [token for token, _label in run_of]
        text = formatter.tokenizer.decode(tokens, skip_special_tokens=False)
        pieces.append(f"[[{text}]]" if learned else text)
    return "".join(pieces)


def _summary(found: Survey, max_tokens: int) -> Dict[str, Any]:
    rows = pack(found.examples, max_tokens)
    return {
        "records": len(found.examples),
        "tokens": found.n_tokens,
        "trained_tokens": found.n_targets,
        "longest": found.longest,
        "truncated": sum(example.cut > 0 for example in found.examples),
        "max_tokens": max_tokens,
        "packed_rows": len(rows),
        "findings": [finding._asdict() for finding in found.findings],
    }


def _print(summary: Dict[str, Any], found: Survey, formatter: Formatter, show: int) -> None:
    tokens, trained = summary["tokens"], summary["trained_tokens"]
    print(
        f"{summary['records']} records, {tokens:,} tokens, {trained:,} of them learned "
        f"({100 * trained / max(tokens, 1):.1f} %)\n"
        f"longest {summary['longest']} tokens, {summary['truncated']} cut to "
        f"{summary['max_tokens']}; packed: {summary['packed_rows']} rows"
    )
    for finding in found.findings:
        print(f"{'error' if finding.fatal else 'note'}: {finding}")
    for line, example in list(zip(found.lines, found.examples))[:show]:
        print(f"\nline {line}, what is learned in [[ ]]:\n{marked(example, formatter)}")


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    config = ModelConfig.read(options.model)
    max_tokens = options.max_tokens or config.max_positions
    formatter = Formatter.open(options.model, max_tokens=max_tokens)
    found = survey(read_records(options.data), formatter, vocab_size=config.vocab_size)
    summary = _summary(found, max_tokens)
    if options.json:
        print_json(summary)
    else:
        _print(summary, found, formatter, options.show)
    return 1 if any(finding.fatal for finding in found.findings) else 0

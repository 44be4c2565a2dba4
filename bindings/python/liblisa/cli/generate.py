"""Continues a text, or answers it through the model's chat template. The text comes as it is
generated; Ctrl-C ends it with status 130."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import List

from ..data import Formatter, Message
from . import _answers
from ._answers import MAX_NEW_TOKENS, Answer, Speaker
from ._parser import add_json
from ._report import print_json
from ._text import Output, plain_text, standard_input

NAME = "generate"
HELP = "continue or answer a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a Hugging Face directory with tokenizer.json")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="what is answered (standard input)")
    prompt.add_argument("--prompt-file", metavar="FILE", help="the same, from a file")
    add("--raw", action="store_true", help="continue the text as it is, without chat template")
    _answers.add_arguments(parser)
    add_json(parser)


def _text(options: argparse.Namespace) -> str:
    if options.prompt is not None:
        return plain_text(options.prompt, "--prompt")
    if options.prompt_file is not None:
        data = Path(options.prompt_file).read_bytes()
        return plain_text(data.decode("utf-8", "surrogateescape"), options.prompt_file)
    if standard_input().isatty():
        raise ValueError("give --prompt TEXT, --prompt-file FILE or a text on standard input")
    return plain_text(standard_input().read(), "standard input")


def _prompt(options: argparse.Namespace, formatter: Formatter, text: str) -> List[int]:
    """The prompt's tokens."""
    if options.raw:
        tokens = list(formatter.tokenizer.encode(text, add_special_tokens=True).ids)
        if not tokens and formatter.bos is not None:
            tokens = [formatter.bos]
        if not tokens:
            raise ValueError("the prompt is empty, and the tokenizer has no BOS to begin with")
        return tokens
    messages: List[Message] = [{"role": "user", "content": text}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    return formatter.prompt(messages)


def _answer(options: argparse.Namespace, speaker: Speaker, text: str, output: Output) -> Answer:
    options.raw = options.raw or speaker.formatter.template is None
    if options.raw and options.system is not None:
        raise ValueError("--system needs a chat template: without one, put it into the prompt")
    prompt = _prompt(options, speaker.formatter, text)
    room = speaker.n_positions - len(prompt)
    if room < 1:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, the model has {speaker.n_positions} positions"
        )
    return speaker.answer(
        prompt,
        (lambda text: None) if options.json else output.write,
        max_new_tokens=options.max_new_tokens or min(MAX_NEW_TOKENS, room),
        seed=options.seed,
        continues=options.raw,
    )


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    text, output = _text(options), Output()
    with Speaker(options) as speaker:
        try:
            answer = _answer(options, speaker, text, output)
        finally:
            output.end_line()
    if options.json:
        print_json({"text": answer.text, **answer.figures()})
    return 0 if answer.signal is None else 128 + answer.signal

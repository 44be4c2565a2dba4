"""Talks with a model through its chat template. In a terminal, Ctrl-C stops an answer and Ctrl-D
leaves; elsewhere each line of standard input is a message, and the answers are printed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from typing import Iterator, List, Optional, Tuple

from .._errors import LisaError
from ..data import Message
from . import _answers
from ._answers import MAX_NEW_TOKENS, Answer, Speaker
from ._text import Output, plain_text, standard_input

NAME = "chat"
HELP = "talk with a model"

_HELP = """\
/clear        forget what was said
/system TEXT  the message in front of the conversation; without TEXT, none
/save FILE    add the conversation to FILE, as a line that finetune takes
/help         this list
/quit         leave; Ctrl-D does the same
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument(
        "model", metavar="MODEL", help="a Hugging Face directory with tokenizer.json"
    )
    _answers.add_arguments(parser)


class Talk:
    """A conversation. The model sees its newest turns, as many as fit."""

    def __init__(self, speaker: Speaker, options: argparse.Namespace) -> None:
        self._speaker, self._seed = speaker, options.seed
        # What is kept free for an answer.
        self._room = min(options.max_new_tokens or MAX_NEW_TOKENS, speaker.n_positions // 2)
        self.system: Optional[str] = options.system
        self.messages: List[Message] = []
        self._n_forgotten = 0  # messages that the model does not see any more

    def check(self) -> None:
        """ValueError where the model cannot take part in a conversation."""
        self._prompt([{"role": "user", "content": "?"}])

    def clear(self) -> None:
        """Forgets what was said."""
        self.messages, self._n_forgotten = [], 0

    def ask(self, text: str, output: Output) -> Answer:
        """The model's answer, which becomes part of the conversation with the question."""
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt, n_forgotten = self._prompt(messages)
        if n_forgotten > self._n_forgotten:
            n_turns = (n_forgotten - self._n_forgotten) // 2
            turns = "turn is" if n_turns == 1 else f"{n_turns} turns are"
            _note(f"the oldest {turns} dropped: {self._speaker.n_positions} positions are full")
        answer = self._speaker.answer(
            prompt,
            output.write,
            max_new_tokens=min(self._room, self._speaker.n_positions - len(prompt)),
            seed=self._seed + len(self.messages) // 2,
        )
        self._n_forgotten = n_forgotten
        if answer.text or answer.signal is None:
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def conversation(self) -> List[Message]:
        """All that was said, the system's message first."""
        return [*self._opening(), *self.messages]

    def _opening(self) -> List[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _prompt(self, messages: List[Message]) -> Tuple[List[int], int]:
        """Tokens of the newest turns, and how many messages are left out for them."""
        for first in range(self._n_forgotten, len(messages), 2):
            prompt = self._speaker.formatter.prompt([*self._opening(), *messages[first:]])
            if len(prompt) + self._room <= self._speaker.n_positions:
                return prompt, first
        raise ValueError(
            f"this message makes {len(prompt)} tokens, and of {self._speaker.n_positions} "
            f"positions {self._room} are kept for the answer"
        )


def _note(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)


def _save(talk: Talk, name: str) -> None:
    """Adds the conversation to a file, or leaves the file as it was."""
    if not name:
        raise ValueError("/save FILE: where to?")
    if not talk.messages:
        raise ValueError("nothing has been said yet")
    text = json.dumps({"messages": talk.conversation()}, ensure_ascii=False)
    data, path = text.encode("utf-8") + b"\n", os.path.expanduser(name)
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(data) != len(data):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    _note(f"saved to {name}")


def _command(talk: Talk, line: str, output: Output) -> None:
    """Does what a line that begins with / says."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/help":
        output.write(_HELP)
    elif name == "/clear":
        talk.clear()
        _note("forgotten")
    elif name == "/system":
        talk.system = rest or None
        _note("no system message" if talk.system is None else "the system message is set")
    elif name == "/save":
        _save(talk, rest)
    else:
        raise ValueError(f"no command {name}: /help lists them")


def _typed() -> Iterator[str]:
    """Lines from the terminal, with a history that is not kept."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() edits lines with it
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print()
            _note("Ctrl-D leaves")
        except EOFError:
            print()
            return


def _turn(talk: Talk, line: str, output: Output) -> Optional[int]:
    """A message and its answer, or a command; the signal that ended the answer."""
    text = plain_text(line, "the message").strip()
    try:
        if text.startswith("/"):
            _command(talk, text, output)
        elif text:
            return talk.ask(text, output).signal
        return None
    finally:
        output.end_line()


def _converse(talk: Talk, lines: Iterator[str], output: Output, typed: bool) -> int:
    """Takes line by line. What fails in a terminal is said, and the conversation goes on."""
    for line in lines:
        if line.split()[:1] == ["/quit"]:
            break
        try:
            number = _turn(talk, line, output)
        except KeyboardInterrupt:  # while the prompt was made
            number = signal.SIGINT
        except (LisaError, OSError, ValueError) as error:
            if not typed:
                raise
            _note(" ".join(str(error).split()))
            continue
        if number is not None and not (typed and number == signal.SIGINT):
            return 128 + number
        if number is not None:
            _note("stopped")
    return 0


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    output = Output()
    lines = standard_input()
    typed = lines.isatty() and sys.stdout.isatty()
    with Speaker(options) as speaker:
        talk = Talk(speaker, options)
        talk.check()
        if typed:
            print("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        return _converse(talk, _typed() if typed else iter(lines.readline, ""), output, typed)

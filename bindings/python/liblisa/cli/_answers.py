"""A model that answers: opened with its tokenizer and an adapter, stopped by tokens, strings and
Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence

from .._adapter import Adapter
from .._context import Context
from .._errors import Cancelled
from .._model import Model
from ..data import Formatter
from ._parser import count
from ._signals import Signals
from ._text import TextStream, Until

MAX_NEW_TOKENS = 512


class Answer(NamedTuple):
    """What was generated."""

    text: str  # without what stopped it
    prompt_tokens: int
    new_tokens: int  # a stop token counts
    ended_by: str  # "stop_token", "stop_string", "length" or "signal"
    signal: Optional[int]
    prompt_seconds: float  # until the first new token was there
    seconds: float  # of all

    def figures(self) -> Dict[str, Any]:
        """Counts and rates, for JSON; a rate that there is none of is left out."""
        found: Dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "ended_by": self.ended_by,
            "prompt_seconds": round(self.prompt_seconds, 6),
            "seconds": round(self.seconds, 6),
        }
        later = self.seconds - self.prompt_seconds
        if self.new_tokens and self.prompt_seconds > 0:
            rate = self.prompt_tokens / self.prompt_seconds
            found["prompt_tokens_per_second"] = round(rate, 2)
        if self.new_tokens > 1 and later > 0:
            found["tokens_per_second"] = round((self.new_tokens - 1) / later, 2)
        return found


def utf8(text: str) -> str:
    """A text of the command line, which may be of any bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("expected UTF-8") from None
    return text


def stop_string(text: str) -> str:
    """A string that ends an answer."""
    if not text:
        raise argparse.ArgumentTypeError("expected a text, got none")
    return utf8(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of subcommands that generate."""
    add = parser.add_argument
    add("--adapter", metavar="DIR", help="a PEFT directory, used beside the weights")
    add("--system", type=utf8, metavar="TEXT", help="a message in front of the conversation")
    add(
        "--max-new-tokens",
        type=count,
        metavar="N",
        help=f"of an answer ({MAX_NEW_TOKENS}, or what there is room for)",
    )
    add("--temperature", type=float, default=0.0, metavar="X", help="0: always the likeliest (0)")
    add("--top-k", type=count, metavar="N", help="draw of this many likeliest tokens (all)")
    add("--top-p", type=float, metavar="X", help="draw of the fewest with this probability (all)")
    add("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")
    add(
        "--stop",
        type=stop_string,
        action="append",
        default=[],
        metavar="STRING",
        help="ends an answer, and is no part of it; may be given again",
    )
    add("--backend", default="cpu", metavar="NAME", help="cpu, cuda, ... (cpu)")
    add("--threads", type=count, metavar="N", help="threads (as many as there are)")


class _Listener:
    """Takes tokens as they come and writes their text."""

    def __init__(
        self, stream: TextStream, until: Until, stops: FrozenSet[int], write: Callable[[str], None]
    ) -> None:
        self._stream, self._until, self._stops, self._write = stream, until, stops, write
        self._pieces: List[str] = []
        self.first: Optional[float] = None  # when the first token came
        self.n_tokens = 0
        self.stopped = False  # by a token

    def __call__(self, token: int) -> bool:
        """Whether the answer has ended."""
        self.first = self.first or time.monotonic()
        self.n_tokens += 1
        self.stopped = token in self._stops
        if not self.stopped:
            self._say(self._until.push(self._stream.push(token)))
        return self.stopped or self._until.found

    def finish(self) -> str:
        """Writes what was held; the whole text."""
        self._say(self._until.push(self._stream.finish()))
        self._say(self._until.finish())
        return "".join(self._pieces)

    def _say(self, text: str) -> None:
        self._pieces.append(text)
        self._write(text)


class Speaker:
    """A model, its tokenizer and how it answers, opened by `with`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._signals = Signals(end_is_near=True)
        self.formatter = Formatter.open(options.model)
        self._stops = stop_tokens(self.formatter)
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(
                Context(options.backend, n_threads=options.threads, interrupt=self._interrupted)
            )
            self._model = stack.enter_context(Model.open(context, options.model))
            if options.adapter is not None:
                stack.enter_context(Adapter.open(self._model, options.adapter)).attach()
            self._stack = stack.pop_all()
        self.n_positions = self._model.config.max_positions

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def answer(
        self,
        prompt: Sequence[int],
        write: Callable[[str], None],
        *,
        max_new_tokens: int,
        seed: int,
        continues: bool = False,
    ) -> Answer:
        """Generates behind the prompt's tokens and writes text as it comes. Ctrl-C and SIGTERM end
        the answer. continues: the text goes on from the prompt's last token."""
        stream = TextStream(self.formatter.tokenizer, prompt[-4:] if continues else ())
        until = Until(self._options.stop)
        listener = _Listener(stream, until, self._stops, write)
        begin = time.monotonic()
        with self._signals as signals, contextlib.suppress(Cancelled):
            self._model.generate(
                prompt,
                max_new_tokens=max_new_tokens,
                on_token=listener,
                temperature=self._options.temperature,
                top_k=self._options.top_k,
                top_p=self._options.top_p,
                seed=seed,
            )
        seconds = time.monotonic() - begin
        text = listener.finish()
        reasons = ((listener.stopped, "stop_token"), (until.found, "stop_string"))
        ended_by = next((reason for holds, reason in reasons if holds), "length")
        return Answer(
            text=text,
            prompt_tokens=len(prompt),
            new_tokens=listener.n_tokens,
            ended_by=ended_by if signals.seen is None else "signal",
            signal=signals.seen,
            prompt_seconds=(listener.first or begin) - begin,
            seconds=seconds,
        )

    def _interrupted(self) -> bool:
        """Asked between two layers."""
        return self._signals.seen is not None


def stop_tokens(formatter: Formatter) -> FrozenSet[int]:
    """Tokens that end an answer: every EOS that a file of the directory names, and what the chat
    template puts behind an answer."""
    return formatter.end_tokens | _turn_end(formatter)


def _turn_end(formatter: Formatter) -> FrozenSet[int]:
    """The special token that the template puts behind an answer, where it puts one."""
    said = "zq"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    try:
        _, found, behind = formatter.template.render(messages).text.rpartition(said)
    except (AttributeError, ValueError):  # no template, or one of other conversations
        return frozenset()
    if not found:
        return frozenset()
    tokenizer = formatter.tokenizer
    first = list(tokenizer.encode(behind.lstrip(), add_special_tokens=False).ids[:1])
    special = first and not tokenizer.decode(first, skip_special_tokens=True)
    return frozenset(first if special else ())

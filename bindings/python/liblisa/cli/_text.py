"""Text in and out: tokens as they come, in whole characters, up to a stop string, safe to show."""

from __future__ import annotations

import io
import sys
import unicodedata
from typing import Any, List, Sequence, TextIO

_BROKEN = "\ufffd"  # what a tokenizer makes of bytes that are no character, or not yet one
_LONGEST = 4  # tokens of a character: one a byte
_MOST_HELD = 2 * _LONGEST


class TextStream:
    """Text of tokens as they come. Bytes are held until they make a character: what is written is
    never half of one, and half of one at the end is left out."""

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        """tokenizer: has decode(ids, skip_special_tokens=...). before: tokens in front of the
        first, without which some tokenizers take a space off it."""
        self._tokenizer = tokenizer
        self._tokens: List[int] = list(before)
        self._written = len(self._tokens)  # of them; the text of the others is not written yet

    def push(self, token: int) -> str:
        """What can be written now."""
        self._tokens.append(token)
        text = self._unwritten()
        if not text.endswith(_BROKEN):
            return self._write(text)
        if len(self._tokens) - self._written < _MOST_HELD:
            return ""
        # These are no character, but the last ones may begin one.
        for n_kept in range(_LONGEST - 1, 0, -1):
            sure = self._unwritten(n_kept)
            if text.startswith(sure):
                return self._write(sure, n_kept)
        return self._write(text)

    def finish(self) -> str:
        """What is left."""
        return self._write(self._unwritten().rstrip(_BROKEN))

    def _unwritten(self, n_kept: int = 0) -> str:
        """Without that of the last n_kept tokens."""
        # A token's text may depend on the one before it: both are decoded together.
        before = self._decode(self._tokens[: self._written])
        return self._decode(self._tokens[: len(self._tokens) - n_kept])[len(before) :]

    def _write(self, text: str, n_kept: int = 0) -> str:
        if text:
            del self._tokens[: self._written]
            self._written = len(self._tokens) - n_kept
        return text

    def _decode(self, tokens: List[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


class Until:
    """Text up to the first of some strings. What may be the beginning of one is held."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be written now; nothing behind a stop string."""
        if self.found:
            return ""
        self._held += text
        places = [place for place in map(self._held.find, self._stops) if place >= 0]
        self.found = bool(places)
        return self._take(min(places) if places else len(self._held) - self._n_begun())

    def finish(self) -> str:
        """What was held and is no stop string."""
        return "" if self.found else self._take(len(self._held))

    def _n_begun(self) -> int:
        """Characters at the end that begin a stop string."""
        longest = max(map(len, self._stops), default=0)
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0

    def _take(self, n: int) -> str:
        text, self._held = self._held[:n], self._held[n:]
        return text


class Output:
    """Standard output for text that a model has made. A terminal gets no control characters, and an
    encoding that lacks a character a question mark."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._terminal = sys.stdout.isatty()
        self._last = "\n"

    def write(self, text: str) -> None:
        """Writes it at once."""
        if not text:
            return
        self._last = text[-1]
        sys.stdout.write("".join(map(_shown, text)) if self._terminal else text)
        sys.stdout.flush()

    def end_line(self) -> None:
        """Begins a new line, unless one has begun."""
        if self._last != "\n":
            self.write("\n")


def _shown(character: str) -> str:
    control = unicodedata.category(character) == "Cc" and character not in "\n\t"
    return _BROKEN if control else character


def standard_input() -> TextIO:
    """Standard input. What is no text comes as code points that plain_text refuses."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin or io.StringIO()  # None where it is closed


def plain_text(text: str, what: str) -> str:
    """Text that came from outside, without the end of its last line."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not UTF-8") from None
    return text[:-1] if text.endswith("\n") else text

"""Records as tokens, with labels on what is to be learned."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from .. import _ffi
from .._options import PathLike
from ._extras import need
from ._records import Completion, Content, Conversation, Message

IGNORE_LABEL: int = _ffi.LISA_IGNORE_LABEL

Span = Tuple[int, int]


class Example(NamedTuple):
    """A record as tokens; labels[t] labels token t, IGNORE_LABEL what is not learned."""

    tokens: List[int]
    labels: List[int]
    cut: int = 0  # tokens that were too many
    closed: bool = True  # each answer has a token that ends it
    joined: bool = False  # an answer shares its first token with what is before it

    @property
    def n_targets(self) -> int:
        """Labels that count: the first token is predicted from nothing."""
        return sum(label != IGNORE_LABEL for label in self.labels[1:])


def _read_json(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return value


def _read_tokenizer(path: Path) -> Any:
    tokenizers = need("tokenizers")
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: no {path.name}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the package raises nothing narrower, and panics with this
        raise ValueError(f"{path}: {error}") from None
    # A file may bring them from a training; texts are cut and filled up here alone.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end_tokens(path: Path) -> List[int]:
    """Token ids that a config says end texts: a number, a list of them, or nothing."""
    value = _read_json(path).get("eos_token_id")
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    for token in tokens:
        if type(token) is not int:
            raise ValueError(
                f"{path}: eos_token_id: expected a number or a list of numbers, got {token!r}"
            )
    return tokens


@dataclass
class Formatter:
    """Makes examples of records.

    tokenizer: has encode(text, add_special_tokens=...) with .ids and .offsets (characters), and
    decode(ids, skip_special_tokens=...), as the class of the package tokenizers.
    template: has render(messages, prompt=...) with .text and .generated; None: no conversations.
    """

    tokenizer: Any
    template: Any = None
    end_tokens: FrozenSet[int] = frozenset()  # that end a turn or a text
    eos: Optional[int] = None  # put behind plain text
    bos: Optional[int] = None
    pad: Optional[int] = None
    max_tokens: Optional[int] = None  # longer examples are cut; None: never

    @classmethod
    def open(cls, directory: PathLike, *, max_tokens: Optional[int] = None) -> Formatter:
        """Tokenizer, template and special tokens of a Hugging Face directory."""
        home = Path(os.fsdecode(directory))
        tokenizer = _read_tokenizer(home / "tokenizer.json")
        from ._templates import ChatTemplate, special_text

        config = _read_json(home / "tokenizer_config.json")

        def special(name: str) -> Optional[int]:
            text = special_text(config, name)
            return None if text is None else tokenizer.token_to_id(text)

        eos = special("eos_token")
        ends = set() if eos is None else {eos}
        for name in ("generation_config.json", "config.json"):
            ends.update(_end_tokens(home / name))
        return cls(
            tokenizer=tokenizer,
            template=ChatTemplate.of(home, config),
            end_tokens=frozenset(ends),
            eos=eos,
            bos=special("bos_token"),
            pad=special("pad_token"),
            max_tokens=max_tokens,
        )

    def example(self, content: Content) -> Example:
        """Tokens and labels of a record; ValueError where they cannot be told apart."""
        if isinstance(content, Conversation):
            made = self._conversation(content)
        elif isinstance(content, Completion):
            made = self._plain(content.prompt + content.completion, len(content.prompt))
        else:
            made = self._plain(content.text, 0)
        cut = 0 if self.max_tokens is None else max(0, len(made.tokens) - self.max_tokens)
        if cut == 0:
            return made
        return made._replace(tokens=made.tokens[:-cut], labels=made.labels[:-cut], cut=cut)

    def prompt(self, messages: Sequence[Message]) -> List[int]:
        """Tokens of a conversation that the model is to answer."""
        text = self._needed_template().render(messages, prompt=True).text
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without the special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def _needed_template(self) -> Any:
        if self.template is None:
            raise ValueError("the tokenizer has no chat template, which conversations need")
        return self.template

    def _conversation(self, conversation: Conversation) -> Example:
        rendered = self._needed_template().render(conversation.messages)
        spans = self._marked(conversation, rendered) or self._answers(conversation, rendered.text)
        # The template has written every special token itself.
        encoding = self.tokenizer.encode(rendered.text, add_special_tokens=False)
        tokens = list(encoding.ids)
        labels = [IGNORE_LABEL] * len(tokens)
        closed, joined = True, False
        for span in spans:
            joined = joined or _joins(encoding.offsets, span)
            inside = [t for t, offsets in enumerate(encoding.offsets) if _within(offsets, span)]
            inside, ended = self._close(inside, tokens, encoding.offsets, rendered.text[: span[1]])
            closed = closed and ended
            for t in inside:
                labels[t] = tokens[t]
        learned = [t for t, label in enumerate(labels) if label != IGNORE_LABEL]
        end = learned[-1] + 1 if learned else len(tokens)
        return Example(tokens[:end], labels[:end], closed=closed, joined=joined)

    def _marked(self, conversation: Conversation, rendered: Any) -> List[Span]:
        """What the template marks as the assistant's, behind the prompt."""
        messages, learned_from = conversation
        begin = 0
        if rendered.generated and learned_from:
            begin = len(self._opening(messages, learned_from, rendered.text))
        return [span for span in rendered.generated if span[0] >= begin]

    def _answers(self, conversation: Conversation, text: str) -> List[Span]:
        """Where the assistant's turns lie in the text: what each adds to what was before it."""
        messages, learned_from = conversation
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or number < learned_from:
                continue
            before = self.template.render(messages[:number], prompt=True).text
            after = self._opening(messages, number + 1, text)
            if not after.startswith(before):
                raise _rewritten(number + 1)
            spans.append((len(before), len(after)))
        return spans

    def _opening(self, messages: Sequence[Message], n: int, text: str) -> str:
        """The first n messages as text, with which that of all begins."""
        opening: str = self.template.render(messages[:n]).text
        if not text.startswith(opening):
            raise _rewritten(n)
        return opening

    def _close(
        self, inside: List[int], tokens: List[int], offsets: Sequence[Span], text: str
    ) -> Tuple[List[int], bool]:
        """An answer up to and with the token that ends it, and whether there is one.

        Text goes up to the answer's end. What looks like an end in the midst of it is its own words
        where another follows.
        """
        ends = [t for t in inside if tokens[t] in self.end_tokens]
        if ends and not text[offsets[ends[-1]][1] :].strip():
            return [t for t in inside if t <= ends[-1]], True
        following = inside[-1] + 1 if inside else len(tokens)
        if following < len(tokens) and tokens[following] in self.end_tokens:
            return [*inside, following], True
        if ends:
            return [t for t in inside if t <= ends[-1]], True
        return inside, False

    def _plain(self, text: str, learned_from: int) -> Example:
        encoding = self.tokenizer.encode(text, add_special_tokens=True)
        tokens, span = list(encoding.ids), (learned_from, len(text))
        labels = [
            token if learned_from == 0 or _within(offsets, span) else IGNORE_LABEL
            for token, offsets in zip(tokens, encoding.offsets)
        ]
        if self.eos is not None and tokens[-1:] != [self.eos]:
            tokens.append(self.eos)
            labels.append(self.eos)
        elif self.eos is not None:
            labels[-1] = self.eos
        joined = _joins(encoding.offsets, span)
        return Example(tokens, labels, closed=self.eos is not None, joined=joined)


def _rewritten(number: int) -> ValueError:
    return ValueError(
        f"the chat template renders message {number} otherwise when others follow: "
        "its answer cannot be told apart"
    )


def _within(offsets: Span, span: Span) -> bool:
    """Whether a token lies in a span. One of spaces that were trimmed away has no width, and is
    known by its end alone."""
    begin, end = offsets
    return (begin >= span[0] if begin < end else begin > span[0]) and end <= span[1]


def _joins(offsets: Sequence[Span], span: Span) -> bool:
    """Whether a token begins before a span and ends in it."""
    return any(begin < span[0] < end for begin, end in offsets)

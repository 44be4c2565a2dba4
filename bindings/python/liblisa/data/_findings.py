"""What is the matter with training data, found before it costs a run."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from ._formatter import Example, Formatter
from ._records import Record


_SHOWN_LINES = 8


class Finding(NamedTuple):
    """Something about the data, and the lines that it is about."""

    fatal: bool  # training on it would be wrong
    text: str
    lines: List[int]  # empty: all of it

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.lines[:_SHOWN_LINES]))
        hidden = len(self.lines) - _SHOWN_LINES
        if not self.lines:
            return self.text
        if len(self.lines) == 1:
            return f"{self.text} (line {shown})"
        more = f" and {hidden} more" if hidden > 0 else ""
        return f"{self.text} ({len(self.lines)} lines: {shown}{more})"


class Survey(NamedTuple):
    """All records of a file, as they would be trained on."""

    examples: List[Example]
    lines: List[int]  # of the examples
    findings: List[Finding]

    @property
    def n_tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(example.tokens) for example in self.examples)

    @property
    def n_targets(self) -> int:
        """Labels of all examples that count."""
        return sum(example.n_targets for example in self.examples)

    @property
    def longest(self) -> int:
        """Tokens of the longest example, what was cut off it included."""
        return max((len(e.tokens) + e.cut for e in self.examples), default=0)


def _of_example(example: Example, formatter: Formatter, vocab_size: Optional[int]) -> List[str]:
    """Names, in _TEXTS, of what is the matter with one example."""
    found = []
    if example.n_targets == 0:
        found.append("masked")
    if example.cut:
        found.append("cut")
    if formatter.bos is not None and example.tokens[:2] == [formatter.bos] * 2:
        found.append("double bos")
    if vocab_size is not None and any(token >= vocab_size for token in example.tokens):
        found.append("vocabulary")
    if not example.closed and not example.cut:
        found.append("open")
    if example.joined:
        found.append("joined")
    return found


_TEXTS = {
    "masked": (True, "no label counts: nothing would be learned from it"),
    "vocabulary": (True, "a token is beyond the model's vocabulary"),
    "double bos": (True, "begins with two BOS tokens"),
    "cut": (False, "longer than {max_tokens} tokens: cut"),
    "joined": (False, "an answer shares its first token with the prompt, and that is not learned"),
    "open": (False, "an answer has no token that ends it: the model would not learn to stop"),
}


def survey(
    records: Iterable[Record], formatter: Formatter, *, vocab_size: Optional[int] = None
) -> Survey:
    """Makes examples of all records and says what is the matter with them."""
    examples, numbers = [], []
    lines: Dict[str, List[int]] = {name: [] for name in _TEXTS}
    refused: Dict[str, List[int]] = {}
    for record in records:
        try:
            example = formatter.example(record.content)
        except ValueError as error:
            refused.setdefault(str(error), []).append(record.line)
            continue
        examples.append(example)
        numbers.append(record.line)
        for name in _of_example(example, formatter, vocab_size):
            lines[name].append(record.line)
    findings = [Finding(True, text, at) for text, at in refused.items()]
    for name, (fatal, text) in _TEXTS.items():
        if lines[name]:
            text = text.format(max_tokens=formatter.max_tokens)
            findings.append(Finding(fatal, text, lines[name]))
    findings += _of_tokens(formatter)
    if not examples and not refused:
        findings.append(Finding(True, "there are no records", []))
    return Survey(examples, numbers, findings)


def _of_tokens(formatter: Any) -> List[Finding]:
    if formatter.pad is None or formatter.pad not in formatter.end_tokens:
        return []
    text = (
        "the padding token also ends turns: labels are kept by position here, but a loop that "
        "masks every padding token would not teach the model to stop"
    )
    return [Finding(False, text, [])]

"""How likely a model finds tokens: those with labels, continuations, whole texts."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .._model import Model
from .._train import Batch
from ..data import Example, pad
from ..data._formatter import IGNORE_LABEL

Tokens = Sequence[int]
Pair = Tuple[Tokens, Tokens]  # what is read, and what is scored behind it
Progress = Callable[[int], Any]  # called with the number of rows that are done anew


class Score(NamedTuple):
    """What a model makes of some tokens."""

    log_likelihood: float  # the sum over them, in nats
    n_tokens: int
    n_greedy: int  # of them the most likely ones at their places

    @property
    def greedy(self) -> bool:
        """Whether greedy generation would come out with them."""
        return self.n_greedy == self.n_tokens

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return -self.log_likelihood / self.n_tokens if self.n_tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def accuracy(self) -> float:
        """The part of the tokens that were the most likely ones."""
        return self.n_greedy / self.n_tokens if self.n_tokens else math.nan


def total(scores: Iterable[Score]) -> Score:
    """Several scores as one."""
    parts = list(scores)
    return Score(
        math.fsum(part.log_likelihood for part in parts),
        sum(part.n_tokens for part in parts),
        sum(part.n_greedy for part in parts),
    )


def _row(labels: Tokens, log_probs: Sequence[float], greedy: Sequence[int]) -> Score:
    # The first token is predicted from nothing.
    scored = [t for t, label in enumerate(labels) if t and label != IGNORE_LABEL]
    likelihood = math.fsum(log_probs[t] for t in scored)
    return Score(likelihood, len(scored), sum(greedy[t] for t in scored))


def _rows(model: Model, batch: Batch, examples: Sequence[Example]) -> Iterator[Score]:
    # What is filled up lies behind everything else, so nothing else sees it.
    filled = pad(examples)
    batch.set(filled.tokens, filled.labels)
    found = model.evaluate(batch, per_token=True)
    log_probs: Any = found.log_probs
    greedy: Any = found.greedy
    yield from map(_row, filled.labels, log_probs.tolist(), greedy.tolist())


def score_examples(
    model: Model,
    examples: Sequence[Example],
    *,
    batch_size: int = 4,
    progress: Optional[Progress] = None,
) -> List[Score]:
    """The labelled tokens of each example, in the order in which they were given.

    Runs the longest first, batch_size at a time: what does not fit fails at once.
    """
    numbers = [number for number, example in enumerate(examples) if example.n_targets]
    order = sorted(numbers, key=lambda number: -len(examples[number].tokens))
    scores = [Score(0.0, 0, 0)] * len(examples)
    if not order:
        return scores
    longest = len(examples[order[0]].tokens)
    with Batch(model, min(batch_size, len(order)), longest, inference_only=True) as batch:
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            found = _rows(model, batch, [examples[number] for number in chunk])
            for number, score in zip(chunk, found):
                scores[number] = score
            if progress is not None:
                progress(len(chunk))
    return scores


def pair(context: Tokens, continuation: Tokens, window: int) -> Example:
    """One row of at most `window` tokens: what is too much is cut from the context's beginning."""
    room = window - len(continuation)
    if not continuation:
        raise ValueError("a continuation without tokens has no likelihood")
    if not context:
        raise ValueError("a continuation needs a token before it, such as BOS")
    if room < 1:
        raise ValueError(
            f"a continuation of {len(continuation)} tokens and one before it do not fit a window "
            f"of {window}"
        )
    kept, scored = list(context[-room:]), list(continuation)
    return Example(kept + scored, [IGNORE_LABEL] * len(kept) + scored)


def windows(
    tokens: Tokens, window: int, *, prefix: Optional[int] = None, stride: Optional[int] = None
) -> List[Pair]:
    """A text in rows of at most `window` tokens, in which each of its tokens is scored once.

    prefix: a token before the text, which is read alone; without one, the text's first is.
    stride: tokens that a row behind the first scores, the last of which may score fewer, behind as
    many more as make the row full; by default all but one.
    """
    stride = window - 1 if stride is None else stride
    if window < 2 or not 1 <= stride < window:
        raise ValueError(f"a window of {window} tokens cannot score {stride} of them anew")
    text = [*([] if prefix is None else [prefix]), *tokens]
    pairs: List[Pair] = []
    done = 1
    while done < len(text):
        end = min(len(text), done + stride if pairs else window)
        pairs.append((text[max(0, end - window) : done], text[done:end]))
        done = end
    return pairs


def score_pairs(
    model: Model,
    pairs: Sequence[Pair],
    *,
    window: Optional[int] = None,
    batch_size: int = 4,
    progress: Optional[Progress] = None,
) -> List[Score]:
    """Each continuation behind its context. window: tokens of both; as many as the model has
    positions."""
    window = model.config.max_positions if window is None else window
    rows = [pair(context, continuation, window) for context, continuation in pairs]
    return score_examples(model, rows, batch_size=batch_size, progress=progress)


def score_texts(
    model: Model,
    texts: Sequence[Tokens],
    *,
    window: Optional[int] = None,
    prefix: Optional[int] = None,
    stride: Optional[int] = None,
    batch_size: int = 4,
    progress: Optional[Progress] = None,
) -> List[Score]:
    """All tokens of each text, by windows()."""
    window = model.config.max_positions if window is None else window
    cut = [windows(tokens, window, prefix=prefix, stride=stride) for tokens in texts]
    pairs = [one for text in cut for one in text]
    scores = iter(
        score_pairs(model, pairs, window=window, batch_size=batch_size, progress=progress)
    )
    return [total(next(scores) for _ in text) for text in cut]

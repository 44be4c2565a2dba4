"""Text that a model writes, up to stop strings."""

from __future__ import annotations

from typing import Callable, Collection, List, Optional, Sequence

from .._model import Model
from ..data import Formatter

Decode = Callable[[List[int]], str]


def _seen(until: Sequence[str], decode: Decode) -> Callable[[int], bool]:
    """Says of each new token whether a stop string is among the latest ones' text."""
    tokens: List[int] = []
    # A token is a byte at least. The first ones decoded may be halves of characters.
    n_latest = max((len(stop.encode()) for stop in until), default=0) + 4

    def on_token(token: int) -> bool:
        tokens.append(token)
        text = decode(tokens[-n_latest:])
        return any(stop in text for stop in until)

    return on_token


def generate_until(
    model: Model,
    formatter: Formatter,
    prompt: Sequence[int],
    until: Collection[str] = (),
    *,
    max_new_tokens: int = 256,
    window: Optional[int] = None,
    temperature: Optional[float] = None,
    top_k: Optional[int] = None,
    top_p: Optional[float] = None,
    seed: Optional[int] = None,
) -> str:
    """What follows a prompt's tokens, up to the first of the stop strings, without it.

    Ends as well at a token that ends turns or texts (formatter.end_tokens).
    window: tokens of prompt and answer; by default as many as the model has positions. A longer
    prompt loses its beginning.
    """
    stops = [stop for stop in until if stop]
    room = (model.config.max_positions if window is None else window) - max_new_tokens
    if room < 1:
        raise ValueError(f"{max_new_tokens} new tokens leave no room for a prompt")

    def decode(tokens: List[int]) -> str:
        return formatter.tokenizer.decode(tokens, skip_special_tokens=False)

    tokens = model.generate(
        prompt[-room:],
        max_new_tokens=max_new_tokens,
        stop_tokens=sorted(formatter.end_tokens),
        on_token=_seen(stops, decode) if stops else None,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    text = formatter.tokenizer.decode(tokens, skip_special_tokens=True)
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]

"""Lines of JSON in the shapes that instruction data comes in."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Union

from .._options import PathLike

Message = Dict[str, Any]

# As ShareGPT and those after it name who speaks.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class Conversation(NamedTuple):
    """Messages with "role" and "content"; what the assistant says is learned."""

    messages: List[Message]
    learned_from: int = 0  # messages before this one are a prompt


class Completion(NamedTuple):
    """Plain text in two parts, of which the second is learned."""

    prompt: str
    completion: str


class Text(NamedTuple):
    """Plain text, all of it learned."""

    text: str


Content = Union[Conversation, Completion, Text]


class Record(NamedTuple):
    """One line of a file."""

    line: int  # from 1
    content: Content


def _text(value: Dict[str, Any], key: str) -> str:
    if not isinstance(value.get(key), str):
        raise ValueError(f'"{key}" must be text')
    return value[key]


def _conversation(messages: Any, key: str) -> Conversation:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'"{key}" must be a list of messages')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f'a message in "{key}" has no "role"')
        if not isinstance(message.get("content"), (str, list)) and "tool_calls" not in message:
            raise ValueError(f'a message in "{key}" has no "content"')
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError(f'"{key}" has no message of the assistant, so nothing is learned')
    return Conversation(messages)


def _sharegpt(value: Dict[str, Any]) -> Conversation:
    messages = []
    if value.get("system"):
        messages.append({"role": "system", "content": _text(value, "system")})
    turns = value["conversations"]
    for turn in turns if isinstance(turns, list) else [None]:
        if not isinstance(turn, dict):
            raise ValueError('"conversations" must be a list of objects')
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise ValueError(f'"from" is {speaker!r}, expected one of {", ".join(_SPEAKERS)}')
        messages.append({"role": _SPEAKERS[speaker], "content": _text(turn, "value")})
    return _conversation(messages, "conversations")


def _alpaca(value: Dict[str, Any]) -> Conversation:
    question = _text(value, "instruction")
    if value.get("input"):
        question += "\n\n" + _text(value, "input")
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(value, "output")},
    ]
    if value.get("system"):
        messages.insert(0, {"role": "system", "content": _text(value, "system")})
    return Conversation(messages)


def _completion(value: Dict[str, Any]) -> Content:
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        _conversation(completion, "completion")
        messages = _conversation(prompt + completion, "prompt").messages
        return Conversation(messages, len(prompt))
    return Completion(_text(value, "prompt"), _text(value, "completion"))


def parse_record(value: Any) -> Content:
    """What one line's object stands for; ValueError says what is wrong with it."""
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    if "messages" in value:
        return _conversation(value["messages"], "messages")
    if "conversations" in value:
        return _sharegpt(value)
    if "instruction" in value and "output" in value:
        return _alpaca(value)
    if "prompt" in value and "completion" in value:
        return _completion(value)
    if "text" in value:
        return Text(_text(value, "text"))
    raise ValueError(
        "expected messages, conversations, instruction and output, prompt and completion, or text; "
        f"got {', '.join(map(str, value)) or 'nothing'}"
    )


def _parse_line(line: bytes) -> Content:
    text = line.decode("utf-8")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():  # half of a pair is no character, and no tokenizer takes it
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return parse_record(value)


def read_records(path: PathLike) -> Iterator[Record]:
    """The lines of a file, blank ones passed over; ValueError names file and line."""
    name = Path(os.fsdecode(path))
    with name.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line[len(BOM_UTF8) :] if number == 1 and line.startswith(BOM_UTF8) else line
            if not line.strip():
                continue
            try:
                yield Record(number, _parse_line(line))
            except UnicodeError as error:
                raise ValueError(f"{name}:{number}: not text in UTF-8: {error}") from None
            except ValueError as error:
                raise ValueError(f"{name}:{number}: {error}") from None

"""A model's chat template, rendered as transformers renders it. Needs jinja2."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ._extras import need

jinja2 = need("jinja2")
need("jinja2.sandbox")
need("jinja2.ext")

# Around what a template says the assistant generates: code points that are no characters.
_BEGIN, _END = "\ufdd0", "\ufdd1"

SPECIAL = tuple(f"{name}_token" for name in "bos eos unk sep pad cls mask".split())

Span = Tuple[int, int]


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    generated: List[Span]  # characters that the template itself marks as the assistant's


class _Generation(jinja2.ext.Extension):  # type: ignore[name-defined, misc]
    """{% generation %} ... {% endgeneration %}"""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_mark")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return _BEGIN + caller() + _END


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(text: str) -> str:
    return datetime.datetime.now().strftime(text)


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _environment() -> Any:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _split(marked: str) -> Rendered:
    """Takes the marks out and says where they were."""
    text, spans = "", []
    for number, part in enumerate(marked.split(_BEGIN)):
        if number:
            answer, _, part = part.partition(_END)
            spans.append((len(text), len(text) + len(answer)))
            text += answer
        text += part
    return Rendered(text, spans)


class ChatTemplate:
    """A template with the special tokens that it names."""

    def __init__(self, source: str, special: Dict[str, str]) -> None:
        """special: bos_token, eos_token, ... as text."""
        self.source = source
        self._special = special
        try:
            self._template = _environment().from_string(source)
        except jinja2.exceptions.TemplateError as error:
            raise ValueError(f"chat template: {error}") from None

    @classmethod
    def of(cls, directory: Path, config: Dict[str, Any]) -> Optional[ChatTemplate]:
        """That of a directory whose tokenizer_config.json is `config`; None where it has none."""
        file = directory / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(source, list):  # several, by name
            named = [e for e in source if isinstance(e, dict) and e.get("name") == "default"]
            source = named[0].get("template") if named else None
        if source is None:
            return None
        if not isinstance(source, str):
            raise ValueError(f"{directory}: the chat template is not text")
        special = {name: special_text(config, name) for name in SPECIAL}
        return cls(source, {name: text for name, text in special.items() if text is not None})

    def render(self, messages: Sequence[Dict[str, Any]], *, prompt: bool = False) -> Rendered:
        """A conversation; with `prompt` the opening of an answer follows."""
        if _BEGIN in json.dumps(messages, ensure_ascii=False, default=str):
            raise ValueError(f"a message has the code point {ord(_BEGIN):x}, which no text has")
        try:
            marked = self._template.render(
                messages=messages,
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **self._special,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise ValueError(f"chat template: {error}") from None
        return _split(marked)


def special_text(config: Dict[str, Any], name: str) -> Optional[str]:
    """A special token of tokenizer_config.json, which has it as text or as an object."""
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None

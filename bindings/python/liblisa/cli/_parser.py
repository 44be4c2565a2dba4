"""argparse as this command has it: errors of one line, sizes with units."""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any, Callable, NoReturn, Optional, Sequence

_POWERS = {unit: power for power, unit in enumerate(["", "K", "M", "G", "T"])}
_SIZE = re.compile(r"(\d+(?:\.\d*)?)(?:([KMGT])(B|iB)?)?", re.IGNORECASE)


Group = argparse._ActionsContainer  # a parser, or a part of its options with a heading


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no abbreviations: they break when options come."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (--help lists what there is)", file=sys.stderr)
        sys.exit(2)


class Flag(argparse.Action):
    """--name, and --no-name to take back what a file of options says."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, default: bool = False, help: str = ""
    ) -> None:
        names = [*option_strings, *(f"--no-{name[2:]}" for name in option_strings)]
        super().__init__(names, dest, nargs=0, default=default, help=help)

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        _values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no-"))


def size(text: str) -> int:
    """Bytes: 8G and 8GiB are 8 * 1024**3, 8GB is 8 * 1000**3."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 512M or 8G, got {text!r}")
    number, unit, suffix = (part or "" for part in found.groups())
    base = 1000 if suffix.upper() == "B" else 1024
    return int(float(number) * base ** _POWERS[unit.upper()])


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A finite number within bounds."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            bounds = f"from {least:g}" + (f" to {most:g}" if math.isfinite(most) else "")
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, got {text!r}")
        return value

    return convert


def whole(text: str) -> int:
    """A number of things, 0 included."""
    return _integer(text, 0)


def count(text: str) -> int:
    """A number of things: 1 or more."""
    return _integer(text, 1)


def _integer(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a number from {least}, got {text!r}")
    return number


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every subcommand which reports has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")

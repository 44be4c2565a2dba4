"""Writes the option lists of docs/command.md, from the parsers themselves.

Usage: PYTHONPATH=bindings/python python3 tests/tools/command_page.py
"""

import argparse
import re
from pathlib import Path

from liblisa.cli import make_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command.md"
LIST = re.compile(r"(<!-- options of ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)


def commands():
    """The subcommands' parsers by name."""
    return next(
        action.choices
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def option_list(parser):
    """A Markdown table of a parser's arguments."""
    rows = ["| | |", "|---|---|"]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings)
        value = action.metavar or ("\\|".join(action.choices) if action.choices else "")
        value = value.replace("DIR|", "DIR\\|")
        rows.append(f"| `{' '.join(filter(None, (name, value)))}` | {action.help} |")
    return "\n".join(rows) + "\n"


def written(text):
    """The page with its lists made anew."""
    parsers = commands()
    return LIST.sub(lambda m: m.group(1) + option_list(parsers[m.group(2)]) + m.group(3), text)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))

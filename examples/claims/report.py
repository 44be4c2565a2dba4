#!/usr/bin/env python3
"""Makes docs/results.md and its pictures of the result lines: what is measured comes from them.

    python3 examples/claims/report.py

The page's words are results.template.md's; a study that is not whole yet is said to be missing.
Pictures need matplotlib; --no-pictures writes the page alone.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import string
import sys
from pathlib import Path
from typing import Dict

from lines import Results
from tables import Tables

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where results.md goes")
    parser.add_argument("--no-pictures", action="store_true")
    return parser.parse_args()


class Template(string.Template):
    """${name} and ${name argument}."""

    idpattern = "[a-z]+(?:[ ][a-z0-9]+)*"


class Values(Dict[str, str]):
    """What the template asks for, made when it does."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self._tables = tables

    def __missing__(self, name: str) -> str:
        return self._tables.text(name)


def page(results: Results) -> str:
    """docs/results.md."""
    template = Template((HERE / "results.template.md").read_text(encoding="utf-8"))
    return template.substitute(Values(Tables(results)))


def main() -> None:
    arguments = read_arguments()
    results = Results(arguments.results)
    text = page(results)
    if not arguments.no_pictures:
        from figures import draw_all

        draw_all(results, arguments.docs / "results")
    (arguments.docs / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"report: {error}")

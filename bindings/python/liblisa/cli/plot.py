"""Draws the pictures of a run, finished or not: DIR/loss.png, and under LISA DIR/layers.png. Needs
matplotlib: pip install 'liblisa[plots]'."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._pictures import draw

NAME = "plot"
HELP = "pictures of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="where metrics.jsonl is")


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    print(*draw(options.directory), sep="\n")
    return 0

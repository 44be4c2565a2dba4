"""The command `liblisa`. Each subcommand is a module here: its words, its options, what it does.

Exit status: 0, 1 for what failed or does not hold (one line on stderr), 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional

from .._errors import LisaError
from .._version import __version__
from . import (
    chat,
    checkpoint,
    convert,
    evaluate,
    finetune,
    generate,
    inspect_data,
    inspect_model,
    merge,
    plan,
    plot,
)
from ._parser import Parser

COMMANDS = (
    finetune,
    plot,
    evaluate,
    generate,
    chat,
    merge,
    convert,
    plan,
    inspect_model,
    inspect_data,
    checkpoint,
)


def make_parser() -> Parser:
    """The parser of the command with all its subcommands."""
    parser = Parser(prog="liblisa", description="Fine-tunes language models with LISA.")
    parser.add_argument("--version", action="version", version=f"liblisa {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for module in COMMANDS:
        command = commands.add_parser(module.NAME, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """As parse_args, with the option that was perhaps meant."""
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].partition("=")[0]
        taken = getattr(options, "taken", None)
        nearest = taken.nearest(name[2:]) if taken and name.startswith("--") else None
        meant = f"; did you mean --{nearest}?" if nearest else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
    return options


def _open_streams() -> None:
    """Where one was closed by whoever began this, Python has None, and nobody reads it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command line and returns its exit status."""
    _open_streams()
    options = _parse(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough; nothing is left for Python's own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (LisaError, OSError, ValueError, MemoryError, ImportError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"liblisa {options.command}: {line}", file=sys.stderr)
        return 1

#!/usr/bin/env python3
"""The paper's claims, measured: trains the runs of a study and keeps their result lines.

    python3 examples/claims/claims.py quality MODEL --gsm8k DIRECTORY

MODEL is SmolLM2-135M-Instruct as a Hugging Face directory; `make demo` makes one. A run that was
interrupted goes on from its last checkpoint, a run that is whole is not run again, and one that
several studies need is run once. report.py makes docs/results.md of the lines.

Needs the package liblisa (PYTHONPATH=bindings/python) with tokenizers and jinja2.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import signal
import sys
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Dict, List, Tuple

import liblisa
from liblisa.data import Formatter

import studies
import texts
from lines import TIMES, Results
from models import GPT2, UNTIED, made, teach_gpt2, untie
from run import run
from spec import Spec
from timing import timed_before, timing

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SCRATCH = HERE.parent.parent / "build" / "claims"
ENDS = (signal.SIGINT, signal.SIGTERM)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=[*studies.STUDIES, "all"])
    parser.add_argument("model", type=Path, help="a Hugging Face model directory")
    parser.add_argument(
        "--gsm8k", type=Path, metavar="DIRECTORY", help="of train.jsonl, test.jsonl"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: beside this file")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="checkpoints of a run")
    parser.add_argument("--hours", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--list", action="store_true", help="say what is missing, and run nothing")
    return parser.parse_args()


class Sources:
    """Texts as tokens and models as directories, each once it is needed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._texts: Dict[Tuple[str, int], texts.Text] = {}

    def text(self, name: str, tokens: int) -> texts.Text:
        """In rows of so many tokens, by the tokenizer of the model that was given."""
        if (name, tokens) not in self._texts:
            self._texts[name, tokens] = self._read(name, tokens)
        return self._texts[name, tokens]

    def model(self, name: str, tokens: int) -> Path:
        """A directory; what has no checkpoint is made on the way."""
        given = Path(self._arguments.model)
        directory = Path(self._arguments.scratch) / "models" / name
        if name == UNTIED:
            return made(directory, lambda part: untie(given, part))
        if name == GPT2:
            vocab_size = liblisa.ModelConfig.read(given).vocab_size
            text = self.text("gsm8k", tokens)
            return made(directory, lambda part: teach_gpt2(part, text, vocab_size, tokens))
        return given

    def _read(self, name: str, tokens: int) -> texts.Text:
        formatter = Formatter.open(self._arguments.model)
        if name == "instructions":
            return texts.instructions(formatter, tokens)
        if self._arguments.gsm8k is None:
            raise ValueError("--gsm8k DIRECTORY is needed: train.jsonl and test.jsonl of GSM8K")
        return texts.gsm8k(self._arguments.gsm8k, formatter, tokens)


def _alone(*arguments: Any) -> None:
    # Who is asked to end is the parent, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run(*arguments)


def _start(process: BaseProcess) -> None:
    # An exception within fork is ignored by Python: what asks to end waits until that is over.
    asked: List[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: asked.append(number)) for number in ENDS
    }
    try:
        process.start()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt


def run_apart(spec: Spec, sources: Sources, arguments: argparse.Namespace) -> None:
    """In a process of its own, whose memory is the run's alone."""
    text = sources.text(spec.text, spec.tokens)
    model = sources.model(spec.model, spec.tokens)
    path = Results(arguments.results).path(spec)
    process = multiprocessing.get_context("fork").Process(
        target=_alone, args=(spec, text, model, path, arguments.scratch)
    )
    try:
        _start(process)
        process.join()
    except BaseException:
        while process.pid is not None and not wait([process.sentinel], 0):
            process.terminate()  # again after a second, for one that has just begun may miss it
            wait([process.sentinel], 1)
        raise
    if process.exitcode:
        raise ValueError(f"{spec.name}: ended with {process.exitcode}")


def run_times(results: Results, sources: Sources, arguments: argparse.Namespace) -> None:
    """Where the time of a step goes; asked for by itself, it is measured anew."""
    methods = studies.timed(results)
    path = results.directory / TIMES
    if arguments.study != "time" and timed_before(path) == methods:
        return
    text = sources.text(studies.TEXTS[0], Spec.tokens)
    model = sources.model(Spec.model, Spec.tokens)
    timing(methods, text, model, path, arguments.scratch / TIMES)


def run_study(name: str, results: Results, sources: Sources, arguments: argparse.Namespace) -> bool:
    """Whether it is whole; it is not where the hours are over."""
    while left := studies.missing(name, results):
        if arguments.list:
            print(*(spec.name for spec in left), sep="\n")
            return True
        if time.monotonic() > arguments.end:
            return False
        run_apart(left[0], sources, arguments)
    return True


def main() -> None:
    arguments = read_arguments()
    arguments.end = time.monotonic() + 3600 * arguments.hours
    results, sources = Results(arguments.results), Sources(arguments)
    for name in studies.STUDIES if arguments.study == "all" else [arguments.study]:
        if not run_study(name, results, sources, arguments):
            sys.exit(f"{name}: not whole yet")
        if name == "time" and not arguments.list:
            run_times(results, sources, arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (liblisa.LisaError, OSError, ValueError) as error:
        sys.exit(f"claims: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

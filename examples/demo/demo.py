"""Fine-tunes a chat model with LISA on a small instruction set and reports what came of it.

Usage: demo.py MODEL_DIRECTORY DATA_DIRECTORY OUTPUT_DIRECTORY

Writes OUTPUT_DIRECTORY/out (a Hugging Face directory) and OUTPUT_DIRECTORY/loss.png.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import liblisa
from liblisa.data import Example, Formatter, read_records

import report
from finetune import History, Recipe, Step, finetune, schedule
from memory import AnonymousPeak, status_bytes
from plans import alternatives
from progress import Progress, Reading, clock

SHOWN = (1, 10, 38)  # held-out questions whose answers are printed
ANSWER_TOKENS = 64


class Session:
    """The demo's data and settings: what stays the same from the first line to the last."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model_directory: Path = arguments.model
        self.output: Path = arguments.output
        self.backend: str = arguments.backend
        self.recipe = Recipe(lr=arguments.lr, epochs=arguments.epochs)
        self.chat = Formatter.open(self.model_directory)
        self.train = self.examples(arguments.data / "train.jsonl")
        self.heldout = self.examples(arguments.data / "heldout.jsonl")
        heldout = list(read_records(arguments.data / "heldout.jsonl"))
        self.shown = [heldout[index].content.messages for index in SHOWN]

    def examples(self, path: Path) -> list[Example]:
        return [self.chat.example(record.content) for record in read_records(path)]

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return max(len(example.tokens) for example in self.train + self.heldout)

    @property
    def longest_answered(self) -> int:
        """Tokens of the longest shown question with its answer."""
        prompts = [self.chat.prompt(messages[:1]) for messages in self.shown]
        return max(map(len, prompts)) + ANSWER_TOKENS

    def answer(self, model: liblisa.Model, messages: list[dict[str, str]]) -> str:
        tokens = model.generate(
            self.chat.prompt(messages[:1]), max_new_tokens=ANSWER_TOKENS,
            stop_tokens=sorted(self.chat.end_tokens))
        return self.chat.decode(tokens)

    def answers(self, model: liblisa.Model) -> list[str]:
        return [self.answer(model, messages) for messages in self.shown]


class Outcome(NamedTuple):
    """What is left when the model is closed."""

    before: list[str]
    after: list[str]
    history: History
    used: dict[str, liblisa.MemoryUse]
    backend: str  # that "auto" chose
    peak: int  # anonymous memory that the work added to the process
    seconds: float


def train(session: Session, model: liblisa.Model, optimizer: liblisa.Optimizer,
          batch: liblisa.Batch) -> History:
    """The fine-tuning itself, with its progress shown."""
    recipe = session.recipe
    n_steps = len(schedule(session.train, recipe))
    print(f"{len(session.train)} conversations, {n_steps} steps of {recipe.batch_size}; "
          f"{recipe.n_active} of {model.config.n_layers} layers train at a time, "
          f"others every {recipe.interval_steps} steps", flush=True)
    progress = Progress(n_steps)
    latest: list[float] = []

    def show(step: Step) -> None:
        if step.heldout is not None:
            latest[:] = [step.heldout]
        progress.step(Reading(step.stats.loss, latest[0] if latest else None, step.stats.lr,
                              step.layers, step.n_tokens, status_bytes("RssAnon")))

    try:
        return finetune(model, optimizer, batch, session.train, session.heldout, recipe, show)
    finally:
        progress.close()


def work(session: Session) -> Outcome:
    """Opens, asks, trains, asks again and saves, all of the plan's memory in use."""
    begin, recipe = time.monotonic(), session.recipe
    with AnonymousPeak() as peak, liblisa.Context(backend=session.backend) as context, \
            liblisa.Model.open(context, session.model_directory) as model, \
            liblisa.Batch(model, recipe.batch_size, session.longest, **recipe.batch()) as batch, \
            liblisa.Optimizer(model, **recipe.optimizer()) as optimizer:
        before = session.answers(model)
        history = train(session, model, optimizer, batch)
        after = session.answers(model)
        model.save(session.output / "out")
        used, backend = context.memory(), context.backend
    return Outcome(before, after, history, used, backend, peak.grown, time.monotonic() - begin)


def run(session: Session) -> None:
    config = liblisa.ModelConfig.read(session.model_directory)
    plans = alternatives(config, session.recipe, session.longest, session.longest_answered,
                         session.backend)
    own = next(iter(plans.values()))
    outcome = work(session)
    curve = session.output / "loss.png"
    report.draw_curve(outcome.history, config.n_layers, curve)
    answered = [report.Answered(messages[0]["content"], messages[1]["content"], before, after)
                for messages, before, after in zip(session.shown, outcome.before, outcome.after)]
    print("", report.answers(answered), report.losses(outcome.history),
          report.memory_plans(plans), report.memory_classes(own, outcome.used), sep="\n\n")
    print("", report.anonymous_memory(outcome.peak, own, outcome.backend), sep="\n")
    print(f"The whole process at its peak, Python and file pages included: "
          f"{status_bytes('VmHWM') / report.MIB:.0f} MiB; time {clock(outcome.seconds)}")
    print(f"Loss curve: {curve}\nFine-tuned model: {session.output / 'out'}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tunes a chat model with LISA.")
    parser.add_argument("model", type=Path, help="a Hugging Face directory")
    parser.add_argument("data", type=Path, help="holds train.jsonl and heldout.jsonl")
    parser.add_argument("output", type=Path, help="gets out/ and loss.png")
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--backend", default="cpu", help="cpu, cuda or auto (cpu)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        run(Session(parse(sys.argv[1:])))
    except (liblisa.LisaError, OSError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

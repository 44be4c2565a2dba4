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

import liblisa

import report
from conversations import ChatTokenizer, Message, read_conversations
from finetune import History, Recipe, Step, finetune, schedule
from memory import AnonymousPeak, status_bytes
from plans import Shape, alternatives
from progress import Progress, Reading, clock

SHOWN = (0, 20, 40)  # held-out questions whose answers are printed
ANSWER_TOKENS = 64


class Session:
    """The demo's data and settings: what stays the same from the first line to the last."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model_directory: Path = arguments.model
        self.output: Path = arguments.output
        self.recipe = Recipe(lr=arguments.lr, epochs=arguments.epochs)
        self.chat = ChatTokenizer.open(self.model_directory)
        self.heldout_messages = read_conversations(arguments.data / "heldout.jsonl")
        self.train = [self.chat.example(messages)
                      for messages in read_conversations(arguments.data / "train.jsonl")]
        self.heldout = [self.chat.example(messages) for messages in self.heldout_messages]
        self.shown = [self.heldout_messages[index] for index in SHOWN]

    @property
    def shape(self) -> Shape:
        longest = max(len(example.tokens) for example in self.train + self.heldout)
        prompts = [len(self.chat.encode(messages[:1], prompt=True)) for messages in self.shown]
        return Shape(self.recipe.batch_size, longest, max(prompts) + ANSWER_TOKENS)

    def answer(self, model: liblisa.Model, messages: list[Message]) -> str:
        tokens = model.generate(
            self.chat.encode(messages[:1], prompt=True), max_new_tokens=ANSWER_TOKENS,
            stop_tokens=[self.chat.end_of_turn])
        return self.chat.decode(tokens)

    def answers(self, model: liblisa.Model) -> list[str]:
        return [self.answer(model, messages) for messages in self.shown]


def train(session: Session, model: liblisa.Model) -> History:
    """The fine-tuning itself, with its progress shown."""
    recipe, shape = session.recipe, session.shape
    n_steps = len(schedule(session.train, recipe))
    print(f"{len(session.train)} conversations, {n_steps} steps of {recipe.batch_size}, "
          f"{recipe.n_active} of {model.config.n_layers} layers at a time, "
          f"new ones every {recipe.interval_steps} steps", flush=True)
    progress = Progress(n_steps)
    latest: list[float] = []

    def show(step: Step) -> None:
        if step.heldout is not None:
            latest[:] = [step.heldout]
        progress.step(Reading(step.stats.loss, latest[0] if latest else None, step.stats.lr,
                              step.layers, step.n_tokens, status_bytes("RssAnon")))

    try:
        with liblisa.Batch(model, shape.batch_size, shape.max_tokens) as batch:
            return finetune(model, batch, session.train, session.heldout, recipe, show)
    finally:
        progress.close()


def run(session: Session) -> None:
    plans = alternatives(liblisa.ModelConfig.read(session.model_directory), session.shape,
                         session.recipe)
    begin = time.monotonic()
    with AnonymousPeak() as peak, liblisa.Context() as context, \
            liblisa.Model.open(context, session.model_directory) as model:
        before = session.answers(model)
        history = train(session, model)
        after = session.answers(model)
        model.save(session.output / "out")
        used = context.memory()
        n_layers = model.config.n_layers
    seconds = time.monotonic() - begin
    curve = session.output / "loss.png"
    report.draw_curve(history, n_layers, curve)
    own = next(iter(plans.values()))
    answered = [report.Answered(messages[0]["content"], messages[1]["content"], old, new)
                for messages, old, new in zip(session.shown, before, after)]
    print("", report.answers(answered), report.losses(history),
          report.memory_plans(plans), report.memory_classes(own, used), sep="\n\n")
    print(f"\nMeasured by the system: {peak.grown / report.MIB:.0f} MiB of anonymous memory at the "
          f"peak, planned {own.total / report.MIB:.0f} MiB "
          f"({100 * (peak.grown / own.total - 1):+.1f} %)")
    print(f"Whole process at its peak, Python and mapped files included: "
          f"{status_bytes('VmHWM') / report.MIB:.0f} MiB; time {clock(seconds)}")
    print(f"Loss curve: {curve}\nFine-tuned model: {session.output / 'out'}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tunes a chat model with LISA.")
    parser.add_argument("model", type=Path, help="a Hugging Face directory")
    parser.add_argument("data", type=Path, help="holds train.jsonl and heldout.jsonl")
    parser.add_argument("output", type=Path, help="gets out/ and loss.png")
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        run(Session(parse(sys.argv[1:])))
    except (liblisa.LisaError, OSError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

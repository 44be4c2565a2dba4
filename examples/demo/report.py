"""What came of the demo's run: answers and loss before and after, memory as planned and as taken.

Usage: report.py MODEL_DIRECTORY OUTPUT_DIRECTORY_OF_FINETUNE

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Sequence

import liblisa
from liblisa import cli as command
from liblisa.data import Formatter, read_records

SHOWN = (1, 10, 38)  # held-out questions whose answers are printed
ANSWER_TOKENS = 64
MIB = 1 << 20


def answers(directory: Path, questions: Sequence[str]) -> List[str]:
    """What the model in a directory says to each question, greedily."""
    chat = Formatter.open(directory)
    with liblisa.Context() as context, liblisa.Model.open(context, directory) as model:
        return [
            chat.decode(
                model.generate(
                    chat.prompt([{"role": "user", "content": question}]),
                    max_new_tokens=ANSWER_TOKENS,
                    stop_tokens=sorted(chat.end_tokens),
                )
            )
            for question in questions
        ]


def print_answers(model: Path, result: Path, heldout: Path) -> None:
    records = list(read_records(heldout))
    shown = [records[number].content.messages for number in SHOWN]
    questions = [messages[0]["content"] for messages in shown]
    before, after = answers(model, questions), answers(result, questions)
    for question, messages, old, new in zip(questions, shown, before, after):
        expected = messages[1]["content"]
        print()
        for label, text in zip(
            ("Question", "before", "after", "expected"), (question, old, new, expected)
        ):
            print(textwrap.fill(f"{label:<9}{text}", width=98, subsequent_indent=" " * 9))


def print_losses(metrics: Path) -> None:
    lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    losses = [values["eval_loss"] for values in lines if "eval_loss" in values]
    first, last = losses[0], losses[-1]
    print(
        f"\nHeld-out loss: {first:.3f} before, {last:.3f} after ({100 * (last / first - 1):+.0f} %)"
    )


def print_memory(memory: Dict[str, Any]) -> None:
    """By class, planned and held at most, and the system's own count beside their sum."""
    print(f"\n{'MiB by class':<20}{'planned':>10}{'peak':>10}")
    for name, planned in memory["planned"].items():
        held = memory["held"].get(name, 0)
        if max(planned, held) >= MIB:
            print(f"{name:<20}{planned / MIB:>10.0f}{held / MIB:>10.0f}")
    planned, anonymous = memory["planned_total"], memory.get("anonymous")
    if memory["backend"] == "cpu" and anonymous is not None:
        print(
            f"\nAnonymous memory at its peak, as the system counts it: {anonymous / MIB:.0f} MiB; "
            f"planned: {planned / MIB:.0f} MiB ({100 * (anonymous / planned - 1):+.1f} %)"
        )


def print_plans(model: Path, config: Dict[str, Any], longest: int) -> None:
    """What LISA, LoRA and full AdamW take for batches like the run's."""
    options = ("batch", "active", "head-rows", "backend")
    words = [word for name in options for word in (f"--{name}", str(config[name]))]
    print(flush=True)
    command.main(["plan", str(model), "--tokens", str(longest), *words])


def main(model: Path, out: Path) -> None:
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    print_answers(model, out / "model", Path(config["valid"]))
    print_losses(out / "metrics.jsonl")
    print_plans(model, config, run["longest"])
    print_memory(run["memory"])
    print(f"\nPictures: {out}/loss.png, {out}/layers.png\nFine-tuned model: {out}/model")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (liblisa.LisaError, OSError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

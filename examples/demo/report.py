"""The demo's closing words: tables and the loss curve.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple, Sequence

import liblisa

from finetune import History

MIB = 1 << 20


class Answered(NamedTuple):
    """A held-out question with the answers of the model before and after."""

    question: str
    expected: str
    before: str
    after: str


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as need be; all but the first are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def mib(size: int) -> str:
    return f"{size / MIB:.0f}"


def losses(history: History) -> str:
    first, last = history.heldout[0][1], history.heldout[-1][1]
    return (f"Held-out loss: {first:.3f} before, {last:.3f} after "
            f"({100 * (last / first - 1):+.0f} %)")


def answers(answered: Sequence[Answered]) -> str:
    def entry(label: str, text: str) -> str:
        return textwrap.fill(f"{label:<9}{text}", width=98, subsequent_indent=" " * 9)

    return "\n\n".join("\n".join([
        entry("Question", item.question), entry("before", item.before),
        entry("after", item.after), entry("expected", item.expected)]) for item in answered)


def memory_classes(plan: liblisa.Plan, used: dict[str, liblisa.MemoryUse]) -> str:
    """This run by class: planned, and the most that the library held."""
    rows = [["MiB by class", "planned", "peak"]]
    rows += [[name, mib(size), mib(used[name].peak)]
             for name, size in plan.bytes.items() if size or used[name].peak]
    return table(rows)


def anonymous_memory(peak: int, plan: liblisa.Plan, backend: str) -> str:
    """The system's count of the run; on a device most of the plan is not there."""
    said = f"Anonymous memory at its peak, as the system counts it: {mib(peak)} MiB"
    if backend != "cpu":
        return f"{said}, beside the memory of {backend}"
    return f"{said}; planned: {mib(plan.total)} MiB ({100 * (peak / plan.total - 1):+.1f} %)"


def memory_plans(plans: dict[str, liblisa.Plan]) -> str:
    rows = [["Planned MiB", "weights", "gradients", "AdamW state", "the rest", "total"]]
    for name, plan in plans.items():
        weights = plan.bytes["private weights"]
        gradients = plan.bytes["gradients"]
        state = plan.bytes["moments"] + plan.bytes["low bits"]
        rest = plan.total - weights - gradients - state
        rows.append([name, *map(mib, (weights, gradients, state, rest, plan.total))])
    return table(rows)


def draw_curve(history: History, n_layers: int, path: Path) -> None:
    """Losses above, the layers that trained below; a thin line marks a swap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(
        2, 1, sharex=True, figsize=(9, 6.5), height_ratios=(3, 2), layout="constrained")
    numbers = [step.number for step in history.steps]
    for axis in (upper, lower):
        for step in history.steps:
            if step.stats.swapped:
                axis.axvline(step.number - 0.5, color="0.85", linewidth=0.8, zorder=0)
    upper.plot(numbers, [step.stats.loss for step in history.steps], color="tab:blue",
               linewidth=1, label="training batch")
    upper.plot(*zip(*history.heldout), color="tab:orange", marker="o", label="held-out")
    upper.plot([], [], color="0.85", label="swap")
    upper.set(ylabel="loss (nats per answer token)", title="LISA fine-tuning", ylim=(0, None))
    upper.legend()
    active = [(step.number, layer) for step in history.steps for layer in step.layers]
    lower.scatter(*zip(*active), marker="s", s=10, color="tab:blue")
    lower.set(xlabel="step", ylabel="layer that trains", ylim=(-1, n_layers))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

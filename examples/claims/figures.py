"""The pictures of docs/results.md, of the result lines alone. Needs matplotlib.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

import studies  # noqa: E402
from intervals import loss_of  # noqa: E402
from lines import NotYet, Result, Results  # noqa: E402
from spec import Spec  # noqa: E402
from summaries import (  # noqa: E402
    PHASES,
    Group,
    changes,
    group_of,
    groups_of,
    mean_norms,
    norm_results,
    phases,
)
from tables import MIB  # noqa: E402

# Okabe and Ito's, which people who see colours otherwise can tell apart.
COLOURS = {
    "LISA": "#0072B2",
    "LoRA r 16": "#D55E00",
    "LoRA r 128": "#E69F00",
    "full AdamW": "#009E73",
}
MEMORY = {  # classes as they are drawn beside the weights: what belongs together
    "gradients": ("gradients",),
    "optimizer": ("moments", "low bits"),
    "activations": ("activations", "recompute", "logits"),
    "the rest": ("workspace", "evaluation", "staging"),
}
SHADES = ("#4C4C4C", "#0072B2", "#56B4E9", "#E69F00", "#BBBBBB")
SMOOTH = 10  # steps of a mean of training losses
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "liblisa",  # the same lines come to the same file
    "svg.fonttype": "none",
}


def draw_all(results: Results, directory: Path) -> None:
    """Every picture whose runs are through."""
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, draw in PICTURES.items():
            path = directory / f"{name}.svg"
            try:
                figure = draw(results)
            except NotYet:
                print(f"not measured yet: {path}")
                pyplot.close("all")
                continue
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)


def _grid(n_rows: int, n: int) -> Tuple[Any, Sequence[Sequence[Any]]]:
    size = (4.8 * n, 3.8 * n_rows)
    return pyplot.subplots(n_rows, n, figsize=size, layout="constrained", squeeze=False)


def _panels(n: int) -> Tuple[Any, Sequence[Any]]:
    figure, (axes,) = _grid(1, n)
    return figure, axes


def _mean_curve(runs: List[Result], key: str) -> Tuple[List[int], List[float]]:
    by_step: Dict[int, List[float]] = {}
    for run in runs:
        for line in run.of(key):
            by_step.setdefault(line["step"], []).append(line[key])
    return list(by_step), [statistics.fmean(values) for values in by_step.values()]


def _smoothed(values: List[float]) -> List[float]:
    return [statistics.fmean(values[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(values))]


def draw_curves(results: Results) -> Any:
    """Training losses as the paper draws them, of all seeds; losses to choose by, of the first."""
    figure, axes = _panels(len(studies.TEXTS))
    for axis, text in zip(axes, studies.TEXTS):
        for name, (runs,) in groups_of(results, text).items():
            steps, losses = _mean_curve(runs, "loss")
            axis.plot(steps, _smoothed(losses), color=COLOURS[name], linewidth=1, alpha=0.6)
            steps, losses = _mean_curve(runs[:1], "valid")
            axis.plot(steps, losses, color=COLOURS[name], marker="o", markersize=4, label=name)
        axis.set(title=text, xlabel="step of 512 tokens", ylabel="loss")
    axes[-1].legend()
    return figure


def draw_rates(results: Results) -> Any:
    """Losses by which the rates were chosen."""
    figure, axes = _panels(len(studies.TEXTS))
    for axis, text in zip(axes, studies.TEXTS):
        for name in studies.BASE:
            runs = studies.sweep(results, studies.method(text, name)).runs
            points = sorted((run.lr, studies.chosen_by(results.need(run))) for run in runs)
            axis.plot(*zip(*points), marker="o", color=COLOURS[name], label=name)
        axis.set(title=text, xscale="log", xlabel="learning rate", ylabel="loss to choose by")
    axes[-1].legend()
    return figure


def draw_ablation(results: Results) -> Any:
    """A line for each number of layers over the steps of a period."""
    best = studies.best_of(results, studies.TEXTS[0], "LISA")
    found = studies.table(best)
    figure, (axis,) = _panels(1)
    places = range(len(studies.INTERVALS))
    for active, shade in zip(studies.ACTIVE, ("#9ECAE1", "#4292C6", "#0072B2", "#08306B")):
        runs = [results.need(found[active, interval]) for interval in studies.INTERVALS]
        losses = [loss_of(run.end["test"]) for run in runs]
        axis.plot(places, losses, marker="o", color=shade, label=f"γ = {active}")
        if active == best.active:
            _draw_spreads(axis, results, best, shade)
    axis.set_xticks(places, [*map(str, studies.INTERVALS[:-1]), "never"])
    axis.set(xlabel="K, steps between two draws", ylabel="held-out loss")
    figure.legend(loc="outside upper left", ncols=len(studies.ACTIVE))
    return figure


def _draw_spreads(axis: Any, results: Results, best: Spec, shade: str) -> None:
    """Mean and standard deviation over other draws of layers, where they were measured."""
    for interval, specs in {
        best.interval: studies.drawn(best),
        studies.NEVER: studies.drawn_once(best),
    }.items():
        place = studies.INTERVALS.index(interval)
        losses = Group([results.need(spec) for spec in specs]).finite
        if len(losses) > 1:
            mean, deviation = statistics.fmean(losses), statistics.stdev(losses)
            axis.errorbar([place], [mean], yerr=[deviation], fmt="D", capsize=3, color=shade)


def _draw_differences(axis: Any, groups: Dict[str, Group]) -> None:
    """Of all to the first, with their intervals, from the top down."""
    first, *others = groups.values()
    for place, group in enumerate(others):
        estimate = group.than(first)
        axis.errorbar(
            [estimate.value],
            [-place],
            xerr=[estimate.half],
            marker="o",
            capsize=3,
            color=COLOURS["LISA"],
        )
    axis.set_yticks([-place for place in range(len(others))], list(groups)[1:])
    axis.axvline(0, color="#555555", linewidth=1)
    axis.set_xlabel(f"held-out loss more than {next(iter(groups))}")


def draw_sampling(results: Results) -> Any:
    """Samplings against uniform, and what trains all the time against both."""
    best = studies.best_of(results, studies.TEXTS[0], "LISA")
    figure, axes = _panels(2)
    compared = {
        "samplings": studies.samplings(best),
        "trained all the time": studies.always(results),
    }
    for axis, (title, specs) in zip(axes, compared.items()):
        axis.set_title(title)
        groups = {name: group_of(results, spec) for name, spec in specs.items()}
        _draw_differences(axis, groups)
    return figure


def draw_norms(results: Results) -> Any:
    """Figure 2 of the paper: mean weight norms by group; below, what became of them."""
    shapes = norm_results(results)
    figure, rows = _grid(2, len(shapes))
    for above, below, (shape, runs) in zip(*rows, shapes.items()):
        for name, run in runs.items():
            _draw_norms_of(above, name, run)
            said = ", merged" if run.spec.method == "lora" else ""
            change = [100 * part for part in changes(run)]
            below.plot(change, color=COLOURS[name], marker=".", label=name + said)
        above.set(title=f"{shape}'s shape", yscale="log", ylabel="mean norm over training")
        below.set_ylabel("change by the end, %")
        for axis in (above, below):
            axis.set_xticks([0, len(change) - 1], ["embedding", "final norm"])
            axis.legend()
    return figure


def _draw_norms_of(axis: Any, name: str, run: Result) -> None:
    colour = COLOURS[name]
    if run.spec.method != "lora":
        axis.plot(mean_norms(run, "norms"), color=colour, marker=".", label=name)
        return
    axis.plot(mean_norms(run, "norms"), color=colour, marker=".", label=f"{name}, frozen base")
    trained = [value or None for value in mean_norms(run, "adapter")]
    axis.plot(trained, color=colour, linestyle="--", label=f"{name}, A and B alone")


def _draw_bars(axis: Any, names: List[str], parts: Dict[str, List[float]]) -> None:
    """One on the other, from the bottom up."""
    below = [0.0] * len(names)
    for (part, heights), shade in zip(parts.items(), SHADES):
        axis.bar(names, heights, bottom=below, color=shade, label=part, width=0.6)
        below = [a + b for a, b in zip(below, heights)]
    axis.set_ylim(0, 1.35 * max(below))  # room for the legend
    axis.legend(ncols=2)


def draw_memory(results: Results) -> Any:
    """Planned bytes, by class, as the paper's bars."""
    groups = groups_of(results, studies.TEXTS[0])
    runs = [group.runs[0] for group in groups.values()]
    weights = [run.begin["planned"].get("private weights", 0) for run in runs]
    parts = {
        "weights": [(n + studies.still_mapped(run)) / MIB for n, run in zip(weights, runs)],
        **{
            part: [sum(run.begin["planned"].get(c, 0) for c in classes) / MIB for run in runs]
            for part, classes in MEMORY.items()
        },
    }
    figure, (axis,) = _panels(1)
    _draw_bars(axis, list(groups), parts)
    axis.set_ylabel("MiB")
    return figure


def draw_time(results: Results) -> Any:
    """Seconds of a step, by phase."""
    found = {name: steps for name, steps in phases(results).items() if name in studies.BASE}
    figure, (axis,) = _panels(1)
    parts = {phase: [steps.mean(phase) for steps in found.values()] for phase in PHASES}
    _draw_bars(axis, list(found), parts)
    axis.set_ylabel("seconds of a step")
    return figure


PICTURES = {
    "curves": draw_curves,
    "rates": draw_rates,
    "ablation": draw_ablation,
    "sampling": draw_sampling,
    "norms": draw_norms,
    "memory": draw_memory,
    "time": draw_time,
}

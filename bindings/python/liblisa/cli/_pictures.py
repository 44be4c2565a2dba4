"""Pictures of a run, from its metrics.jsonl. Needs matplotlib."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from .._metrics import read_metrics
from ..data._extras import need
from ._progress import Average

Values = Dict[str, Any]

# Okabe and Ito's, which people who see colours otherwise can tell apart.
_TRAINING, _VALIDATION, _QUIET = "#0072B2", "#D55E00", "#8C8C8C"
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 130,
}
_UNKNOWN = dict.fromkeys(("active", "interval", "rank"), "?")
_MOST_SWAPS = 100  # that are marked: more would be a band
_MOST_COLUMNS = 240  # of the heat map: more steps than that share a column


class History(NamedTuple):
    """The lines of a metrics.jsonl."""

    steps: List[Values]
    validations: List[Tuple[int, float]]

    @classmethod
    def read(cls, path: Path) -> History:
        """ValueError where there is nothing to draw."""
        lines = read_metrics(path)
        steps = [values for values in lines if "loss" in values]
        if not steps:
            raise ValueError(f"{path}: no step yet")
        measured = [(v["current_steps"], v["eval_loss"]) for v in lines if "eval_loss" in v]
        return cls(steps, measured)

    @property
    def numbers(self) -> List[int]:
        """Steps, counted from 1."""
        return [values["current_steps"] for values in self.steps]

    @property
    def swaps(self) -> List[int]:
        """Steps that were the first of other layers."""
        pairs = zip(self.steps, self.steps[1:])
        return [
            after["current_steps"]
            for before, after in pairs
            if before.get("lisa_layers") != after.get("lisa_layers")
        ]


def _save(figure: Any, path: Path) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(part, format="png")
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _loss_axis(axis: Any, history: History) -> None:
    numbers = history.numbers
    losses = [values["loss"] for values in history.steps]
    average = Average(1 - 1 / max(10, len(losses) // 50))
    axis.plot(numbers, losses, color=_TRAINING, alpha=0.35, linewidth=0.9, label="training")
    axis.plot(
        numbers,
        [average.add(loss) for loss in losses],
        color=_TRAINING,
        linewidth=2.2,
        label="its moving average",
    )
    if history.validations:
        axis.plot(
            *zip(*history.validations),
            color=_VALIDATION,
            linewidth=1.5,
            marker="o",
            markersize=5,
            markeredgecolor="white",
            label="validation",
            zorder=3,
        )
        _mark_ends(axis, history.validations)
    if 0 < len(history.swaps) <= _MOST_SWAPS:
        axis.plot(
            [step - 0.5 for step in history.swaps],
            [0.016] * len(history.swaps),
            linestyle="",
            marker="|",
            markersize=8,
            color=_QUIET,
            transform=axis.get_xaxis_transform(),
            label="other layers take over",
        )
    axis.set_ylabel("loss (nats a token)")
    axis.margins(x=0.02)
    axis.legend(loc="upper right", ncols=1)


def _mark_ends(axis: Any, validations: Sequence[Tuple[int, float]]) -> None:
    """Says the first validation loss and the lowest."""
    best = min(validations, key=lambda pair: pair[1])
    said = {validations[0]: "", best: "lowest " if len(validations) > 2 else ""}
    for (step, loss), word in said.items():
        right = step > 0.8 * validations[-1][0]  # where a label would leave the picture
        axis.annotate(
            f"{word}{loss:.3f}",
            (step, loss),
            xytext=(0, 9) if right else (6, 7),
            ha="right" if right else "left",
            textcoords="offset points",
            color=_VALIDATION,
            fontsize=9,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def draw_loss(history: History, path: Path, title: str) -> None:
    """Training and validation loss, the steps at which layers were swapped, the learning rate."""
    figures = need("matplotlib.figure", "plots")
    ticker = need("matplotlib.ticker", "plots")
    with need("matplotlib.style", "plots").context(["default", _STYLE]):
        figure = figures.Figure(figsize=(9, 5.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        _loss_axis(upper, history)
        upper.set_title(title)
        rates = [values["learning_rate"] for values in history.steps]
        lower.plot(history.numbers, rates, color=_QUIET, linewidth=1.5)
        lower.set(xlabel="step", ylabel="learning rate")
        lower.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        lower.set_ylim(0, 1.08 * max(rates) or 1)
        lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        figure.align_ylabels()
        _save(figure, path)


def _shares(history: History, n_layers: int) -> Tuple[List[List[float]], int]:
    """The share of the steps of each column at which each layer trained, and steps a column."""
    width = -(-len(history.steps) // _MOST_COLUMNS)
    columns = [history.steps[at : at + width] for at in range(0, len(history.steps), width)]
    rows = [
        [sum(layer in values["lisa_layers"] for values in part) / len(part) for part in columns]
        for layer in range(n_layers)
    ]
    return rows, width


def draw_layers(history: History, path: Path, title: str, n_layers: int) -> None:
    """Which layers trained when, and for what share of all steps."""
    figures = need("matplotlib.figure", "plots")
    ticker = need("matplotlib.ticker", "plots")
    rows, width = _shares(history, n_layers)
    first, last = history.numbers[0], history.numbers[-1]
    with need("matplotlib.style", "plots").context(["default", _STYLE]):
        height = min(max(3.2, 1.6 + 0.14 * n_layers), 9)
        figure = figures.Figure(figsize=(9, height), layout="constrained")
        axis, beside = figure.subplots(1, 2, sharey=True, width_ratios=(6, 1))
        axis.imshow(
            rows,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap="Blues",
            vmin=0,
            vmax=1.15,
            extent=(first - 0.5, last + 0.5, -0.5, n_layers - 0.5),
        )
        axis.grid(False)
        for layer in range(1, n_layers):
            axis.axhline(layer - 0.5, color="#EDEDED", linewidth=0.6)
        axis.set(xlabel="step; blue where the layer trains", ylabel="layer", title=title)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axis.yaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        if width > 1:
            axis.set_xlabel(f"step; the darker, the more of {width} steps the layer trained")
        shares = [100 * _share(history, layer) for layer in range(n_layers)]
        beside.barh(range(n_layers), shares, color=_TRAINING, height=0.75)
        beside.set(xlabel="% of steps")
        beside.tick_params(left=False)
        beside.spines["left"].set_visible(False)
        beside.grid(axis="y", visible=False)
        _save(figure, path)


def _share(history: History, layer: int) -> float:
    trained = sum(layer in values["lisa_layers"] for values in history.steps)
    return trained / len(history.steps)


def _read_object(path: Path) -> Values:
    """A JSON object; nothing where it is not there or is none: a picture can do without."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _title(directory: Path, n_layers: int) -> str:
    config = _read_object(directory / "config.json")
    if "model" not in config:
        return str(directory.resolve().name)
    ways = {
        "lisa": "LISA, {active} of {n_layers} layers at a time, others every {interval} steps",
        "lora": "LoRA, rank {rank}",
        "full": "full AdamW",
    }
    way = ways.get(str(config.get("method")), "")
    way = way.format_map({**_UNKNOWN, **config, "n_layers": n_layers})
    return f"{Path(str(config['model'])).name}: {way}"


def draw(directory: Path) -> List[Path]:
    """Draws what a run's directory has figures of; returns the files."""
    history = History.read(directory / "metrics.jsonl")
    is_lisa = all("lisa_layers" in values for values in history.steps)
    seen = max((layer for v in history.steps for layer in v.get("lisa_layers", ())), default=0)
    said = _read_object(directory / "run.json").get("n_layers")
    n_layers = max(said if isinstance(said, int) else 0, seen + 1)
    title = _title(directory, n_layers)
    made = [directory / "loss.png"]
    draw_loss(history, made[0], title)
    if is_lisa:
        made.append(directory / "layers.png")
        draw_layers(history, made[1], title, n_layers)
    return made

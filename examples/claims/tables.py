"""The tables of docs/results.md, of the result lines alone.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence

import studies
from intervals import Estimate, difference, loss_of, over_seeds
from lines import TIMES, NotYet, Result, Results, read_lines
from spec import Spec

MIB = 1 << 20
PHASES = ("mask", "forward", "backward", "update")
DRAWN_OF = {  # the studies of a picture
    "curves": ("quality",),
    "rates": ("quality",),
    "memory": ("quality",),
    "ablation": ("ablation",),
    "sampling": ("sampling", "ends"),
    "norms": ("norms", "quality"),
}
NOT_YET = "*Not measured yet.*"
DIVERGED = "diverged"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column is words."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ruler, *rows))


def about(estimate: Estimate, sign: str = "") -> str:
    """Value and half of its interval; of a difference with its sign."""
    if not math.isfinite(estimate.value):
        return DIVERGED
    return f"{estimate.value:{sign}.4f} ± {estimate.half:.4f}"


def more(estimate: Estimate) -> str:
    """A difference."""
    return about(estimate, "+")


def mib(n_bytes: float) -> str:
    """Whole MiB."""
    return f"{n_bytes / MIB:,.0f}"


class Group(NamedTuple):
    """The runs of a spec with every seed."""

    runs: List[Result]

    @property
    def losses(self) -> List[float]:
        """Of the part to judge by."""
        return [loss_of(run.end["test"]) for run in self.runs]

    @property
    def loss(self) -> Estimate:
        """Over seeds."""
        return over_seeds(self.losses)

    def than(self, other: Group) -> Estimate:
        """How much more than another's, paired."""
        ours, theirs = ([run.end["test"] for run in group.runs] for group in (self, other))
        return difference(ours, theirs)

    @property
    def greedy(self) -> float:
        """The part of the targets that were the most likely token."""
        return statistics.fmean(map(greedy, self.runs))

    @property
    def layers(self) -> str:
        """How many train at a time, and how many ever did."""
        masks = [line["layers"] for run in self.runs for line in run.of("layers")]
        ever = [
            {layer for line in run.of("layers") for layer in line["layers"]} for run in self.runs
        ]
        return f"{statistics.fmean(map(len, masks)):.1f}; {statistics.fmean(map(len, ever)):.0f}"


def greedy(run: Result) -> float:
    """Of one run."""
    documents = run.end["test"]
    if documents is None:
        return math.nan
    return math.fsum(part[2] for part in documents) / math.fsum(part[1] for part in documents)


def group_of(results: Results, spec: Spec) -> Group:
    """NotYet while a seed is missing."""
    return Group([results.need(seeded) for seeded in studies.seeded(spec)])


def groups_of(results: Results, text: str) -> Dict[str, Group]:
    """The methods of the study of quality, each at its best rate."""
    return {name: group_of(results, studies.best_of(results, text, name)) for name in studies.BASE}


class Tables:
    """Each as Markdown, by the name that the template asks for."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def text(self, asked: str) -> str:
        """`name argument`, such as "quality gsm8k"."""
        name, *arguments = asked.split()
        make: Optional[Callable[..., str]] = getattr(self, f"make_{name}", None)
        if make is None:
            raise ValueError(f"results.template.md asks for {asked}, which there is not")
        try:
            return make(*arguments)
        except NotYet:
            return NOT_YET

    def make_quality(self, text: str) -> str:
        """Every method of the study of quality at its best rate."""
        untouched = self._results.need(Spec(text, "none"))
        groups = groups_of(self._results, text)
        loss, right = loss_of(untouched.end["test"]), f"{greedy(untouched):.1%}"
        rows = [["untouched", "", "", f"{loss:.4f}", "", right, ""]]
        for name, group in groups.items():
            run = group.runs[0]
            rows.append(
                [
                    name,
                    f"{run.begin['trained'] / 1e6:.1f} M",
                    f"{run.spec.lr:g}",
                    about(group.loss),
                    "" if name == "LISA" else more(group.than(groups["LISA"])),
                    f"{group.greedy:.1%}",
                    mib(studies.footprint(run)),
                ]
            )
        head = ["", "trained at a time", "rate", "held-out loss", "more than LISA", "greedy", "MiB"]
        return markdown(head, rows)

    def make_rates(self, text: str) -> str:
        """Losses by which the rates were chosen."""
        found: Dict[str, Dict[float, float]] = {}
        for name in studies.BASE:
            runs = studies.sweep(self._results, studies.method(text, name)).runs
            found[name] = {run.lr: studies.chosen_by(self._results.need(run)) for run in runs}
        rates = sorted({rate for losses in found.values() for rate in losses})
        rows = [
            [name, *(_choice(losses, rate) for rate in rates)] for name, losses in found.items()
        ]
        return markdown(["", *(f"{rate:g}" for rate in rates)], rows)

    def make_ablation(self) -> str:
        """Held-out loss by layers at a time and steps of a period."""
        found = studies.table(self._best_lisa())
        rows = []
        for active in studies.ACTIVE:
            runs = [self._results.need(found[active, k]) for k in studies.INTERVALS]
            losses = [f"{loss_of(run.end['test']):.4f}" for run in runs]
            rows.append([f"γ = {active}", *losses, mib(studies.footprint(runs[0]))])
        names = [f"K = {interval}" for interval in studies.INTERVALS[:-1]]
        return markdown(["", *names, "never", "MiB"], rows)

    def make_draws(self) -> str:
        """Spread over draws of layers, and over seeds of everything."""
        best, need = self._best_lisa(), self._results.need
        groups = {
            "γ = 2, K = 20: draws of layers": Group([need(run) for run in studies.drawn(best)]),
            "γ = 2, never: the layers": Group([need(run) for run in studies.drawn_once(best)]),
            "γ = 2, K = 20: order of the rows and draws": group_of(self._results, best),
        }
        rows = []
        for name, group in groups.items():
            losses = [loss for loss in group.losses if math.isfinite(loss)]
            spread = f"{min(losses):.4f} to {max(losses):.4f}"
            mean, deviation = statistics.fmean(losses), statistics.stdev(losses)
            rows.append([name, str(len(losses)), f"{mean:.4f}", spread, f"{deviation:.4f}"])
        head = ["runs that differ in", "runs", "mean loss", "from, to", "standard deviation"]
        return markdown(head, rows)

    def make_sampling(self) -> str:
        """What differs from uniform sampling in one thing."""
        return self._against("uniform", studies.samplings(self._best_lisa()))

    def make_ends(self) -> str:
        """Embedding and head, on and off."""
        return self._against("embedding and head", studies.always(self._results))

    def make_budget(self) -> str:
        """Methods in the same memory."""
        rows = []
        for budget in studies.budgets(self._results):
            groups = {name: group_of(self._results, s) for name, s in budget.methods.items()}
            first = next(iter(groups.values()))
            for name, group in groups.items():
                run = group.runs[0]
                rows.append(
                    [
                        mib(budget.bytes) if group is first else "",
                        name,
                        f"{run.spec.lr:g}",
                        about(group.loss),
                        "" if group is first else more(group.than(first)),
                        mib(studies.footprint(run)),
                        mib(run.end["resident"]),
                    ]
                )
        head = ["MiB", "", "rate", "held-out loss", "more than the first", "planned", "resident"]
        return markdown(head, rows)

    def make_memory(self) -> str:
        """Bytes by class, as planned; their sum, as held, and as the system counts."""
        groups = groups_of(self._results, studies.TEXTS[0])
        runs = {name: group.runs[0] for name, group in groups.items()}
        classes = dict.fromkeys(key for run in runs.values() for key in run.begin["planned"])
        rows = [
            [name, *(mib(run.begin["planned"].get(name, 0)) for run in runs.values())]
            for name in classes
            if any(run.begin["planned"].get(name, 0) >= MIB for run in runs.values())
        ]
        rows[0][0] += ", still read at each step"
        rows[0][1:] = [mib(studies.still_mapped(run)) for run in runs.values()]
        rows.append(["**planned**", *(mib(studies.footprint(run)) for run in runs.values())])
        held = [
            studies.limited(run.end["held"]) + studies.still_mapped(run) for run in runs.values()
        ]
        rows.append(["held, sum of the classes' peaks", *map(mib, held)])
        rows.append(["resident at the peak", *(mib(run.end["resident"]) for run in runs.values())])
        return markdown(["MiB", *runs], rows)

    def make_time(self) -> str:
        """Seconds of the phases of a step."""
        found = phases(self._results)
        lisa = sum(found["LISA"].values())
        rows = []
        for name, parts in found.items():
            total = sum(parts.values())
            said = [f"{parts[phase]:.3f}" for phase in PHASES]
            rows.append([name, *said, f"{total:.3f}", f"{total / lisa:.2f}"])
        return markdown(["seconds", "swap", *PHASES[1:], "step", "of LISA's"], rows)

    def make_norms(self) -> str:
        """Mean weight norms over the measurements of a run, by kinds of groups."""
        rows = []
        for shape, runs in norm_results(self._results).items():
            for name, run in runs.items():
                values = mean_norms(run, "norms")
                layers = values[1:-1]
                what = ", frozen base" if run.spec.method == "lora" else ""
                rows.append(
                    [
                        f"{shape}, {name}{what}",
                        f"{values[0]:.1f}",
                        f"{min(layers):.1f} to {max(layers):.1f}",
                        f"{values[-1]:.1f}",
                        f"{_moved(run):+.2%}",
                    ]
                )
                if run.spec.method == "lora":
                    rows.append(_adapter_row(f"{shape}, {name}: A and B alone", run))
        head = ["", "embedding, which is the head", "layers", "final norm", "layers, first to last"]
        return markdown(head, rows)

    def make_picture(self, name: str) -> str:
        """A picture, once its study is whole."""
        if name == "time":
            phases(self._results)
        for study in DRAWN_OF.get(name, ()):
            left = studies.missing(study, self._results)
            if left:
                raise NotYet(left)
        return f"![{name}](results/{name}.svg)"

    def make_machine(self) -> str:
        """What it was measured on."""
        machines = {_machine(path) for path in self._results.directory.glob("*.jsonl")}
        return "; ".join(sorted(machines)) or NOT_YET

    def make_runs(self) -> str:
        """How many there are."""
        return f"{sum(1 for _ in self._results.directory.glob('*_*.jsonl'))} runs"

    def _best_lisa(self) -> Spec:
        return studies.best_of(self._results, studies.TEXTS[0], "LISA")

    def _against(self, usual: str, specs: Dict[str, Spec]) -> str:
        groups = {name: group_of(self._results, spec) for name, spec in specs.items()}
        rows = []
        for name, group in groups.items():
            run = group.runs[0]
            rows.append(
                [
                    name,
                    about(group.loss),
                    "" if name == usual else more(group.than(groups[usual])),
                    group.layers,
                    f"{run.begin['trained'] / 1e6:.1f} M",
                    mib(studies.footprint(run)),
                ]
            )
        head = [
            "",
            "held-out loss",
            "more than the first",
            "layers at a time; ever",
            "trained",
            "MiB",
        ]
        return markdown(head, rows)


def _machine(path: Path) -> str:
    machine = read_lines(path)[0]["machine"]
    return f"{machine['processor']}, {machine['threads']} threads, {machine['system']}"


def _choice(losses: Dict[float, float], rate: float) -> str:
    if rate not in losses:
        return ""
    loss = losses[rate]
    said = f"{loss:.4f}" if math.isfinite(loss) else DIVERGED
    return f"**{said}**" if loss == min(losses.values()) else said


def mean_norms(run: Result, key: str) -> List[float]:
    """Of each group, over the measurements behind step 0."""
    measured = [line[key] for line in run.of(key) if line["step"] > 0]
    return [statistics.fmean(values) for values in zip(*measured)]


def _moved(run: Result) -> float:
    first, *_, last = (line["norms"] for line in run.of("norms"))
    last = run.end.get("merged", last)
    return statistics.fmean(end / begin - 1 for begin, end in zip(first[1:-1], last[1:-1]))


def _adapter_row(name: str, run: Result) -> List[str]:
    layers = mean_norms(run, "adapter")[1:-1]
    return [name, "", f"{min(layers):.1f} to {max(layers):.1f}", "", ""]


def norm_results(results: Results) -> Dict[str, Dict[str, Result]]:
    """Runs by shape and method."""
    found: Dict[str, Dict[str, Result]] = {"GPT-2": {}, "LLaMA": {}}
    for name in studies.NORMS_OF:
        small = studies.at_best_rate(results, studies.of_gpt2(name))
        found["GPT-2"][name] = results.need(small)
        found["LLaMA"][name] = results.need(studies.best_of(results, studies.TEXTS[1], name))
    return found


def phases(results: Results) -> Dict[str, Dict[str, float]]:
    """Seconds by method and phase: medians, and of the rare swaps the mean over all steps."""
    path = results.directory / TIMES
    if not path.is_file():
        raise NotYet([])
    lines = read_lines(path)
    if "rounds" not in lines[-1]:
        raise ValueError(f"{path}: it ends too early")
    found: Dict[str, Dict[str, float]] = {}
    for name in lines[0]["specs"]:
        steps = [line["seconds"] for line in lines if line.get("method") == name]
        swap, *others = zip(*steps)
        medians = map(statistics.median, others)
        found[name] = dict(zip(PHASES, [statistics.fmean(swap), *medians]))
    return found

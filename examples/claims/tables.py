"""The tables of docs/results.md, of the result lines alone.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
import statistics
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence

import studies
from intervals import Estimate, difference, loss_of, over_seeds
from lines import TIMES, NotYet, Result, Results, read_lines
from spec import Spec
from timing import timed_before

MIB = 1 << 20
TAKEN = ("planned MiB", "resident MiB", "s a step")
PHASES = ("mask", "forward", "backward", "update")
DRAWN_OF = {  # the studies of a picture
    "curves": ("quality",),
    "rates": ("quality",),
    "memory": ("quality",),
    "ablation": ("ablation",),
    "sampling": ("sampling", "ends"),
    "norms": ("norms", "quality"),
}
SAID = {  # methods as the words of the page name them
    "lisa": "LISA",
    "lora 16": "LoRA r 16",
    "lora 128": "LoRA r 128",
    "full": "full AdamW",
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


def plain(loss: float) -> str:
    """A loss of one run."""
    return f"{loss:.4f}" if math.isfinite(loss) else DIVERGED


def percent(part: float) -> str:
    """Nothing of a run that diverged."""
    return f"{part:.1%}" if math.isfinite(part) else ""


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
    def finite(self) -> List[float]:
        """Losses of the runs that came to their end."""
        return [loss for loss in self.losses if math.isfinite(loss)]

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
    def layers(self) -> float:
        """How many of LISA's train at a time."""
        return statistics.fmean(
            len(line["layers"]) for run in self.runs for line in run.of("layers")
        )

    @property
    def layers_ever(self) -> float:
        """How many trained in the end."""
        return statistics.fmean(map(layers_ever, self.runs))

    @property
    def resident(self) -> float:
        """By how much the process grew, at the most."""
        return max(float(run.end["resident"]) for run in self.runs)


def greedy(run: Result) -> float:
    """Of one run."""
    documents = run.end["test"]
    if documents is None:
        return math.nan
    return math.fsum(part[2] for part in documents) / math.fsum(part[1] for part in documents)


def layers_ever(run: Result) -> int:
    """How many trained in the end; all of full AdamW and LoRA."""
    drawn = {layer for line in run.of("layers") for layer in line["layers"]}
    return len(drawn) or len(next(run.of("norms"))["norms"]) - 2


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
        loss, right = plain(loss_of(untouched.end["test"])), percent(greedy(untouched))
        rows = [["untouched", "", "", "", loss, "", right, "", "", ""]]
        for name, group in groups.items():
            run = group.runs[0]
            rows.append(
                [
                    name,
                    f"{run.begin['trained'] / 1e6:.1f} M",
                    f"{group.layers_ever:.0f}",
                    f"{run.spec.lr:g}",
                    about(group.loss),
                    "" if name == "LISA" else more(group.than(groups["LISA"])),
                    percent(group.greedy),
                    *self._taken(name, group),
                ]
            )
        head = ["", "trained at a time", "layers ever", "rate", "held-out loss", "more than LISA"]
        return markdown([*head, "greedy", *TAKEN], rows)

    def make_more(self, text: str, *method: str) -> str:
        """How much more a method's held-out loss is than LISA's."""
        groups = groups_of(self._results, text)
        return more(groups[SAID[" ".join(method)]].than(groups["LISA"]))

    def make_planned(self, *method: str) -> str:
        """MiB."""
        return mib(studies.footprint(self._planned(*method)))

    def make_share(self, *method: str) -> str:
        """LISA's bytes, of a method's."""
        ours, theirs = self._planned("lisa"), self._planned(*method)
        return f"{studies.footprint(ours) / studies.footprint(theirs):.2f}"

    def make_judged(self, text: str) -> str:
        """How much there is to judge by."""
        documents = self._results.need(Spec(text, "none")).end["test"]
        return f"{len(documents)} answers of {sum(part[1] for part in documents):,} tokens"

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
            losses = [plain(loss_of(run.end["test"])) for run in runs]
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
        rows = [[name, *_spread(group)] for name, group in groups.items()]
        head = ["runs that differ in", "runs", "mean loss", "from, to", "standard deviation"]
        return markdown(head, rows)

    def make_sampling(self) -> str:
        """What differs from uniform sampling in one thing."""
        return self._against("uniform", studies.samplings(self._best_lisa()))

    def make_ends(self) -> str:
        """Embedding and head, on and off."""
        return self._against("embedding and head", studies.always(self._results))

    def make_budget(self, text: str) -> str:
        """Methods in the same memory."""
        rows = []
        for budget in studies.budgets(self._results, text):
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
                        *self._taken(name, group),
                    ]
                )
        head = ["in MiB", "", "rate", "held-out loss", "more than the first", *TAKEN]
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
        rows[0][0] += " without a private copy"
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
        rows = []
        for name, steps in found.items():
            parts = [f"{steps.mean(phase):.3f}" for phase in PHASES]
            ratio = steps.seconds / found["LISA"].seconds
            rows.append([name, *parts, f"{steps.seconds:.3f}", steps.middle, f"{ratio:.2f}"])
        head = ["seconds", "swap", *PHASES[1:], "step", "middle half of the steps", "of LISA's"]
        return markdown(head, rows)

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
        paths = list(self._results.directory.glob("*.jsonl"))
        machines = [read_lines(path)[0]["machine"] for path in paths]
        if not machines:
            return NOT_YET
        processor, threads, system = (
            " or ".join(sorted({str(machine[key]) for machine in machines}))
            for key in ("processor", "threads", "system")
        )
        return f"{processor}; {threads} threads; {system}"

    def make_runs(self) -> str:
        """How many there are."""
        return f"{sum(1 for _ in self._results.directory.glob('*_*.jsonl'))} runs"

    def _planned(self, *method: str) -> Result:
        best = studies.best_of(self._results, studies.TEXTS[0], SAID[" ".join(method)])
        return self._results.need(best)

    def _taken(self, name: str, group: Group) -> List[str]:
        """Memory, and time where it was measured."""
        try:
            seconds = f"{phases(self._results)[name].seconds:.2f}"
        except NotYet:
            seconds = ""
        return [mib(studies.footprint(group.runs[0])), mib(group.resident), seconds]

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
                    f"{group.layers:.1f}; {group.layers_ever:.0f}",
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


def _spread(group: Group) -> List[str]:
    """Runs, mean, from and to, and deviation of those that came to their end."""
    found, n_runs = group.finite, len(group.runs)
    said = str(n_runs)
    if len(found) < n_runs:
        said += f", of which {n_runs - len(found)} {DIVERGED}"
    if len(found) < 2:
        return [said, "", "", ""]
    extent = f"{min(found):.4f} to {max(found):.4f}"
    return [said, f"{statistics.fmean(found):.4f}", extent, f"{statistics.stdev(found):.4f}"]


def _choice(losses: Dict[float, float], rate: float) -> str:
    if rate not in losses:
        return ""
    said = plain(losses[rate])
    return f"**{said}**" if losses[rate] == min(losses.values()) else said


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


class Steps(NamedTuple):
    """Seconds of the phases of a method's steps."""

    phases: List[Sequence[float]]

    def mean(self, phase: str) -> float:
        """Of one phase."""
        return statistics.fmean(step[PHASES.index(phase)] for step in self.phases)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return statistics.fmean(map(sum, self.phases))

    @property
    def middle(self) -> str:
        """Where the middle half of the steps lies."""
        low, _, high = statistics.quantiles(map(sum, self.phases), n=4, method="inclusive")
        return f"{low:.3f} to {high:.3f}"


def phases(results: Results) -> Dict[str, Steps]:
    """Seconds by method and phase; of a swap, which is timed in every step, a step's share."""
    path, methods = results.directory / TIMES, studies.timed(results)
    if timed_before(path) != methods:
        raise NotYet([])
    lines = read_lines(path)
    if "rounds" not in lines[-1]:
        raise ValueError(f"{path}: it ends too early")
    found: Dict[str, Steps] = {name: Steps([]) for name in methods}
    for line in lines[1:-1]:
        swap, *others = line["seconds"]
        interval = methods[line["method"]].interval
        found[line["method"]].phases.append((swap / interval, *others))
    return found

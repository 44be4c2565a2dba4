"""The tables of docs/results.md, of the result lines alone.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
import re
import statistics
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence

import studies
from intervals import Estimate, loss_of
from lines import TIMES, NotYet, Result, Results, read_lines
from spec import Spec
from summaries import (
    PHASES,
    Group,
    changes,
    greedy,
    group_of,
    groups_of,
    mean_norms,
    norm_results,
    phases,
)

MIB = 1 << 20
TAKEN = ("planned MiB", "resident MiB", "s a step")
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


def plain(loss: float) -> str:
    """A loss of one run."""
    return f"{loss:.4f}" if math.isfinite(loss) else DIVERGED


def percent(part: float) -> str:
    """Nothing of a run that diverged."""
    return f"{part:.1%}" if math.isfinite(part) else ""


def mib(n_bytes: float) -> str:
    """Whole MiB."""
    return f"{n_bytes / MIB:,.0f}"


def said(name: str) -> str:
    """A row's name as the words of the page ask for it."""
    return re.sub("[^a-z0-9 ]", "", name.lower())


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

    def make_more(self, study: str, *name: str) -> str:
        """How much more a held-out loss is than that of the first of its table."""
        return self._than_first(self._compared(study), name)

    def make_within(self, text: str, *name: str) -> str:
        """How much more a held-out loss is than that of the method that set the limit."""
        budgets = [rivals.methods for rivals in studies.budgets(self._results, text)]
        asked = _asked([method for methods in budgets for method in methods], name)
        return next(self._than_first(found, name) for found in budgets if asked in found)

    def make_frozen(self, text: str) -> str:
        """How much more LISA's loss is where it leaves embedding and tied head alone."""
        (lisa, *_), (*_, frozen) = (
            list(self._groups(rivals.methods).values())
            for rivals in studies.budgets(self._results, text)
        )
        return more(frozen.than(lisa))

    def make_planned(self, study: str, *name: str) -> str:
        """MiB."""
        return mib(self._planned(study, name))

    def make_share(self, study: str, *name: str) -> str:
        """The first's bytes, of another's."""
        first = next(iter(self._compared(study)))
        ours, theirs = (self._planned(study, words) for words in (said(first).split(), name))
        return f"{ours / theirs:.2f}"

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

    def make_cell(self, active: str, interval: str) -> str:
        """One loss of them."""
        spec = studies.table(self._best_lisa())[int(active), int(interval)]
        return plain(loss_of(self._results.need(spec).end["test"]))

    def make_draws(self) -> str:
        """Spread over draws of layers, and over seeds of everything."""
        best, need = self._best_lisa(), self._results.need
        twice = [best, studies.again(best)]
        groups = {
            "γ = 2, K = 20: threads, and build of the library": Group([need(run) for run in twice]),
            "γ = 2, K = 20: draws of layers": Group([need(run) for run in studies.drawn(best)]),
            "γ = 2, never: the layers": Group([need(run) for run in studies.drawn_once(best)]),
            "γ = 2, K = 20: order of the rows and draws": group_of(self._results, best),
        }
        rows = [[name, *_spread(group)] for name, group in groups.items()]
        head = ["runs that differ in", "runs", "mean loss", "from, to", "standard deviation"]
        return markdown(head, rows)

    def make_sampling(self) -> str:
        """What differs from uniform sampling in one thing."""
        return self._against("sampling")

    def make_ends(self) -> str:
        """Embedding and head, on and off."""
        return self._against("ends")

    def make_budget(self, text: str) -> str:
        """Methods in the same memory."""
        rows = []
        for budget in studies.budgets(self._results, text):
            groups = self._groups(budget.methods)
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
            ratio = self.make_pace(*said(name).split())
            rows.append([name, *parts, f"{steps.seconds:.3f}", steps.middle, ratio])
        head = ["seconds", *PHASES, "step", "middle half of the steps", "of LISA's"]
        return markdown(head, rows)

    def make_seconds(self, *name: str) -> str:
        """Of a step."""
        found = phases(self._results)
        return f"{found[_asked(found, name)].seconds:.2f}"

    def make_pace(self, *name: str) -> str:
        """A step's seconds, of LISA's."""
        found = phases(self._results)
        return f"{found[_asked(found, name)].seconds / found['LISA'].seconds:.2f}"

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
                        f"{statistics.fmean(changes(run)[1:-1]):+.2%}",
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

    def make_clock(self) -> str:
        """What the seconds are of."""
        phases(self._results)
        begin = read_lines(self._results.directory / TIMES)[0]
        machine = begin["machine"]
        said = f"{machine['processor']}, {machine['threads']} threads, {machine['system']}"
        return f"{said}; load of the minute before: {begin['load']:.1f}"

    def make_runs(self) -> str:
        """How many there are."""
        return f"{sum(1 for _ in self._results.directory.glob('*_*.jsonl'))} runs"

    def _compared(self, study: str) -> Dict[str, Spec]:
        """A study's specs, or those of the study of quality on a text; others go by the first."""
        if study == "sampling":
            return studies.samplings(self._best_lisa())
        if study == "ends":
            return studies.always(self._results)
        return {name: studies.best_of(self._results, study, name) for name in studies.BASE}

    def _groups(self, specs: Dict[str, Spec]) -> Dict[str, Group]:
        return {name: group_of(self._results, spec) for name, spec in specs.items()}

    def _than_first(self, specs: Dict[str, Spec], name: Sequence[str]) -> str:
        groups = self._groups(specs)
        first = next(iter(groups.values()))
        return more(groups[_asked(groups, name)].than(first))

    def _planned(self, study: str, name: Sequence[str]) -> int:
        specs = self._compared(study)
        return studies.footprint(self._results.need(specs[_asked(specs, name)]))

    def _taken(self, name: str, group: Group) -> List[str]:
        """Memory, and time where it was measured."""
        try:
            seconds = f"{phases(self._results)[name].seconds:.2f}"
        except NotYet:
            seconds = ""
        return [mib(studies.footprint(group.runs[0])), mib(group.resident), seconds]

    def _best_lisa(self) -> Spec:
        return studies.best_of(self._results, studies.TEXTS[0], "LISA")

    def _against(self, study: str) -> str:
        groups = self._groups(self._compared(study))
        first = next(iter(groups.values()))
        rows = []
        for name, group in groups.items():
            run = group.runs[0]
            rows.append(
                [
                    name,
                    about(group.loss),
                    "" if group is first else more(group.than(first)),
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


def _asked(names: Iterable[str], words: Sequence[str]) -> str:
    """The name that is asked for so."""
    for name in names:
        if said(name) == " ".join(words):
            return name
    raise ValueError(f"results.template.md asks for {' '.join(words)}, which there is not")


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


def _adapter_row(name: str, run: Result) -> List[str]:
    layers = mean_norms(run, "adapter")[1:-1]
    return [name, "", f"{min(layers):.1f} to {max(layers):.1f}", "", ""]

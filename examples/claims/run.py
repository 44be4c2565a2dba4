"""One run from its beginning, or from where it was interrupted, to its summary.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List

import liblisa
from liblisa.evaluation import Score, total

from lines import Line, Writer, publish
from models import digest
from spec import Spec
from texts import Text
from training import Step, Training, plan, settings

MEASURE_EVERY = 20  # steps: loss of the part to choose by, norms
SAVE_EVERY = 40  # steps
DIGITS = 6  # of a number in a line
GOES_ON_WITH = ("spec", "liblisa", "settings", "weights", "rows")  # of a first line


def has_curve(spec: Spec) -> bool:
    """Whether it is measured on the way, which takes time: what the study of quality varies."""
    usual = Spec(spec.text, spec.method, spec.lr, rank=spec.rank, model=spec.model)
    return spec == usual


def machine() -> Dict[str, Any]:
    """What the times are of."""
    return {
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _scores(scored: List[Score]) -> List[List[float]]:
    return [[_short(-part.log_likelihood), part.n_tokens, part.n_greedy] for part in scored]


class Run:
    """A spec's training with its lines and its checkpoints."""

    def __init__(self, spec: Spec, text: Text, model: Path, path: Path, scratch: Path) -> None:
        self._spec, self._text, self._model = spec, text, model
        self._path, self._scratch = path, scratch / spec.name
        self._part = self._scratch / "lines.jsonl"  # until the run is whole
        self._done = 0
        self._peak: Dict[str, int] = {}
        self._before, self._resident = _resident(), 0

    def finish(self) -> None:
        """Runs what is left of it and writes its summary."""
        with Training(self._spec, self._model) as training:
            head = self._head(training)
            good = self._resume(training, head)
            with Writer(self._part, good) as writer:
                if good == 0:
                    writer.add(head)
                    self._measure(training, writer)
                writer.add(self._rest(training, writer))
        publish(self._part, self._path)
        shutil.rmtree(self._scratch)

    def _rest(self, training: Training, writer: Writer) -> Line:
        """The steps that are left; the last line."""
        try:
            self._train(training, writer)
            taken = self._taken(training)
            return {**taken, **self._end(training)}
        except liblisa.NonFinite as error:
            said = f"behind step {self._done}: {error}"
            return {"test": None, "diverged": said, **self._taken(training)}

    def _taken(self, training: Training) -> Line:
        return {"held": self._most(training), "resident": self._grown()}

    def _resume(self, training: Training, head: Line) -> int:
        """Bytes of the lines that are good."""
        try:
            path = liblisa.find_checkpoint(self._scratch)
        except liblisa.NotFound:
            return 0
        state = json.loads(liblisa.checkpoint_blob(path))
        if not self._goes_on(head, state["bytes"]):
            shutil.rmtree(self._scratch)  # its checkpoints are of lines that are no more
            return 0
        self._done = liblisa.load_checkpoint(training.optimizer, path).step
        self._peak, self._resident = state["held"], state["resident"]
        if training.drawing is not None:
            training.drawing.restore(state["drawing"])
        return int(state["bytes"])

    def _goes_on(self, head: Line, good: int) -> bool:
        """Whether the lines are there, and of the same rows, weights and settings."""
        if not self._part.is_file() or self._part.stat().st_size < good:
            return False
        with open(self._part, encoding="utf-8") as file:
            began = json.loads(file.readline())
        now = json.loads(json.dumps(head))
        return all(began.get(key) == now[key] for key in GOES_ON_WITH)

    def _head(self, training: Training) -> Line:
        planned = plan(self._spec, training.model.config)
        return {
            "spec": self._spec.as_json(),
            "liblisa": liblisa.library_version(),
            "machine": machine(),
            "settings": settings(self._spec),
            "weights": digest(self._model),
            "rows": self._text.digest,
            "parameters": planned.n_parameters,
            "trained": planned.n_trained,
            "planned": {name: n for name, n in planned.bytes.items() if n},
        }

    def _train(self, training: Training, writer: Writer) -> None:
        spec = self._spec
        if spec.method == "none":
            return
        rows = itertools.islice(self._text.order(spec.seed), self._done, spec.steps)
        for row in rows:
            step = training.step(self._done, row)
            self._done += 1
            writer.add(self._of_step(step))
            if self._done % MEASURE_EVERY == 0:
                self._say(f"loss {step.loss:.4f} in {sum(step.seconds):.2f} s")
            self._measure(training, writer)
            if self._done % SAVE_EVERY == 0 and self._done < spec.steps:
                self._save(training, writer)

    def _measure(self, training: Training, writer: Writer) -> None:
        """Where it is due: at the end, and on the way where curves are drawn."""
        on_the_way = self._done % MEASURE_EVERY == 0 and has_curve(self._spec)
        if on_the_way or self._done == self._spec.steps:
            writer.add(self._measured(training))

    def _of_step(self, step: Step) -> Line:
        line: Line = {
            "step": self._done,
            "loss": _short(step.loss),
            "norm": _short(step.grad_norm),
            "seconds": [round(seconds, 4) for seconds in step.seconds],
        }
        if self._spec.method == "lisa":
            line["layers"] = step.layers
        return line

    def _measured(self, training: Training) -> Line:
        line: Line = {"step": self._done}
        line["valid"] = _short(total(training.score(self._text.valid)).loss)
        line["norms"] = [_short(norm) for norm in training.norms()]
        if training.adapter is not None:
            line["adapter"] = [_short(norm) for norm in training.adapter_norms()]
        self._say(f"loss to choose by {line['valid']:.4f}")
        return line

    def _say(self, what: str) -> None:
        print(f"{self._spec.name}: {self._done}/{self._spec.steps}, {what}", file=sys.stderr)

    def _save(self, training: Training, writer: Writer) -> None:
        drawing = training.drawing
        state = {
            **self._taken(training),
            "bytes": writer.tell(),
            "drawing": None if drawing is None else drawing.state(),
        }
        blob = json.dumps(state).encode()
        optimizer, directory = training.optimizer, self._scratch
        liblisa.save_checkpoint(optimizer, directory, self._done, blob=blob, keep=1)

    def _most(self, training: Training) -> Dict[str, int]:
        held = training.held()
        return {name: max(n, self._peak.get(name, 0)) for name, n in held.items()}

    def _grown(self) -> int:
        return max(self._resident, _resident() - self._before)

    def _end(self, training: Training) -> Line:
        line: Line = {"test": _scores(training.score(self._text.test))}
        if training.adapter is not None:
            training.merge()
            line["merged"] = [_short(norm) for norm in training.norms()]
        return line


def _resident() -> int:
    """The most bytes of memory that this process had so far, a mapped model's pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(spec: Spec, text: Text, model: Path, path: Path, scratch: Path) -> None:
    """Runs a spec to its end; may be called again after any interruption."""
    Run(spec, text, model, path, scratch).finish()

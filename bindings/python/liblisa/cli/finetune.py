"""Fine-tunes a model with LISA, LoRA or full AdamW. Ctrl-C saves and ends with status 130; --resume
then goes on to the bits of a run without a break."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Optional

from .._output import own_directory, write_whole
from .._schedule import SCHEDULES
from .._version import __version__
from ._dry_run import dry_run
from ._given import Given, Taken
from ._memory import HOST_BACKENDS, add_memory
from ._parser import Flag, Group, count, number, whole
from ._pictures import draw
from ._prepare import Prepared, prepare
from ._progress import progress
from ._report import amount
from ._run import Run
from ._signals import Signals

NAME = "finetune"
HELP = "train a model on a file of examples"

RUN_FILE, CONFIG_FILE = "run.json", "config.json"
_NOT_IN_A_FILE = ("config", "resume", "quiet", "dry_run")


def _add_method(group: Group) -> None:
    add = group.add_argument
    add("--method", choices=("lisa", "lora", "full"), default="lisa", help="what trains (lisa)")
    add("--active", type=count, default=2, metavar="N", help="layers that LISA trains at once (2)")
    add("--interval", type=count, default=20, metavar="N", help="steps between two draws (20)")
    add(
        "--sampler",
        choices=("uniform", "reshuffle", "round_robin"),
        default="uniform",
        help="how LISA draws layers (uniform)",
    )
    add("--rank", type=count, default=8, metavar="N", help="rank of LoRA's matrices (8)")
    add(
        "--alpha",
        type=number(0),
        default=16.0,
        metavar="X",
        help="LoRA's scale times its rank (16)",
    )
    add(
        "--targets",
        default="all-linear",
        metavar="NAMES",
        help="what LoRA stands beside, with commas: q,v or attention, mlp, ... (all-linear)",
    )


def _add_optimization(group: Group) -> None:
    add = group.add_argument
    add("--lr", type=number(0), metavar="X", help="learning rate (1e-5; 2e-4 for lora)")
    add(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="of the learning rate (cosine)",
    )
    add("--warmup", type=number(0, 1), default=0.03, metavar="X", help="part of the steps (0.03)")
    add(
        "--min-lr",
        type=number(0, 1),
        default=0.1,
        metavar="X",
        help="part of the rate at the end (0.1)",
    )
    add("--epochs", type=count, default=1, metavar="N", help="times through the data (1)")
    add("--steps", type=count, metavar="N", help="steps, instead of epochs")
    add("--batch", type=count, default=4, metavar="N", help="sequences in a batch (4)")
    add("--accumulate", type=count, default=1, metavar="N", help="batches in a step (1)")
    add("--max-tokens", type=count, default=512, metavar="N", help="longer ones are cut (512)")
    add("--pack", action=Flag, help="fill sequences up with several examples")
    add("--weight-decay", type=number(0), default=0.0, metavar="X", help="of AdamW (0)")
    add("--max-grad-norm", type=number(0), default=1.0, metavar="X", help="clipping; 0: none (1)")
    add("--seed", type=whole, default=1, metavar="N", help="of data, layers and rounding (1)")


def _add_validation(group: Group) -> None:
    add = group.add_argument
    add("--valid", metavar="FILE", help="examples to validate on, instead of a part of DATA")
    add("--valid-fraction", type=number(0, 1), default=0.05, metavar="X", help="held out (0.05)")
    add(
        "--eval-every",
        type=whole,
        default=50,
        metavar="N",
        help="steps; 0: at the end alone (50)",
    )
    add("--save-best", action=Flag, help="the result is the best by validation loss")
    add(
        "--patience",
        type=count,
        metavar="N",
        help="stop after so many validations without a better one; implies --save-best (never)",
    )
    add(
        "--min-delta", type=number(0), default=0.0, metavar="X", help="better by more than that (0)"
    )


def _add_running(group: Group) -> None:
    add = group.add_argument
    add("--backend", default="cpu", metavar="NAME", help="cpu, cuda, ... (cpu)")
    add("--threads", type=count, metavar="N", help="threads (as many as there are)")
    add("--save-every", type=whole, default=0, metavar="N", help="steps; 0: no checkpoints (0)")
    add("--keep", type=count, default=2, metavar="N", help="checkpoints that are kept (2)")
    add("--log-every", type=count, default=10, metavar="N", help="steps between lines (10)")
    add("--quiet", action="store_true", help="print errors alone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.usage = "%(prog)s MODEL DATA.jsonl --out DIR [option ...]"
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a Hugging Face directory")
    add("data", nargs="?", metavar="DATA.jsonl", help="examples, as inspect-data takes them")
    add("--out", metavar="DIR", help="gets the result, checkpoints and metrics")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="options as JSON or YAML; with --resume DIR's own (none)",
    )
    add("--resume", action="store_true", help="go on in DIR from its newest whole checkpoint")
    add("--dry-run", action="store_true", help="say what would be done, try three steps, and end")
    group = parser.add_argument_group
    _add_method(group("what trains"))
    _add_optimization(group("how it trains"))
    _add_validation(group("validation"))
    add_memory(group("memory; with --budget what is not given is chosen"))
    _add_running(group("the run"))
    Given(parser, _NOT_IN_A_FILE)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _about(prepared: Prepared) -> Dict[str, Any]:
    """What run.json says: what the options alone do not."""
    options = prepared.options
    about: Dict[str, Any] = {
        "liblisa": __version__,
        "n_layers": prepared.config.n_layers,
        "longest": prepared.data.longest,
        "data_sha256": _sha256(options.data),
    }
    if options.valid is not None:
        about["valid_sha256"] = _sha256(options.valid)
    return about


def _take(parsed: argparse.Namespace) -> Taken:
    """The options in force, from the command line, --config, or the run that is resumed."""
    given = parsed.taken
    file = getattr(parsed, "config", None)
    if file is None and getattr(parsed, "resume", False) and hasattr(parsed, "out"):
        file = Path(parsed.out) / CONFIG_FILE
        if not file.is_file():
            raise FileNotFoundError(f"--resume: {parsed.out} holds no run: no {CONFIG_FILE}")
    taken = given.take(parsed, file)
    for stronger, other in (("epochs", "steps"), ("valid_fraction", "valid")):
        if hasattr(parsed, stronger) and not hasattr(parsed, other):
            setattr(taken.options, other, None)  # a file's, which would hide what the line says
    given.require(taken, "model", "data", "out")
    return taken


def _read_about(out: Path) -> Dict[str, Any]:
    path = out / RUN_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: expected an object")
    return about


def _check_before(prepared: Prepared, given: Given, about: Dict[str, Any]) -> None:
    """The output directory must be empty, or with --resume hold this very run."""
    options, out = prepared.options, Path(prepared.options.out)
    if not options.resume:
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty: give another directory, or --resume")
        return
    before = given.take(argparse.Namespace(), out / CONFIG_FILE).options
    differences = prepared.settings.differences(vars(before))
    if differences:
        raise ValueError(f"--resume: {differences}")
    said = _read_about(out)
    for name in ("data", "valid"):
        if said.get(f"{name}_sha256") != about.get(f"{name}_sha256"):
            now = getattr(options, name)
            raise ValueError(
                f"--resume: {now} has changed" if now else "--resume needs --valid again"
            )


def _result(out: Path) -> Optional[Path]:
    """What a run that has ended came to; None where it has not, or its result is gone."""
    if "steps" not in _read_about(out):
        return None
    return next((path for path in (out / "model", out / "adapter") if path.exists()), None)


def _begin(options: argparse.Namespace, given: Given, about: Dict[str, Any]) -> None:
    """Writes down what the run is, so that it can be resumed, before it takes a step."""
    out = Path(options.out)
    try:
        _write_about(out, about)
        given.write(out / CONFIG_FILE, options)
    except BaseException:  # DIR with half of it could be neither begun nor resumed
        with contextlib.suppress(OSError):
            (out / RUN_FILE).unlink()
        raise


def _write_about(out: Path, about: Dict[str, Any]) -> None:
    write_whole(out / RUN_FILE, json.dumps(about, indent=2) + "\n")


def _end(prepared: Prepared, training: Run, about: Dict[str, Any]) -> str:
    """Writes down what the run took beside what was planned, and says it."""
    planned = prepared.memory.plan
    memory = {"planned": planned.bytes, "planned_total": planned.total, **training.memory}
    _write_about(Path(prepared.options.out), {**about, "steps": training.done, "memory": memory})
    said = f"memory: {amount(planned.total)} planned, {amount(memory['held_total'])} held"
    if "anonymous" in memory:
        said += f", {amount(memory['anonymous'])} as the system counts what the run added"
        said += "" if memory["backend"] in HOST_BACKENDS else " on the host"
    return said


def _draw(out: Path, quiet: bool) -> None:
    """Pictures, which are not worth a failure of what has been trained and saved."""
    try:
        lines = [str(path) for path in draw(out)]
    except Exception as error:  # whatever an older matplotlib, or another's style, comes to
        lines = [f"no pictures: {error}; then: liblisa plot {out}"]
    if not quiet:
        print(*lines, sep="\n")


def _train(prepared: Prepared, given: Given, about: Dict[str, Any]) -> int:
    """From where the run is to its result, or to a signal, whose number comes back with 128."""
    options = prepared.options
    shown = progress(options.quiet, options.log_every)
    with Run(prepared, shown) as training, shown:
        if options.scratch_dir is not None:
            Path(options.scratch_dir).mkdir(parents=True, exist_ok=True)
        training.open()
        if options.resume:
            _write_about(Path(options.out), about)  # it has not ended, or its result is gone
            training.resume()
        else:
            _begin(options, given, about)
        shown.note(prepared.words)
        if options.resume:
            done = training.done
            shown.note(f"goes on behind step {done}" if done else "no checkpoint: begins anew")
        with Signals() as signals:  # for the result, too: one that comes late must not cost it
            signal = training.train(signals)
            shown.close()
            if signal is not None:
                shown.note(f"saved after step {training.done}; --resume goes on from there")
                return 128 + signal
            result = training.save()
            ended = (training.outcome, _end(prepared, training, about), str(result))
        shown.note("\n".join(filter(None, ended)))
    _draw(Path(options.out), options.quiet)
    return 0


def run(parsed: argparse.Namespace) -> int:
    """Runs this subcommand."""
    prepared = prepare(_take(parsed))
    options, given = prepared.options, parsed.taken
    out = Path(options.out)
    about = _about(prepared)
    if options.dry_run:
        _check_before(prepared, given, about)
        return dry_run(prepared)
    if prepared.too_much:
        raise ValueError(prepared.too_much)
    with own_directory(out):
        _check_before(prepared, given, about)
        result = _result(out) if options.resume else None
        if result is None:
            return _train(prepared, given, about)
    if not options.quiet:
        print(f"the run has ended before; its result is {result}")
    return 0

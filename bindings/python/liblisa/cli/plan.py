"""Says how many bytes a training takes, by method and memory class, before anything is loaded. With
--budget it chooses what was not given, and the exit status is 1 where nothing fits."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from .._config import ModelConfig
from ._columns import Column, column_rows, column_title
from ._given import Given, Taken
from ._memory import Search, add_memory, resolved
from ._parser import add_json, count
from ._report import print_json, table

NAME = "plan"
HELP = "memory of a training, by method"
METHODS = ("lisa", "lora", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add = parser.add_argument
    add("model", metavar="DIR|CONFIG", help="a Hugging Face directory, or its config.json alone")
    add("--method", choices=METHODS, help="one method (all, side by side)")
    add("--batch", type=count, default=1, metavar="N", help="sequences in a batch (1)")
    add(
        "--tokens",
        type=count,
        metavar="N",
        help="tokens of the longest (512, or as many as the model has positions)",
    )
    add("--active", type=count, default=2, metavar="N", help="layers that LISA trains at once (2)")
    add("--rank", type=count, default=8, metavar="N", help="rank of LoRA's matrices (8)")
    add(
        "--targets",
        default="all-linear",
        metavar="NAMES",
        help="what LoRA stands beside, with commas: q,v or attention, mlp, ... (all-linear)",
    )
    add(
        "--backend",
        default="cpu",
        metavar="NAMES",
        help="cpu, cuda, reference, ..., side by side with commas (cpu)",
    )
    add("--threads", type=count, metavar="N", help="threads (as many as there are)")
    add_memory(parser)
    add("--generate", type=count, metavar="N", help="tokens of the longest generation (none)")
    add_json(parser)
    Given(parser)


def read_config(path: Path) -> ModelConfig:
    """The description in a directory or in a file of any name."""
    if path.is_dir():
        return ModelConfig.read(path)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copyfile(path, Path(directory) / "config.json")
        return ModelConfig.read(directory)


def _find(taken: Taken, config: ModelConfig, method: str, backend: str, several: bool) -> Column:
    """The least compromise for one method on one backend."""
    changed = {"method": method, "backend": backend, "accumulate": 1}
    options = argparse.Namespace(**{**vars(taken.options), **changed})
    search = Search(
        config,
        options,
        options.tokens,
        given=taken.given | {"batch", "accumulate"},
        scratch=".",
        generate=options.generate,
    )
    setting = search.choose()
    largest = None if options.budget is None else search.largest_batch(setting)
    return Column(column_title(options, several), setting, largest)


def _print(options: argparse.Namespace, found: List[Column]) -> None:
    print(
        f"{options.model}: {found[0].setting.plan.n_parameters:,} parameters, "
        f"batches of {options.batch} x {options.tokens} tokens, backend {options.backend}",
        "",
        table(column_rows(found)),
        sep="\n",
    )


def _object(found: Column) -> Dict[str, Any]:
    """A column as JSON."""
    setting = found.setting
    names = ("moments", "activations", "state_policy", "scratch_dir")
    return {
        **setting.plan._asdict(),
        **{name: setting.value(name) for name in names},
        "largest_batch": found.largest_batch,
        "missing": setting.missing,
        "fits": setting.missing == 0,
    }


def run(parsed: argparse.Namespace) -> int:
    """Runs this subcommand."""
    taken = parsed.taken.take(parsed)
    options = taken.options
    config = read_config(Path(options.model))
    if options.tokens is None:
        options.tokens = min(512, config.max_positions)
    backends = [resolved(name) for name in options.backend.split(",")]
    methods = [options.method] if options.method else METHODS
    found = {
        method if len(backends) == 1 else f"{method} {backend}": _find(
            taken, config, method, backend, len(backends) > 1
        )
        for backend in backends
        for method in methods
    }
    if options.json:
        print_json(
            {
                "model": options.model,
                "batch": options.batch,
                "tokens": options.tokens,
                "backend": options.backend,
                "budget": options.budget,
                "methods": {name: _object(each) for name, each in found.items()},
            }
        )
    else:
        _print(options, list(found.values()))
    return 0 if any(each.setting.missing == 0 for each in found.values()) else 1

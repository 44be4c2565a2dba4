"""Says how many bytes a training takes, by method and memory class, before anything is loaded. With
--budget the exit status is 1 where no method that was asked for fits."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from .._config import ModelConfig
from .._plan import Plan, plan
from ._parser import add_json, count, size
from ._report import mib, print_json, table

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
    add("--budget", type=size, metavar="SIZE", help="what there is, such as 8G (no limit)")
    add("--backend", default="cpu", metavar="NAME", help="cpu, cuda, reference, ... (cpu)")
    add(
        "--activations",
        choices=("auto", "store", "recompute"),
        default="auto",
        help="what forward keeps for backward (auto: as much as the budget allows)",
    )
    add("--head-rows", type=count, metavar="N", help="rows of logits at once (as the plan likes)")
    add("--moments", choices=("f32", "bf16", "8bit"), default="f32", help="AdamW's moments (f32)")
    add(
        "--state-policy",
        choices=("drop", "keep", "offload"),
        default="drop",
        help="what becomes of the moments of a layer that stops training (drop)",
    )
    add("--embedding-rows", type=count, metavar="N", help="rows of the embedding with state (all)")
    add("--frozen-embedding", action="store_true", help="the embedding does not train")
    add("--frozen-head", action="store_true", help="final norm and head do not train")
    add("--update-in-backward", action="store_true", help="no gradient is held beyond its update")
    add("--scratch-dir", metavar="DIR", help="where trained layers and offloaded state lie")
    add("--generate", type=count, metavar="N", help="tokens of the longest generation (none)")
    add_json(parser)


def read_config(path: Path) -> ModelConfig:
    """The description in a directory or in a file of any name."""
    if path.is_dir():
        return ModelConfig.read(path)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copyfile(path, Path(directory) / "config.json")
        return ModelConfig.read(directory)


def _optimizer(options: argparse.Namespace, method: str) -> Dict[str, Any]:
    kept: Dict[str, Any] = {
        "state_policy": options.state_policy,
        "moments_layers": options.moments,
        "update_in_backward": options.update_in_backward,
    }
    if options.scratch_dir is not None:
        kept["scratch_dir"] = options.scratch_dir
    if method == "lora":
        return kept
    kept["moments_embedding"] = kept["moments_head"] = options.moments
    kept["embedding_rows"] = options.embedding_rows
    kept["train_embedding"] = not options.frozen_embedding
    kept["train_head"] = not options.frozen_head
    if method == "lisa":
        kept["max_active_layers"] = options.active
    return kept


def _plan(options: argparse.Namespace, config: ModelConfig, method: str) -> Plan:
    adapter = {"rank": options.rank, "targets": options.targets.split(",")}
    return plan(
        config,
        options.batch,
        options.tokens,
        generate_tokens=options.generate,
        context={"backend": options.backend, "memory_limit": options.budget},
        model={"scratch_dir": options.scratch_dir},
        batch={"activations": options.activations, "head_rows": options.head_rows},
        optimizer=_optimizer(options, method),
        adapter=adapter if method == "lora" else None,
    )


def _print(options: argparse.Namespace, plans: Dict[str, Plan]) -> None:
    names = {"lisa": f"LISA, {options.active} layers", "lora": f"LoRA, rank {options.rank}"}
    every = list(plans.values())
    rows: List[List[str]] = [["MiB", *(names.get(name, "full AdamW") for name in plans)]]
    for memory_class in every[0].bytes:
        if any(planned.bytes[memory_class] for planned in every):
            rows.append([memory_class, *(mib(planned.bytes[memory_class]) for planned in every)])
    rows.append(["total, mapped and disk apart", *(mib(planned.total) for planned in every)])
    rows.append(["parameters that train at once", *(f"{p.n_trained:,}" for p in every)])
    rows.append(["layers that keep activations", *(str(p.stored_layers) for p in every)])
    if options.budget is not None:
        fits = ("yes" if planned.fits else f"no: {planned.largest_class}" for planned in every)
        rows.append([f"fits {mib(options.budget)} MiB", *fits])
    print(
        f"{options.model}: {every[0].n_parameters:,} parameters, batches of {options.batch} x "
        f"{options.tokens} tokens, backend {options.backend}",
        "",
        table(rows),
        sep="\n",
    )


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    config = read_config(Path(options.model))
    if options.tokens is None:
        options.tokens = min(512, config.max_positions)
    methods = [options.method] if options.method else METHODS
    plans = {method: _plan(options, config, method) for method in methods}
    if options.json:
        print_json(
            {
                "model": options.model,
                "batch": options.batch,
                "tokens": options.tokens,
                "backend": options.backend,
                "budget": options.budget,
                "methods": {method: planned._asdict() for method, planned in plans.items()},
            }
        )
    else:
        _print(options, plans)
    return 0 if any(planned.fits for planned in plans.values()) else 1

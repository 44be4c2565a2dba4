"""The options that decide how much memory a training takes, and the choice of those not given."""

from __future__ import annotations

import argparse
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional

from .._config import ModelConfig
from .._context import Context
from .._plan import Plan, plan
from ._parser import Flag, Group, count, size
from ._report import amount

_LEAST_HEAD_ROWS = 64
HOST_BACKENDS = ("cpu", "reference", "reference64", "reference-typed")

Changes = Dict[str, Any]


def handles(n_layers: int) -> int:
    """Bytes, generously, of what a limit counts and no plan knows: handles, names and tables."""
    return (64 << 10) + n_layers * (16 << 10)


def add_memory(parser: Group) -> None:
    """What plan and finetune have in common. With --budget the defaults are chosen."""
    add = parser.add_argument
    add("--budget", type=size, metavar="SIZE", help="memory there is, such as 8G (no limit)")
    add("--moments", choices=("f32", "bf16", "8bit"), default="f32", help="AdamW's moments (f32)")
    add(
        "--activations",
        choices=("auto", "store", "recompute"),
        default="auto",
        help="what forward keeps for backward (auto: as much as the budget allows)",
    )
    add("--head-rows", type=count, metavar="N", help="rows of logits at once (as the plan likes)")
    add(
        "--state-policy",
        choices=("drop", "keep", "offload"),
        default="drop",
        help="what becomes of the moments of a layer that stops training (drop)",
    )
    add("--embedding-rows", type=count, metavar="N", help="rows of the embedding with state (all)")
    add("--frozen-embedding", action=Flag, help="the embedding does not train")
    add("--frozen-head", action=Flag, help="final norm and head do not train")
    add("--update-in-backward", action=Flag, help="no gradient is held beyond its update")
    add(
        "--scratch-dir", metavar="DIR", help="where trained layers and offloaded state lie (memory)"
    )


def resolved(backend: str) -> str:
    """The backend that "auto" stands for here; others as they are."""
    if backend != "auto":
        return backend
    with Context("auto") as context:
        return context.backend


def optimizer_keywords(options: Any) -> Dict[str, Any]:
    """Keywords of Optimizer, of a namespace or Settings with a method."""
    kept: Dict[str, Any] = {
        "state_policy": options.state_policy,
        "moments_layers": options.moments,
        "update_in_backward": options.update_in_backward,
    }
    if options.method == "lora":
        return kept
    kept["moments_embedding"] = kept["moments_head"] = options.moments
    kept["embedding_rows"] = options.embedding_rows
    kept["train_embedding"] = not options.frozen_embedding
    kept["train_head"] = not options.frozen_head
    if options.method == "lisa":
        kept["max_active_layers"] = options.active
    return kept


class Search:
    """Looks for the least compromise that fits; the order of compromises is docs/command.md's."""

    def __init__(
        self,
        config: ModelConfig,
        options: argparse.Namespace,
        tokens: int,
        *,
        given: FrozenSet[str] = frozenset(),
        scratch: Optional[str] = None,
        generate: Optional[int] = None,
    ) -> None:
        """options: those of add_memory and method, active, rank, targets, batch, accumulate,
        backend, threads. given: names of those that stay as they are.
        scratch: a directory that trained layers may move to; None: nowhere.
        """
        self._config, self._options, self._tokens = config, options, tokens
        self._given, self._scratch, self._generate = given, scratch, generate
        self._handles = handles(config.n_layers)

    def planned(self, changes: Changes) -> Plan:
        """The plan of the options with changes."""
        options = argparse.Namespace(**{**vars(self._options), **changes})
        limit = None if options.budget is None else max(options.budget - self._handles, 1)
        optimizer = optimizer_keywords(options)
        if options.scratch_dir is not None:
            optimizer["scratch_dir"] = options.scratch_dir
        adapter = {"rank": options.rank, "targets": options.targets.split(",")}
        return plan(
            self._config,
            options.batch,
            self._tokens,
            generate_tokens=self._generate,
            context={
                "backend": options.backend,
                "memory_limit": limit,
                "n_threads": options.threads,
            },
            model={"scratch_dir": options.scratch_dir},
            batch={"activations": options.activations, "head_rows": options.head_rows},
            optimizer=optimizer,
            adapter=adapter if options.method == "lora" else None,
        )

    def choose(self) -> Setting:
        """The least compromise that fits, or the leanest of all where none does."""
        taken: List[Changes] = []
        for compromise in [{}, *self._compromises()]:
            taken.append(compromise)
            found = self._within(taken)
            if found.plan.fits:
                return self._without_needless(taken, found)
        return found

    def largest_batch(self, setting: Setting) -> int:
        """Sequences in the largest batch that fits with everything else as in the setting."""

        def fits(batch: int) -> bool:
            return self.planned({**setting.changes, "batch": batch}).fits

        least, beyond = 0, 1
        while beyond <= 1 << 16 and fits(beyond):
            least, beyond = beyond, 2 * beyond
        while beyond - least > 1:
            middle = (least + beyond) // 2
            least, beyond = (middle, beyond) if fits(middle) else (least, middle)
        return least

    def _compromises(self) -> List[Changes]:
        options, free = self._options, self._free
        found: List[Changes] = []
        if free("head_rows"):
            found.append({"head_rows": _LEAST_HEAD_ROWS})
        on_host = options.backend in HOST_BACKENDS
        if on_host and free("scratch_dir") and self._scratch and options.method != "lora":
            found.append({"scratch_dir": self._scratch})
        if free("moments"):
            found += [{"moments": "bf16"}, {"moments": "8bit"}]
        if not on_host and free("state_policy"):
            found.append({"state_policy": "offload"})
        return found

    def _free(self, name: str) -> bool:
        return name not in self._given

    def _batches(self) -> List[Changes]:
        """Ways to cut a step into equal batches, the largest first."""
        options = self._options
        if not self._free("batch") or not self._free("accumulate"):
            return [{}]
        window = options.batch * options.accumulate
        sizes = [size for size in range(window, 0, -1) if window % size == 0]
        return [{"batch": size, "accumulate": window // size} for size in sizes]

    def _within(self, taken: List[Changes]) -> Setting:
        """The largest batches of which all layers are stored, else the smallest there are."""
        changes = {name: value for one in taken for name, value in one.items()}
        for batch in self._batches():
            both = {**changes, **batch}
            found = Setting(self._options, both, self.planned(both), self._config.n_layers)
            if found.plan.fits and (found.stores_all or not self._free("activations")):
                break
        return found

    def _without_needless(self, taken: List[Changes], found: Setting) -> Setting:
        """Takes back earlier compromises that later ones have made needless."""
        for compromise in reversed(taken[:-1]):
            rest = [other for other in taken if other is not compromise]
            other = self._within(rest)
            if other.plan.fits and other.worth >= found.worth:
                taken, found = rest, other
        return found


class Setting(NamedTuple):
    """Options as they were, what was chosen besides, and the plan of both."""

    options: argparse.Namespace
    changes: Changes
    plan: Plan
    n_layers: int

    def value(self, name: str) -> Any:
        """An option with the changes."""
        return self.changes.get(name, getattr(self.options, name))

    @property
    def stores_all(self) -> bool:
        """Nothing is recomputed."""
        return self.plan.bytes["recompute"] == 0

    @property
    def worth(self) -> Any:
        """Orders settings that differ in nothing but the batch and what is stored."""
        return self.plan.stored_layers, self.value("batch")

    @property
    def missing(self) -> int:
        """Bytes that the budget lacks; 0 where it does not."""
        budget = self.options.budget
        return 0 if budget is None else max(0, self.plan.total + handles(self.n_layers) - budget)

    def words(self) -> str:
        """What the setting is, for people."""
        accumulated, stored = self.value("accumulate"), self.plan.stored_layers
        said = [f"batch {self.value('batch')}"]
        if accumulated > 1:
            said[0] += f", {accumulated} to a step"
        if self.stores_all:
            said.append("all layers stored")
        elif stored == 0:
            said.append("all layers recomputed")
        else:
            said.append(f"{stored} of {self.n_layers} layers stored, the others recomputed")
        said.append(f"{self.value('moments')} moments")
        if "head_rows" in self.changes:
            said.append(f"{self.plan.head_rows} rows of logits at once")
        if "scratch_dir" in self.changes:
            said.append("trained layers in a scratch file")
        if "state_policy" in self.changes:
            said.append("moments in host memory")
        return ", ".join(said)

    def verdict(self) -> str:
        """Whether it fits, and what is missing."""
        if self.missing == 0:
            return "yes"
        return f"no: {amount(self.missing)} are missing"

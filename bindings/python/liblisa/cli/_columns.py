"""The table of plans, a column each."""

from __future__ import annotations

import argparse
from typing import List, NamedTuple, Optional, Sequence

from ._memory import Setting
from ._report import mib


class Column(NamedTuple):
    """A column of the table."""

    title: str
    setting: Setting
    largest_batch: Optional[int]  # None: not asked for


def column_title(options: argparse.Namespace, several: bool) -> str:
    """The method, and the backend where there are several."""
    ways = {
        "lisa": f"LISA, {options.active} layers",
        "lora": f"LoRA, rank {options.rank}",
        "full": "full AdamW",
    }
    return ways[options.method] + (f", {options.backend}" if several else "")


def column_rows(columns: Sequence[Column]) -> List[List[str]]:
    """Memory by class, and what was chosen, with a row of titles first."""
    plans = [each.setting.plan for each in columns]
    settings = [each.setting for each in columns]
    rows = [["MiB", *(each.title for each in columns)]]
    for memory_class in plans[0].bytes:
        if any(planned.bytes[memory_class] for planned in plans):
            rows.append([memory_class, *(mib(planned.bytes[memory_class]) for planned in plans)])
    rows.append(["total, mapped, disk and host apart", *(mib(p.total) for p in plans)])
    rows.append(["parameters that train at once", *(f"{p.n_trained:,}" for p in plans)])
    rows.append(["layers that keep activations", *(str(p.stored_layers) for p in plans)])
    rows.append(["rows of logits at once", *(str(p.head_rows) for p in plans)])
    rows.append(["moments", *(setting.value("moments") for setting in settings)])
    if any(setting.changes.get("scratch_dir") for setting in settings):
        moved = ("yes" if "scratch_dir" in setting.changes else "no" for setting in settings)
        rows.append(["trained layers in a scratch file", *moved])
    if any("state_policy" in setting.changes for setting in settings):
        rows.append(["state policy", *(setting.value("state_policy") for setting in settings)])
    budget = settings[0].options.budget
    if budget is not None:
        if any(each.largest_batch is not None for each in columns):
            largest = (str(each.largest_batch or "none") for each in columns)
            rows.append(["largest batch that fits", *largest])
        rows.append([f"fits {mib(budget)} MiB", *(setting.verdict() for setting in settings)])
    return rows

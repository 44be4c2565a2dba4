"""Tasks of lm-evaluation-harness with their own prompts and metrics, if need be on local files."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from .._options import PathLike
from ..data._extras import need
from .harness import LisaLM

_GROUP = "on local files"  # only a task in a group can be given other data


def _specification(names: Sequence[str], files: Mapping[str, PathLike]) -> List[Any]:
    """What the harness is asked for."""
    if not files:
        return list(names)
    paths = {split: Path(path).resolve() for split, path in files.items()}  # type: ignore[arg-type]
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    data = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in paths.items()}},
    }
    return [{"group": _GROUP, "task": [{"task": name, **data} for name in names]}]


def run_tasks(
    model: LisaLM,
    names: Sequence[str],
    *,
    files: Optional[Mapping[str, PathLike]] = None,
    include_path: Optional[PathLike] = None,
    limit: Union[int, float, None] = None,
    num_fewshot: Optional[int] = None,
    chat: bool = False,
) -> Dict[str, Any]:
    """What lm_eval.simple_evaluate returns.

    files: JSON lines by split ("train", "test", ...), in place of what the tasks would download.
    include_path: a directory of more tasks. limit: documents of each. chat: prompts go through the
    model's chat template.
    """
    evaluator = need("lm_eval.evaluator", "eval")
    manager = need("lm_eval.tasks", "eval").TaskManager(
        include_path=None if include_path is None else str(include_path)
    )
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ValueError(f"lm-evaluation-harness knows no task {', '.join(unknown)}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, too
            return evaluator.simple_evaluate(
                model=model,
                tasks=_specification(names, files or {}),
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=chat,
                task_manager=manager,
            )
    except KeyError as error:
        raise ValueError(f"lm-evaluation-harness: nothing named {error} in the data") from error

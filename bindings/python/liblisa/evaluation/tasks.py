"""Tasks of lm-evaluation-harness with their own prompts and metrics, if need be on local files."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from .._options import PathLike
from ..data._extras import need
from .harness import LisaLM

_SPLITS = {"train": "training_split", "validation": "validation_split", "test": "test_split"}


@functools.lru_cache(maxsize=1)  # it reads thousands of files
def _manager(include_path: Optional[str]) -> Any:
    return need("lm_eval.tasks", "eval").TaskManager(include_path=include_path)


def _local(files: Mapping[str, PathLike]) -> Dict[str, Any]:
    """A task's data in its configuration: these files and no others."""
    paths = {split: Path(path).resolve() for split, path in files.items()}  # type: ignore[arg-type]
    for split, path in paths.items():
        if split not in _SPLITS:
            raise ValueError(f"expected files of {', '.join(_SPLITS)}, got {split!r}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    if not {"test", "validation"} & set(paths):
        raise ValueError("files of test or validation are needed: they are what is asked")
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in paths.items()}},
        "fewshot_split": next((split for split in ("train", "validation") if split in paths), None),
        **{key: split if split in paths else None for split, key in _SPLITS.items()},
    }


def _loaded(
    manager: Any,
    names: Sequence[str],
    files: Mapping[str, PathLike],
    num_fewshot: Optional[int],
) -> List[Any]:
    """The tasks with other data."""
    data = _local(files)
    # Only as a member of a group is a task known by its name and changed.
    group = {"group": "local", "task": [{"task": name, **data} for name in names]}
    tasks = list(manager.load([group])["tasks"].values())
    for task in tasks:
        config = task.dump_config()
        shots = config.get("num_fewshot") if num_fewshot is None else num_fewshot
        own = (config.get("fewshot_config") or {}).get("samples")
        if shots and not own and data["fewshot_split"] is None:
            raise ValueError(f"{task.task_name} shows {shots} examples of train: a file is needed")
    return tasks


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

    files: JSON lines by split (train, validation, test), in place of what the tasks would download.
    include_path: a directory of more tasks. limit: documents of each. chat: prompts go through the
    model's chat template.
    """
    evaluator = need("lm_eval.evaluator", "eval")
    manager = _manager(None if include_path is None else str(include_path))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ValueError(f"lm-evaluation-harness knows no task {', '.join(unknown)}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, too
            tasks = _loaded(manager, names, files, num_fewshot) if files else list(names)
            return evaluator.simple_evaluate(
                model=model,
                tasks=tasks,
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=chat,
                task_manager=manager,
            )
    except KeyError as error:
        raise ValueError(f"lm-evaluation-harness: nothing named {error} in the data") from error

"""Options from the command line over a file of them over defaults, and which of them were given."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .._output import write_whole
from ..data._extras import need
from ._parser import Flag

# What other tools call it, where the names are too far apart to be found by their letters.
_ELSEWHERE = {
    "learning-rate": "lr",
    "gradient-accumulation-steps": "accumulate",
    "grad-accumulation-steps": "accumulate",
    "per-device-train-batch-size": "batch",
    "micro-batch-size": "batch",
    "batch-size": "batch",
    "num-train-epochs": "epochs",
    "num-epochs": "epochs",
    "max-steps": "steps",
    "iters": "steps",
    "sequence-len": "max-tokens",
    "cutoff-len": "max-tokens",
    "max-seq-length": "max-tokens",
    "output-dir": "out",
    "adapter-path": "out",
    "base-model": "model",
    "model-name-or-path": "model",
    "datasets": "data",
    "dataset": "data",
    "val-set-size": "valid-fraction",
    "val-size": "valid-fraction",
    "lr-scheduler": "schedule",
    "lr-scheduler-type": "schedule",
    "warmup-ratio": "warmup",
    "lora-r": "rank",
    "lora-rank": "rank",
    "lora-alpha": "alpha",
    "lora-target": "targets",
    "lora-target-modules": "targets",
    "early-stopping-patience": "patience",
    "load-best-model-at-end": "save-best",
    "save-total-limit": "keep",
    "save-steps": "save-every",
    "eval-steps": "eval-every",
    "steps-per-eval": "eval-every",
    "logging-steps": "log-every",
    "steps-per-report": "log-every",
    "lisa-activated-layers": "active",
    "lisa-n-layers": "active",
    "lisa-interval-steps": "interval",
    "lisa-step-interval": "interval",
    "sample-packing": "pack",
}


class Taken(NamedTuple):
    """Options in force."""

    options: argparse.Namespace
    given: FrozenSet[str]  # names of those that are not defaults


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _value in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)} stands there twice"
        )
    return values


def _parse_yaml(text: str) -> Any:
    yaml = need("yaml", extra="yaml")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def read_config(path: Path) -> Dict[str, Any]:
    """The names and values of a JSON or YAML file, whatever they are."""
    parse = _parse_yaml if path.suffix.lower() in (".yaml", ".yml") else _parse_json
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected names with values, got {type(values).__name__}")
    return {str(name): value for name, value in values.items()}


class Given:
    """Holds the defaults of a subcommand's options: what its parser then returns was given."""

    def __init__(self, parser: argparse.ArgumentParser, aside: Tuple[str, ...] = ()) -> None:
        """aside: names of options that stand in no file."""
        self._parser = parser
        self._aside = aside
        self._actions: Dict[str, argparse.Action] = {}
        self._defaults: Dict[str, Any] = {}
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                self._actions[action.dest] = action
                self._defaults[action.dest] = action.default
                action.default = argparse.SUPPRESS
        parser.set_defaults(taken=self)

    def take(self, options: argparse.Namespace, config: Optional[Path] = None) -> Taken:
        """What was given on the command line, else in the file, else the defaults."""
        on_line = {name: value for name, value in vars(options).items() if name in self._actions}
        in_file = {} if config is None else self._of_file(config)
        given = {**in_file, **on_line}
        return Taken(argparse.Namespace(**{**self._defaults, **given}), frozenset(given))

    def require(self, taken: Taken, *names: str) -> None:
        """Ends with a line about usage where one of these is nowhere."""
        missing = [name for name in names if getattr(taken.options, name) is None]
        if missing:
            self._parser.error(
                "the following arguments are required: " + ", ".join(map(self._word, missing))
            )

    def write(self, path: Path, options: argparse.Namespace) -> None:
        """A file that comes to these options again; for --config."""
        names = (name for name in self._actions if name not in self._aside)
        values = {name.replace("_", "-"): getattr(options, name) for name in names}
        said = {name: value for name, value in values.items() if value is not None}
        write_whole(path, json.dumps(said, indent=2) + "\n")

    def _word(self, name: str) -> str:
        action = self._actions[name]
        return action.option_strings[0] if action.option_strings else str(action.metavar)

    def _of_file(self, path: Path) -> Dict[str, Any]:
        values: Dict[str, Any] = {}
        for key, value in read_config(path).items():
            name = key.replace("-", "_")
            if name not in self._actions or name in self._aside:
                nearest = self.nearest(key)
                meant = "" if nearest is None else f"; did you mean {nearest!r}?"
                raise ValueError(f"{path}: there is no option {key!r}{meant}")
            if name in values:
                raise ValueError(f"{path}: {key} stands there twice")
            if value is None:
                continue
            try:
                values[name] = _converted(self._actions[name], value)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise ValueError(f"{path}: {key}: {error}") from None
        return values

    def nearest(self, key: str) -> Optional[str]:
        """The option that was perhaps meant, with dashes and without the first two."""
        key = key.replace("_", "-").lower()
        names = [name.replace("_", "-") for name in self._actions if name not in self._aside]
        found = [_ELSEWHERE[key]] if key in _ELSEWHERE else difflib.get_close_matches(key, names)
        return found[0] if found and found[0] in names else None


def _converted(action: argparse.Action, value: Any) -> Any:
    """A file's value as the command line would have come to it."""
    if isinstance(action, Flag) or isinstance(value, bool):
        if isinstance(action, Flag) and isinstance(value, bool):
            return value
        expected = "true or false" if isinstance(action, Flag) else "a value"
        raise ValueError(f"expected {expected}, got {json.dumps(value, default=str)}")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ",".join(value)
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a value, got {type(value).__name__}")
    text = str(value)
    made = text if action.type is None else action.type(text)  # type: ignore[operator]
    if action.choices is not None and made not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}, got {text!r}")
    return made

"""Measures a model: on held-out examples as finetune takes them, on plain text, or on tasks of
lm-evaluation-harness."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

from .._adapter import Adapter
from .._context import Context
from .._model import Model
from ..data import Formatter, read_records, survey
from ..evaluation import Score, score_examples, score_texts, total
from ._parser import add_json, count, size
from ._report import print_json, table

NAME = "eval"
HELP = "loss and accuracy on examples, text or benchmarks"

_WINDOW = 2048  # tokens of text, where the model has more positions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.usage = "%(prog)s MODEL [DATA.jsonl | --text FILE | --tasks NAMES] [options]"
    parser.set_defaults(refuse=parser.error)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a Hugging Face directory")
    data = add("data", metavar="DATA.jsonl", help="examples, as inspect-data takes them")
    data.required = False  # with nargs="?" it could not stand behind options
    add("--text", metavar="FILE", help="plain text, all of which is scored")
    add("--tasks", metavar="NAMES", help="tasks of lm-evaluation-harness, with commas")
    add("--adapter", metavar="DIR", help="a PEFT adapter beside the model")
    add("--batch", type=count, default=4, metavar="N", help="sequences in a batch (4)")
    add(
        "--max-tokens",
        type=count,
        metavar="N",
        help="longer examples are cut, text is read in rows of this many (as many as the model "
        "has positions; text: 2048 at most)",
    )
    add(
        "--stride",
        type=count,
        metavar="N",
        help="tokens of text that a row scores behind those that it repeats (all but one)",
    )
    add("--limit", type=count, metavar="N", help="the first examples, or documents of a task (all)")
    add("--num-fewshot", type=int, metavar="N", help="examples in a task's prompts (the task's)")
    add(
        "--data-files",
        metavar="SPLIT=FILE",
        help="JSON lines in place of what a task downloads, with commas: train=A,test=B",
    )
    add("--include-path", metavar="DIR", help="more tasks, as YAML")
    add("--chat", action="store_true", help="tasks go through the chat template")
    add("--backend", default="cpu", metavar="NAME", help="cpu, cuda, ... (cpu)")
    add("--threads", type=count, metavar="N", help="threads (as many as there are)")
    add("--budget", type=size, metavar="SIZE", help="memory there is, such as 8G (no limit)")
    add_json(parser)


class _Setting(NamedTuple):
    """A model that is ready to be measured."""

    model: Model
    formatter: Formatter
    options: argparse.Namespace

    @property
    def window(self) -> int:
        """Tokens of a row."""
        positions = self.model.config.max_positions
        if self.options.max_tokens is not None and self.options.max_tokens > positions:
            raise ValueError(f"--max-tokens: the model has {positions} positions")
        default = positions if self.options.text is None else min(positions, _WINDOW)
        return self.options.max_tokens or default


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[_Setting]:
    formatter = Formatter.open(options.model)
    limits = {"memory_limit": options.budget, "n_threads": options.threads}
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(Context(options.backend, **limits))
        model = stack.enter_context(Model.open(context, options.model))
        if options.adapter is not None:
            stack.enter_context(Adapter.open(model, options.adapter)).attach()
        yield _Setting(model, formatter, options)


@contextlib.contextmanager
def _counted() -> Iterator[Callable[[int], None]]:
    """Counts the rows that are done, on a terminal."""
    done = 0

    def progress(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        if sys.stderr.isatty():
            print(f"\r{done} rows", end="", file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        if done and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _figures(score: Score, seconds: float) -> Dict[str, Any]:
    return {
        "scored_tokens": score.n_tokens,
        "log_likelihood": score.log_likelihood,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "token_accuracy": score.accuracy,
        "seconds": round(seconds, 3),
    }


def _of_examples(setting: _Setting) -> Dict[str, Any]:
    """Answers alone count, as finetune learns them."""
    options, window = setting.options, setting.window
    setting.formatter.max_tokens = window
    records = list(read_records(options.data))[: options.limit]
    vocab_size = setting.model.config.vocab_size
    found = survey(records, setting.formatter, vocab_size=vocab_size)
    for finding in found.findings:
        if finding.fatal:
            raise ValueError(f"{options.data}: {finding}")
    begin = time.monotonic()
    with _counted() as progress:
        scores = score_examples(
            setting.model, found.examples, batch_size=options.batch, progress=progress
        )
    return {
        "data": options.data,
        "examples": len(found.examples),
        "tokens": found.n_tokens,
        "max_tokens": window,
        "truncated": sum(example.cut > 0 for example in found.examples),
        **_figures(total(scores), time.monotonic() - begin),
    }


def _of_text(setting: _Setting) -> Dict[str, Any]:
    options, window, formatter = setting.options, setting.window, setting.formatter
    written = Path(options.text).read_bytes()
    try:
        text = written.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{options.text}: {error}") from None
    tokens = list(formatter.tokenizer.encode(text, add_special_tokens=False).ids)
    prefix = formatter.eos if formatter.bos is None else formatter.bos
    begin = time.monotonic()
    with _counted() as progress:
        (score,) = score_texts(
            setting.model,
            [tokens],
            window=window,
            prefix=prefix,
            stride=options.stride,
            batch_size=options.batch,
            progress=progress,
        )
    if score.n_tokens == 0:
        raise ValueError(f"{options.text}: no token to score")
    return {
        "text": options.text,
        "bytes": len(written),
        "tokens": len(tokens),
        "max_tokens": window,
        "stride": options.stride or window - 1,
        **_figures(score, time.monotonic() - begin),
        "bits_per_byte": -score.log_likelihood / math.log(2) / len(written),
    }


def _files(options: argparse.Namespace) -> Dict[str, str]:
    """--data-files, by split."""
    named = (options.data_files or "").split(",")
    pairs = [part.partition("=") for part in named if part]
    if not all(split and path for split, _equals, path in pairs):
        raise ValueError(f"--data-files: expected SPLIT=FILE,..., got {options.data_files!r}")
    return {split: path for split, _equals, path in pairs}


def _task_rows(results: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One entry a metric, of those that the harness has under "name,filter"."""
    rows = []
    for task, found in results["results"].items():
        for key, value in found.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            rows.append(
                {
                    "task": task,
                    "version": results["versions"].get(task),
                    "num_fewshot": results["n-shot"].get(task),
                    "documents": results["n-samples"].get(task, {}).get("effective"),
                    "metric": metric,
                    "filter": name,
                    "value": value,
                    "stderr": found.get(f"{metric}_stderr,{name}"),
                }
            )
    return rows


def _of_tasks(setting: _Setting) -> Dict[str, Any]:
    from ..evaluation.harness import LisaLM  # needs the harness, as all of this
    from ..evaluation.tasks import run_tasks

    options = setting.options
    model = LisaLM(
        setting.model,
        formatter=setting.formatter,
        batch_size=options.batch,
        max_length=None if options.max_tokens is None else setting.window - 1,
    )
    begin = time.monotonic()
    results = run_tasks(
        model,
        options.tasks.split(","),
        files=_files(options),
        include_path=options.include_path,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        chat=options.chat,
    )
    return {"tasks": _task_rows(results), "seconds": round(time.monotonic() - begin, 3)}


def _print_tasks(found: Dict[str, Any]) -> None:
    rows = [["task", "shots", "documents", "metric", "filter", "value", "stderr"]]
    for row in found["tasks"]:
        value, stderr = (
            f"{number:.4f}" if isinstance(number, float) else str(number)
            for number in (row["value"], row["stderr"])
        )
        words = (row["task"], row["num_fewshot"], row["documents"], row["metric"], row["filter"])
        rows.append([*map(str, words), value, stderr])
    print(table(rows))
    print(f"{found['seconds']:.1f} s")


def _print(found: Dict[str, Any]) -> None:
    scored, seconds = found["scored_tokens"], found["seconds"]
    if "text" in found:
        print(
            f"{found['text']}: {found['bytes']:,} bytes, {found['tokens']:,} tokens, "
            f"in rows of {found['max_tokens']} that score {found['stride']}"
        )
    else:
        print(
            f"{found['data']}: {found['examples']} examples, {found['tokens']:,} tokens, "
            f"{scored:,} of them scored; {found['truncated']} cut to {found['max_tokens']}"
        )
    bits = f", {found['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in found else ""
    print(
        f"loss {found['loss']:.4f}, perplexity {found['perplexity']:.3f}{bits}\n"
        f"log-likelihood {found['log_likelihood']:.3f} of {scored:,} tokens, "
        f"{100 * found['token_accuracy']:.1f} % of which were the likeliest\n"
        f"{seconds:.1f} s, {found['tokens'] / max(seconds, 1e-3):,.0f} tokens/s"
    )


_OF_TASKS = ("num_fewshot", "data_files", "include_path", "chat")


def _check(options: argparse.Namespace) -> None:
    """Options that would be passed over are refused."""
    if sum(source is not None for source in (options.data, options.text, options.tasks)) != 1:
        options.refuse("expected one of DATA.jsonl, --text and --tasks")
    for name in () if options.tasks else _OF_TASKS:
        if getattr(options, name):
            options.refuse(f"--{name.replace('_', '-')} goes with --tasks")
    if options.stride and not options.text:
        options.refuse("--stride goes with --text")
    if options.limit and options.text:
        options.refuse("--limit goes with examples and --tasks")


def run(options: argparse.Namespace) -> int:
    """Runs this subcommand."""
    _check(options)
    measure = _of_tasks if options.tasks else _of_text if options.text else _of_examples
    with _opened(options) as setting:
        found: Dict[str, Any] = {"model": options.model, "adapter": options.adapter}
        found.update(measure(setting))
    if options.json:
        print_json(found)
    elif options.tasks:
        _print_tasks(found)
    else:
        _print(found)
    return 0

"""The pages' code runs as it stands: Python blocks in order, the command's lines one by one, on a
tiny model and data in place of those that the pages name."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import liblisa
from liblisa import _ffi
from liblisa.data import Formatter
from support import ROOT, tiny_model, tokens

try:
    import jinja2  # noqa: F401
    import tokenizers
except ImportError:
    tokenizers = None

# What is not run here, and why. Everything else on these pages is.
NOT_RUN = {
    "make demo": "downloads a model; .ci/run runs it",
    "make check": "runs this test",
    "make install PREFIX=/usr/local": "writes outside the tree; tests/install does it elsewhere",
    "make": "has built what this test runs on",
    "make wheel && pip install build/wheel/liblisa-*.whl": "tests/slow/test_wheel.sh does it",
    'make wheel && pip install "$(echo build/wheel/liblisa-*.whl)[data,plots]"': "the same, and asks a "
    "package index",
    "make && export PYTHONPATH=$PWD/bindings/python": "is how this test finds the package",
    "make wheel demo && python3 tests/bench/compare/compare.py": "installs several GB",
    "cc app.c $(pkg-config --cflags --libs lisa)": "tests/install/test_install.sh does it",
    "cc app.c $(pkg-config --cflags lisa) -l:liblisa.a -lpthread -lm": "the same",
    "$python examples/claims/claims.py all $M --gsm8k GSM8K": "takes nights; test_claims runs its parts",
    "$python examples/claims/report.py": "test_claims makes the page",
    "liblisa plot tuned": "needs matplotlib; test_plot draws",
    "liblisa convert SmolLM2-135M-Instruct.Q4_1.gguf --out SmolLM2-135M-Instruct": "needs such a "
    "file; tests/slow/test_gguf.sh converts",
    **dict.fromkeys(
        [
            "liblisa eval SmolLM2-135M-Instruct --tasks gsm8k "
            "--data-files train=train.jsonl,test=test.jsonl --limit 100",
            "liblisa eval DIR --tasks gsm8k --data-files train=train.jsonl,test=test.jsonl",
            "liblisa eval DIR --tasks pubmedqa --data-files test=pubmedqa.jsonl",
            "python -m liblisa.evaluation --model liblisa "
            "--model_args pretrained=DIR,peft=ADAPTER --tasks arc_easy",
        ],
        "needs lm-evaluation-harness; tests/slow/test_eval.sh runs tasks",
    ),
}
NO_BLOCKS = {"import lm_eval": "the same"}  # by their first line
# These need no tokenizer; every other command does.
PLAIN = ("liblisa inspect-model", "liblisa plan", "liblisa checkpoint")
MODEL = "SmolLM2-135M-Instruct"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def blocks(page, language):
    """The page's blocks of a language: (line of the first, text)."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
        yield text.count("\n", 0, found.start(1)), found.group(1)


def shell_lines(page):
    """Its shell commands, without their comments."""
    for _, block in blocks(page, "sh"):
        for line in block.splitlines():
            command = re.sub(r"\s+#.*", "", line).strip()
            if command:
                yield command


def run_blocks(page, namespace):
    """Runs a page's Python blocks one after the other and returns how many there were."""
    count = 0
    for line, block in blocks(page, "python"):
        if block.splitlines()[0] in NO_BLOCKS:
            continue
        code = compile("\n" * line + block, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, namespace)
        count += 1
    return count


def add_tokenizer(directory):
    """To a model: words, of ChatML."""
    words = "<unk> <|im_start|> <|im_end|> user assistant one two three four".split()
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[1:3])
    made.save(f"{directory}/tokenizer.json")
    config = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    Path(directory, "tokenizer_config.json").write_text(json.dumps(config))


class Docs(unittest.TestCase):
    def setUp(self):
        home = os.getcwd()
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.addCleanup(os.chdir, home)
        os.chdir(directory)


class PythonBlocks(Docs):
    def test_python(self):
        self.assertGreaterEqual(run_blocks(ROOT / "docs" / "python.md", {}), 11)

    def test_readme(self):
        with liblisa.Context() as context:
            tiny_model(context, max_positions=256).save(MODEL)
        rows = tokens()
        namespace = {"data": [(rows, rows)] * 3}
        self.assertEqual(run_blocks(ROOT / "README.md", namespace), 1)
        self.assertEqual(namespace["step"], 2)
        self.assertTrue(namespace["stats"].updated)
        self.assertEqual(liblisa.ModelConfig.read("out").n_layers, 4)

    def test_lisas_algorithm_is_the_librarys(self):
        namespace = {"__name__": "lisa"}
        self.assertEqual(run_blocks(ROOT / "docs" / "lisa.md", namespace), 1)
        weights = [0.1, 0.9, 0.5, 0.25, 0.75, 0.5, 1.0]
        for kind in liblisa.SamplerKind:
            options = {
                "weights": weights if kind.name in ("BERNOULLI", "WEIGHTED") else None,
                "layers": [5, 2] if kind.name == "FIXED" else None,
            }
            given = {name: value for name, value in options.items() if value is not None}
            written = namespace["Options"](kind=kind.name, L=7, seed=3, **given)
            with liblisa.Sampler(7, kind=kind, interval_steps=1, seed=3, **given) as sampler:
                for period in range(40):
                    mask = sampler.mask(period)[1:-1]
                    drawn = [layer for layer in range(7) if mask[layer]]
                    self.assertEqual(sorted(namespace["sample"](written, period)), drawn)

    @unittest.skipUnless(tokenizers, "tokenizers and jinja2 are not installed")
    def test_evaluation(self):
        Path("test_ground_truth.json").write_text('{"2": "yes"}')
        Path("ori_pqal.json").write_text('{"1": {"QUESTION": "a"}, "2": {"QUESTION": "b"}}')
        with liblisa.Context() as context, tiny_model(context, max_positions=512) as model:
            model.save(MODEL)
            add_tokenizer(MODEL)
            namespace = {
                "model": model,
                "formatter": Formatter.open(MODEL),
                "context": [5, 6],
                "continuation": [7],
                "tokens": [5, 6, 7, 8],
                "bos": 1,
                "prompt": [5, 6],
            }
            self.assertEqual(run_blocks(ROOT / "docs" / "evaluation.md", namespace), 2)
        self.assertEqual(namespace["answers"][0].n_tokens, 1)
        self.assertEqual(namespace["score"].n_tokens, 4)
        self.assertEqual(Path("pubmedqa.jsonl").read_text(), '{"QUESTION": "b"}\n')

    def test_no_other_page_has_any(self):
        found = {page.name for page in PAGES if any(blocks(page, "python"))}
        self.assertEqual(found, {"README.md", "python.md", "lisa.md", "evaluation.md"})

    def test_what_is_not_run_is_there(self):
        first = {text.splitlines()[0] for page in PAGES for _, text in blocks(page, "python")}
        self.assertEqual(set(NO_BLOCKS) - first, set())


class Command(Docs):
    def setUp(self):
        super().setUp()
        rows = tokens()
        with liblisa.Context() as context, tiny_model(context, max_positions=512) as model:
            model.save(MODEL)
            with liblisa.Optimizer(model) as optimizer:
                batch = liblisa.Batch(model, 2, 12)
                batch.set(rows)
                liblisa.train_step(model, None, optimizer, batch, 0)
                liblisa.save_checkpoint(optimizer, "checkpoints", 1)
        record = {"messages": [{"role": "user", "content": "one two"}]}
        record["messages"].append({"role": "assistant", "content": "three four"})
        for name in ("train.jsonl", "heldout.jsonl"):
            Path(name).write_text((json.dumps(record) + "\n") * 8)
        Path("book.txt").write_text("one two three four " * 200)
        shim = Path("bin/liblisa")
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m liblisa "$@"\n')
        shim.chmod(0o755)

    def run_line(self, line):
        environment = {
            **os.environ,
            "PATH": f"{Path.cwd() / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "bindings" / "python"),
            "LISA_LIBRARY": str(Path(_ffi.LIBRARY._name).resolve()),
        }
        done = subprocess.run(
            ["sh", "-c", line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, f"{line}\n{done.stdout}")

    def lines(self):
        return [line for page in PAGES for line in shell_lines(page) if line not in NOT_RUN]

    def test_lines(self):
        lines = [line for line in self.lines() if line.startswith(PLAIN)]
        self.assertGreaterEqual(len(lines), 3)
        for line in lines:
            self.run_line(line)

    @unittest.skipUnless(tokenizers, "tokenizers and jinja2 are not installed")
    def test_lines_that_need_a_tokenizer(self):
        add_tokenizer(MODEL)
        lines = [line for line in self.lines() if not line.startswith(PLAIN)]
        self.assertGreaterEqual(len(lines), 2)
        for line in lines:
            self.run_line(line)

    def test_what_is_not_run_is_there(self):
        found = {line for page in PAGES for line in shell_lines(page)}
        self.assertEqual(set(NOT_RUN) - found, set())


if __name__ == "__main__":
    unittest.main()

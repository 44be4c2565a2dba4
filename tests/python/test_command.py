"""The command: what it says of models, plans and checkpoints; usage and failures; its page."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import liblisa
from liblisa.cli import main
from liblisa.cli._parser import size
from support import ROOT, run_python, tiny_model, tokens

sys.path.insert(0, str(ROOT / "tests/tools"))
import command_page  # noqa: E402

KEPT = ROOT / "tests/data/checkpoint-1"


def run(*arguments):
    """Exit status, stdout and stderr of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


class Command(unittest.TestCase):
    def setUp(self):
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)

    def model(self, **changes):
        path = self.directory / "model"
        tiny_model(liblisa.Context(), **changes).save(path)
        return path

    def json(self, *arguments):
        status, out, err = run(*arguments, "--json")
        self.assertEqual((status, err), (0, ""))
        return json.loads(out)

    def assertRefused(self, status, words, *arguments):
        got, out, err = run(*arguments)
        self.assertEqual((got, out), (status, ""))
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn(words, err)


class Usage(Command):
    def test_errors_are_one_line(self):
        self.assertRefused(2, "COMMAND")
        self.assertRefused(2, "invalid choice", "nonsense")
        self.assertRefused(2, "DIR|CONFIG", "plan")
        self.assertRefused(2, "--budget: expected a size", "plan", "x", "--budget", "8Q")
        self.assertRefused(2, "--batch: expected a number", "plan", "x", "--batch", "0")
        self.assertRefused(2, "--bud", "plan", "x", "--bud", "8G")  # no abbreviations
        self.assertRefused(1, "nowhere", "inspect-model", self.directory / "nowhere")
        self.assertRefused(1, "nowhere", "plan", self.directory / "nowhere")
        self.assertRefused(1, "nowhere", "checkpoint", self.directory / "nowhere")
        self.assertRefused(1, "no-such", "plan", self.model(), "--backend", "no-such")

    def test_help(self):
        for name, parser in command_page.commands().items():
            status, out, _ = run(name, "--help")
            self.assertEqual(status, 0)
            for action in parser._actions:
                self.assertTrue(action.help, f"{name} {action.dest}")
                for option in action.option_strings:
                    self.assertIn(option, out)

    def test_sizes(self):
        for text, n_bytes in (("512", 512), ("8G", 8 << 30), ("1.5KiB", 1536), ("2mb", 2000000)):
            self.assertEqual(size(text), n_bytes)

    def test_module(self):
        ran = run_python("-m", "liblisa", "--version")
        self.assertEqual((ran.returncode, ran.stdout), (0, f"liblisa {liblisa.__version__}\n"))
        script = """
import os, sys
from liblisa.cli import main
reader, writer = os.pipe()
os.close(reader)  # nobody reads
os.dup2(writer, 1)
sys.exit(main(sys.argv[1:]))
"""
        ran = run_python("-c", script, "plan", str(self.model()))
        self.assertEqual((ran.returncode, ran.stderr), (141, ""))

    def test_closed_streams(self):
        command = [sys.executable, "-m", "liblisa", "plan"]
        for closed, path, status in ((1, self.model(), 0), (2, self.directory / "nowhere", 1)):
            ran = subprocess.run(
                ["sh", "-c", f'"$@" {closed}>&-', "sh", *command, str(path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            self.assertEqual((ran.returncode, ran.stdout, ran.stderr), (status, b"", b""))

    def test_page(self):
        text = command_page.PAGE.read_text()
        self.assertEqual(command_page.written(text), text, "run tests/tools/command_page.py")
        for name in command_page.commands():
            self.assertIn(f"<!-- options of {name} -->", text)


class InspectModel(Command):
    def test_groups_and_ties(self):
        for tied in (False, True):
            path = self.model(tied_head=tied, weights_dtype="bf16")
            found = self.json("inspect-model", path)
            with liblisa.Model.open(liblisa.Context(), path) as model:
                tensors = model.tensors()
            expected = {}
            for tensor in tensors:
                n = 1
                for extent in tensor.shape:
                    n *= extent
                expected[tensor.group] = expected.get(tensor.group, 0) + n
            self.assertEqual(found["tied"], ["head"] if tied else [])
            self.assertEqual([g["parameters"] for g in found["groups"]], list(expected.values()))
            self.assertEqual(found["parameters"], sum(expected.values()))
            self.assertEqual(found["parameters_by_dtype"], {"bf16": found["parameters"]})
            self.assertEqual(
                found["files"]["config.json"], (path / "config.json").stat().st_size
            )
            text = run("inspect-model", path)[1]
            self.assertIn("layers 0 to 3, each", text)
            self.assertIn("tied to the embedding" if tied else "Nothing is tied", text)

    def test_layers_that_differ_have_rows_of_their_own(self):
        from liblisa.cli.inspect_model import _group_rows

        def group(name, parameters):
            return {"name": name, "tensors": 1, "parameters": parameters, "dtypes": ["f32"]}

        sizes = (("embedding", 4), ("layer 0", 4), ("layer 1", 4), ("layer 2", 5), ("head", 5))
        rows = _group_rows([group(*pair) for pair in sizes])
        self.assertEqual(
            [row[0] for row in rows[1:]], ["embedding", "layers 0 to 1, each", "layer 2", "head"]
        )


class Plan(Command):
    def test_it_is_the_library_plan(self):
        path = self.model()
        arguments = ("--batch", 3, "--tokens", 24, "--active", 1, "--rank", 4, "--targets", "q,v")
        found = self.json("plan", path, *arguments)
        config = liblisa.ModelConfig.read(path)
        lisa = liblisa.plan(config, 3, 24, optimizer={"max_active_layers": 1})
        adapter = {"rank": 4, "targets": ["q", "v"]}
        lora = liblisa.plan(config, 3, 24, optimizer={}, adapter=adapter)
        full = liblisa.plan(config, 3, 24, optimizer={})
        self.assertEqual(
            [found["methods"][name]["bytes"] for name in ("lisa", "lora", "full")],
            [lisa.bytes, lora.bytes, full.bytes],
        )
        self.assertLess(lora.n_trained, lisa.n_trained)
        self.assertLess(lisa.n_trained, full.n_trained)
        alone = self.json("plan", path / "config.json", *arguments, "--method", "lora")
        self.assertEqual(alone["methods"], {"lora": found["methods"]["lora"]})

    def test_options_reach_the_plan(self):
        path = self.model()
        plain = self.json("plan", path, "--method", "lisa")["methods"]["lisa"]
        for options, memory_class in (
            (["--moments", "8bit"], "moments"),
            (["--update-in-backward"], "gradients"),
            (["--frozen-head", "--frozen-embedding"], "gradients"),
            (["--head-rows", "1"], "logits"),
            (["--embedding-rows", "8"], "moments"),
        ):
            changed = self.json("plan", path, "--method", "lisa", *options)["methods"]["lisa"]
            self.assertLess(changed["bytes"][memory_class], plain["bytes"][memory_class], options)

class Checkpoint(Command):
    def test_what_it_holds(self):
        for kind in ("lisa", "lora"):
            (found,) = self.json("checkpoint", KEPT / kind)["checkpoints"]
            self.assertEqual((found["step"], found["whole"]), (5, True))
            self.assertEqual(found["adapted"], kind == "lora")
            self.assertEqual(found["sampler"]["kind"], "weighted")
            self.assertEqual(found["optimizer"]["moments"], ["bf16", "8bit", "f32"])
            held = found["bytes_by_kind"]
            nothing = {name for name, n_bytes in held.items() if n_bytes == 0}
            self.assertEqual(nothing, {"adapter"} if kind == "lisa" else {"weights", "low"})
            self.assertEqual(len(found["weights"]), 29 if kind == "lisa" else 0)
        status, out, _ = run("checkpoint", found["file"])
        self.assertEqual(status, 0)
        self.assertIn("targets q k v o gate up down", out)

    def test_damage_is_said(self):
        context = liblisa.Context()
        model = tiny_model(context)
        optimizer = liblisa.Optimizer(model, lr=1e-2)
        batch = liblisa.Batch(model, 2, 12)
        batch.set(tokens())
        for step in (1, 2):
            liblisa.train_step(model, None, optimizer, batch, step)
            liblisa.save_checkpoint(optimizer, self.directory, step)
        self.assertEqual(run("checkpoint", self.directory)[0], 0)
        newest = sorted(self.directory.glob("checkpoint-*"))[-1]
        data = bytearray(newest.read_bytes())
        data[-1] ^= 1
        newest.write_bytes(data)
        status, out, err = run("checkpoint", self.directory)
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertRegex(out, "000001.safetensors .* yes\n.*000002.safetensors .* no\n")
        self.assertIn(newest.name, err)
        self.assertRefused(1, newest.name, "checkpoint", newest)
        empty = self.directory / "empty"
        empty.mkdir()
        self.assertRefused(1, "no checkpoint", "checkpoint", empty)


if __name__ == "__main__":
    unittest.main()

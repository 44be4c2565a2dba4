"""examples/norms.py: the norms are those of what trained and what was frozen."""

import json
import math
import runpy
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from support import ROOT, run_python, tiny_model

# A Python in which matplotlib is not there, whether it is installed or not.
RUN = """
import runpy, sys
sys.modules["matplotlib"] = None
sys.argv[0] = {script!r}
runpy.run_path({script!r}, run_name="__main__")
""".format(script=str(ROOT / "examples" / "norms.py"))
STEPS = 6


def norm_of(handle, group):
    values = [v for info in handle.tensors() if info.group == group
              for v in memoryview(handle.tensor_read(info.index)).cast("B").cast("f")]
    return math.sqrt(sum(value * value for value in values))


class Norms(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as directory:
            directory = Path(directory)
            with liblisa.Context() as context, tiny_model(context) as model:
                model.save(directory / "model")
                cls.start = [norm_of(model, group) for group in range(6)]
            cls.done = run_python(
                "-c", RUN, str(directory / "model"), "--output", str(directory / "out"),
                "--steps", str(STEPS), "--length", "12", "--lr", "1e-2", "--lora-lr", "1e-2",
                "--interval", "2", "--rank", "2", "--n-active", "1")
            path = directory / "out" / "norms.jsonl"
            text = path.read_text() if path.exists() else ""
            cls.left = sorted(path.name for path in directory.glob("out/*"))
        cls.records = [json.loads(line) for line in text.splitlines()]

    def steps(self, method):
        return [r for r in self.records if r["method"] == method and "step" in r]

    def test_it_runs(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertEqual(self.left, ["norms.jsonl"])
        self.assertIn("no matplotlib", self.done.stderr)
        self.assertEqual(len(self.done.stdout.splitlines()), 3 + 1 + 6)
        for method in ("full", "LoRA", "LISA"):
            self.assertEqual([r["step"] for r in self.steps(method)], list(range(1, STEPS + 1)))

    def test_full_moves_everything(self):
        before = self.start
        for record in self.steps("full"):
            self.assertEqual(record["mask"], [1] * 6)
            for old, new in zip(before, record["weights"]):
                self.assertGreater(abs(old - new), 1e-6)
                self.assertAlmostEqual(old, new, delta=0.2 * old)
            before = record["weights"]

    def test_lisa_moves_its_mask(self):
        before, moved = self.start, set()
        for record in self.steps("LISA"):
            mask = record["mask"]
            self.assertEqual((sum(mask), mask[0], mask[-1]), (3, 1, 1))
            for group, on in enumerate(mask):
                change = abs(before[group] - record["weights"][group])
                (self.assertGreater if on else self.assertLess)(change, 1e-6, group)
            moved.update(group for group, on in enumerate(mask) if on)
            before = record["weights"]
        self.assertGreater(len(moved), 3)

    def test_lora_moves_adapters_alone(self):
        steps = self.steps("LoRA")
        for record in steps:
            for old, new in zip(self.start, record["base"]):
                self.assertAlmostEqual(old, new, places=5)
            self.assertEqual((record["adapters"][0], record["adapters"][-1]), (0, 0))
            self.assertTrue(all(0 < norm for norm in record["adapters"][1:-1]))
        for first, last in zip(steps[0]["adapters"][1:-1], steps[-1]["adapters"][1:-1]):
            self.assertGreater(abs(first - last), 1e-4)
        merged = next(r["norms"] for r in self.records if r.get("at_end") == "merged")
        changed = [abs(old - new) > 1e-6 for old, new in zip(self.start, merged)]
        self.assertEqual(changed, [False, True, True, True, True, False])

    def test_means(self):
        means = {(r["method"], r["mean"]): r["norms"] for r in self.records if "mean" in r}
        self.assertEqual(list(means), [("full", "weights"), ("LoRA", "adapters"), ("LoRA", "base"),
                                       ("LISA", "weights")])
        for (method, what), norms in means.items():
            for group, norm in enumerate(norms):
                every = [record[what][group] for record in self.steps(method)]
                self.assertAlmostEqual(norm, math.fsum(every) / STEPS, places=9)

    def test_the_figure_is_logarithmic(self):
        pyplot, means = mock.MagicMock(), {("full", "weights"): [1, 2], ("LoRA", "adapters"): [0, 3]}
        axis = mock.MagicMock()
        pyplot.subplots.return_value = mock.MagicMock(), axis
        script = runpy.run_path(str(ROOT / "examples" / "norms.py"))
        with mock.patch.dict(sys.modules, {"matplotlib": mock.MagicMock(pyplot=pyplot)}), \
                mock.patch("builtins.print"):
            script["draw_figure"](means, ["embedding", "0"], "norms.png")
        self.assertEqual([call.args[1] for call in axis.plot.call_args_list], [[1, 2], [None, 3]])
        self.assertEqual(axis.set.call_args.kwargs["yscale"], "log")
        self.assertEqual(pyplot.subplots()[0].savefig.call_args.args, ("norms.png",))


if __name__ == "__main__":
    unittest.main()

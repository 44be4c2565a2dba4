"""Pictures of a run: what is read of metrics.jsonl, and what is drawn where matplotlib is there."""

import json
import struct
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from liblisa.cli import _pictures
from liblisa.cli._pictures import History
from test_command import run
from test_finetune import Finetune

try:
    import matplotlib
    from matplotlib.image import imread
except ImportError:
    matplotlib = None

needs_matplotlib = unittest.skipIf(matplotlib is None, "matplotlib is missing")
NO_PACKAGE = "the package matplotlib is missing: pip install 'liblisa[plots]'"


def lines(n_steps, interval=2, n_layers=4, lisa=True):
    """Lines of a metrics.jsonl: one layer at a time."""
    yield {"current_steps": 0, "eval_loss": 3.0}
    for step in range(1, n_steps + 1):
        values = {"current_steps": step, "loss": 1 + 2 / step, "learning_rate": 1e-3 / step}
        if lisa:
            values["lisa_layers"] = [(step - 1) // interval % n_layers]
        if step % 5 == 0:
            values["eval_loss"] = 1.2 + 2 / step
        yield values


class Run(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)

    def write(self, *arguments, **options):
        text = "".join(json.dumps(values) + "\n" for values in lines(*arguments, **options))
        (self.home / "metrics.jsonl").write_text(text)
        return text

    def history(self):
        return History.read(self.home / "metrics.jsonl")

    def assertRefused(self, words):
        status, out, err = run("plot", self.home)
        self.assertEqual((status, out, err.count("\n")), (1, "", 1), err)
        self.assertIn(words, err)


class Read(Run):
    def test_steps_validations_and_swaps(self):
        self.write(10, interval=4)
        history = self.history()
        self.assertEqual(history.numbers, list(range(1, 11)))
        self.assertEqual([step for step, _ in history.validations], [0, 5, 10])
        self.assertEqual(history.swaps, [5, 9])

    def test_many_steps_share_columns(self):
        self.write(1000, interval=20)
        rows, width = _pictures._shares(self.history(), 4)
        self.assertEqual((len(rows), len(rows[0]), width), (4, 200, 5))
        for column in zip(*rows):
            self.assertAlmostEqual(sum(column), 1)
        self.assertAlmostEqual(sum(rows[0]) * 5 / 1000, 260 / 1000)
        self.write(240)
        self.assertEqual(_pictures._shares(self.history(), 4)[1], 1)
        self.write(241)
        self.assertEqual(_pictures._shares(self.history(), 4)[1], 2)

    def test_what_a_killed_run_leaves(self):
        text = self.write(10)
        whole = self.history()
        with (self.home / "metrics.jsonl").open("a") as file:
            file.write(text.splitlines()[-1][:-9])
        self.assertEqual(self.history(), whole)

    def test_refused(self):
        self.assertRefused("metrics.jsonl")
        (self.home / "metrics.jsonl").write_text("")
        self.assertRefused("no step yet")
        self.write(0)
        self.assertRefused("no step yet")
        step = '{"current_steps": 1, "loss": 1'
        for bad in (
            "nonsense",
            "[1]",
            "[" * 100000,
            '{"loss": 1}',
            '{"current_steps": "1"}',
            '{"current_steps": 0, "eval_loss": null}',
            step + "}",
            step + '0, "learning_rate": "x"}',
            step + ', "learning_rate": 1, "lisa_layers": 3}',
            step + ', "learning_rate": 1, "lisa_layers": ["3"]}',
            "\0",
        ):
            (self.home / "metrics.jsonl").write_text(f"{bad}\n{self.write(2)}")
            self.assertRefused("line 1 is not a step's figures")
        (self.home / "metrics.jsonl").write_bytes(b"\xff\n")
        self.assertRefused("line 1")


class Without(Finetune):
    def test_training_succeeds_and_says_what_to_do(self):
        out = self.home / "out"
        with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.figure": None}):
            status, text, err = self.finetune(out)
            self.assertEqual((status, err), (0, ""))
            self.assertEqual(
                text.splitlines()[-1], f"no pictures: {NO_PACKAGE}; then: liblisa plot {out}"
            )
            self.assertEqual(self.finetune(self.home / "quiet", "--quiet"), (0, "", ""))
            status, text, err = run("plot", out)
        self.assertEqual((status, text, err), (1, "", f"liblisa plot: {NO_PACKAGE}\n"))
        self.assertTrue((out / "model/model.safetensors").exists())

    def test_an_older_matplotlib_costs_nothing(self):
        with mock.patch.object(
            _pictures.History, "read", side_effect=TypeError("no height_ratios")
        ):
            status, text, err = self.finetune(self.home / "out")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("no pictures: no height_ratios; then: liblisa plot ", text)


@needs_matplotlib
class Drawn(Run):
    def pictures(self):
        return sorted(path.name for path in self.home.iterdir() if path.suffix != ".jsonl")

    def pixels(self, name):
        """The colours of a picture, as numbers from 0 to 255."""
        image = (255 * imread(self.home / name)[:, :, :3]).round().astype("uint8")
        return set(map(tuple, image.reshape(-1, 3).tolist()))

    def test_both(self):
        self.write(60)
        status, out, err = run("plot", self.home)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, f"{self.home / 'loss.png'}\n{self.home / 'layers.png'}\n")
        self.assertEqual(self.pictures(), ["layers.png", "loss.png"])
        data = (self.home / "loss.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        self.assertEqual((data[:8], width), (b"\x89PNG\r\n\x1a\n", 1170))
        self.assertGreater(height, 500)
        found = self.pixels("loss.png")
        for colour in (_pictures._TRAINING, _pictures._VALIDATION, _pictures._QUIET):
            numbers = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
            self.assertIn(numbers, found)

    def test_nothing_to_compare_with(self):
        self.write(1, lisa=False)
        self.assertEqual(run("plot", self.home)[0], 0)
        self.assertEqual(self.pictures(), ["loss.png"])

    def test_losses_that_are_not_finite(self):
        self.write(3)
        with (self.home / "metrics.jsonl").open("a") as file:
            for loss in ("NaN", "Infinity"):
                file.write(
                    f'{{"current_steps": 4, "loss": {loss}, "eval_loss": {loss}, '
                    '"learning_rate": 0.0, "lisa_layers": []}\n'
                )
        self.assertEqual(run("plot", self.home)[0], 0)

    def test_a_failure_leaves_what_was_there(self):
        self.write(5)
        run("plot", self.home)
        before = (self.home / "loss.png").read_bytes()

        def full(_figure, part, **_options):
            Path(part).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with mock.patch("matplotlib.figure.Figure.savefig", full):
            self.assertRefused("No space left")
        self.assertEqual((self.home / "loss.png").read_bytes(), before)
        self.assertEqual(self.pictures(), ["layers.png", "loss.png"])

    def test_titles(self):
        self.write(5)
        about = {"model": "/x/Llama", "method": "lisa", "active": 2, "interval": 6}
        (self.home / "config.json").write_text(json.dumps(about))
        expected = "Llama: LISA, 2 of 8 layers at a time, others every 6 steps"
        self.assertEqual(_pictures._title(self.home, 8), expected)
        (self.home / "config.json").write_text('{"model": "/x/Llama", "method": "lora"}')
        self.assertEqual(_pictures._title(self.home, 8), "Llama: LoRA, rank ?")
        (self.home / "config.json").write_text('{"model": 3, "method": []}')
        self.assertEqual(_pictures._title(self.home, 8), "3: ")
        for broken in ("[]", "{", "{}"):
            (self.home / "config.json").write_text(broken)
            self.assertEqual(_pictures._title(self.home, 8), self.home.name)
        self.assertEqual(run("plot", self.home)[0], 0)


if __name__ == "__main__":
    unittest.main()

"""What stands around a loop: the rate of a step, and its line in a log."""

import math
import resource
import tempfile
import unittest
from pathlib import Path

import liblisa
from support import tiny_model, tokens


class Schedule(unittest.TestCase):
    def rates(self, schedule, **options):
        return [
            liblisa.scheduled_lr(step, 10, 2.0, schedule=schedule, **options) for step in range(14)
        ]

    def test_warm_up_comes_first(self):
        for schedule in ("cosine", "linear", "constant"):
            rates = self.rates(schedule, warmup_steps=4)
            self.assertEqual(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])

    def test_then_the_schedule(self):
        self.assertEqual(self.rates("constant"), [2.0] * 14)
        for step, rate in enumerate(self.rates("linear", min_ratio=0.25)[:10]):
            self.assertAlmostEqual(rate, 2 - 1.5 * step / 10)
        for step, rate in enumerate(self.rates("cosine")[:10]):
            self.assertAlmostEqual(rate, 1 + math.cos(math.pi * step / 10))
        self.assertEqual(liblisa.scheduled_lr(3, 10, 2.0), self.rates("cosine")[3])

    def test_behind_the_last_step_it_stays(self):
        for schedule in ("cosine", "linear"):
            for rate in self.rates(schedule, warmup_steps=3, min_ratio=0.1)[10:]:
                self.assertAlmostEqual(rate, 0.2)
        self.assertEqual(liblisa.scheduled_lr(5, 3, 1.0, warmup_steps=5, min_ratio=0.5), 1.0)

    def test_what_is_refused(self):
        refused = (
            ({"schedule": "cosin"}, "'cosine', 'linear', 'constant'.* got 'cosin'"),
            ({"step": -1}, "step: expected 0 to"),
            ({"warmup_steps": -1}, "warmup_steps: expected 0 to"),
            ({"min_ratio": 1.5}, "min_ratio: expected 0 to 1, got 1.5"),
            ({"min_ratio": math.nan}, "min_ratio: expected 0 to 1, got nan"),
        )
        for options, words in refused:
            with self.assertRaisesRegex(liblisa.InvalidArgument, words):
                liblisa.scheduled_lr(**{"step": 0, "n_steps": 1, "lr": 1.0, **options})
        with self.assertRaisesRegex(TypeError, "lr: expected a number"):
            liblisa.scheduled_lr(0, 1, "high")


class Log(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.path = Path(home.name) / "metrics.jsonl"

    def test_a_line_a_step(self):
        model = tiny_model(liblisa.Context())
        batch = liblisa.Batch(model, 2, 12)
        optimizer = liblisa.Optimizer(model, lr=1e-2, max_active_layers=2)
        sampler = liblisa.Sampler(4, n_active=2, interval_steps=1)
        written = [liblisa.log_metrics(self.path, 0, eval_loss=4.0)]
        for step in range(3):
            batch.set(tokens(), [[-100] * 12] * 2 if step == 2 else None)
            stats = liblisa.train_step(model, sampler, optimizer, batch, step)
            layers = [layer for layer in range(4) if sampler.mask(step)[1 + layer]]
            self.assertEqual(optimizer.active_layers, layers)
            line = liblisa.log_metrics(self.path, step + 1, stats, layers=layers, n_rows=2)
            self.assertEqual((line["loss"], line["learning_rate"]), (stats.loss, 1e-2))
            self.assertEqual((line["grad_norm"], line["lisa_layers"]), (stats.grad_norm, layers))
            self.assertEqual((line["lisa_active_layers"], line["n_rows"]), (2, 2))
            written.append(line)
        self.assertEqual(liblisa.read_metrics(self.path), written)
        self.assertEqual(written[0], {"current_steps": 0, "eval_loss": 4.0})
        self.assertEqual([line.get("skipped") for line in written], [None, None, None, True])

    def test_a_torn_last_line_is_left_out_and_no_other(self):
        liblisa.log_metrics(self.path, 0, eval_loss=4.0)
        whole = self.path.read_bytes()
        self.path.write_bytes(whole + b'{"current_st')
        self.assertEqual(len(liblisa.read_metrics(self.path)), 1)
        liblisa.log_metrics(self.path, 1, loss=3.0, learning_rate=1e-3)
        numbers = [line["current_steps"] for line in liblisa.read_metrics(self.path)]
        self.assertEqual(numbers, [0, 1])
        self.path.write_bytes(b'{"current_st')
        liblisa.log_metrics(self.path, 0, eval_loss=4.0)
        self.assertEqual(self.path.read_bytes(), whole)
        self.path.write_bytes(b'{"current_st\n' + whole)
        with self.assertRaisesRegex(ValueError, "line 1 is not a step's figures"):
            liblisa.read_metrics(self.path)

    def test_a_full_disk_leaves_no_half_of_a_line(self):
        liblisa.log_metrics(self.path, 0, eval_loss=4.0)
        before = self.path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with self.assertRaises(OSError):
                liblisa.log_metrics(self.path, 1, eval_loss=4.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual(self.path.read_bytes(), before)

    def test_what_could_not_be_read_again_is_not_written(self):
        liblisa.log_metrics(self.path, 0, eval_loss=4.0)
        before = self.path.read_bytes()
        for values in (
            {"tokens": object()},
            {"eval_loss": None},
            {"loss": 1.0},
            {"layers": [None]},
            {"current_steps": 7},
        ):
            with self.assertRaises((TypeError, ValueError)):
                liblisa.log_metrics(self.path, 1, **values)
        with self.assertRaises(liblisa.InvalidArgument):
            liblisa.log_metrics(self.path, -1)
        self.assertEqual(self.path.read_bytes(), before)


if __name__ == "__main__":
    unittest.main()

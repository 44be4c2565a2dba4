"""liblisa finetune: stopped and resumed runs, figures, checkpoints, refusals. The tokenizer is
test_data's."""

import json
import math
import os
import shutil
import signal
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa.cli import _run, finetune
from liblisa.cli._settings import Settings
from liblisa.data import Example
from support import tiny_model
from test_command import run
from test_data import formatter

WORDS = "aa bb cc dd ee ff gg hh".split()
ALWAYS = ["--steps", "12", "--batch", "2", "--lr", "1e-2", "--interval", "3", "--active", "1"]


class Finetune(unittest.TestCase):
    def setUp(self):
        self.home = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.home)
        self.model = self.home / "model"
        self.data = self.home / "data.jsonl"
        with liblisa.Context() as context:
            tiny_model(context).save(self.model)
        records = (
            {"prompt": " ".join(WORDS[: n % 5 + 1]) + " ", "completion": WORDS[n % 8]}
            for n in range(11)
        )
        self.data.write_text("".join(json.dumps(record) + "\n" for record in records))

    def finetune(self, out, *options):
        def opened(_directory, max_tokens):
            return formatter(max_tokens=max_tokens)

        with mock.patch.object(finetune.Formatter, "open", opened):
            return run("finetune", self.model, self.data, "--out", out, *ALWAYS, *options)

    def stopped(self, n_steps, out, *options, number=signal.SIGINT, times=1):
        """A run that gets a signal in its step of that number."""
        train_step, left = _run.train_step, [n_steps]

        def step(*arguments):
            left[0] -= 1
            if left[0] == 0:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return train_step(*arguments)

        with mock.patch.object(_run, "train_step", step):
            return self.finetune(out, *options)

    @staticmethod
    def result(out):
        (file,) = [*out.glob("model/model.safetensors"), *out.glob("adapter/adapter_*.safetensors")]
        return file.read_bytes()

    @staticmethod
    def metrics(out, *keys):
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return [tuple(json.loads(line).get(key) for key in keys) for line in lines]

    def checkpoints(self, out):
        return sorted(int(path.name[11:23]) for path in out.glob("checkpoints/checkpoint-*"))


class Resumed(Finetune):
    def test_to_the_bits_of_a_run_without_a_break(self):
        for options in (
            ["--moments", "8bit"],
            ["--method", "lora", "--targets", "q,v"],
            ["--method", "full", "--pack", "--max-tokens", "16"],
        ):
            with self.subTest(options):
                name = options[1]
                whole, broken = self.home / f"{name}-whole", self.home / f"{name}-broken"
                self.assertEqual(self.finetune(whole, *options)[0], 0)
                status, out, err = self.stopped(5, broken, *options)
                self.assertEqual((status, err), (130, ""))
                self.assertIn("saved after step 5", out)
                self.assertEqual(self.checkpoints(broken), [5])
                self.assertEqual(self.finetune(broken, *options, "--resume")[0], 0)
                self.assertEqual(self.result(broken), self.result(whole))
                untrained = (self.model / "model.safetensors").read_bytes()
                self.assertNotEqual(self.result(whole), untrained)
                keys = ("current_steps", "loss", "eval_loss", "total_tokens", "learning_rate")
                self.assertEqual(self.metrics(broken, *keys), self.metrics(whole, *keys))

    def test_from_the_newest_whole_checkpoint(self):
        whole, broken = self.home / "whole", self.home / "broken"
        self.finetune(whole)
        status, _, _ = self.stopped(7, broken, "--save-every", "2", number=signal.SIGTERM)
        self.assertEqual(status, 128 + signal.SIGTERM)
        self.assertEqual(self.checkpoints(broken), [6, 7])
        newest = sorted(broken.glob("checkpoints/*"))[-1]
        newest.write_bytes(newest.read_bytes()[:-1])
        self.assertEqual(self.finetune(broken, "--resume")[0], 0)
        self.assertEqual(self.result(broken), self.result(whole))
        steps = [step for (step,) in self.metrics(broken, "current_steps")]
        self.assertEqual(steps, list(range(13)))

    def test_without_a_checkpoint_from_the_beginning(self):
        whole, broken = self.home / "whole", self.home / "broken"
        self.finetune(whole)
        self.assertEqual(self.stopped(3, broken, times=2)[0], 130)  # the second does not wait
        self.assertEqual(self.checkpoints(broken), [])
        self.assertEqual(self.finetune(broken, "--resume")[0], 0)
        self.assertEqual(self.result(broken), self.result(whole))

    def test_handlers_are_put_back(self):
        before = signal.getsignal(signal.SIGINT)
        self.stopped(2, self.home / "out")
        self.assertIs(signal.getsignal(signal.SIGINT), before)


class Figures(Finetune):
    def test_metrics(self):
        out = self.home / "out"
        status, text, err = self.finetune(
            out, "--eval-every", "5", "--valid-fraction", "0.2", "--log-every", "4", "--keep", "3",
            "--save-every", "1",
        )
        self.assertEqual((status, err), (0, ""))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["current_steps"] for line in lines], list(range(13)))
        self.assertEqual([n for n, line in enumerate(lines) if "eval_loss" in line], [0, 5, 10, 12])
        self.assertNotIn("loss", lines.pop(0))
        sampler = liblisa.Sampler(4, n_active=1, interval_steps=3, seed=1)
        for step, line in enumerate(lines):
            self.assertNotIn(None, line.values())
            self.assertEqual((line["total_steps"], line["lisa_active_layers"]), (12, 1))
            self.assertEqual(line["lisa_layers"], [sampler.mask(step).index(1, 1) - 1])
            self.assertGreater(line["peak_bytes"], 1 << 20)
        self.assertEqual(
            lines[-1]["total_tokens"], sum(line["step_tokens"] for line in lines)
        )
        self.assertEqual(lines[-1]["epoch"], round(12 / 5, 4))  # 9 examples, 2 held out
        self.assertEqual(lines[-1]["percentage"], 100)
        self.assertLess(lines[-1]["loss"], lines[0]["loss"])
        printed = [line.split()[1] for line in text.splitlines() if line.startswith("step")]
        self.assertEqual(printed, [f"{step}/12" for step in (0, 4, 5, 8, 10, 12)])
        self.assertEqual(self.checkpoints(out), [9, 10, 11])
        about = json.loads((out / "run.json").read_text())
        self.assertEqual(about["settings"]["lr"], 1e-2)
        self.assertEqual(about["liblisa"], liblisa.__version__)
        self.assertEqual(self.finetune(self.home / "quiet", "--quiet"), (0, "", ""))

    def test_epochs_see_everything(self):
        with mock.patch.object(_run.Metrics, "step", return_value={}) as seen, mock.patch.object(
            _run.Progress, "step"
        ):
            options = ["--epochs", "2", "--valid-fraction", "0"]
            with mock.patch("test_finetune.ALWAYS", ["--batch", "3"]):
                self.assertEqual(self.finetune(self.home / "out", *options)[0], 0)
        self.assertEqual(seen.call_count, 8)
        counts = [call[0][2].n_tokens for call in seen.call_args_list]
        self.assertEqual(sum(counts[:4]), sum(counts[4:]))

    def test_schedules(self):
        made = dict.fromkeys(Settings.__dataclass_fields__)
        made.update(lr=2.0, warmup=0.2, min_lr=0.1)
        for schedule, middle in (("constant", 2.0), ("linear", 1.1), ("cosine", 1.1)):
            settings = Settings(**{**made, "schedule": schedule})
            rates = [settings.lr_at(step, 10) for step in range(10)]
            self.assertEqual(rates[:3], [1.0, 2.0, 2.0])
            self.assertAlmostEqual(rates[6], middle)
            self.assertEqual(rates[2:], sorted(rates[2:], reverse=True))
            self.assertTrue(all(0.2 <= rate for rate in rates))
        self.assertAlmostEqual(rates[4], 2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))

    def test_split(self):
        examples = [Example([n], [n]) for n in range(20)]
        train, valid = finetune.split(examples, 0.25, seed=1)
        self.assertEqual((len(train), len(valid)), (15, 5))
        self.assertEqual(sorted(train + valid), examples)
        self.assertNotEqual(finetune.split(examples, 0.25, seed=2)[1], valid)


class Refusals(Finetune):
    def refused(self, words, out, *options):
        status, text, err = self.finetune(out, *options)
        self.assertEqual((status, text, err.count("\n")), (1, "", 1), err)
        self.assertIn(words, err)

    def test_refusals(self):
        out = self.home / "out"
        self.refused("run.json", out, "--resume")
        self.assertEqual(self.finetune(out)[0], 0)
        self.refused("is not empty", out)
        self.refused("lr was 0.01, now 0.02; seed was 1, now 4", out, "--resume", "--lr", "2e-2",
                     "--seed", "4")
        with self.data.open("a") as file:
            file.write('{"text": "aa"}\n')
        self.refused("has changed", out, "--resume")
        other = self.home / "other"
        self.refused("leaves nothing", other, "--valid-fraction", "1")
        self.refused("no label counts", other, "--max-tokens", "2")
        self.refused("limit", other, "--budget", "100K")
        self.assertFalse(other.exists())


if __name__ == "__main__":
    unittest.main()

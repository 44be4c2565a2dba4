"""liblisa finetune: stopped and resumed runs, figures, checkpoints, refusals. The tokenizer is
test_data's."""

import json
import math
import os
import re
import shutil
import signal
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa._output import own_directory
from liblisa.cli import _metrics, _prepare, _resident, _run
from liblisa.cli._best import Best
from liblisa.cli._memory import handles
from liblisa.cli._settings import Settings
from liblisa.data import Example, Formatter, pack, pad, read_records, shuffled, windows
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

    @staticmethod
    def opened():
        def opened(_directory, max_tokens):
            return formatter(max_tokens=max_tokens)

        return mock.patch.object(Formatter, "open", opened)

    def finetune(self, out, *options):
        with self.opened():
            return run("finetune", self.model, self.data, "--out", out, *ALWAYS, *options)

    def stopped(self, n_steps, out, *options, number=signal.SIGINT, times=1):
        """A run that gets a signal in its step of that number."""
        update, left = _run.Run._update, [n_steps]

        def step(*arguments):
            left[0] -= 1
            if left[0] == 0:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return update(*arguments)

        with mock.patch.object(_run.Run, "_update", step):
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
            ["--state-policy", "keep", "--frozen-embedding", "--accumulate", "2"],
            ["--max-grad-norm", "0", "--update-in-backward"],
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

    def test_a_full_disk_costs_no_more_than_the_step(self):
        whole, broken = self.home / "whole", self.home / "broken"
        self.finetune(whole)

        def full(path, step, *arguments, **values):
            if step < 7:
                return liblisa.log_metrics(path, step, *arguments, **values)
            with path.open("a") as file:
                file.write(json.dumps(values)[:30])
            raise OSError(28, "No space left on device")

        with mock.patch.object(_metrics, "log_metrics", full):
            status, _, err = self.finetune(broken, "--save-every", "3")
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertIn("No space left", err)
        self.assertEqual(self.finetune(broken, "--resume")[0], 0)
        self.assertEqual(self.result(broken), self.result(whole))
        keys = ("current_steps", "loss", "eval_loss", "total_tokens")
        self.assertEqual(self.metrics(broken, *keys), self.metrics(whole, *keys))

    def test_a_run_that_has_ended_is_left_alone(self):
        for method in ("lisa", "lora"):
            out = self.home / method
            self.finetune(out, "--method", method)
            before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
            status, text, err = self.finetune(out, "--method", method, "--resume")
            self.assertEqual((status, err), (0, ""))
            self.assertEqual({path: path.stat().st_mtime_ns for path in out.rglob("*")}, before)
            self.assertIn(f"its result is {out}", text)
        result = self.result(out)
        shutil.rmtree(out / "adapter")
        self.assertEqual(self.stopped(3, out, "--method", method, "--resume")[0], 130)
        (out / "adapter").mkdir()  # as one that is killed while it writes leaves it
        self.assertEqual(self.finetune(out, "--method", method, "--resume", "--quiet")[1], "")
        self.assertEqual(self.result(out), result)

    def test_it_says_from_where(self):
        out = self.home / "out"
        self.stopped(5, out)
        self.assertIn("\ngoes on behind step 5\n", self.finetune(out, "--resume")[1])
        again = self.home / "again"
        self.stopped(5, again, times=2)
        self.assertIn("\nno checkpoint: begins anew\n", self.finetune(again, "--resume")[1])

    def test_a_result_that_cannot_be_written_does_not_cost_the_steps(self):
        whole, save = self.home / "whole", _run.Run._save
        self.finetune(whole)
        full = OSError(28, "No space left on device")
        for name, saves, kept in (("some", save, [12]), ("none", full, [])):
            out = self.home / name
            with mock.patch.object(_run.Model, "save", side_effect=full), mock.patch.object(
                _run.Run, "_save", autospec=True, side_effect=saves
            ):
                status, _, err = self.finetune(out)
            self.assertEqual((status, err.count("\n"), self.checkpoints(out)), (1, 1, kept))
            self.assertIn("No space left on device", err)
            self.assertEqual("--resume writes their result" in err, bool(kept))
            update = _run.Run._update
            with mock.patch.object(_run.Run, "_update", autospec=True, side_effect=update) as made:
                self.assertEqual(self.finetune(out, "--resume")[0], 0)
            self.assertEqual(made.call_count, 0 if kept else 12)
            self.assertEqual(self.result(out), self.result(whole))

    def test_a_disk_that_is_full_at_once_leaves_nothing(self):
        """Else DIR could be neither begun, not being empty, nor resumed, holding no run."""
        out, replace = self.home / "out", Path.replace
        for last in ("run.json", "config.json"):

            def full(part, path):
                if path.name == last:
                    raise OSError(28, "No space left on device")
                return replace(part, path)

            with mock.patch.object(Path, "replace", full):
                status, _, err = self.finetune(out)
            self.assertEqual((status, err.count("\n")), (1, 1))
            self.assertFalse(out.exists())
        self.assertEqual(self.finetune(out)[0], 0)

    def test_a_signal_between_two_looks_at_it(self):
        """It is saved for, or not yet noticed: never noticed and not saved for."""
        looks = iter([None, signal.SIGINT])
        seen = mock.PropertyMock(side_effect=lambda *new: new or next(looks, signal.SIGINT))
        out = self.home / "out"
        with mock.patch.object(_run.Signals, "__init__", lambda signals: None), mock.patch.object(
            _run.Signals, "_before", [], create=True
        ), mock.patch.object(_run.Signals, "seen", seen, create=True):
            self.assertEqual(self.finetune(out)[0], 130)
        self.assertEqual(self.checkpoints(out), [2])

    def test_a_signal_behind_the_last_step_does_not_cost_the_result(self):
        whole = self.home / "whole"
        self.finetune(whole)
        save = _run.Run.save

        def interrupted(training):
            os.kill(os.getpid(), signal.SIGINT)
            return save(training)

        out = self.home / "out"
        with mock.patch.object(_run.Run, "save", interrupted):
            self.assertEqual(self.finetune(out)[0], 0)
        self.assertEqual(self.result(out), self.result(whole))

    def test_handlers_are_put_back(self):
        before = signal.getsignal(signal.SIGINT)
        self.stopped(2, self.home / "out")
        self.assertIs(signal.getsignal(signal.SIGINT), before)


class BestOne(Finetune):
    OPTIONS = ["--eval-every", "1", "--valid-fraction", "0.3", "--lr", "0.2", "--steps", "30"]

    def test_it_is_the_result_to_the_bit(self):
        """The weights as they were at the best validation, in spite of the steps behind it."""
        states, evaluate = {}, _run.Run._evaluate

        def seen(training):
            loss = evaluate(training)
            if training.done:
                training._model.save(self.home / f"at-{training.done}")
                weights = self.home / f"at-{training.done}" / "model.safetensors"
                states[training.done] = (loss, weights.read_bytes())
            return loss

        for moments in ("f32", "8bit"):
            out = self.home / f"best-{moments}"
            with mock.patch.object(_run.Run, "_evaluate", seen):
                options = [*self.OPTIONS, "--save-best", "--moments", moments]
                status, text, _ = self.finetune(out, *options)
            self.assertEqual(status, 0)
            step = min(states, key=lambda step: states[step][0])
            self.assertTrue(1 < step < 30, step)
            self.assertEqual(self.result(out), states[step][1])
            self.assertNotEqual(self.result(out), states[30][1])
            self.assertIn(f"at step {step}, which is the result", text)
            last = self.home / f"last-{moments}"
            status, text, _ = self.finetune(last, *self.OPTIONS, "--moments", moments)
            self.assertEqual(self.result(last), states[30][1])
            self.assertIn("the result is of step 30", text)
            self.assertFalse((last / "best").exists())

    def test_patience_and_resumed_runs(self):
        for method in ("lisa", "lora"):
            options = [*self.OPTIONS, "--patience", "4", "--method", method]
            whole = self.home / f"whole-{method}"
            status, text, _ = self.finetune(whole, *options)
            self.assertEqual(status, 0)
            keys = ("current_steps", "loss", "eval_loss")
            figures = self.metrics(whole, *keys)
            last = figures[-1][0]
            best = min(figures[1:], key=lambda line: line[2])[0]
            self.assertEqual(last, best + 4)
            self.assertIn(f"stopped after step {last}, best validation loss", text)
            # Ended before the best, between it and the end, and killed there without saving.
            ends = ((best - 1, 1), (best + 2, 1), (best + 2, 2), (best + 4, 2))
            for n_steps, times in ends if method == "lisa" else ends[2:3]:
                broken = self.home / f"broken-{method}-{n_steps}-{times}"
                self.assertEqual(self.stopped(n_steps, broken, *options, times=times)[0], 130)
                saved = [*broken.glob("checkpoints/*")]
                self.assertEqual(len(saved), 2 - times)
                self.assertLessEqual(len([*broken.glob("best/*")]), 1)
                update = _run.Run._update
                with mock.patch.object(
                    _run.Run, "_update", autospec=True, side_effect=update
                ) as made:
                    status, text, err = self.finetune(broken, *options, "--resume")
                self.assertEqual((status, err), (0, ""))
                first = n_steps if saved else best
                self.assertEqual(made.call_count, last - first)
                self.assertIn(f"at step {best}, which is the result", text)
                self.assertEqual(self.result(broken), self.result(whole))
                self.assertEqual(self.metrics(broken, *keys), figures)

    def test_a_budget_that_holds_the_run_holds_its_way_back(self):
        options = [*self.OPTIONS, "--save-best", "--active", "2"]
        with mock.patch.object(_run, "Batch", side_effect=liblisa.Batch) as made:
            self.assertEqual(self.finetune(self.home / "out", *options)[0], 0)
        _, n_batch, n_tokens = made.call_args[0]
        optimizer = {"max_active_layers": 2, "max_grad_norm": 1.0}
        planned = liblisa.plan(
            liblisa.ModelConfig.read(self.model), n_batch, n_tokens, optimizer=optimizer
        )
        budget = planned.total + (128 << 10)  # handles are not in the plan
        again = self.home / "again"
        status, _, err = self.finetune(again, *options, "--budget", budget)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(self.result(again), self.result(self.home / "out"))
        (peak,) = self.metrics(again, "peak_bytes")[-1]
        self.assertTrue(0.7 * planned.total < peak <= budget, (peak, planned))

    def test_patience(self):
        best = Best(patience=2, min_delta=0.1)
        # 2.85 is better than 3.0 by more than 0.1.
        taken = [(1, 3.0, True, 0), (2, 2.95, True, 1), (3, 2.85, True, 0), (4, 2.9, False, 1)]
        for step, loss, lowest, waited in taken:
            self.assertEqual((best.take(step, loss), best.waited), (lowest, waited))
            self.assertFalse(best.gives_up)
        self.assertEqual(best.step, 3)
        again = Best(patience=2, min_delta=0.1)
        again.restore(json.loads(json.dumps(best.state())))
        self.assertEqual(again, best)
        self.assertFalse(again.take(5, math.nan))
        self.assertTrue(again.gives_up)
        self.assertFalse(Best(None, 0.0, waited=99).gives_up)

    def test_a_lost_one_is_said(self):
        out = self.home / "out"
        save = _run.Run.save

        def lost(training):
            shutil.rmtree(out / "best")
            return save(training)

        with mock.patch.object(_run.Run, "save", lost):
            status, _, err = self.finetune(out, *self.OPTIONS, "--save-best")
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertIn(", the best, is gone; ", err)
        self.assertIn(f"{out / 'model'} is of step 30", err)
        last = self.home / "last"
        self.assertEqual(self.finetune(last, *self.OPTIONS)[0], 0)
        self.assertEqual(self.result(out), self.result(last))

    def test_it_is_written_where_the_run_diverges(self):
        """In a step, with a window of batches open, and in the validation behind one."""
        rate = Settings.lr_at

        def wild(settings, step, n_steps):
            return 1e30 if step >= 5 else rate(settings, step, n_steps)

        options = ["--lr", "1e-3", "--accumulate", "2", "--max-grad-norm", "0", "--save-best"]
        with mock.patch.object(Settings, "lr_at", wild):
            for every in ("1", "5"):
                out = self.home / every
                status, _, err = self.finetune(out, *options, "--eval-every", every)
                self.assertEqual((status, err.count("\n")), (1, 1))
                self.assertIn("not finite", err)
                best = int(re.search(r"model is the best, of step (\d)\n", err).group(1))
                self.assertLessEqual(best, 5)
                short = self.home / f"short-{every}"
                with mock.patch.object(_run.Run, "_is_over", lambda run: run.done == best):
                    self.finetune(short, *options, "--eval-every", every)
                self.assertEqual(self.result(out), self.result(short))

    def test_none_was_measured(self):
        out = self.home / "out"
        with mock.patch.object(_run.Run, "_evaluate", return_value=math.nan):
            status, text, err = self.finetune(out, *self.OPTIONS, "--save-best")
        self.assertEqual((status, err), (0, ""))
        self.assertTrue((out / "model").exists())


class Budget(Finetune):
    def planned(self, n_batch, **batch):
        """Bytes of a run with batches of so many, as the library plans them."""
        optimizer = {"max_active_layers": 1}
        config = liblisa.ModelConfig.read(self.model)
        planned = liblisa.plan(
            config,
            n_batch,
            self.longest,
            optimizer=optimizer,
            batch=batch,
            context={"n_threads": 1},
        )
        return planned.total + handles(config.n_layers) + 4096

    def setUp(self):
        super().setUp()
        with mock.patch.object(_run, "Batch", side_effect=liblisa.Batch) as made:
            self.finetune(self.home / "free", "--threads", "1")
        self.longest = made.call_args[0][2]

    def test_what_was_not_given_is_chosen_and_kept(self):
        whole, broken = self.home / "whole", self.home / "broken"
        options = ["--threads", "1", "--budget", str(self.planned(2))]
        with mock.patch("test_finetune.ALWAYS", [*ALWAYS[:2], *ALWAYS[4:]]):  # no --batch: 4
            status, text, err = self.finetune(whole, *options)
            self.assertEqual((status, err), (0, ""))
            self.assertIn(": batch 2, 2 to a step, all layers stored, f32 moments\n", text)
            written = json.loads((whole / "config.json").read_text())
            self.assertEqual((written["batch"], written["accumulate"]), (2, 2))
            self.assertEqual(self.stopped(4, broken, *options)[0], 130)
            self.assertEqual(self.finetune(broken, *options, "--resume")[0], 0)
        self.assertEqual(self.result(broken), self.result(whole))
        (peak,) = self.metrics(whole, "peak_bytes")[-1]
        self.assertLessEqual(peak, self.planned(2))

    def test_layers_move_to_a_scratch_file(self):
        """To the bits of a run in memory; where DIR lies in memory there is none."""
        out = self.home / "out"
        options = ["--threads", "1", "--head-rows", "8"]
        budget = self.planned(2, activations="recompute", head_rows=8) - 8192
        self.finetune(self.home / "memory", *options)
        opened, contexts = liblisa.Model.open, liblisa.Context
        with mock.patch.object(_run.Model, "open", side_effect=opened) as model, mock.patch.object(
            _run, "Context", side_effect=contexts
        ) as context:
            status, text, err = self.finetune(out, *options, "--budget", budget)
        self.assertEqual(context.call_args[1]["memory_limit"], budget)
        self.assertEqual(model.call_args[1]["scratch_dir"], str(out.resolve()))
        if "is in memory, expected a disk" in err:
            self.skipTest(err)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("f32 moments, trained layers in a scratch file", text)
        self.assertEqual(self.result(out), self.result(self.home / "memory"))
        self.assertEqual({path.name for path in out.iterdir()} & {"out", "scratch"}, set())

    def test_a_dry_run_leaves_no_scratch_file(self):
        options = ["--threads", "1", "--head-rows", "8", "--dry-run"]
        budget = self.planned(2, activations="recompute", head_rows=8) - 8192
        before = sorted(self.home.rglob("*"))
        status, text, err = self.finetune(self.home / "out", *options, "--budget", budget)
        self.assertIn("trained layers in a scratch file", text)
        self.assertEqual(sorted(self.home.rglob("*")), before)
        if "is in memory, expected a disk" not in err:
            self.assertEqual((status, err), (0, ""))
            self.assertIn("3 steps were tried", text)
        options = ["--scratch-dir", self.home / "new" / "scratch", "--dry-run"]
        status, text, err = self.finetune(self.home / "out", *options)
        self.assertEqual(sorted(self.home.rglob("*")), before)
        if "is in memory, expected a disk" not in err:
            self.assertEqual((status, err), (0, ""))

    def test_auto_is_what_it_comes_to(self):
        out = self.home / "out"
        self.assertEqual(self.finetune(out, "--backend", "auto", "--budget", "1G")[0], 0)
        written = json.loads((out / "config.json").read_text())
        with liblisa.Context("auto") as context:
            self.assertEqual(written["backend"], context.backend)

    def test_what_was_given_is_not_given_up(self):
        status, text, err = self.finetune(
            self.home / "out",
            "--threads",
            "1",
            "--budget",
            str(self.planned(1)),
            "--activations",
            "store",
            "--scratch-dir",
            str(self.home),
            "--moments",
            "f32",
            "--head-rows",
            "64",
        )
        self.assertEqual((status, text, err.count("\n")), (1, "", 1))
        self.assertIn("are missing even with batch 2, all layers stored, f32 moments", err)


class DryRun(Finetune):
    def test_it_says_and_writes_nothing(self):
        before = sorted(self.home.rglob("*"))
        weights = (self.model / "model.safetensors").read_bytes()
        for options in (["--epochs", "2"], ["--pack", "--max-tokens", "16"], ["--method", "lora"]):
            out = self.home / "new" / "out"
            status, text, err = self.finetune(out, *options, "--dry-run", "--budget", "1G")
            self.assertEqual((status, err), (0, ""))
            self.assertEqual(sorted(self.home.rglob("*")), before)
            self.assertIn("10 examples, 1 to val" if "--pack" not in options else " rows, ", text)
            self.assertIn("; 12 steps of 2, up to", text)
            self.assertRegex(text, r"\nactivations +\d")
            self.assertRegex(text, r"\nfits 1,024.0 MiB +yes\n")
            self.assertRegex(text, r"\n3 steps were tried: .* 2 validations of .* in all\n$")
        self.assertEqual((self.model / "model.safetensors").read_bytes(), weights)

    def test_counts(self):
        status, text, _ = self.finetune(self.home / "out", "--dry-run", "--valid-fraction", "0")
        examples = [formatter().example(r.content) for r in read_records(self.data)]
        n_tokens = sum(len(example.tokens) for example in examples)
        learned = sum(example.n_targets for example in examples)
        self.assertIn(f"\n{n_tokens} tokens an epoch, {learned} of them learned", text)
        self.assertIn(f"; {2 * n_tokens} in 2 epochs\n", text)
        self.assertIn("; 0 validations of 0.0 s", text)

    def test_status_says_whether_it_fits(self):
        with mock.patch.object(_run.Model, "open") as opened:
            status, text, err = self.finetune(self.home / "out", "--dry-run", "--budget", "2M")
        self.assertFalse(opened.called)
        self.assertEqual((status, err), (1, ""))
        self.assertRegex(text, r"\nfits 2.0 MiB +no: \d.* are missing\n")
        self.assertTrue(text.rstrip().splitlines()[-1].startswith("--budget 2.0 MiB: "))
        self.assertFalse((self.home / "out").exists())

    def test_labels_of_packed_rows_are_the_library_s(self):
        examples = [Example([n] * n, [n] * n) for n in range(2, 12)]
        rows = pack(examples, 24)
        with liblisa.Context() as context, liblisa.Model.open(context, self.model) as model:
            batch = liblisa.Batch(model, len(rows), 24)
            data = pad(rows)
            batch.set(data.tokens, data.labels, documents=data.documents)
            self.assertEqual(sum(row.n_targets for row in rows), batch.n_targets)

    def test_time(self):
        """Every step takes 100 s but the first, which does not count."""
        seconds = iter([0, 0, *range(10**6, 2 * 10**6, 100)])
        with mock.patch.object(_run.time, "monotonic", lambda: next(seconds)):
            _, text, _ = self.finetune(self.home / "out", "--dry-run", "--eval-every", "4")
        said = re.search(
            r"tried: ([\d.]+) s a step, (\d+) tok/s; (\d+) validations of ([\d.]+) s; about (.*) in",
            text,
        )
        step, _, n_validations, validation, total = said.groups()
        self.assertEqual((n_validations, validation), ("4", "100.0"))
        self.assertTrue(50 < float(step) < 200, step)
        hours, minutes, rest = map(int, total.split(":"))
        expected = 12 * float(step) + 400
        self.assertLess(abs((hours * 60 + minutes) * 60 + rest - expected), 2)


class Accumulated(Finetune):
    def test_it_is_the_large_batch(self):
        large, parts, other = (self.home / name for name in ("large", "parts", "other"))
        options = ["--lr", "1e-3"]
        self.assertEqual(self.finetune(large, *options, "--batch", "4")[0], 0)
        self.assertEqual(self.finetune(parts, *options, "--accumulate", "2")[0], 0)
        self.assertEqual(self.finetune(other, *options, "--accumulate", "3")[0], 0)
        keys = ("loss", "grad_norm", "step_tokens", "epoch")
        compared = zip(self.metrics(large, *keys)[1:], self.metrics(parts, *keys)[1:])
        for one, two in compared:
            for left, right in zip(one, two):
                self.assertTrue(math.isclose(left, right, rel_tol=1e-4), (one, two))
        self.assertNotEqual(self.metrics(other, "step_tokens"), self.metrics(parts, "step_tokens"))
        weights = []
        for out in (large, parts):
            with liblisa.Context() as context, liblisa.Model.open(context, out / "model") as model:
                weights.append(model.tensor_read(0).tolist()[1])
        for left, right in zip(*weights):
            self.assertAlmostEqual(left, right, places=5)

    def test_windows_are_the_large_batches(self):
        items = [Example([n] * (1 + n * 7 % 11), [n]) for n in range(45)]
        whole = shuffled(items, 6, seed=3)
        parts = windows(items, 2, 3, seed=3)
        self.assertEqual([len(window) for window in parts].count(3), 7)
        for batch, window in zip(whole, parts):
            self.assertEqual(batch.n_tokens, sum(part.n_tokens for part in window))
            rows = [row[0] for row in batch.tokens]
            self.assertEqual(rows, [row[0] for part in window for row in part.tokens])


class Configured(Finetune):
    def run_with(self, *arguments):
        with self.opened():
            return run("finetune", *arguments)

    def test_what_is_written_comes_to_the_same_run(self):
        first, again = self.home / "first", self.home / "again"
        options = ["--moments", "bf16", "--save-best", "--eval-every", "4", "--threads", "1"]
        self.assertEqual(self.finetune(first, *options)[0], 0)
        config = first / "config.json"
        self.assertEqual(self.run_with("--config", config, "--out", again)[0], 0)
        self.assertEqual(self.result(again), self.result(first))
        written = json.loads(config.read_text())
        self.assertEqual(
            {**json.loads((again / "config.json").read_text()), "out": str(first)},
            {**written, "out": str(first)},
        )
        self.assertEqual((written["moments"], written["save-best"]), ("bf16", True))
        self.assertFalse({"resume", "config", "quiet", "valid"} & set(written))

    def test_the_command_line_is_stronger(self):
        config = self.home / "c.json"
        settings = {
            "model": str(self.model),
            "data": str(self.data),
            "steps": 2,
            "max_tokens": 32,
            "out": str(self.home / "a"),
            "save-best": True,
            "lr": "1e-3",
            "seed": None,
        }
        config.write_text(json.dumps(settings))
        self.assertEqual(self.run_with("--config", config)[0], 0)
        options = ["--out", self.home / "b", "--steps", "3", "--no-save-best", "--seed", "7"]
        self.assertEqual(self.run_with("--config", config, *options)[0], 0)
        for name, expected in (("a", (2, 1, True)), ("b", (3, 7, False))):
            written = json.loads((self.home / name / "config.json").read_text())
            self.assertEqual((written["steps"], written["seed"], written["save-best"]), expected)
            self.assertEqual((written["max-tokens"], written["lr"]), (32, 1e-3))

    def test_what_a_file_says_otherwise_does_not_hide_the_command_line(self):
        config = self.home / "c.json"
        out = self.home / "out"
        settings = {"model": self.model, "data": self.data, "steps": 2, "valid": self.data}
        config.write_text(json.dumps(settings, default=str))
        options = ["--epochs", "3", "--valid-fraction", "0.3", "--batch", "2"]
        status, text, _ = self.run_with("--config", config, "--out", out, *options)
        self.assertEqual(status, 0)
        self.assertIn("8 examples, 3 to validate on; 12 steps", text)

    def test_paths_are_written_from_the_root(self):
        """A run may be resumed from elsewhere."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.home)
        out = self.home / "out"
        options = ["--scratch-dir", "scratch", "--steps", "1"]
        status, _, err = self.run_with("model", "data.jsonl", "--out", "out", *options)
        if "is in memory, expected a disk" in err:
            self.skipTest(err)
        self.assertEqual((status, err), (0, ""))
        written = json.loads((out / "config.json").read_text())
        for name in ("model", "data", "scratch-dir"):
            self.assertTrue(os.path.isabs(written[name]), written[name])

    def test_resume_needs_nothing_but_the_directory(self):
        whole, broken = self.home / "whole", self.home / "broken"
        options = ["--patience", "9", "--eval-every", "2", "--seed", "5"]
        self.finetune(whole, *options)
        self.assertEqual(self.stopped(5, broken, *options)[0], 130)
        self.assertEqual(self.run_with("--resume", "--out", broken)[0], 0)
        self.assertEqual(self.result(broken), self.result(whole))


class Figures(Finetune):
    def test_metrics(self):
        out = self.home / "out"
        status, text, err = self.finetune(
            out,
            "--eval-every",
            "5",
            "--valid-fraction",
            "0.2",
            "--log-every",
            "4",
            "--keep",
            "3",
            "--save-every",
            "1",
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
        self.assertEqual(lines[-1]["total_tokens"], sum(line["step_tokens"] for line in lines))
        self.assertEqual(lines[-1]["epoch"], round(12 / 5, 4))  # 9 examples, 2 held out
        self.assertEqual(lines[-1]["percentage"], 100)
        self.assertLess(lines[-1]["loss"], lines[0]["loss"])
        printed = [line.split()[1] for line in text.splitlines() if line.startswith("step")]
        self.assertEqual(printed, [f"{step}/12" for step in (0, 4, 5, 8, 10, 12)])
        self.assertEqual(self.checkpoints(out), [9, 10, 11])
        about = json.loads((out / "run.json").read_text())
        self.assertEqual(about["liblisa"], liblisa.__version__)
        self.assertEqual(json.loads((out / "config.json").read_text())["lr"], 1e-2)
        self.assertEqual(self.finetune(self.home / "quiet", "--quiet"), (0, "", ""))

    def test_what_is_left_goes_by_steps(self):
        """50 s to open the model, and to measure it or read a checkpoint; steps of 2 s."""
        stats = mock.Mock(loss=1.0, lr=1.0, grad_norm=1.0, n_active_layers=1)
        seconds = iter([0, 52, 54])
        with mock.patch.object(_metrics.time, "monotonic", lambda: next(seconds)):
            metrics = _metrics.Metrics(self.home / "metrics.jsonl", 10, 10)
            measured = _metrics.Measured(108, 2.0, None, 1, None)
            lines = [metrics.step(step, stats, measured) for step in (1, 2)]
        self.assertEqual([line["remaining_time"] for line in lines], ["0:00:18", "0:00:16"])
        self.assertEqual([line["elapsed_time"] for line in lines], ["0:00:52", "0:00:54"])
        self.assertEqual(lines[-1]["throughput"], 4)

    def test_memory_is_written_down_beside_its_plan(self):
        out = self.home / "out"
        status, text, _ = self.finetune(out)
        memory = json.loads((out / "run.json").read_text())["memory"]
        self.assertEqual(memory["held"]["gradients"], memory["planned"]["gradients"])
        (peak,) = self.metrics(out, "peak_bytes")[-1]
        self.assertGreaterEqual(memory["held_total"], peak)
        self.assertLess(memory["held_total"], memory["planned_total"] + handles(4))
        self.assertTrue(0 <= memory["anonymous"] < 1 << 30)
        self.assertRegex(text, r"memory: .* planned, .* held, .* as the system counts")
        with mock.patch.object(_resident, "_STATUS", Path("/nowhere")):
            status, text, err = self.finetune(self.home / "without")
        self.assertEqual((status, err), (0, ""))
        self.assertNotIn("as the system counts", text)

    @unittest.skipUnless(Path("/proc/self/status").exists(), "no /proc")
    def test_a_peak_is_seen_although_it_is_gone(self):
        watch = _resident.AnonymousPeak(interval=0.001)
        watch.start()
        filled = bytearray(b"x") * (64 << 20)
        time.sleep(0.1)
        del filled
        watch.stop()
        watch.stop()
        self.assertTrue(60 << 20 < watch.grown < 80 << 20, watch.grown)
        self.assertFalse(watch._thread.is_alive())

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
        train, valid = _prepare.split(examples, 0.25, seed=1)
        self.assertEqual((len(train), len(valid)), (15, 5))
        self.assertEqual(sorted(train + valid), examples)
        self.assertNotEqual(_prepare.split(examples, 0.25, seed=2)[1], valid)


class Refusals(Finetune):
    def test_a_loss_that_leaves_the_numbers(self):
        options = ["--lr", "1e30", "--max-grad-norm", "0", "--eval-every", "1", "--steps", "9"]
        status, _, err = self.finetune(self.home / "out", *options)
        self.assertEqual(status, 1)
        self.assertRegex(
            err, r"^liblisa finetune: step \d: .* not finite.*lower --lr than 1e\+30\n$"
        )

    def test_validation_that_was_elsewhere(self):
        out, config = self.home / "out", self.home / "c.json"
        self.assertEqual(self.finetune(out, "--valid", self.data)[0], 0)
        config.write_text("{}")
        self.refused("needs --valid again", out, "--resume", "--config", config)

    def refused(self, words, out, *options):
        status, text, err = self.finetune(out, *options)
        self.assertEqual((status, text, err.count("\n")), (1, "", 1), err)
        self.assertIn(words, err)

    def test_refusals(self):
        out = self.home / "out"
        self.refused("config.json", out, "--resume")
        self.assertEqual(self.finetune(out)[0], 0)
        self.refused("is not empty", out)
        self.refused(
            "lr was 0.01, now 0.02; seed was 1, now 4",
            out,
            "--resume",
            "--lr",
            "2e-2",
            "--seed",
            "4",
        )
        with self.data.open("a") as file:
            file.write('{"text": "aa"}\n')
        self.refused("has changed", out, "--resume")
        about = (out / "run.json").read_text()
        for damaged in ("", "[]", about[:-9], "\udcff"):
            (out / "run.json").write_text(damaged, errors="surrogateescape")
            self.refused("run.json: ", out, "--resume")
        other = self.home / "other"
        self.refused("leaves nothing", other, "--valid-fraction", "1")
        self.refused("need validation", other, "--valid-fraction", "0", "--patience", "1")
        self.refused("--eval-every", other, "--eval-every", "0", "--patience", "1")
        self.refused("no label counts", other, "--max-tokens", "2")
        self.refused("needs --accumulate 1", other, "--update-in-backward")
        self.refused("are missing even with", other, "--budget", "100K")
        self.assertFalse(other.exists())

    def test_a_directory_is_one_process_s(self):
        out = self.home / "out"
        with own_directory(out):
            self.refused("another process", out)
            self.assertEqual(list(out.iterdir()), [])

    def test_a_directory_that_was_made_in_vain_goes(self):
        out = self.home / "made" / "out"
        with mock.patch.object(_run.Run, "open", side_effect=ValueError("no model")):
            self.refused("no model", out)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()

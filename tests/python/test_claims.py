"""The harness of examples/claims: a run that is interrupted goes on to the same lines. Run as a
program it is claims.py, with a tokenizer that needs no package."""

import json
import math
import os
import random
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

try:
    import matplotlib
except ImportError:
    matplotlib = None

TOP = Path(__file__).resolve().parents[2]
CLAIMS = TOP / "examples" / "claims"
sys.path.insert(0, str(CLAIMS))

import claims  # noqa: E402
import intervals  # noqa: E402
import liblisa  # noqa: E402
import models  # noqa: E402
import report  # noqa: E402
import run as running  # noqa: E402
import studies  # noqa: E402
import summaries  # noqa: E402
import texts  # noqa: E402
import timing  # noqa: E402
from liblisa.data import Formatter, Row  # noqa: E402
from liblisa.evaluation import total  # noqa: E402
from lines import TIMES, Result, Results, Writer, publish  # noqa: E402
from spec import Spec  # noqa: E402
from texts import Text  # noqa: E402
from test_data import formatter  # noqa: E402
from training import Training, plan, settings  # noqa: E402

MODEL = TOP / "tests" / "data" / "llama-tied"
TINY = Spec("words", "lisa", lr=1e-2, interval=3, steps=10, tokens=12, active=1, model="llama-tied")


def rows(n, seed):
    draw = random.Random(seed)
    vocabulary = liblisa.ModelConfig.read(MODEL).vocab_size
    made = []
    for _ in range(n):
        tokens = [draw.randrange(vocabulary) for _ in range(12)]
        labels = [liblisa.IGNORE_LABEL] * 2 + tokens[2:]
        made.append(Row(tokens, labels, [0] * 7 + [1] * 5))
    return made


TEXT = Text(rows(4, 1), rows(2, 2), rows(3, 3))


def comparable(results, spec):
    """A run's lines without what two runs of it may differ in."""
    found = []
    for line in map(json.loads, results.path(spec).read_text().splitlines()):
        line.pop("seconds", None)
        line.pop("resident", None)
        for name in ("staging", "handles"):  # a checkpoint takes some
            line.get("held", {}).pop(name, None)
        found.append(line)
    return found


class Interrupted(Exception):
    """What a test raises in the middle of a run."""


class Runs(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        for name, value in (("SAVE_EVERY", 4), ("MEASURE_EVERY", 5)):
            self.enter(mock.patch.object(running, name, value))
        self.enter(mock.patch.object(running, "has_curve", lambda spec: spec.seed == 1))
        self.enter(mock.patch("sys.stderr"))

    def enter(self, manager):
        manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)

    def run_to_end(self, spec, name="whole"):
        results = Results(self.directory / name)
        running.run(spec, TEXT, MODEL, results.path(spec), self.directory / (name + "-scratch"))
        return results

    def interrupt(self, spec, at, name):
        step = Training.step

        def stopped(training, number, row):
            if number == at:
                raise Interrupted
            return step(training, number, row)

        with mock.patch.object(Training, "step", stopped):
            with self.assertRaises(Interrupted):
                self.run_to_end(spec, name)

    def continued(self, spec, name):
        """The results, and the steps that were taken for them."""
        step, taken = Training.step, []

        def counted(training, number, row):
            taken.append(number)
            return step(training, number, row)

        with mock.patch.object(Training, "step", counted):
            return self.run_to_end(spec, name), taken

    def test_an_interrupted_run_comes_to_the_same_lines(self):
        for number, spec in enumerate(
            (
                TINY,
                replace(TINY, sampler="adaptive"),
                replace(TINY, sampler="weighted"),
                replace(TINY, sampler="bernoulli", state="keep"),
                replace(TINY, embedding=False, head=False),
                replace(TINY, method="lora", rank=2),
                replace(TINY, method="full", moments="8bit", in_backward=True),
            )
        ):
            with self.subTest(spec.name):
                whole = self.run_to_end(spec)
                for at in (2, 7):  # before and behind the first checkpoint
                    name = f"torn-{number}-{at}"
                    self.interrupt(spec, at, name)
                    self.assertIsNone(Results(self.directory / name).get(spec))
                    again, taken = self.continued(spec, name)
                    self.assertEqual(taken, list(range(0 if at < 4 else 4, spec.steps)))
                    self.assertEqual(comparable(again, spec), comparable(whole, spec))
                    self.assertEqual(list((self.directory / (name + "-scratch")).glob("*")), [])

    def test_lines_that_were_lost_are_run_again(self):
        whole = self.run_to_end(TINY)
        self.interrupt(TINY, 7, "torn")
        part = self.directory / "torn-scratch" / TINY.name / "lines.jsonl"
        part.write_bytes(part.read_bytes()[:40])
        again, taken = self.continued(TINY, "torn")
        self.assertEqual(taken, list(range(TINY.steps)))
        self.assertEqual(comparable(again, TINY), comparable(whole, TINY))

    def test_what_was_begun_with_other_rows_is_run_again(self):
        self.interrupt(TINY, 7, "torn")
        part = self.directory / "torn-scratch" / TINY.name / "lines.jsonl"
        begin, *others = part.read_text().splitlines(keepends=True)
        part.write_text(begin.replace(TEXT.digest, "0" * len(TEXT.digest)) + "".join(others))
        _, taken = self.continued(TINY, "torn")
        self.assertEqual(taken, list(range(TINY.steps)))

    def test_a_peak_before_an_interruption_counts(self):
        def saved(run, training, writer):
            run._peak, run._resident = {"moments": 1 << 40}, 1 << 41
            save(run, training, writer)

        save = running.Run._save
        with mock.patch.object(running.Run, "_save", saved):
            self.interrupt(TINY, 7, "torn")
        end = self.continued(TINY, "torn")[0].get(TINY).end
        self.assertEqual((end["held"]["moments"], end["resident"]), (1 << 40, 1 << 41))

    def test_draws_of_their_own_change_layers_and_not_rows(self):
        runs = [self.run_to_end(replace(TINY, draws=n)).get(replace(TINY, draws=n)) for n in (1, 2)]
        usual = self.run_to_end(TINY).get(TINY)
        layers, losses = (
            [[line[key] for line in run.of("layers")] for run in (usual, *runs)]
            for key in ("layers", "loss")
        )
        self.assertEqual((layers[0], losses[0]), (layers[1], losses[1]))
        self.assertNotEqual(layers[0], layers[2])
        self.assertEqual(losses[0][0], losses[2][0])

    def test_a_whole_run_has_every_step_and_measurement(self):
        result = self.run_to_end(TINY).get(TINY)
        self.assertEqual([line["step"] for line in result.of("loss")], list(range(1, 11)))
        self.assertEqual([line["step"] for line in result.of("valid")], [0, 5, 10])
        self.assertEqual([n for _, n, _ in result.end["test"]], [5, 4] * 3)
        layers = [line["layers"] for line in result.of("layers")]
        self.assertEqual([len(active) for active in layers], [1] * 10)
        self.assertEqual(layers[0:3], [layers[0]] * 3)
        self.assertEqual(result.begin["rows"], TEXT.digest)
        self.assertEqual(result.begin["weights"], models.digest(MODEL))
        self.assertNotEqual(models.digest(MODEL), models.digest(MODEL.parent / "llama-untied"))
        self.assertEqual(result.begin["settings"], settings(TINY))
        planned, held = result.begin["planned"], result.end["held"]
        for name in ("gradients", "moments", "activations"):
            self.assertEqual(held[name], planned[name], name)

    def test_what_has_no_curve_is_measured_at_the_end_alone(self):
        spec = replace(TINY, seed=2)
        result = self.run_to_end(spec).get(spec)
        self.assertEqual([line["step"] for line in result.of("valid")], [10])

    def test_the_untouched_model_scores_as_before_the_first_step(self):
        spec = replace(TINY, method="none", lr=0.0)
        untouched = self.run_to_end(spec).get(spec)
        trained = self.run_to_end(TINY).get(TINY)
        first = [next(result.of("valid"))["valid"] for result in (untouched, trained)]
        self.assertEqual(first[0], first[1])

    def test_a_run_that_diverges_says_so(self):
        spec = replace(TINY, method="full", lr=1e30)
        result = self.run_to_end(spec).get(spec)
        self.assertIsNone(result.end["test"])
        self.assertIn("behind step 1", result.end["diverged"])

    def test_another_runs_lines_are_refused(self):
        results = self.run_to_end(TINY)
        other = replace(TINY, seed=2)
        results.path(TINY).rename(results.path(other))
        with self.assertRaisesRegex(ValueError, "not the lines"):
            results.get(other)

    def test_runs_on_other_rows_are_refused(self):
        other = replace(TINY, seed=2)
        self.run_to_end(TINY)
        path = self.run_to_end(other).path(other)
        path.write_text(path.read_text().replace(TEXT.digest, "0" * len(TEXT.digest)))
        results = Results(path.parent)
        self.assertIsNotNone(results.get(TINY))
        with self.assertRaisesRegex(ValueError, "seed-2.*not the rows of .*words_lisa"):
            results.get(other)

    def test_two_writers_are_refused(self):
        with Writer(self.directory / "one.jsonl", 0):
            with self.assertRaisesRegex(ValueError, "another process"):
                Writer(self.directory / "one.jsonl", 0)


class Others(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def test_methods_are_timed_in_turn(self):
        methods = {"LISA": TINY, "full AdamW": replace(TINY, method="full")}
        with mock.patch.object(timing, "ROUNDS", 3):
            timing.timing(methods, TEXT, MODEL, self.directory / TIMES, self.directory / "part")
        lines = [json.loads(line) for line in (self.directory / TIMES).read_text().splitlines()]
        self.assertEqual([line.get("method") for line in lines[1:-1]], [*methods] * 3)
        self.assertGreater(sum(sum(line["seconds"]) for line in lines[1:-1]), 0)
        self.assertEqual(timing.timed_before(self.directory / TIMES), methods)
        self.assertEqual(timing.timed_before(self.directory / "none"), {})

    def test_times_are_measured_once_but_where_they_are_asked_for(self):
        results = Invented(self.directory)
        sources = mock.Mock()
        for study, before, after in (("all", 0, 1), ("all", 1, 1), ("time", 1, 2)):
            with mock.patch.object(
                claims, "timing", side_effect=lambda *_: write_times(results)
            ) as t:
                arguments = mock.Mock(study=study, scratch=self.directory)
                claims.run_times(results, sources, arguments)
            self.assertEqual(t.call_count, after - before, study)

    def test_layers_are_drawn_for_every_step_that_is_timed(self):
        step, seen = Training.step, []

        def watched(training, number, row):
            found = step(training, number, row)
            seen.append(found.layers)
            return found

        spec = replace(TINY, interval=20)
        with mock.patch.object(Training, "step", watched), mock.patch.object(timing, "ROUNDS", 20):
            timing.timing({"LISA": spec}, TEXT, MODEL, self.directory / TIMES, self.directory / "p")
        n_layers = liblisa.ModelConfig.read(MODEL).n_layers
        self.assertEqual({layer for layers in seen for layer in layers}, {*range(n_layers)})

    def test_what_is_published_takes_the_place_of_what_was_there(self):
        part, path = self.directory / "part", self.directory / "results" / "a.jsonl"
        for text in ("old", "new"):
            part.write_text(text)
            publish(part, path)
        self.assertEqual((path.read_text(), part.exists()), ("new", False))
        self.assertEqual([found.name for found in path.parent.iterdir()], ["a.jsonl"])
        part.write_text("newer")
        with mock.patch("shutil.copyfile", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(OSError, publish, part, path)
        self.assertEqual((path.read_text(), part.read_text()), ("new", "newer"))
        with mock.patch.object(Path, "replace", side_effect=OSError(5, "Input/output error")):
            self.assertRaises(OSError, publish, part, path)
        self.assertEqual([found.name for found in path.parent.iterdir()], ["a.jsonl"])

    def test_a_gpt2_is_taught(self):
        with mock.patch.object(models, "STEPS", 3), mock.patch("sys.stderr"):
            models.teach_gpt2(self.directory / "made", TEXT, 64, 12)
        config = liblisa.ModelConfig.read(self.directory / "made")
        self.assertEqual((config.family, config.n_layers, config.d_model), ("gpt2", 12, 256))

    def test_an_untied_model_is_the_same_one(self):
        models.untie(MODEL, self.directory / "untied")
        spec = replace(TINY, method="none")
        scored = []
        for directory in (MODEL, self.directory / "untied"):
            with Training(spec, directory) as training:
                scored.append(training.score(TEXT.test))
                self.assertEqual(training.model.config.tied_head, directory == MODEL)
        self.assertEqual(*scored)

    def test_what_is_half_made_is_made_again(self):
        def fail(part):
            part.mkdir()
            raise Interrupted

        with self.assertRaises(Interrupted):
            models.made(self.directory / "m", fail)
        self.assertTrue(models.made(self.directory / "m", Path.mkdir).is_dir())

    def test_scores_of_documents_are_the_loss(self):
        with Training(TINY, MODEL) as training:
            for row in TEXT.test:
                scored = training.score([row])
                self.assertEqual(total(scored).n_tokens, row.n_targets)
                loss = training.model.evaluate(training.batch).loss
                self.assertAlmostEqual(total(scored).loss, loss, places=5)


def write_gsm8k(directory):
    """Sums in place of its questions, more than are used."""
    directory.mkdir()
    for name, n in (("train", 1100), ("test", 140)):
        with open(directory / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for i in range(n):
                record = {"question": f"{name} {i} plus {i} ?", "answer": f"{name} {2 * i}"}
                file.write(json.dumps(record) + "\n")


class Texts(unittest.TestCase):
    def documents(self, part):
        """Every document of some rows."""
        found = []
        for row in part:
            for document in dict.fromkeys(row.documents):
                of = [t for t, d in zip(row.tokens, row.documents) if d == document]
                found.append(tuple(of))
        return found

    def test_no_example_is_in_two_parts(self):
        with tempfile.TemporaryDirectory() as name:
            write_gsm8k(Path(name) / "gsm8k")
            sums = texts.gsm8k(Path(name) / "gsm8k", formatter(), 512)
        facts = texts.instructions(formatter(), 512)
        for text, n in ((sums, [1000, 32, 128]), (facts, [252, 32, 31])):
            parts = [self.documents(part) for part in text]
            self.assertEqual([len(part) for part in parts], n)
            self.assertEqual(len(set(sum(parts, []))), sum(n))
            self.assertLessEqual(max(len(row.tokens) for part in text for row in part), 512)
        self.assertNotEqual(sums.digest, facts.digest)
        self.assertEqual(facts.digest, texts.instructions(formatter(), 512).digest)

    def test_every_epoch_has_all_rows_in_an_order_of_its_own(self):
        order = TEXT.order(seed=1)
        epochs = [[next(order) for _ in TEXT.train] for _ in range(4)]
        for epoch in epochs:
            self.assertEqual(sorted(epoch), sorted(TEXT.train))
        self.assertGreater(len(set(map(str, epochs))), 1)


class Command(unittest.TestCase):
    """claims.py as a process of its own, which is killed."""

    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        write_gsm8k(self.home / "gsm8k")
        config = liblisa.ModelConfig(
            n_layers=4, d_model=16, n_heads=2, d_ff=32, vocab_size=2048, max_positions=512
        )
        with liblisa.Context() as context:
            liblisa.Model.create(context, config, seed=1).save(self.home / "model")

    def start(self, *options, kill_at=-1, end_in=""):
        arguments = ["quality", self.home / "model", "--gsm8k", self.home / "gsm8k"]
        arguments += ["--results", self.home / "results", "--scratch", self.home / "scratch"]
        process = subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments), *options],
            env={
                **os.environ,
                "CLAIMS_KILL_AT": str(kill_at),
                "CLAIMS_END_IN": end_in,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(process.terminate)  # which ends its run too; nothing where it has ended
        return process

    def finish(self, *options, **changes):
        process = self.start(*options, **changes)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def results(self):
        return sorted(path.stem for path in (self.home / "results").glob("*"))

    def test_killed_at_once_with_its_runs_it_goes_on(self):
        spec = Spec("gsm8k", "lisa", lr=1e-3)
        self.assertEqual(self.finish(kill_at=50)[0], -signal.SIGKILL)
        self.assertEqual(self.results(), ["gsm8k_none"])
        process = self.start()
        path = Results(self.home / "results").path(spec)
        end = time.monotonic() + 300
        while not path.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn(f"{spec.name}: 60/120", err)
        self.assertNotIn(f"{spec.name}: 40/120", err)
        whole = Results(self.home / "whole")
        text = texts.gsm8k(self.home / "gsm8k", formatter(), 512)
        with mock.patch("sys.stderr"):
            running.run(spec, text, self.home / "model", whole.path(spec), self.home / "other")
        self.assertEqual(comparable(Results(self.home / "results"), spec), comparable(whole, spec))

    def test_asked_to_end_while_a_run_begins_or_ends_no_other_is_begun(self):
        for n_runs, where in enumerate(("fork", "waitpid"), 1):
            status, _, err = self.finish(end_in=where)
            self.assertEqual(status, 130, err)
            self.assertLessEqual(len(self.results()), n_runs)  # some are over at once

    def test_what_is_missing_is_listed_and_nothing_is_run(self):
        status, out, _ = self.finish("--list")
        self.assertEqual((status, out.split()[0], self.results()), (0, "gsm8k_none", []))
        status, _, err = self.finish("--hours", "0")
        self.assertEqual((status, err, self.results()), (1, "quality: not whole yet\n", []))

    def test_a_text_that_is_not_there_is_said(self):
        (self.home / "gsm8k" / "test.jsonl").unlink()
        status, _, err = self.finish()
        self.assertEqual((status, err.count("\n")), (1, 1), err)
        self.assertIn("test.jsonl", err)


class Intervals(unittest.TestCase):
    def test_over_seeds_is_students(self):
        estimate = intervals.over_seeds([1.0, 2.0, 3.0])
        self.assertAlmostEqual(estimate.value, 2.0)
        self.assertAlmostEqual(estimate.half, 4.303 / 3**0.5)

    def test_a_difference_is_paired(self):
        draw = random.Random(1)
        ours = [[[draw.gauss(50, 20), 10, 0] for _ in range(64)] for _ in range(3)]
        theirs = [[[loss + 1, n, 0] for loss, n, _ in seed] for seed in ours]
        estimate = intervals.difference(ours, theirs)
        self.assertAlmostEqual(estimate.value, -0.1)
        self.assertAlmostEqual(estimate.half, 0.0)

    def test_a_difference_covers_the_noise_of_seeds_and_of_documents(self):
        draw = random.Random(2)
        for of_seed, of_document in ((3.0, 0.1), (0.1, 10.0), (1.0, 5.0)):
            hits, halves = 0, []
            for _ in range(100):
                documents = [draw.gauss(0, of_document) for _ in range(30)]
                shifts = [draw.gauss(0, of_seed) for _ in range(3)]
                ours = [[[loss + shift, 10, 0] for loss in documents] for shift in shifts]
                theirs = [[[0.0, 10, 0]] * 30] * 3
                with mock.patch.object(intervals, "RESAMPLES", 100):
                    estimate = intervals.difference(ours, theirs)
                hits += abs(estimate.value) <= estimate.half
                halves.append(estimate.half)
            self.assertGreaterEqual(hits, 88, (of_seed, of_document))
            # Of a mean over 30 documents of 10 tokens and over 3 seeds, known apart.
            exact = math.hypot(1.96 * of_document / 30**0.5, 4.30 * of_seed / 3**0.5) / 10
            self.assertLess(statistics.median(halves), 1.3 * exact)

    def test_a_run_that_diverged_has_no_difference(self):
        estimate = intervals.difference([None], [[[1.0, 4, 0]]])
        self.assertEqual(estimate.value, float("inf"))

    def test_other_documents_are_refused(self):
        with self.assertRaisesRegex(ValueError, "not the same"):
            intervals.difference([[[1.0, 3, 0]]], [[[1.0, 4, 0]]])


class Known(Results):
    """Results by a function of the rate, of the runs that were asked for."""

    def __init__(self, loss):
        super().__init__(Path("nowhere"))
        self.loss = loss
        self.asked = []

    def get(self, spec):
        if spec not in self.asked:
            return None
        end = {"test": None if self.loss(spec.lr) is None else [[1.0, 1, 1]]}
        memory = {"moments": 1 << 20, "mapped weights": 1 << 20}
        valid = self.loss(spec.lr)
        lines = [] if valid is None else [{"step": 1, "valid": valid}]
        return Result(spec, {"planned": memory}, lines, end)


class Studies(unittest.TestCase):
    def swept(self, loss):
        known = Known(loss)
        while True:
            found = studies.sweep(known, Spec("words", "full"))
            if found.best is not None:
                return found, known
            known.asked = found.runs

    def test_a_sweep_goes_on_until_the_best_has_worse_neighbours(self):
        found, _ = self.swept(lambda lr: abs(lr - 1e-2))
        self.assertEqual(found.best.lr, 1e-2)
        self.assertIn(3.2e-2, [spec.lr for spec in found.runs])
        found, _ = self.swept(lambda lr: abs(lr - 1e-5))
        self.assertEqual(found.best.lr, 1e-5)

    def test_a_rate_that_diverged_is_the_worst(self):
        found, _ = self.swept(lambda lr: None if lr > 2e-4 else -lr)
        self.assertEqual(found.best.lr, 1e-4)
        found, _ = self.swept(lambda lr: None if lr > 2e-6 else -lr)
        self.assertEqual(found.best.lr, 1e-6)

    def test_a_sweep_whose_rates_all_diverge_is_given_up(self):
        with self.assertRaisesRegex(ValueError, "every rate"):
            self.swept(lambda lr: None)

    def test_studies_name_no_run_twice_and_end(self):
        known = Known(lambda lr: abs(lr - 1e-3))
        for study in studies.STUDIES:
            while True:
                left = studies.missing(study, known)
                if not left:
                    break
                known.asked += left
            studies.STUDIES[study](known)
        names = [spec.name for spec in known.asked]
        self.assertEqual(len(names), len(set(names)))


class Invented(Results):
    """Lines for every run that is asked for."""

    def get(self, spec):
        loss = abs(spec.lr - 1e-3) + spec.seed / 8 + spec.draws / 100
        groups = [2.0, 1.0, 1.5, 3.0]
        lines = [
            {"step": step, "valid": loss, "loss": loss, "norms": groups, "adapter": groups}
            for step in (0, 20)
        ]
        if spec.method == "lisa":
            lines.append({"step": 1, "layers": [0, 2]})
        memory = {"mapped weights": 9 << 20, "private weights": 5 << 20, "moments": 7 << 20}
        begin = {"planned": memory, "trained": 7000000, "machine": MACHINE}
        end = {"test": [[loss * 4, 4, 1]] * 3, "held": memory, "resident": spec.seed << 20}
        end["merged"] = groups
        return Result(spec, begin, lines, end)


class Diverged(Invented):
    """One of LISA's seeds, and one of its draws."""

    def get(self, spec):
        found = super().get(spec)
        if spec.method == "lisa" and (spec.seed == 2 or spec.draws == 12):
            found.end["test"] = None
        return found


MACHINE = {"processor": "a processor", "threads": 2, "system": "a system"}


def write_times(results, end=True):
    """Two steps of every method; full AdamW's are longer."""
    specs = studies.timed(results)
    with Writer(results.directory / TIMES, 0) as writer:
        named = {name: spec.as_json() for name, spec in specs.items()}
        writer.add({"specs": named, "machine": MACHINE, "load": 0.25})
        for update in (2.0, 4.0):
            for name in specs:
                more = 3.0 if name == "full AdamW" else 0.0
                writer.add({"method": name, "seconds": [2.0, 1.0, 1.9, update + more]})
        if end:
            writer.add({"rounds": 2})


class Pages(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def page(self, kind=Invented):
        results = kind(self.directory)
        write_times(results)
        return report.page(results)

    def test_a_page_of_every_study(self):
        page = self.page()
        self.assertNotIn("Not measured yet", page)
        self.assertIn("a processor", page)
        self.assertNotIn("${", page)

    def test_the_figures_of_a_page(self):
        page = self.page()
        for row in (
            # The mean of 1/8, 2/8, 3/8, and 4.303 times their deviation by the root of three.
            "| LISA | 7.0 M | 2 | 0.001 | 0.2500 ± 0.3105 |  | 25.0% | 16 | 3 | 6.00 |",
            "| LoRA r 16 | 7.0 M | 2 | 0.001 | 0.2500 ± 0.3105 | +0.0000 ± 0.0000 | 25.0% | 21 |",
            "| γ = 2, K = 20: draws of layers | 5 | 0.2550 | 0.2350 to 0.2750 | 0.0158 |",
            "| uniform | 0.2500 ± 0.3105 |  | 2.0; 2 | 7.0 M | 16 |",
            "| 16 | LISA | 0.001 | 0.2500 ± 0.3105 |  | 16 | 3 | 6.00 |",
            "| **planned** | 16 | 21 | 21 | 16 |",
            "| LISA | 0.100 | 1.000 | 1.900 | 3.000 | 6.000 | 5.500 to 6.500 | 1.00 |",
            "| full AdamW | 0.100 | 1.000 | 1.900 | 6.000 | 9.000 | 8.500 to 9.500 | 1.50 |",
            "| GPT-2, full AdamW | 2.0 | 1.0 to 1.5 | 3.0 | +0.00% |",
            "| GPT-2, LoRA r 16: A and B alone |  | 1.0 to 1.5 |  |  |",
        ):
            self.assertIn(row, page)
        self.assertIn("(3 answers of 12 tokens)", page)
        self.assertIn("16 MiB against\n  21, 0.76 times as much", page)
        self.assertIn("LoRA r 16 differs by +0.0000 ± 0.0000", page)

    def test_times_of_other_methods_are_none(self):
        class Others(Invented):
            def get(self, spec):
                found = super().get(spec)
                if spec.method == "lora":
                    shift = abs(spec.lr - 1e-4)  # another rate is the best
                    found.lines[1]["valid"] = shift
                return found

        write_times(Invented(self.directory))
        page = report.page(Others(self.directory))
        self.assertNotIn("6.000", page)
        self.assertIn("| LISA | 7.0 M | 2 | 0.001 | 0.2500 ± 0.3105 |  | 25.0% | 16 | 3 |  |", page)

    def test_what_is_drawn_over_steps_is_measured_on_the_way(self):
        results = Invented(self.directory)
        lisa = studies.best_of(results, "gsm8k", "LISA")
        drawn = [
            studies.best_of(results, text, name) for text in studies.TEXTS for name in studies.BASE
        ]
        drawn += studies.norms(results)
        self.assertTrue(all(map(running.has_curve, drawn)))
        others = [*studies.drawn(lisa), studies.table(lisa)[8, 50], replace(lisa, seed=2)]
        self.assertFalse(any(map(running.has_curve, others)))

    def test_a_run_that_diverged_is_said(self):
        page = self.page(Diverged)
        self.assertIn("| LISA | 7.0 M | 2 | 0.001 | diverged |", page)
        self.assertIn("draws of layers | 5, of which 1 diverged | 0.2575 |", page)
        self.assertNotIn("nan", page)
        self.assertNotIn("inf ", page)

    def test_times_that_end_too_early_are_refused(self):
        write_times(Invented(self.directory), end=False)
        with self.assertRaisesRegex(ValueError, "too early"):
            report.page(Invented(self.directory))

    @unittest.skipUnless(matplotlib, "matplotlib is not installed")
    def test_every_picture_is_drawn(self):
        import figures

        page = self.page()
        figures.draw_all(Invented(self.directory), self.directory)
        drawn = {path.stem for path in self.directory.glob("*.svg")}
        self.assertEqual(drawn, set(figures.PICTURES))
        for picture in figures.PICTURES:
            self.assertIn(f"(results/{picture}.svg)", page)

    @unittest.skipUnless(matplotlib, "matplotlib is not installed")
    def test_pictures_leave_out_what_diverged(self):
        import figures

        self.page(Diverged)
        figures.draw_all(Diverged(self.directory), self.directory)
        drawn = {path.stem for path in self.directory.glob("*.svg")}
        self.assertEqual(drawn, set(figures.PICTURES))

    def test_a_page_of_nothing_says_so(self):
        page = report.page(Results(Path("nowhere")))
        self.assertIn("Not measured yet", page)
        self.assertNotIn("|", page)

    def test_the_committed_page_is_of_the_committed_lines(self):
        page = (TOP / "docs" / "results.md").read_text(encoding="utf-8")
        self.assertEqual(page, report.page(Results(CLAIMS / "results")))


class Committed(unittest.TestCase):
    def specs(self):
        for path in sorted((CLAIMS / "results").glob("*_*.jsonl")):
            with open(path, encoding="utf-8") as file:
                spec = Spec(**json.loads(file.readline())["spec"])
            self.assertEqual(path.stem, spec.name)
            yield spec

    def test_every_file_is_a_whole_run_of_todays_settings(self):
        results = Results(CLAIMS / "results")
        for spec in self.specs():
            with self.subTest(spec.name):
                found = results.need(spec)
                self.assertIn("test", found.end)
                self.assertEqual(settings(spec), found.begin.get("settings", settings(spec)))

    def test_all_runs_of_a_model_and_a_text_began_with_the_same(self):
        results, seen = Results(CLAIMS / "results"), {}
        for spec in self.specs():
            run = results.need(spec)
            first = {(spec.text, spec.model): line for line in run.of("valid") if line["step"] == 0}
            if spec.method != "none":
                first[spec.text, spec.model, spec.seed] = next(run.of("loss"))
            for of, line in first.items():
                for key in ("valid", "loss"):
                    if key in line:
                        usual = seen.setdefault((of, key), line[key])
                        self.assertAlmostEqual(line[key] / usual, 1.0, places=4, msg=spec.name)
        self.assertGreater(len(seen), 6)

    def test_what_the_page_says_in_words(self):
        results = Results(CLAIMS / "results")
        sums, facts = (summaries.groups_of(results, text) for text in studies.TEXTS)
        for name in list(sums)[1:]:
            less = sums[name].than(sums["LISA"])
            self.assertLess(less.value + less.half, 0, "the worst of the four")
            more = facts[name].than(facts["LISA"])
            self.assertEqual(more.value > more.half, name == "LoRA r 16", "nothing is shown")
            ahead = facts[name].greedy > facts["LISA"].greedy
            self.assertEqual(ahead, name != "LoRA r 16", "by greedy tokens")
        best = studies.best_of(results, "gsm8k", "LISA")
        losses = {
            key: intervals.loss_of(results.need(spec).end["test"])
            for key, spec in studies.table(best).items()
        }
        for k in studies.INTERVALS:
            column = [losses[active, k] for active in studies.ACTIVE]
            self.assertEqual(column, sorted(column, reverse=True), "falls at every K")
        drawn, once = (
            summaries.Group([results.need(spec) for spec in specs]).finite
            for specs in (studies.drawn(best), studies.drawn_once(best))
        )
        row = [losses[2, k] for k in studies.INTERVALS[:-1]]
        self.assertLess(max(row) - min(row), max(drawn) - min(drawn), "another draw of layers")
        self.assertEqual(round(statistics.stdev(once) / statistics.stdev(drawn)), 5, "five times")

        def against(specs):
            first, *others = [summaries.group_of(results, spec) for spec in specs.values()]
            return {name: group.than(first) for name, group in zip(list(specs)[1:], others)}

        for name, more in against(studies.samplings(best)).items():
            self.assertEqual(more.value > more.half, name == "bernoulli", "no sampling")
            self.assertGreater(more.value + more.half, 0, "no sampling")
        neither = against(studies.always(results))["neither"]
        self.assertLess(neither.value - neither.half, 0, "brought nothing")

    def test_what_the_page_says_of_equal_memory(self):
        results = Results(CLAIMS / "results")
        for text in studies.TEXTS:
            budgets = studies.budgets(results, text)
            for budget in budgets:
                for spec in budget.methods.values():
                    self.assertLessEqual(studies.footprint(results.need(spec)), budget.bytes)
            (lisa, *others), (lora, frozen) = (
                [summaries.group_of(results, spec) for spec in budget.methods.values()]
                for budget in budgets
            )
            for more in (other.than(lisa) for other in others):
                if text == "gsm8k":
                    self.assertLess(more.value + more.half, 0, "the worse one too")
                else:
                    self.assertLess(abs(more.value), more.half, "no interval excludes zero")
            for ours, theirs in zip(others[0].losses, lisa.losses):
                self.assertEqual(ours > theirs, text == "instructions", "worse with every seed")
            for ours, theirs in zip(frozen.losses, lora.losses):
                self.assertGreater(ours, theirs, "worse with every seed")
            more = frozen.than(lora)
            self.assertEqual(more.value > more.half, text == "gsm8k", "differs from LoRA")
            for ours, theirs in zip(frozen.losses, lisa.losses):
                self.assertEqual(ours > theirs, text == "instructions", "embedding and head")
            _, usual, worst = sorted(frozen.losses)
            self.assertEqual(worst > 1.5 * usual, text == "instructions", "fell apart")
            free = results.need(studies.at_best_rate(results, studies.frozen_embedding(text)))
            self.assertEqual(frozen.runs[0].end["test"], free.end["test"], "to the same bits")

    def test_what_the_page_says_of_time(self):
        found = summaries.phases(Results(CLAIMS / "results"))
        of_lisa = {name: steps.seconds / found["LISA"].seconds for name, steps in found.items()}
        self.assertAlmostEqual(of_lisa["LoRA r 16"], 1.0, delta=0.03, msg="as long as")
        self.assertLess(of_lisa["full AdamW"], 1.5, "at most 1.5")
        for phase in ("forward", "backward"):
            frozen = found["LISA, embedding frozen"].mean(phase) / found["LISA"].mean(phase)
            self.assertEqual(frozen < 0.9, phase == "backward", "backward ends")

    def test_what_the_page_says_of_norms(self):
        for shape, runs in summaries.norm_results(Results(CLAIMS / "results")).items():
            change = {name: summaries.changes(run) for name, run in runs.items()}
            layers = {name: statistics.fmean(parts[1:-1]) for name, parts in change.items()}
            self.assertEqual(max(layers, key=layers.get), "LoRA r 16", "the layers' norms most")
            for name in ("full AdamW", "LISA"):
                if shape == "GPT-2":
                    self.assertEqual(round(4 * change[name][0]), 1, "a quarter")
            for run in runs.values():
                first, *layers, _ = next(run.of("norms"))["norms"]
                self.assertGreater(first, 1.8 * max(layers), "far above theirs")
            means = zip(*(summaries.mean_norms(run, "norms")[1:-1] for run in runs.values()))
            self.assertLess(max(max(of) / min(of) for of in means), 1.03, "not apart")

    def test_lora_in_lisas_memory_has_the_largest_rank_that_stores_everything(self):
        results = Results(CLAIMS / "results")
        config = liblisa.ModelConfig(
            n_layers=30,
            d_model=576,
            n_heads=9,
            n_kv_heads=3,
            d_ff=1536,
            vocab_size=49152,
            max_positions=8192,
            tied_head=True,
            weights_dtype="bf16",
        )
        best = studies.best_of(results, "gsm8k", "LISA")
        lora = studies.best_of(results, "gsm8k", "LoRA r 128")
        limit = studies.footprint(results.need(best))
        for rank, stored in ((studies.EQUAL_RANK, True), (studies.EQUAL_RANK + 16, False)):
            spec = studies._within(results, limit, lora, rank=rank)
            self.assertEqual(
                plan(spec, config, n_threads=2).stored_layers == config.n_layers, stored, rank
            )


def claims_with_words():
    """claims.py; all of it is killed at a step of a run, or asked to end at a bad moment."""
    step, kill_at = Training.step, int(os.environ["CLAIMS_KILL_AT"])
    waitpid, end_in = os.waitpid, os.environ["CLAIMS_END_IN"]
    if end_in == "fork":
        os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))

    def reaped(*arguments):
        found = waitpid(*arguments)
        if end_in == "waitpid" and found[0]:
            raise KeyboardInterrupt  # the child is gone, and nobody knows yet
        return found

    def killed(training, number, row):
        if number == kill_at:
            os.killpg(0, signal.SIGKILL)
        return step(training, number, row)

    with mock.patch.object(Formatter, "open", lambda _: formatter()):
        with mock.patch.object(Training, "step", killed), mock.patch.object(os, "waitpid", reaped):
            runpy.run_path(str(CLAIMS / "claims.py"), run_name="__main__")


if __name__ == "__main__":
    claims_with_words()

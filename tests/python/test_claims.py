"""The harness of examples/claims: a run that is interrupted goes on to the same lines."""

import json
import random
import sys
import tempfile
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

import intervals  # noqa: E402
import liblisa  # noqa: E402
import models  # noqa: E402
import report  # noqa: E402
import run as running  # noqa: E402
import studies  # noqa: E402
import timing  # noqa: E402
from liblisa.data import Row  # noqa: E402
from liblisa.evaluation import total  # noqa: E402
from lines import TIMES, Result, Results, Writer  # noqa: E402
from spec import Spec  # noqa: E402
from texts import Text  # noqa: E402
from training import Training  # noqa: E402

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


class Interrupted(Exception):
    """What a test raises in the middle of a run."""


class Runs(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        for name, value in (("SAVE_EVERY", 4), ("MEASURE_EVERY", 5)):
            self.enter(mock.patch.object(running, name, value))
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

    def comparable(self, results, spec):
        found = []
        for line in map(json.loads, results.path(spec).read_text().splitlines()):
            line.pop("seconds", None)
            line.pop("resident", None)
            for name in ("staging", "handles"):  # a checkpoint takes some
                line.get("held", {}).pop(name, None)
            found.append(line)
        return found

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
                    self.assertEqual(self.comparable(again, spec), self.comparable(whole, spec))
                    self.assertEqual(list((self.directory / (name + "-scratch")).glob("*")), [])

    def test_lines_that_were_lost_are_run_again(self):
        whole = self.run_to_end(TINY)
        self.interrupt(TINY, 7, "torn")
        part = self.directory / "torn-scratch" / TINY.name / "lines.jsonl"
        part.write_bytes(part.read_bytes()[:40])
        again, taken = self.continued(TINY, "torn")
        self.assertEqual(taken, list(range(TINY.steps)))
        self.assertEqual(self.comparable(again, TINY), self.comparable(whole, TINY))

    def test_a_whole_run_has_every_step_and_measurement(self):
        result = self.run_to_end(TINY).get(TINY)
        self.assertEqual([line["step"] for line in result.of("loss")], list(range(1, 11)))
        self.assertEqual([line["step"] for line in result.of("valid")], [0, 5, 10])
        self.assertEqual([n for _, n, _ in result.end["test"]], [5, 4] * 3)
        layers = [line["layers"] for line in result.of("layers")]
        self.assertEqual([len(active) for active in layers], [1] * 10)
        self.assertEqual(layers[0:3], [layers[0]] * 3)
        planned, held = result.begin["planned"], result.end["held"]
        for name in ("gradients", "moments", "activations"):
            self.assertEqual(held[name], planned[name], name)

    def test_other_seeds_are_measured_at_the_end_alone(self):
        for spec in (replace(TINY, seed=2), replace(TINY, draws=7)):
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
            hits = 0
            for _ in range(100):
                documents = [draw.gauss(0, of_document) for _ in range(30)]
                shifts = [draw.gauss(0, of_seed) for _ in range(3)]
                ours = [[[loss + shift, 10, 0] for loss in documents] for shift in shifts]
                theirs = [[[0.0, 10, 0]] * 30] * 3
                with mock.patch.object(intervals, "RESAMPLES", 100):
                    estimate = intervals.difference(ours, theirs)
                hits += abs(estimate.value) <= estimate.half
            self.assertGreaterEqual(hits, 88, (of_seed, of_document))

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
        lines = [{"step": 1, "valid": 9.0 if valid is None else valid}]
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
        loss = abs(spec.lr - 1e-3) + spec.seed / 8
        groups = [2.0, 1.0, 1.5, 3.0]
        lines = [
            {"step": step, "valid": loss, "loss": loss, "norms": groups, "adapter": groups}
            for step in (0, 20)
        ]
        if spec.method == "lisa":
            lines.append({"step": 1, "layers": [0, 2]})
        memory = {"mapped weights": 9 << 20, "private weights": 5 << 20, "moments": 7 << 20}
        begin = {"planned": memory, "trained": 7000000, "machine": MACHINE}
        end = {"test": [[loss * 4, 4, 1]] * 3, "held": memory, "resident": 5 << 20}
        return Result(spec, begin, lines, end)


MACHINE = {"processor": "a processor", "threads": 2, "system": "a system"}


class Pages(unittest.TestCase):
    def test_a_page_of_every_study(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        results = Invented(Path(directory.name))
        with Writer(results.directory / TIMES, 0) as writer:
            writer.add({"specs": {"LISA": {}, "full AdamW": {}}, "machine": MACHINE})
            writer.add({"method": "LISA", "seconds": [0.0, 1.0, 2.0, 3.0]})
            writer.add({"method": "full AdamW", "seconds": [0.0, 1.0, 2.0, 6.0]})
            writer.add({"rounds": 1})
        page = report.page(results)
        self.assertNotIn("Not measured yet", page)
        self.assertIn("| full AdamW | 0.000 | 1.000 | 2.000 | 6.000 | 9.000 | 1.50 |", page)
        self.assertIn("a processor", page)
        self.assertIn("| LoRA r 128 | 7.0 M | 0.001 |", page)
        self.assertNotIn("${", page)

    def test_a_run_that_diverged_is_said(self):
        class Diverged(Invented):
            def get(self, spec):
                found = super().get(spec)
                if spec.method == "lisa" and (spec.seed == 2 or spec.draws == 12):
                    found.end["test"] = None
                return found

        page = report.page(Diverged(Path("nowhere")))
        self.assertIn("| LISA | 7.0 M | 0.001 | diverged |", page)

    def test_times_that_end_too_early_are_refused(self):
        with tempfile.TemporaryDirectory() as name, Writer(Path(name) / TIMES, 0) as writer:
            writer.add({"specs": {"LISA": {}}, "machine": MACHINE})
            writer.add({"method": "LISA", "seconds": [0.0, 1.0, 2.0, 3.0]})
            with self.assertRaisesRegex(ValueError, "too early"):
                report.page(Results(Path(name)))

    @unittest.skipUnless(matplotlib, "matplotlib is not installed")
    def test_every_picture_is_drawn(self):
        import figures

        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            with Writer(directory / TIMES, 0) as writer:
                writer.add({"specs": {"LISA": {}}, "machine": MACHINE})
                writer.add({"method": "LISA", "seconds": [0.0, 1.0, 2.0, 3.0]})
                writer.add({"rounds": 1})
            figures.draw_all(Invented(directory), directory)
            drawn = {path.stem for path in directory.glob("*.svg")}
        self.assertEqual(drawn, set(figures.PICTURES))
        page = report.page(Invented(directory))
        for picture in figures.PICTURES:
            self.assertTrue(picture == "time" or f"(results/{picture}.svg)" in page, picture)

    def test_a_page_of_nothing_says_so(self):
        page = report.page(Results(Path("nowhere")))
        self.assertIn("Not measured yet", page)
        self.assertNotIn("|", page)

    def test_the_committed_page_is_of_the_committed_lines(self):
        page = (TOP / "docs" / "results.md").read_text(encoding="utf-8")
        self.assertEqual(page, report.page(Results(CLAIMS / "results")))


class Committed(unittest.TestCase):
    def test_every_file_is_a_whole_run_by_its_own_name(self):
        for path in sorted((CLAIMS / "results").glob("*_*.jsonl")):
            with self.subTest(path.name):
                with open(path, encoding="utf-8") as file:
                    spec = Spec(**json.loads(file.readline())["spec"])
                self.assertEqual(path.stem, spec.name)
                self.assertIn("test", Results(path.parent).need(spec).end)


if __name__ == "__main__":
    unittest.main()

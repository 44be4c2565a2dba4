"""The choice within a budget: least compromise first, nothing that was given, what is missing."""

import argparse
import itertools
import json
import os
import unittest

import liblisa
from liblisa.cli._memory import Search, handles
from liblisa.cli._report import amount
from support import CONFIG, ROOT, run_python
from test_command import Command, run

WIDE = dict(
    n_layers=6, d_model=64, d_ff=192, vocab_size=2048, max_positions=256, weights_dtype="bf16"
)
MODULE = ROOT / "build/release/cuda/host/liblisa-cuda.so"
ORDER = ("batch", "recompute", "head_rows", "scratch_dir", "moments")


def asked(**changes):
    """Options of a training, without a budget."""
    options = dict(
        method="lisa",
        active=2,
        rank=4,
        targets="q,v",
        batch=8,
        accumulate=1,
        backend="cpu",
        threads=1,
        budget=None,
        moments="f32",
        activations="auto",
        head_rows=None,
        state_policy="drop",
        embedding_rows=None,
        frozen_embedding=False,
        frozen_head=False,
        update_in_backward=False,
        scratch_dir=None,
    )
    return argparse.Namespace(**{**options, **changes})


class Choice(unittest.TestCase):
    def setUp(self):
        self.config = liblisa.ModelConfig(**{**vars(CONFIG), **WIDE})

    def search(self, options, given=(), scratch="."):
        return Search(self.config, options, 256, given=frozenset(given), scratch=scratch)

    def choose(self, budget, given=(), scratch=".", **options):
        return self.search(asked(budget=budget, **options), given, scratch).choose()

    def total(self, **changes):
        """What a budget must hold for the options with changes."""
        return self.search(asked(**changes)).planned({}).total + handles(6) + 4096

    def compromises(self, setting):
        found = set(setting.changes) - {"accumulate"}
        if setting.value("batch") == 8:
            found -= {"batch"}
        return found | (set() if setting.stores_all else {"recompute"})

    def test_nothing_is_changed_without_need(self):
        for budget in (None, self.total()):
            setting = self.choose(budget)
            self.assertEqual((self.compromises(setting), setting.missing), (set(), 0))
            self.assertEqual(setting.words(), "batch 8, all layers stored, f32 moments")

    def test_one_after_the_other(self):
        """From the whole of it down to nothing: what is given up first, second, ..."""
        first_seen, budget = [], self.total()
        while True:
            setting = self.choose(budget)
            if setting.missing:
                break
            self.assertLessEqual(setting.plan.total + handles(6), budget)
            for name in ORDER:
                if name in self.compromises(setting) and name not in first_seen:
                    first_seen.append(name)
            self.assertEqual(setting.value("batch") * setting.value("accumulate"), 8)
            budget -= 100 << 10
        self.assertEqual(first_seen, list(ORDER))
        self.assertEqual(setting.value("moments"), "8bit")
        self.assertEqual(setting.value("batch"), 1)
        enough = self.choose(budget + setting.missing)
        self.assertEqual((enough.missing, enough.plan.stored_layers), (0, 0))
        self.assertEqual(self.choose(budget + setting.missing - 1).missing, 1)

    def test_batches_are_halved_before_anything_is_recomputed(self):
        at = {size: self.total(batch=size, activations="store") for size in (8, 4, 2, 1)}
        for size in (4, 2, 1):
            setting = self.choose(at[size])
            self.assertEqual((setting.value("batch"), setting.stores_all), (size, True))
            self.assertIn(f"batch {size}, {8 // size} to a step", setting.words())
        setting = self.choose(at[1] - 8192)
        self.assertEqual((setting.value("batch"), setting.plan.stored_layers), (1, 4))
        self.assertIn("4 of 6 layers stored, the others recomputed", setting.words())

    def test_what_was_given_stays(self):
        for names in itertools.combinations(("batch", "head_rows", "scratch_dir", "moments"), 2):
            setting = self.choose(1 << 10, given=names)
            self.assertFalse(set(names) & set(setting.changes), setting.changes)
        setting = self.choose(self.total(batch=1), given=("activations",), activations="store")
        self.assertEqual((setting.value("batch"), setting.plan.stored_layers), (1, 6))
        self.assertNotIn("scratch_dir", self.choose(1 << 10, scratch=None).changes)
        self.assertNotIn("scratch_dir", self.choose(1 << 10, method="lora").changes)

    def test_needless_compromises_are_taken_back(self):
        """bf16 moments alone save what a scratch file did not."""
        lean = dict(batch=1, activations="recompute")
        budget = self.total(moments="bf16", **lean)
        self.assertLess(budget, self.total(scratch_dir=".", **lean))
        setting = self.choose(budget, given=["head_rows"])
        self.assertEqual(self.compromises(setting), {"batch", "recompute", "moments"})

    def test_the_largest_batch(self):
        options = asked(budget=self.total(batch=8), batch=1)
        search = self.search(options, given=("batch", "accumulate"))
        setting = search.choose()
        largest = search.largest_batch(setting)
        self.assertGreater(largest, 8)  # recomputed
        self.assertTrue(search.planned({"batch": largest}).fits)
        self.assertFalse(search.planned({"batch": largest + 1}).fits)
        options.budget = 1 << 10
        self.assertEqual(self.search(options).largest_batch(setting), 0)

    def test_the_library_agrees(self):
        """What is chosen can be opened, trained and measured within the budget."""
        import tempfile

        with tempfile.TemporaryDirectory() as home, liblisa.Context() as context:
            liblisa.Model.create(context, self.config, seed=1).save(home)
            budget = self.total(batch=1, activations="recompute", moments="bf16", head_rows=64)
            setting = self.choose(budget, scratch=None)
            self.assertIn("moments", setting.changes)
            with liblisa.Context(memory_limit=budget, n_threads=1) as small:
                model = liblisa.Model.open(small, home)
                kept = {"max_active_layers": 2, "moments_layers": setting.value("moments")}
                kept["moments_embedding"] = kept["moments_head"] = setting.value("moments")
                optimizer = liblisa.Optimizer(model, **kept)
                batch = liblisa.Batch(
                    model, setting.value("batch"), 256, head_rows=setting.value("head_rows")
                )
                batch.set([[1] * 256] * setting.value("batch"))
                for step in range(3):
                    liblisa.train_step(
                        model, liblisa.Sampler(6, interval_steps=1), optimizer, batch, step
                    )
                model.evaluate(batch)
                held = {name: use.peak for name, use in small.memory().items()}
            planned = setting.plan.bytes
            self.assertEqual(held["activations"], planned["activations"])
            self.assertEqual(held["moments"], planned["moments"])


class Columns(Command):
    def plan(self, *arguments):
        status, out, err = run("plan", self.path, "--tokens", "256", "--threads", "1", *arguments)
        self.assertEqual(err, "")
        return status, out

    def setUp(self):
        super().setUp()
        self.path = self.model(**WIDE)

    def methods(self, *arguments):
        return json.loads(self.plan(*arguments, "--json")[1])["methods"]

    def test_status_says_whether_it_fits(self):
        stored = ("--activations", "store", "--moments", "f32", "--head-rows", "64")
        stored += ("--scratch-dir", ".")
        methods = self.methods(*stored)
        totals = {name: planned["total"] + handles(6) for name, planned in methods.items()}
        fits = (*stored, "--budget", str((totals["lisa"] + totals["full"]) // 2))
        self.assertEqual(self.plan(*fits)[0], 0)
        self.assertEqual(self.plan(*fits, "--method", "lisa")[0], 0)
        status, out = self.plan(*fits, "--method", "full")
        self.assertEqual(status, 1)
        missing = totals["full"] - int(fits[-1])
        self.assertIn(f"no: {amount(missing)} are missing", out)
        exact = ("--method", "full", "--budget", str(totals["full"]))
        self.assertEqual(self.plan(*stored, *exact)[0], 0)
        self.assertEqual(self.plan("--budget", "1K")[0], 1)

    def test_what_is_chosen_is_shown(self):
        lean = ("--head-rows", "64", "--activations", "recompute", "--scratch-dir", ".")
        lean = self.methods("--batch", "4", "--moments", "bf16", *lean)["full"]
        budget = lean["total"] + handles(6)
        found = self.methods("--batch", "4", "--budget", str(budget))["full"]
        self.assertTrue(found["fits"])
        self.assertEqual((found["moments"], found["scratch_dir"]), ("bf16", "."))
        self.assertGreaterEqual(found["largest_batch"], 4)
        status, out = self.plan("--batch", "4", "--budget", str(budget))
        self.assertEqual(status, 0)
        for row in (r"moments +f32 +f32 +(bf16|8bit)\n", r"largest batch that fits( +\d+){3}\n"):
            self.assertRegex(out, row)

    @unittest.skipUnless(MODULE.exists(), "the host device of tests/cuda is not built")
    def test_cuda_without_a_device(self):
        ran = run_python(
            "-m",
            "liblisa",
            "plan",
            str(self.path),
            "--backend",
            "cpu,cuda",
            "--json",
            LISA_BACKEND_PATH=str(MODULE.parent),
            LISA_LIBRARY=os.environ["LISA_LIBRARY"],
        )
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        methods = json.loads(ran.stdout)["methods"]
        names = [f"{method} {on}" for on in ("cpu", "cuda") for method in ("lisa", "lora", "full")]
        self.assertEqual(list(methods), names)
        self.assertEqual(methods["full cuda"]["bytes"]["mapped weights"], 0)

    def test_a_backend_that_is_not_there(self):
        status, out, err = run("plan", self.path, "--backend", "cpu,none")
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertIn("none", err)


if __name__ == "__main__":
    unittest.main()

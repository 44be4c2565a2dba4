"""Checkpoints: saved, found, loaded, also in a process of its own; what the first format wrote is
still read, and goes on as it did then."""

import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import liblisa
from support import ROOT, run_python, tiny_model, tokens

sys.path.insert(0, str(ROOT / "tests/tools"))
import make_checkpoint  # noqa: E402

KEPT = ROOT / "tests/data/checkpoint-1"

GO_ON = """
import sys
import liblisa
from support import tiny_model
from test_checkpoint import parts, train
model, sampler, optimizer, batch = parts()
path = liblisa.find_checkpoint(sys.argv[1])
info = liblisa.load_checkpoint(optimizer, path)
train(model, liblisa.checkpoint_sampler(path), optimizer, batch, info.step, 20)
print(bytes(model.tensor_read("model.embed_tokens.weight")).hex())
"""


def parts(seed=1):
    model = tiny_model(liblisa.Context(), seed=seed, weights_dtype="bf16")
    sampler = liblisa.Sampler(4, n_active=2, interval_steps=3)
    optimizer = liblisa.Optimizer(model, lr=1e-2, max_active_layers=2, moments_layers="8bit")
    return model, sampler, optimizer, liblisa.Batch(model, 2, 12)


def train(model, sampler, optimizer, batch, first, end):
    for step in range(first, end):
        batch.set(tokens(seed=step))
        liblisa.train_step(model, sampler, optimizer, batch, step)


class Saved(unittest.TestCase):
    def setUp(self):
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)

    def test_another_process_goes_on(self):
        model, sampler, optimizer, batch = parts()
        train(model, sampler, optimizer, batch, 0, 10)
        liblisa.save_checkpoint(optimizer, self.directory, 10, sampler=sampler, blob=b"\0row")
        path = liblisa.find_checkpoint(self.directory)
        info = liblisa.verify_checkpoint(path)
        self.assertEqual((info.step, info.n_layers, info.has_sampler), (10, 4, True))
        self.assertEqual(liblisa.checkpoint_blob(path), b"\0row")
        train(model, sampler, optimizer, batch, 10, 20)
        paths = f"{ROOT}/bindings/python:{ROOT}/tests/python"
        there = run_python("-c", GO_ON, str(self.directory), PYTHONPATH=paths)
        self.assertEqual(there.stderr, "")
        self.assertEqual(there.stdout.strip(), bytes(model.tensor_read("model.embed_tokens.weight")).hex())

    def test_refusals_are_exceptions(self):
        _, _, optimizer, _ = parts()
        with self.assertRaises(liblisa.NotFound):
            liblisa.find_checkpoint(self.directory)
        liblisa.save_checkpoint(optimizer, self.directory, 1)
        path = Path(liblisa.find_checkpoint(self.directory))
        with self.assertRaises(liblisa.NotFound):
            liblisa.checkpoint_sampler(path)
        self.assertEqual(liblisa.checkpoint_blob(path), b"")
        path.write_bytes(path.read_bytes()[:-1])
        with self.assertRaises(liblisa.FormatError):
            liblisa.load_checkpoint(optimizer, path)
        liblisa.save_checkpoint(optimizer, self.directory, 2)
        _, _, other, _ = parts(seed=2)
        with self.assertRaisesRegex(liblisa.InvalidArgument, "embed_tokens.*began otherwise"):
            liblisa.load_checkpoint(other, liblisa.find_checkpoint(self.directory))


class Kept(unittest.TestCase):
    def go_on(self, name):
        model, sampler, optimizer, batch = make_checkpoint.parts(name == "lora")
        path = liblisa.find_checkpoint(KEPT / name)
        self.assertEqual(liblisa.load_checkpoint(optimizer, path).step, 5)
        self.assertEqual(liblisa.checkpoint_blob(path), b"row 82")
        again = liblisa.checkpoint_sampler(path)
        self.assertEqual([again.mask(s) for s in range(20)], [sampler.mask(s) for s in range(20)])
        return make_checkpoint.train(model, again, optimizer, batch, 5, 10)

    def test_the_first_format(self):
        losses = json.loads((KEPT / "losses.json").read_text())
        for name in ("lisa", "lora"):
            with self.subTest(name):
                got = self.go_on(name)
                self.assertAlmostEqual(got[0], losses[name][5], places=5)
                # Stochastic rounding makes much of another processor's last bits.
                for one, other in zip(got, losses[name][5:]):
                    self.assertAlmostEqual(one, other, delta=0.05)


if __name__ == "__main__":
    unittest.main()

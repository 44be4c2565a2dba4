"""liblisa merge: an adapter's logits, small files, types, failures that leave nothing."""

import errno
import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa._output import whole_directory
from support import ROOT, run_python, tokens
from test_command import Command, run


def logits(directory, adapter=None):
    with liblisa.Context() as context, liblisa.Model.open(context, directory) as model:
        with liblisa.Batch(model, 2, 12, inference_only=True) as batch:
            batch.set(tokens(vocabulary=40))
            if adapter is not None:
                liblisa.Adapter.open(model, adapter).attach()
            return [value for row in model.logits(batch).tolist() for at in row for value in at]


def worst(some, others):
    return max(abs(a - b) for a, b in zip(some, others))


def weights(directory):
    with liblisa.Context() as context, liblisa.Model.open(context, directory) as model:
        return {
            info.name: memoryview(model.tensor_read(info.name)).cast("B").cast("f").tolist()
            for info in model.tensors()
        }


class Merge(Command):
    def setUp(self):
        super().setUp()
        self.adapter = self.directory / "adapter"
        self.out = self.directory / "merged"

    def make(self, **changes):
        """A model and an adapter that changes what it says."""
        path = self.model(**changes)
        self.adapt(path)
        return path

    def adapt(self, path):
        with liblisa.Context() as context, liblisa.Model.open(context, path) as model:
            adapter = liblisa.Adapter.create(model, rank=3, alpha=24, targets="all-linear", seed=5)
            for info in adapter.tensors():
                n = info.shape[0] * info.shape[1]
                adapter.tensor_write(info.name, [(i * 37 % 23 - 11) / 80 for i in range(n)])
            adapter.save(self.adapter)

    def merge(self, path, *options):
        return run("merge", path, self.adapter, "--out", self.out, *options)

    def left(self):
        """Names beside the model and the adapter, hidden ones too."""
        return sorted(set(os.listdir(self.directory)) - {"model", "adapter"})


class Merged(Merge):
    def test_it_says_what_the_adapter_says(self):
        for name in ("gpt2", "llama-tied", "phi", "qwen3"):
            with self.subTest(name):
                path, self.out = self.directory / name, self.directory / f"merged-{name}"
                with liblisa.Context() as context:
                    liblisa.Model.open(context, ROOT / "tests/data" / name).save(path)
                self.adapt(path)
                (path / "tokenizer.json").write_text("{}")
                found = self.json("merge", path, self.adapter, "--out", self.out)
                expected = logits(path, self.adapter)
                self.assertGreater(worst(expected, logits(path)), 1e-2)
                self.assertLess(worst(expected, logits(self.out)), 1e-5)
                self.assertEqual((found["rank"], found["alpha"], found["dtype"]), (3, 24, "f32"))
                with liblisa.Context() as context, liblisa.Model.open(context, path) as model:
                    maps = len(liblisa.Adapter.open(model, self.adapter).tensors()) // 2
                self.assertEqual(found["merged_weights"], maps)
                self.assertEqual((self.out / "tokenizer.json").read_text(), "{}")
                self.assertEqual(
                    (path / "config.json").read_text(), (self.out / "config.json").read_text()
                )

    def test_in_words(self):
        status, out, err = self.merge(self.make())
        self.assertEqual((status, err), (0, ""))
        self.assertIn("28 weights with the adapter in them (rank 3, alpha 24), f32", out)

    def test_a_sum_is_rounded_once(self):
        path = self.make(weights_dtype="bf16")
        self.assertEqual(self.merge(path)[0], 0)
        own = weights(self.out)
        for dtype, bits in (("f32", 24), ("f16", 11)):
            self.out = self.directory / dtype
            found = self.json("merge", path, self.adapter, "--out", self.out, "--dtype", dtype)
            self.assertEqual(found["dtype"], dtype)
            self.assertEqual(sorted(os.listdir(self.out)), ["config.json", "model.safetensors"])
            wide = weights(self.out)
            off = max(abs(a - b) for name in own for a, b in zip(own[name], wide[name]))
            self.assertGreater(off, 1e-4)  # what rounding to bf16 loses
            self.assertLess(off, 2.0**-8)
            if dtype == "f32":
                exact = wide
                self.assertLess(worst(logits(path, self.adapter), logits(self.out)), 1e-5)
            for name, values in wide.items():
                for value, meant in zip(values, exact[name]):
                    self.assertLessEqual(abs(value - meant), abs(meant) * 2.0**-bits + 2.0**-24)

    def test_an_empty_directory_is_taken(self):
        self.out.mkdir()
        path = self.make()
        self.assertEqual(self.merge(path)[0], 0)
        self.assertEqual(sorted(os.listdir(self.out)), ["config.json", "model.safetensors"])
        self.assertEqual(self.left(), ["merged"])


class Refusals(Merge):
    def refused(self, words, path, *options):
        self.assertRefused(1, words, "merge", path, self.adapter, "--out", self.out, *options)

    def test_what_is_there_stays(self):
        path = self.make()
        self.out.mkdir()
        (self.out / "notes").write_text("mine")
        self.refused("merged is not empty: give another directory", path)
        self.assertEqual(os.listdir(self.out), ["notes"])
        self.out = self.out / "notes"
        self.refused("is not empty", path)
        self.out = path
        self.refused("is not empty", path)

    def test_what_cannot_be_merged(self):
        path = self.make()
        self.assertRefused(2, "--out", "merge", path, self.adapter)
        self.assertRefused(
            2, "invalid choice", "merge", path, self.adapter, "--out", self.out, "--dtype", "q8"
        )
        config = json.loads((self.adapter / "adapter_config.json").read_text())
        for change, words in (({"use_dora": True}, "use_dora"), ({"r": 4}, "lora_A")):
            (self.adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
            self.refused(words, path)
            self.assertEqual(self.left(), [])
        (self.adapter / "adapter_config.json").write_text(json.dumps(config))
        file = self.adapter / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        self.refused("adapter_model.safetensors", path)
        file.unlink()
        self.refused("adapter_model.safetensors", path)
        self.refused("nowhere", self.directory / "nowhere")
        self.assertEqual(self.left(), [])

    def test_a_sum_that_does_not_fit(self):
        path = self.make()
        config = json.loads((self.adapter / "adapter_config.json").read_text())
        (self.adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1e7}))
        self.refused("f16", path, "--dtype", "f16")
        self.assertEqual(self.left(), [])

    def test_no_room_for_the_weights(self):
        path = self.make()
        script = """
import resource, signal, sys
from liblisa.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main(sys.argv[1:]))
"""
        words = ("merge", str(path), str(self.adapter), "--out", str(self.out))
        ran = run_python("-c", script, *words)
        self.assertEqual((ran.returncode, ran.stderr.count("\n")), (1, 1), ran.stderr)
        self.assertIn("model.safetensors", ran.stderr)
        self.assertEqual(self.left(), [])

    def test_ctrl_c_leaves_nothing(self):
        path = self.make()
        with mock.patch.object(liblisa.Model, "save", side_effect=KeyboardInterrupt):
            self.assertEqual(self.merge(path), (130, "", ""))
        self.assertEqual(self.left(), [])


class WholeDirectory(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.home = Path(scratch.name)
        self.out = self.home / "deep" / "out"

    def fill(self, error=None):
        with whole_directory(self.out) as directory:
            (directory / "file").write_text("x")
            self.assertFalse(self.out.exists())
            if error is not None:
                raise error

    def test_all_or_nothing(self):
        for error in (ValueError("no"), KeyboardInterrupt(), MemoryError()):
            with self.assertRaises(type(error)):
                self.fill(error)
            self.assertEqual(os.listdir(self.out.parent), [])
        self.fill()
        self.assertEqual(os.listdir(self.out.parent), ["out"])
        self.assertEqual((self.out / "file").read_text(), "x")
        with self.assertRaisesRegex(FileExistsError, "out is not empty"):
            self.fill()

    def test_what_was_killed_is_not_in_the_way(self):
        with whole_directory(self.out) as killed:
            pass
        self.out.rename(killed)  # as if it had not come to its end
        self.fill()
        self.assertEqual(sorted(os.listdir(self.out.parent)), sorted(["out", killed.name]))

    def test_a_full_disk_is_said_with_the_name(self):
        with self.assertRaisesRegex(OSError, "No space left on device: .*out"):
            self.fill(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def test_the_mode_of_an_empty_directory_stays(self):
        self.out = self.home / "out"
        self.out.mkdir(mode=0o700)
        with whole_directory(self.out) as directory:
            (directory / "file").write_text("x")
        self.assertEqual(self.out.stat().st_mode & 0o7777, 0o700)

    def test_what_stays_in_its_place_is_refused_before_the_work(self):
        self.out.mkdir(parents=True)
        with mock.patch.object(Path, "is_mount", lambda path: path == self.out.resolve()):
            with self.assertRaisesRegex(FileExistsError, "out is a mount point.*give a directory"):
                self.fill()
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.out)
        self.out = Path()
        with self.assertRaisesRegex(FileExistsError, r"\. is the working directory"):
            self.fill()
        self.assertEqual(os.listdir("."), [])

    def test_a_link_to_an_empty_directory(self):
        real = self.home / "real"
        real.mkdir()
        self.out = self.home / "link"
        self.out.symlink_to(real)
        with whole_directory(self.out) as directory:
            (directory / "file").write_text("x")
        self.assertEqual(os.listdir(real), ["file"])
        self.assertTrue(self.out.is_symlink())


if __name__ == "__main__":
    unittest.main()

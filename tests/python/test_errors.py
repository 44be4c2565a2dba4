"""A failure is the exception of its status, and carries the library's line."""

import ctypes
import json
import os
import pickle
import shutil
import tempfile
import unittest
from pathlib import Path

import headers
import liblisa
from liblisa import _errors, _ffi
from support import tiny_model, tokens

PYTHON_KINDS = {
    liblisa.InvalidArgument: ValueError,
    liblisa.OutOfMemory: MemoryError,
    liblisa.IOFailure: OSError,
    liblisa.AbiError: ImportError,
    liblisa.NotFound: KeyError,
}


class Mapping(unittest.TestCase):
    def test_every_status_has_its_class(self):
        statuses = {
            value for name, value in headers.constants().items() if name.startswith("LISA_E_")
        }
        self.assertEqual(set(_errors.BY_STATUS), statuses)

    def test_names_say_the_same(self):
        for status, kind in _errors.BY_STATUS.items():
            self.assertIn(_ffi.lisa_status_name(status).decode(), kind.__doc__)

    def test_classes(self):
        for status, kind in _errors.BY_STATUS.items():
            error = _errors.error_for(status, "what, and why")
            with self.subTest(kind.__name__):
                self.assertIs(type(error), kind)
                self.assertIsInstance(error, liblisa.LisaError)
                self.assertIsInstance(error, PYTHON_KINDS.get(kind, Exception))
                self.assertEqual((error.status, error.text), (status, "what, and why"))
                self.assertEqual(str(error), "what, and why")
                copy = pickle.loads(pickle.dumps(error))
                self.assertEqual((type(copy), copy.status, copy.text), (kind, status, error.text))

    def test_number_of_a_newer_library(self):
        error = _errors.error_for(-99, "new")
        self.assertIs(type(error), liblisa.LisaError)
        self.assertEqual(error.status, -99)


class FromTheLibrary(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        with liblisa.Context() as context, tiny_model(context) as model:
            model.save(cls.directory / "model")

    def copy_of_model(self, name):
        path = self.directory / name
        shutil.copytree(self.directory / "model", path)
        return path

    def check(self, kind, word, function, *arguments, **keywords):
        with self.assertRaises(kind) as caught:
            function(*arguments, **keywords)
        self.assertIs(type(caught.exception), kind)
        self.assertEqual(caught.exception.status, kind.status)
        self.assertIn(word, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))

    def test_invalid_argument(self):
        self.check(liblisa.InvalidArgument, "n_layers", liblisa.Sampler, 0)

    def test_out_of_memory(self):
        options = _ffi.lisa_context_options()
        _ffi.lisa_context_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.alloc = _ffi.lisa_alloc_fn(lambda user, size, align: None)
        options.release = _ffi.lisa_release_fn(lambda user, pointer, size, align: None)
        pointer = ctypes.POINTER(_ffi.lisa_context)()
        self.check(
            liblisa.OutOfMemory,
            "memory",
            _ffi.lisa_context_create,
            ctypes.byref(pointer),
            ctypes.byref(options),
        )
        self.assertFalse(pointer)

    def test_io(self):
        blocked = self.directory / "a-file"
        blocked.write_text("")
        with liblisa.Context() as context, tiny_model(context) as model:
            self.check(liblisa.IOFailure, "a-file", model.save, blocked / "below")

    def test_format(self):
        path = self.copy_of_model("truncated")
        os.truncate(path / "model.safetensors", 200)
        with liblisa.Context() as context:
            self.check(liblisa.FormatError, "model.safetensors", liblisa.Model.open, context, path)

    def test_unsupported(self):
        path = self.copy_of_model("other-family")
        config = json.loads((path / "config.json").read_text())
        config["model_type"] = "mamba"
        (path / "config.json").write_text(json.dumps(config))
        self.check(liblisa.Unsupported, "mamba", liblisa.ModelConfig.read, path)

    def test_unsupported_family(self):
        with liblisa.Context() as context, self.assertRaisesRegex(liblisa.LisaError, "abacus"):
            tiny_model(context, family="abacus")

    def test_state(self):
        with liblisa.Context() as context, tiny_model(context) as model:
            with liblisa.Optimizer(model):
                self.check(liblisa.StateError, "optimizer", liblisa.Optimizer, model)

    def test_budget(self):
        with self.assertRaisesRegex(liblisa.BudgetExceeded, "memory_limit"):
            tiny_model(liblisa.Context("reference", memory_limit=4096))
        with liblisa.Context() as context, tiny_model(context) as model:
            optimizer = liblisa.Optimizer(model, max_active_layers=1)
            all_on = bytes([1] * 6)
            self.check(liblisa.BudgetExceeded, "max_active_layers", optimizer.apply_mask, all_on)

    def test_nonfinite(self):
        with liblisa.Context() as context, tiny_model(context) as model:
            name = model.tensors()[1].name
            before = model.tensor_read(name).tolist()
            values = [float("nan")] * model.tensor_read(name).nbytes
            values = values[: len(values) // 4]
            self.check(liblisa.NonFinite, name, model.tensor_write, name, values)
            self.assertEqual(model.tensor_read(name).tolist(), before)

    def test_backend(self):
        self.check(liblisa.BackendError, "abacus", liblisa.Context, "abacus")

    def test_abi(self):
        options = _ffi.lisa_sampler_options()
        self.check(
            liblisa.AbiError,
            "lisa_sampler_options",
            _ffi.lisa_sampler_options_init,
            ctypes.byref(options),
            8,
        )

    def test_cancelled(self):
        stop = []
        with liblisa.Context(interrupt=lambda: bool(stop)) as context:
            model = tiny_model(context)
            batch = liblisa.Batch(model, 2, 12)
            batch.set(tokens())
            before = model.evaluate(batch).loss
            stop.append(True)
            self.check(liblisa.Cancelled, "", model.evaluate, batch)
            stop.clear()
            self.assertEqual(model.evaluate(batch).loss, before)

    def test_not_found(self):
        with liblisa.Context() as context, tiny_model(context) as model:
            self.check(liblisa.NotFound, "no.such.tensor", model.tensor, "no.such.tensor")

    def test_missing_directory_is_one_of_the_two(self):
        with liblisa.Context() as context:
            with self.assertRaises((liblisa.NotFound, liblisa.IOFailure)) as caught:
                liblisa.Model.open(context, self.directory / "nowhere")
            self.assertIn("nowhere", str(caught.exception))


class InThePackage(unittest.TestCase):
    def test_choices(self):
        with self.assertRaisesRegex(liblisa.InvalidArgument, "SamplerKind.*'uniform'.*'dice'"):
            liblisa.Sampler(4, kind="dice")

    def test_integers_are_not_cut(self):
        with self.assertRaisesRegex(liblisa.InvalidArgument, "n_active"):
            liblisa.Sampler(4, n_active=2**32 + 2)
        with self.assertRaisesRegex(liblisa.InvalidArgument, "seed"):
            liblisa.Sampler(4, seed=-1)
        with liblisa.Sampler(4) as sampler:
            for step in (-1, 2**64):
                with self.assertRaisesRegex(liblisa.InvalidArgument, "step"):
                    sampler.mask(step)

    def test_nul_is_not_an_end(self):
        with self.assertRaisesRegex(liblisa.InvalidArgument, "NUL"):
            liblisa.ModelConfig.read("a\0b")
        with self.assertRaisesRegex(liblisa.InvalidArgument, "NUL"):
            liblisa.Context("cpu\0x")

    def test_wrong_types(self):
        with self.assertRaises(TypeError):
            liblisa.Sampler("four")
        with self.assertRaises(TypeError):
            liblisa.Context(7)


if __name__ == "__main__":
    unittest.main()

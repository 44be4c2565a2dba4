"""Every public function is bound with the types of its declaration."""

import ctypes
import re
import unittest
from pathlib import Path

import headers
from liblisa import _ffi


def bound():
    """{name: ctypes function} of the package."""
    kind = type(_ffi.lisa_error_last)
    return {
        name: value
        for name, value in vars(_ffi).items()
        if name.startswith("lisa_") and type(value) is kind
    }


class Prototypes(unittest.TestCase):
    def test_every_function_and_no_other(self):
        self.assertGreaterEqual(len(headers.functions()), 50)
        self.assertEqual(set(bound()), set(headers.functions()))

    def test_names(self):
        for name, function in bound().items():
            self.assertEqual(function.__name__, name)

    def test_types(self):
        for name, (_, _, result, arguments) in headers.functions().items():
            function = getattr(_ffi, name)
            with self.subTest(name):
                self.assertEqual(list(function.argtypes), arguments)
                self.assertEqual(function.restype, result)

    def test_statuses_are_checked(self):
        for name, (_, result, _, _) in headers.functions().items():
            expected = _ffi._raise_status if result == "lisa_status" else None
            with self.subTest(name):
                self.assertIs(getattr(_ffi, name).errcheck, expected)

    def test_declarations_stand_above(self):
        text = Path(_ffi.__file__).read_text()
        for name, (declaration, _, _, _) in headers.functions().items():
            comment = re.search(rf"((?:^#.*\n)+){name} = ", text, re.M)
            with self.subTest(name):
                self.assertIsNotNone(comment)
                lines = [line.lstrip("# ") for line in comment.group(1).splitlines()]
                self.assertEqual(" ".join(lines), declaration)

    def test_handles_do_not_mix(self):
        batch = ctypes.POINTER(_ffi.lisa_batch)()
        with self.assertRaises(ctypes.ArgumentError):
            _ffi.lisa_model_destroy(batch)


if __name__ == "__main__":
    unittest.main()

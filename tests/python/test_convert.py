"""liblisa convert without the packages that it takes: they are asked for when it runs, and not
before. Conversions are tests/slow/gguf_convert.py."""

import os
import sys
import unittest
from unittest import mock

from support import run_python
from test_command import Command

PACKAGES = ("gguf", "numpy", "tokenizers", "jinja2")


class Convert(Command):
    def test_usage(self):
        self.assertRefused(2, "--out", "convert", "model.gguf")
        self.assertRefused(2, "invalid choice: 'q8'", "convert", "x", "--out", "y", "--dtype", "q8")
        self.assertRefused(2, "expected a size", "convert", "x", "--out", "y", "--max-shard-bytes",
                           "much")

    def test_a_missing_package_is_said(self):
        file, out = self.directory / "model.gguf", self.directory / "deep" / "out"
        file.write_bytes(b"GGUF")
        for name in ("gguf", "numpy"):
            loaded = {m for m in sys.modules if m.startswith("liblisa.gguf")}
            with mock.patch.dict(sys.modules):
                for module in loaded:
                    del sys.modules[module]
                sys.modules[name] = None
                # The first that is missing is named.
                self.assertRefused(1, "is missing: pip install 'liblisa[gguf]'", "convert", file,
                                   "--out", out)
        self.assertEqual(os.listdir(self.directory), ["model.gguf"])

    def test_nothing_optional_is_loaded(self):
        script = f"""
import sys
import unittest
sys.modules.update(dict.fromkeys({PACKAGES!r}))
from liblisa.cli import main
try:
    main(["convert", "--help"])
finally:
    assert not [name for name in sys.modules if name.startswith("liblisa.gguf")]
"""
        ran = run_python("-c", script)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertIn("--tokenizer DIR|none", ran.stdout)


if __name__ == "__main__":
    unittest.main()

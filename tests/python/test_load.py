"""Which library is loaded, and when it is refused."""

import ctypes
import os
import shutil
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa import _ffi
from support import ROOT, compile_c, run_python

FAKE = """
#include <stdint.h>
uint32_t lisa_abi_version(void) { return %d; }
uint32_t lisa_version_number(void) { return %d; }
const char *lisa_version_string(void) { return "%s"; }
"""


class Load(unittest.TestCase):
    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def enterContext(self, manager):  # unittest has it from Python 3.11 on
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def fake(self, abi, number, version):
        path = self.directory / f"fake{abi}-{number}.so"
        return compile_c(FAKE % (abi, number, version), path, "-shared", "-fPIC")

    def test_environment_is_the_only_candidate(self):
        with mock.patch.dict(os.environ, LISA_LIBRARY="/nowhere/liblisa.so.0"):
            self.assertEqual(_ffi.candidates(), ["/nowhere/liblisa.so.0"])

    def test_order(self):
        checkout = self.directory / "checkout"
        package = checkout / "bindings" / "python" / "liblisa"
        package.mkdir(parents=True)
        for variant in ("asan", "release"):
            (checkout / "build" / variant).mkdir(parents=True)
            (checkout / "build" / variant / _ffi.SONAME).touch()
        (checkout / "include" / "lisa").mkdir(parents=True)
        (checkout / "include" / "lisa" / "lisa.h").touch()
        with mock.patch.dict(os.environ), mock.patch.object(
            _ffi, "__file__", str(package / "_ffi.py")
        ):
            os.environ.pop("LISA_LIBRARY", None)
            expected = [
                package.resolve() / _ffi.SONAME,
                checkout.resolve() / "build" / "release" / _ffi.SONAME,
                checkout.resolve() / "build" / "asan" / _ffi.SONAME,
                _ffi.SONAME,
            ]
            self.assertEqual(_ffi.candidates(), [str(path) for path in expected])

    def test_failure_names_every_candidate(self):
        names = ["/nowhere/a/liblisa.so.0", "/nowhere/b/liblisa.so.0"]
        with mock.patch.object(_ffi, "candidates", lambda: names):
            with self.assertRaises(ImportError) as caught:
                _ffi.load()
        for name in names:
            self.assertIn(name, str(caught.exception))

    def test_unusable_file_is_not_passed_over(self):
        broken = self.directory / "liblisa.so.0"
        broken.write_text("not a library")
        names = [str(broken), _ffi.LIBRARY._name]
        with mock.patch.object(_ffi, "candidates", lambda: names):
            with self.assertRaises(ImportError):
                _ffi.load()

    def test_other_abi_is_refused(self):
        path = self.fake(7, 5000000, "5.0.0")
        with self.assertRaises(liblisa.AbiError) as caught:
            _ffi.check_abi(ctypes.CDLL(str(path)))
        for word in (str(path), "5.0.0", "ABI 7", liblisa.__version__):
            self.assertIn(word, str(caught.exception))

    def test_older_library_is_refused_and_newer_accepted(self):
        with self.assertRaises(liblisa.AbiError):
            _ffi.check_abi(ctypes.CDLL(str(self.fake(_ffi.LISA_ABI_VERSION, 999, "0.0.999"))))
        _ffi.check_abi(ctypes.CDLL(str(self.fake(_ffi.LISA_ABI_VERSION, 2000, "0.2.0"))))

    def test_import_fails_with_words(self):
        missing = run_python("-c", "import liblisa", LISA_LIBRARY="/nowhere/liblisa.so.0")
        line = missing.stderr.splitlines()[-1]
        self.assertRegex(line, "^ImportError: liblisa's shared library .* /nowhere/liblisa.so.0: ")
        other = run_python("-c", "import liblisa", LISA_LIBRARY=str(self.fake(7, 1, "0.0.1")))
        self.assertRegex(other.stderr.splitlines()[-1], "AbiError: .* is liblisa 0.0.1 with ABI 7")

    def test_the_command_says_it_in_one_line(self):
        alien = compile_c("int alien;", self.directory / "alien.so", "-shared", "-fPIC")
        script = self.directory / "liblisa"
        script.write_text("import sys\nfrom liblisa.cli import main\nsys.exit(main())\n")
        for library, words in (
            ("/nowhere/liblisa.so.0", "could not be loaded"),
            (str(self.fake(7, 1, "0.0.1")), "is liblisa 0.0.1"),
            (str(alien), "is not liblisa"),
        ):
            for command in (["-m", "liblisa", "plan", "x"], [str(script), "plan", "x"]):
                got = run_python(*command, LISA_LIBRARY=library)
                self.assertEqual((got.returncode, got.stdout), (1, ""))
                self.assertRegex(got.stderr, f"\\Aliblisa: .*{words}.*\n\\Z")

    def test_a_host_gets_the_exception(self):
        (self.directory / "host.py").write_text(
            "try:\n    import liblisa\nexcept ImportError:\n    print('told')\n"
        )
        path = os.pathsep.join([str(self.directory), str(ROOT / "bindings" / "python")])
        for command in (["-m", "host"], [str(self.directory / "host.py")]):
            got = run_python(*command, LISA_LIBRARY="/nowhere/liblisa.so.0", PYTHONPATH=path)
            self.assertEqual((got.returncode, got.stdout, got.stderr), (0, "told\n", ""))

    def test_library_beside_the_package(self):
        shutil.copytree(
            ROOT / "bindings" / "python" / "liblisa",
            self.directory / "liblisa",
            ignore=shutil.ignore_patterns("__pycache__", "*.so*"),
        )
        shutil.copy(_ffi.LIBRARY._name, self.directory / "liblisa" / _ffi.SONAME)
        script = "import liblisa, liblisa._ffi as f; print(f.LIBRARY._name)"
        result = run_python(
            "-c", script, LISA_LIBRARY="", PYTHONPATH=str(self.directory), PYTHONSAFEPATH="1"
        )
        self.assertEqual(result.stderr, "")
        self.assertEqual(
            Path(result.stdout.strip()).resolve(),
            (self.directory / "liblisa" / _ffi.SONAME).resolve(),
        )

    def test_versions(self):
        self.assertEqual(_ffi.lisa_abi_version(), _ffi.LISA_ABI_VERSION)
        self.assertEqual(
            _ffi._version_number(liblisa.library_version()), _ffi.lisa_version_number()
        )

    def test_import_prints_nothing_and_needs_no_numpy(self):
        script = "import liblisa, sys; assert 'numpy' not in sys.modules"
        result = run_python("-c", script, LISA_LIBRARY=str(Path(_ffi.LIBRARY._name).resolve()))
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))


if __name__ == "__main__":
    unittest.main()

"""Structs, constants and callback types are those of the headers."""

import ctypes
import re
import subprocess
import tempfile
import unittest
from dataclasses import fields
from pathlib import Path

import headers
import liblisa
from liblisa import _choices, _ffi
from liblisa._config import config_from_c
from liblisa._options import make
from support import compile_c


def c_layout():
    """{struct: (size, {field: (offset, size)})} as the C compiler sees it."""
    lines = []
    for struct, members in headers.structs().items():
        lines.append(f'printf("{struct} - 0 %zu\\n", sizeof(struct {struct}));')
        for name, _ in members:
            lines.append(
                f'printf("{struct} {name} %zu %zu\\n", offsetof(struct {struct}, {name}), '
                f"sizeof(((struct {struct} *)0)->{name}));"
            )
    program = "#include <lisa/lisa.h>\n#include <stdio.h>\nint main(void) {\n%s\nreturn 0;\n}\n"
    with tempfile.TemporaryDirectory() as directory:
        binary = compile_c(
            program % "\n".join(lines), Path(directory) / "layout", f"-I{headers.INCLUDE}"
        )
        output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    result = {}
    for line in output.splitlines():
        struct, name, offset, size = line.split()
        total, members = result.setdefault(struct, [0, {}])
        if name == "-":
            result[struct][0] = int(size)
        else:
            members[name] = (int(offset), int(size))
    return result


class Layout(unittest.TestCase):
    def test_sizes_and_offsets(self):
        layout = c_layout()
        self.assertGreaterEqual(len(layout), 11)
        for struct, (size, members) in layout.items():
            kind = getattr(_ffi, struct)
            own = {
                name: (getattr(kind, name).offset, getattr(kind, name).size)
                for name, _ in kind._fields_
            }
            with self.subTest(struct):
                self.assertEqual(own, members)
                self.assertEqual(ctypes.sizeof(kind), size)

    def test_field_order_and_types(self):
        for struct, members in headers.structs().items():
            with self.subTest(struct):
                self.assertEqual(getattr(_ffi, struct)._fields_, members)

    def test_no_struct_beyond_the_headers(self):
        own = {
            name
            for name, kind in vars(_ffi).items()
            if isinstance(kind, type(ctypes.Structure)) and hasattr(kind, "_fields_")
        }
        self.assertEqual(own - {"Structure"}, set(headers.structs()))

    def test_callbacks(self):
        for name, (result, arguments) in headers.callbacks().items():
            with self.subTest(name):
                kind = getattr(_ffi, name)
                self.assertEqual((kind._restype_, list(kind._argtypes_)), (result, arguments))

    def test_constants(self):
        in_headers = {
            name: value
            for name, value in headers.constants().items()
            if not name.startswith("LISA_VERSION_")
        }
        own = {name: value for name, value in vars(_ffi).items() if name.startswith("LISA_")}
        self.assertEqual(own, in_headers)

    def test_enumerations_are_complete(self):
        prefixes = {
            "DTYPE": _choices.DType,
            "LOG": _choices.LogLevel,
            "ACTIVATIONS": _choices.Activations,
            "NORM": _choices.Norm,
            "ACT": _choices.Activation,
            "ROPE": _choices.Rope,
            "LOAD": _choices.Load,
            "STATE": _choices.StatePolicy,
            "TARGET": _choices.Target,
            "SAMPLER": _choices.SamplerKind,
        }
        for prefix, kind in prefixes.items():
            expected = {
                name[len(prefix) + 6 :]: value
                for name, value in headers.constants().items()
                if name.startswith(f"LISA_{prefix}_") and name != "LISA_SAMPLER_MAX_LAYERS"
            }
            with self.subTest(prefix):
                own = {name: member.value for name, member in kind.__members__.items()}
                self.assertEqual(own, expected)

    def test_package_version_is_the_headers(self):
        text = (headers.INCLUDE / "lisa" / "version.h").read_text()
        version = re.search(r'LISA_VERSION_STRING "(.*)"', text).group(1)
        self.assertEqual(liblisa.__version__, version)

    def test_config_mirrors_the_struct_and_its_defaults(self):
        names = [name for name, _ in _ffi.lisa_model_config._fields_ if name != "struct_size"]
        self.assertEqual([field.name for field in fields(liblisa.ModelConfig)], names)
        struct = make(_ffi.lisa_model_config, _ffi.lisa_model_config_init, {})
        self.assertEqual(config_from_c(struct), liblisa.ModelConfig())

    def test_step_stats_mirror_the_struct(self):
        names = [name for name, _ in _ffi.lisa_step_stats._fields_ if name != "struct_size"]
        self.assertEqual(list(liblisa.StepStats._fields), names)


if __name__ == "__main__":
    unittest.main()

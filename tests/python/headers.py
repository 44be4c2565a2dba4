"""Reads the public C headers: constants, structs, callbacks and functions, with their types."""

import ctypes
import re
from pathlib import Path

from liblisa import _ffi

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"

_BASE_TYPES = {
    "char": ctypes.c_char,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
    "int32_t": ctypes.c_int32,
    "lisa_status": ctypes.c_int32,
    "size_t": ctypes.c_size_t,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "uint8_t": ctypes.c_uint8,
}


def source():
    """All public headers without their comments."""
    texts = [path.read_text() for path in sorted((INCLUDE / "lisa").glob("*.h"))]
    return re.sub(r"/\*.*?\*/", " ", "\n".join(texts), flags=re.S)


def ctype(text):
    """The ctypes type that stands for a C type."""
    text = re.sub(r"\b(const|struct)\b", "", text)
    stars = text.count("*")
    base = text.replace("*", "").strip()
    if base == "void":
        if not stars:
            return None
        kind, stars = ctypes.c_void_p, stars - 1
    elif base == "char" and stars:
        kind, stars = ctypes.c_char_p, stars - 1
    else:
        kind = _BASE_TYPES.get(base) or getattr(_ffi, base)
    for _ in range(stars):
        kind = ctypes.POINTER(kind)
    return kind


def _arguments(text):
    if text.strip() == "void":
        return []
    return [ctype(re.sub(r"\w+\s*$", "", argument)) for argument in text.split(",")]


def constants():
    """{name: value} of every numeric macro."""
    number = r"(-?\d+|0[xX][\da-fA-F]+)u?"
    found = re.findall(rf"^#define (LISA_\w+) \(?{number}\)?\s*$", source(), re.M)
    return {name: int(value, 0) for name, value in found}


def structs():
    """{name: [(field, ctypes type)]} of every struct whose fields are public."""
    result = {}
    for name, body in re.findall(r"^typedef struct (\w+) \{(.*?)^\}", source(), re.M | re.S):
        fields = []
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(.*?)(\w+)(?:\[(\d+)\])?", declaration, re.S)
            kind = ctype(match.group(1))
            fields.append((match.group(2), kind * int(match.group(3)) if match.group(3) else kind))
        result[name] = fields
    return result


def callbacks():
    """{name: (result, [arguments])} of every function pointer type."""
    found = re.findall(r"^typedef ([^;]*?)\(\*(lisa_\w+)\)\((.*?)\);", source(), re.M | re.S)
    return {name: (ctype(result), _arguments(text)) for result, name, text in found}


def functions():
    """{name: (declaration on one line, result text, result, [arguments])}."""
    result = {}
    for text in re.findall(r"^LISA_API (.*?;)", source(), re.M | re.S):
        declaration = re.sub(r"\s+", " ", text)
        kind, name, arguments = re.fullmatch(r"(.*?)(lisa_\w+)\((.*)\);", declaration).groups()
        result[name] = (declaration, kind.strip(), ctype(kind), _arguments(arguments))
    return result

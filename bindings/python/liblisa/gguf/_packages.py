"""The packages that reading GGUF takes."""

from __future__ import annotations

from ..data._extras import need

np = need("numpy", "gguf")
gguf = need("gguf", "gguf")

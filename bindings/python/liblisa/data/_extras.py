"""Packages that only some of this needs."""

from __future__ import annotations

import importlib
from typing import Any


_PACKAGES = {"yaml": "PyYAML"}  # where a package has another name than its module


def need(name: str, extra: str = "data") -> Any:
    """Imports a module of a package of an extra; where it is missing, one line says what to do."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module = name.partition(".")[0]
        package = _PACKAGES.get(module, module)
        raise ImportError(
            f"the package {package} is missing: pip install 'liblisa[{extra}]'"
        ) from None

"""Packages that only some of this needs."""

from __future__ import annotations

import importlib
from typing import Any


def need(name: str, extra: str = "data") -> Any:
    """Imports a module of an optional package; where it is missing, one line says what to do.

    extra: the one of this package that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.partition(".")[0]
        raise ImportError(
            f"the package {package} is missing: pip install 'liblisa[{extra}]'"
        ) from None

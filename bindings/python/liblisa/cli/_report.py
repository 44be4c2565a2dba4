"""What is printed: tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import Any, Sequence

MIB = 1 << 20


def mib(n_bytes: int) -> str:
    """Bytes as MiB with one decimal."""
    return f"{n_bytes / MIB:,.1f}"


def amount(n_bytes: int) -> str:
    """Bytes in the unit that suits them."""
    size, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}" if unit != "B" else f"{n_bytes} B"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as need be under the first row; all but the first are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """One object, readable by people as well."""
    print(json.dumps(value, indent=2, ensure_ascii=False))

"""docs/memory.md shows the plan of the paper's six models as the plan gives it."""

import pathlib
import sys
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "tools"))

import memory_table  # noqa: E402


class MemoryTable(unittest.TestCase):
    def test_the_page_has_the_tables(self):
        text = (TOP / "docs" / "memory.md").read_text()
        tables = "\n".join(memory_table.lines())
        self.assertEqual(text, memory_table.written(text, tables))


if __name__ == "__main__":
    unittest.main()

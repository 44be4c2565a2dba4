"""The code blocks of docs/python.md run as they stand, one after the other."""

import contextlib
import io
import os
import re
import tempfile
import unittest

from support import ROOT


class Docs(unittest.TestCase):
    def test_blocks_run(self):
        text = (ROOT / "docs" / "python.md").read_text()
        blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
        self.assertGreaterEqual(len(blocks), 7)
        namespace = {}
        home = os.getcwd()
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                for block in blocks:
                    line = text.count("\n", 0, block.start(1))
                    code = compile("\n" * line + block.group(1), "docs/python.md", "exec")
                    with contextlib.redirect_stdout(io.StringIO()):
                        exec(code, namespace)
            finally:
                os.chdir(home)


if __name__ == "__main__":
    unittest.main()

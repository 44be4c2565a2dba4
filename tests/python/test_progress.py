"""What a run shows: averages, the bar in any width, a terminal left in order, plain lines elsewhere."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest
from unittest import mock

from liblisa.cli import _progress
from liblisa.cli._progress import Average, Bar, Lines, Progress, bar, layer_list
from support import ROOT


def line(step, total=40, **changes):
    """A line of metrics.jsonl."""
    values = dict(
        current_steps=step,
        total_steps=total,
        loss=2.0 - step / 100,
        learning_rate=1e-5,
        grad_norm=1.25,
        step_tokens=500,
        step_time=0.5,
        remaining_time="0:01:40",
        peak_bytes=979 << 20,
        lisa_layers=[3, 17],
    )
    values.update(changes)
    return {name: value for name, value in values.items() if value is not None}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Averages(unittest.TestCase):
    def test_the_first_is_itself_and_then_the_weights_are_right(self):
        average = Average(0.9)
        self.assertAlmostEqual(average.add(5.0), 5.0)
        self.assertAlmostEqual(average.add(1.0), (0.09 * 5 + 0.1) / 0.19)
        for _ in range(500):
            last = average.add(1.0)
        self.assertAlmostEqual(last, 1.0)

    def test_layers(self):
        self.assertEqual(layer_list([3, 17]), "3,17")
        self.assertEqual(layer_list(list(range(30))), "0-29")
        self.assertEqual(layer_list([0, 1, 2, 7]), "0-2,7")
        self.assertEqual(layer_list([]), "")


class TheBar(unittest.TestCase):
    def test_it_fills_in_eighths(self):
        self.assertEqual(bar(0, 4, "utf-8"), "    ")
        self.assertEqual(bar(0.5, 4, "utf-8"), "██  ")
        self.assertEqual(bar(9 / 32, 4, "utf-8"), "█▏  ")
        self.assertEqual(bar(1, 4, "utf-8"), "████")
        self.assertEqual(bar(0.5, 4, "ascii"), "##  ")
        self.assertEqual(bar(7, 4, None), "####")

    def test_it_fits_any_terminal(self):
        shown = Bar(Terminal())
        with mock.patch.object(shown, "_draw"):
            shown.step(line(10, eval_loss=1.5))
        texts = {columns: shown.text(columns) for columns in range(0, 200)}
        for columns, text in texts.items():
            self.assertLessEqual(len(text), columns)
        for columns, words in (
            (12, "10/40"),
            (30, "10/40 | loss 1.9"),
            (79, "left 0:01:40"),
            (79, "val 1.5000"),
            (150, "979.0 MiB | layers 3,17"),
            (150, "1000 tok/s"),
        ):
            self.assertIn(words, texts[columns])
        self.assertNotIn("MiB", texts[79])
        self.assertIn("█", texts[60])

    def test_what_else_goes_on_is_said(self):
        shown = Bar(Terminal())
        shown.step(line(10))
        shown.busy("validating 3/16")
        self.assertIn("10/40 | validating 3/16", shown.text(79))
        shown.busy("")
        self.assertNotIn("validating", shown.text(79))

    def test_it_is_drawn_over_itself_and_validations_stay(self):
        stream = Terminal()
        with Bar(stream) as shown, mock.patch.object(_progress, "_REDRAW_SECONDS", 0):
            for step in (1, 2, 3):
                shown.step(line(step, 3, eval_loss=1.5 if step == 2 else None))
            shown.close()
        text = stream.getvalue()
        self.assertEqual(text.count("\n"), 2)  # the validation's line and the end
        self.assertIn("\r\x1b[Kstep 2/3 | loss 1.98", text)
        self.assertTrue(text.endswith("\x1b[K\n"), text)
        self.assertRegex(text, "3/3 .*\x1b\\[K\n$")

    def test_it_is_not_drawn_more_often_than_is_seen(self):
        stream = Terminal()
        with Bar(stream) as shown:
            for step in range(1, 1000):
                shown.step(line(step, 1000))
        self.assertLess(stream.getvalue().count("\r"), 100)
        self.assertIn("999/1000", stream.getvalue())

    def test_last_words_stand_below_it(self):
        stream = Terminal()
        with Bar(stream) as shown:
            shown.note("before")
            shown.step(line(1))
            shown.close()
            shown.note("after")
        self.assertRegex(stream.getvalue(), "^before\n\r.*1/40.*\x1b\\[K\nafter\n$")

    def test_nothing_is_left_where_nothing_was_drawn(self):
        stream = Terminal()
        with Bar(stream):
            pass
        self.assertEqual(stream.getvalue(), "")


class Plain(unittest.TestCase):
    def test_lines(self):
        stream = io.StringIO()
        with Lines(4, stream) as shown:
            for step in range(11):
                measured = 1.5 if step in (0, 6) else None
                values = line(step, 10, eval_loss=measured, **({"loss": None} if not step else {}))
                shown.step(values)
        lines = stream.getvalue().splitlines()
        self.assertEqual([text.split()[1] for text in lines], [f"{n}/10" for n in (0, 4, 6, 8, 10)])
        self.assertEqual(lines[0], "step 0/10 | val 1.5000")
        self.assertEqual(["val" in text for text in lines], [True, False, True, False, False])
        self.assertNotIn("\r", stream.getvalue())

    def test_a_resumed_run_goes_on_with_its_average(self):
        texts = []
        for resumed in (False, True):
            stream = io.StringIO()
            shown = Lines(1, stream)
            for step in range(1, 6):
                (shown.resume if resumed and step < 5 else shown.step)(line(step))
            texts.append(stream.getvalue().splitlines()[-1])
        self.assertEqual(*texts)

    def test_which_one(self):
        with mock.patch.object(sys, "stdout", Terminal()), mock.patch.dict(os.environ, TERM="vt"):
            self.assertIs(type(_progress.progress(False, 1)), Bar)
            self.assertIs(type(_progress.progress(True, 1)), Progress)
            with mock.patch.dict(os.environ, TERM="dumb"):
                self.assertIs(type(_progress.progress(False, 1)), Lines)
        with mock.patch.object(sys, "stdout", io.StringIO()):
            self.assertIs(type(_progress.progress(False, 1)), Lines)


CHILD = """
import sys, time
from liblisa.cli._progress import progress
from test_progress import line
with progress(False, 1) as shown:
    for step in range(1, 10000):
        shown.step(line(step, 10000))
        time.sleep(0.01)
"""


class RealTerminal(unittest.TestCase):
    """A terminal of 50 columns, narrowed to 30, and Ctrl-C."""

    def width(self, columns):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, until):
        """What comes until there is something that the pattern finds."""
        text, deadline = "", time.monotonic() + 30
        while not re.search(until, text):
            self.assertLess(time.monotonic(), deadline, text)
            try:
                text += os.read(self.terminal, 1000).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                break
        return text

    def test_width_and_interruption(self):
        self.terminal, child_end = pty.openpty()
        self.addCleanup(os.close, self.terminal)
        self.width(50)
        paths = [str(ROOT / "bindings/python"), str(ROOT / "tests/python")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm"}
        for name in ("COLUMNS", "PYTHONIOENCODING"):
            env.pop(name, None)
        env["PYTHONUTF8"] = "1"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdout=child_end,
            stderr=subprocess.PIPE,
            env=env,
            # Which a job in the background ignores.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(child_end)
        self.addCleanup(child.stderr.close)
        wide = self.read("(\r.*){4}")
        self.width(30)
        narrow = self.read("(\r.*){6}")
        child.send_signal(signal.SIGINT)
        end = self.read("\n")
        child.wait(30)
        rows = [re.sub("\x1b\\[K.*", "", row) for row in re.split("[\r\n]+", wide)]
        self.assertGreater(max(map(len, rows)), 35)
        self.assertLess(max(map(len, rows)), 50)
        rows = [re.sub("\x1b\\[K.*", "", row) for row in re.split("[\r\n]+", narrow)]
        self.assertLess(max(map(len, rows[3:])), 30)
        self.assertTrue(end.endswith("\r\n"), repr(end))
        self.assertIn(b"KeyboardInterrupt", child.stderr.read())


if __name__ == "__main__":
    unittest.main()

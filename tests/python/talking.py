"""The command with a tokenizer that needs no package, and a tiny model that uses it. Run as a
program it is that command."""

import contextlib
import io
import os
import pty
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa import ModelConfig
from liblisa.cli import _answers, main
from liblisa.data import Formatter
from support import ROOT

PAD, BOS, EOS, END = range(4)
SPECIAL = ["<pad>", "<s>", "</s>", "<end>"]


class Pieces:
    """Special tokens, ASCII characters, and the bytes of others: parts of characters."""

    def __init__(self, delay=0.0):
        letters = "abcdefghijklmnopqrstuvwxyz \n?.,<>|/0123456789"
        self.pieces = [*map(str.encode, SPECIAL), *map(str.encode, letters)]
        self.pieces += [bytes([byte]) for byte in "é🙂\ufffd".encode()]
        self.delay = delay

    def encode(self, text, add_special_tokens):
        ids = [BOS] if add_special_tokens else []
        for part in re.findall("|".join(SPECIAL) + "|(?s:.)", text):
            whole = part.encode() in self.pieces
            ids += map(
                self.pieces.index,
                [part.encode()] if whole else (bytes([byte]) for byte in part.encode()),
            )
        return types.SimpleNamespace(ids=ids)

    def decode(self, tokens, skip_special_tokens):
        time.sleep(self.delay)
        kept = (t for t in tokens if t > END or not skip_special_tokens)
        return b"".join(self.pieces[t] for t in kept).decode("utf-8", "replace")


class Turns:
    """|role content<end> and a line's end, a turn."""

    def render(self, messages, prompt=False):
        turns = "".join(f"|{m['role']} {m['content']}<end>\n" for m in messages)
        text = f"<s>{turns}" + ("|assistant " if prompt else "")
        return types.SimpleNamespace(text=text, generated=[])


def formatter(**changes):
    """What Formatter.open would make of a directory."""
    made = dict(tokenizer=Pieces(), template=Turns(), end_tokens=frozenset([EOS]), eos=EOS, bos=BOS)
    return Formatter(**{**made, **changes})


def speaking_model(context, seed=1):
    """A model of that tokenizer's vocabulary, of many opinions. By the bias of its head it neither
    ends nor breaks a line."""
    config = ModelConfig.read(ROOT / "tests/data/phi")
    pieces = Pieces().pieces
    config.vocab_size, config.max_positions = len(pieces), 256
    model = liblisa.Model.create(context, config, seed=seed)
    draw = random.Random(seed)
    for info in model.tensors():
        if len(info.shape) == 2:
            n = info.shape[0] * info.shape[1]
            model.tensor_write(info.name, [draw.gauss(0, 0.4) for _ in range(n)])
    never = [*range(4), pieces.index(b"\n")]
    bias = [-100.0 if token in never else 0.0 for token in range(len(pieces))]
    model.tensor_write("lm_head.bias", bias)
    return model


def talk(arguments, **changes):
    """The command, with that tokenizer in every directory."""
    with mock.patch.object(_answers.Formatter, "open", lambda _: formatter(**changes)):
        return main([str(argument) for argument in arguments])


class Speaking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.home)
        cls.model = cls.home / "model"
        with liblisa.Context() as context, speaking_model(context) as model:
            model.save(cls.model)
            with liblisa.Adapter.create(model, rank=2, targets="all-linear", seed=3) as adapter:
                for info in adapter.tensors():
                    n = info.shape[0] * info.shape[1]
                    adapter.tensor_write(info.name, [(i * 37 % 23 - 11) / 30 for i in range(n)])
                adapter.save(cls.home / "adapter")

    def talk(self, *arguments, stdin="", **changes):
        """Exit status, stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with mock.patch("sys.stdin", io.StringIO(stdin)):
                try:
                    status = talk(arguments, **changes)
                except SystemExit as end:
                    status = end.code
        return status, out.getvalue(), err.getvalue()

    def expected(self, messages, n, adapter=None, **options):
        """Tokens that the library generates for a conversation, or for a text."""
        form = formatter()
        if isinstance(messages, str):
            prompt = form.tokenizer.encode(messages, add_special_tokens=True).ids
        else:
            prompt = form.prompt(messages)
        with liblisa.Context() as context, liblisa.Model.open(context, self.model) as model:
            if adapter is not None:
                liblisa.Adapter.open(model, adapter).attach()
            return model.generate(prompt, max_new_tokens=n, stop_tokens=[EOS, END], **options)

    @staticmethod
    def text(tokens):
        """Their text, as it is written."""
        return Pieces().decode(tokens, True).rstrip("\ufffd")


class Terminal(Speaking):
    """The command on a terminal of its own."""

    def start(self, *words):
        pid, self.fd = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a job in the background ignores
            os.chdir(ROOT / "tests/python")
            command = [sys.executable, "talking.py", *map(str, words)]
            os.execve(
                sys.executable, command, {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": ""}
            )
        self.addCleanup(os.close, self.fd)
        self.pid, self.seen = pid, ""
        self.addCleanup(self.end)

    def end(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def status(self):
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)

    def send(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern, seconds=60):
        """What is shown up to the end of a match; what is behind stays."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
                return shown
            self.assertLess(time.monotonic(), end, f"{pattern} in {self.seen!r}")
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:  # the other side is closed
                    self.fail(f"{pattern} in {self.seen!r}")

    def press(self, key, pattern):
        """As send and expect. A signal that comes just before readline begins to wait is told with
        the next key: that is the same one."""
        for _ in range(30):
            self.send(key)
            with contextlib.suppress(AssertionError):
                return self.expect(pattern, seconds=2)
        self.fail(f"{pattern} in {self.seen!r}")


def user(text):
    return {"role": "user", "content": text}


def line(text):
    """As it ends on standard output."""
    return text if text.endswith("\n") or not text else text + "\n"


if __name__ == "__main__":
    sys.exit(talk(sys.argv[1:], tokenizer=Pieces(delay=0.02)))

"""liblisa generate: text as it comes, what it is made of, what ends it, a terminal, Ctrl-C."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import unittest
from unittest import mock

from liblisa.cli import _answers
from liblisa.cli._answers import stop_tokens
from liblisa.cli._text import Output, TextStream, Until
from support import ROOT
from talking import (
    BOS,
    END,
    EOS,
    Pieces,
    Speaking,
    Terminal,
    Turns,
    formatter,
    line,
    user,
)

BROKEN = "\ufffd"
CHARACTERS = ["", "a", "z", " ", "é", "🙂"]


def characters(seed, n=40):
    """A text without a space in front."""
    draw = random.Random(seed)
    return "z" + "".join(draw.choice(CHARACTERS) for _ in range(n))


class Fallback(Pieces):
    """As tokenizers with byte fallback: a row of bytes is characters as a whole, or nothing is. And
    they take the first space off."""

    def decode(self, tokens, skip_special_tokens):
        text = ""
        for found in re.finditer(rb"[\x00-\x7f]+|[\x80-\xff]+", self.joined(tokens)):
            try:
                text += found[0].decode()
            except UnicodeDecodeError:
                text += BROKEN * len(found[0])
        return text[1:] if text.startswith(" ") else text

    def joined(self, tokens):
        return b"".join(self.pieces[t] for t in tokens if t > END)


class Streams(unittest.TestCase):
    def pieces(self, tokenizer, tokens, before=()):
        stream = TextStream(tokenizer, before)
        pieces = list(map(stream.push, tokens))
        return [*pieces, stream.finish()]

    def test_characters_stay_whole(self):
        for tokenizer in (Pieces(), Fallback()):
            for seed in range(20):
                text = characters(seed)
                pieces = self.pieces(tokenizer, tokenizer.encode(text, False).ids)
                self.assertEqual("".join(pieces), text)
                self.assertEqual(pieces[-1], "")  # nothing is held longer than it must be
                self.assertTrue(all(piece in CHARACTERS for piece in pieces[:-1]), pieces)

    def test_half_a_character_at_the_end_is_left_out(self):
        tokens = Pieces().encode("ab🙂", False).ids
        for cut in (1, 2, 3):
            self.assertEqual("".join(self.pieces(Pieces(), tokens[:-cut])), "ab")

    def test_bytes_that_are_no_characters_do_not_hold_the_text_up(self):
        bad = Pieces().encode("🙂", False).ids[1]
        pieces = self.pieces(Pieces(), [bad] * 20 + Pieces().encode("ab", False).ids)
        self.assertEqual("".join(pieces), BROKEN * 20 + "ab")
        self.assertTrue(any(pieces[:12]))

    def test_a_character_behind_such_bytes_stays_whole(self):
        whole = Pieces().encode("🙂", False).ids
        for n in range(12):
            for text in ("é🙂", "🙂", "🙂é"):
                tokens = [whole[1]] * n + Pieces().encode(text, False).ids
                self.assertEqual("".join(self.pieces(Pieces(), tokens)), BROKEN * n + text)

    def test_special_tokens_have_no_text(self):
        tokens = Pieces().encode("<end>a<pad><end>b", False).ids
        self.assertEqual(self.pieces(Pieces(), tokens), ["", "a", "", "", "b", ""])

    def test_a_space_at_the_beginning(self):
        tokens = Pieces().encode(" a b", False).ids
        self.assertEqual("".join(self.pieces(Fallback(), tokens)), "a b")
        before = Pieces().encode("c", False).ids
        self.assertEqual("".join(self.pieces(Fallback(), tokens, before)), " a b")


class Stops(unittest.TestCase):
    def until(self, stops, pieces):
        until = Until(stops)
        said = list(map(until.push, pieces))
        return [*said, until.finish()], until.found

    def test_across_pieces(self):
        self.assertEqual(
            self.until(["stop"], ["a s", "to", "p b", "c"]), (["a ", "", "", "", ""], True)
        )
        self.assertEqual(
            self.until(["stop"], ["a s", "to", "ne"]), (["a ", "", "stone", ""], False)
        )
        self.assertEqual(self.until(["stop"], ["a sto"]), (["a ", "sto"], False))
        self.assertEqual(self.until([], ["a", "b"]), (["a", "b", ""], False))

    def test_as_if_the_text_were_there_at_once(self):
        draw = random.Random(1)
        for _ in range(500):
            text = "".join(draw.choice("ab") for _ in range(12))
            stops = [
                "".join(draw.choice("ab") for _ in range(draw.randrange(1, 5)))
                for _ in range(draw.randrange(3))
            ]
            cuts = sorted(draw.randrange(13) for _ in range(4))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 12])]
            places = [text.find(stop) for stop in stops if stop in text]
            said, found = self.until(stops, pieces)
            self.assertEqual(found, bool(places))
            # Several may end at different places: the first that is whole counts.
            if len(stops) < 2:
                self.assertEqual("".join(said), text[: min(places, default=12)])
            self.assertFalse(any(stop in "".join(said) for stop in stops))


class Generate(Speaking):
    def generate(self, *arguments, **changes):
        status, out, err = self.talk("generate", self.model, *arguments, **changes)
        self.assertEqual((status, err), (0, ""))
        return out

    def json(self, *arguments, **changes):
        return json.loads(self.generate(*arguments, "--json", **changes))

    def refused(self, status, words, *arguments, stdin="", **changes):
        got, out, err = self.talk("generate", self.model, *arguments, stdin=stdin, **changes)
        self.assertEqual((got, out, err.count("\n")), (status, "", 1), err)
        self.assertIn(words, err)


class Text(Generate):
    def test_it_is_what_the_library_generates(self):
        drawn = dict(temperature=1.5, top_k=40, top_p=0.95, seed=3)
        options = ["--temperature", 1.5, "--top-k", 40, "--top-p", 0.95, "--seed", 3]
        for words, settings in (([], {}), (options, drawn)):
            tokens = self.expected([user("who?")], 40, **settings)
            words = ["--prompt", "who?", "--max-new-tokens", 40, *words]
            self.assertEqual(self.generate(*words), line(self.text(tokens)))
            found = self.json(*words)
            self.assertEqual(found["text"], self.text(tokens))
            self.assertEqual(found["new_tokens"], len(tokens))
            self.assertEqual(found["prompt_tokens"], len(formatter().prompt([user("who?")])))
            self.assertEqual(found["ended_by"], "length")
            rate = (len(tokens) - 1) / (found["seconds"] - found["prompt_seconds"])
            self.assertAlmostEqual(found["tokens_per_second"] / rate, 1, places=2)
        self.assertGreater(len(set(tokens)), 10)
        other = self.generate(*words[:-1], 4)
        self.assertNotEqual(other, line(self.text(tokens)))

    def test_system_and_adapter(self):
        messages = [{"role": "system", "content": "be brief"}, user("who?")]
        words = ["--prompt", "who?", "--max-new-tokens", 12, "--temperature", 1]
        self.assertEqual(
            self.generate(*words, "--system", "be brief"),
            line(self.text(self.expected(messages, 12, temperature=1))),
        )
        adapter = self.home / "adapter"
        expected = self.expected([user("who?")], 12, adapter, temperature=1)
        self.assertNotEqual(expected, self.expected([user("who?")], 12, temperature=1))
        self.assertEqual(self.generate(*words, "--adapter", adapter), line(self.text(expected)))

    def test_raw(self):
        expected = line(self.text(self.expected("once ", 12)))
        words = ["--prompt", "once ", "--max-new-tokens", 12]
        self.assertEqual(self.generate(*words, "--raw"), expected)
        self.assertEqual(self.generate(*words, template=None), expected)
        self.assertNotEqual(self.generate(*words), expected)
        self.generate("--raw", "--prompt", "", "--max-new-tokens", 2)  # BOS alone

    def test_where_the_prompt_is_from(self):
        file = self.home / "prompt"
        file.write_text("é who?\n\n", encoding="utf-8")
        expected = line(self.text(self.expected([user("é who?\n")], 8)))
        self.assertEqual(self.generate("--prompt-file", file, "--max-new-tokens", 8), expected)
        self.assertEqual(self.generate("--max-new-tokens", 8, stdin="é who?\n\n"), expected)

    def test_it_comes_token_by_token(self):
        seen = []
        with mock.patch.object(_answers.TextStream, "push", autospec=True) as push:
            push.side_effect = lambda _, token: seen.append(sys.stdout.getvalue()) or "a"
            self.generate("--prompt", "who?", "--max-new-tokens", 5)
        self.assertEqual(seen, ["a" * n for n in range(5)])

    def test_the_default_length_is_what_there_is_room_for(self):
        n_prompt = len(formatter().prompt([user("x" * 200)]))
        found = self.json("--prompt", "x" * 200, "--temperature", 1)
        self.assertEqual(found["new_tokens"], 256 - n_prompt)


class Ends(Generate):
    WORDS = ["--prompt", "who?", "--max-new-tokens", 60, "--temperature", 1]

    def setUp(self):
        self.tokens = self.expected([user("who?")], 60, temperature=1)

    def test_stop_tokens(self):
        place = next(n for n in range(5, 60) if self.tokens[n] not in self.tokens[:n])
        ends = frozenset([self.tokens[place], EOS])
        found = self.json(*self.WORDS, end_tokens=ends)
        self.assertEqual((found["ended_by"], found["new_tokens"]), ("stop_token", place + 1))
        self.assertEqual(found["text"], self.text(self.tokens[:place]))

    def test_which_tokens_stop(self):
        self.assertEqual(stop_tokens(formatter()), {EOS, END})
        self.assertEqual(stop_tokens(formatter(template=None)), {EOS})
        self.assertEqual(stop_tokens(formatter(template=None, end_tokens=frozenset())), set())

        class Open(Turns):  # nothing ends a turn
            def render(self, messages, prompt=False):
                made = super().render(messages, prompt)
                made.text = made.text.replace("<end>", "")
                return made

        self.assertEqual(stop_tokens(formatter(template=Open())), {EOS})
        turns = Turns()
        silent = mock.Mock(text="<s>|user ?<end>")  # the answer is not in it
        with mock.patch.object(turns, "render", return_value=silent):
            self.assertEqual(stop_tokens(formatter(template=turns)), {EOS})
        with mock.patch.object(turns, "render", side_effect=ValueError("no such role")):
            self.assertEqual(stop_tokens(formatter(template=turns)), {EOS})

    def test_stop_strings(self):
        text = self.text(self.tokens)
        stop = text[20:23]
        words = [*self.WORDS, "--stop", "not there", "--stop", stop]
        found = self.json(*words)
        self.assertEqual(
            (found["text"], found["ended_by"]), (text[: text.find(stop)], "stop_string")
        )
        self.assertLess(found["new_tokens"], 60)
        self.assertEqual(self.generate(*words), line(found["text"]))

    def interrupted(self, number, *words):
        """Status and output of a generation that gets a signal with its fifth token, twice."""
        push, left = _answers.TextStream.push, [5]

        def signalled(stream, token):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            return push(stream, token)

        before = signal.getsignal(signal.SIGINT)
        with mock.patch.object(_answers.TextStream, "push", signalled):
            got = self.talk("generate", self.model, *self.WORDS, *words)
        self.assertIs(signal.getsignal(signal.SIGINT), before)
        return got

    def test_signals(self):
        said = line(self.text(self.tokens[:5]))
        self.assertEqual(self.interrupted(signal.SIGINT), (130, said, ""))
        self.assertEqual(self.interrupted(signal.SIGTERM), (143, said, ""))
        status, out, _ = self.interrupted(signal.SIGINT, "--json")
        self.assertEqual((status, json.loads(out)["ended_by"]), (130, "signal"))

    def test_a_signal_before_the_first_token(self):
        enter = _answers.Signals.__enter__

        def signalled(signals):
            entered = enter(signals)
            os.kill(os.getpid(), signal.SIGINT)
            return entered

        with mock.patch.object(_answers.Signals, "__enter__", signalled):
            self.assertEqual(self.talk("generate", self.model, *self.WORDS), (130, "", ""))

    def test_nobody_reads(self):
        reader, writer = os.pipe()
        os.close(reader)
        words = ["generate", self.model, *self.WORDS]
        ran = subprocess.run(
            [sys.executable, "talking.py", *map(str, words)],
            stdout=writer,
            stderr=subprocess.PIPE,
            cwd=ROOT / "tests/python",
        )
        os.close(writer)
        self.assertEqual((ran.returncode, ran.stderr), (141, b""))


class Refusals(Generate):
    def test_prompts(self):
        self.refused(2, "not allowed with", "--prompt", "a", "--prompt-file", "b")
        self.refused(1, "No such file", "--prompt-file", self.home / "nowhere")
        self.refused(1, "--prompt is not UTF-8", "--prompt", "a\udcff")
        bad = self.home / "bad"
        bad.write_bytes(b"a\xff")
        self.refused(1, "bad is not UTF-8", "--prompt-file", bad)
        self.refused(1, "standard input is not UTF-8", stdin="\udcff")
        self.refused(
            1,
            "the prompt is empty",
            "--raw",
            "--prompt",
            "",
            bos=None,
            tokenizer=mock.Mock(encode=lambda *a, **k: mock.Mock(ids=[])),
        )
        self.refused(1, "tokens, the model has 256 positions", "--prompt", "x" * 256)
        self.refused(1, "the model has 256 positions", "--prompt", "x", "--max-new-tokens", 256)
        self.refused(1, "--system needs a chat template", "--raw", "--system", "s", stdin="x")

    def test_options(self):
        self.refused(2, "--max-new-tokens: expected a number", "--max-new-tokens", 0)
        self.refused(2, "--stop: expected a text", "--stop", "")
        self.refused(2, "--stop: expected UTF-8", "--stop", "\udcff")
        self.refused(2, "--system: expected UTF-8", "--system", "\udcff", "--prompt", "x")
        self.refused(1, "temperature: -1", "--temperature", -1, "--prompt", "x")
        self.refused(1, "temperature: nan", "--temperature", "nan", "--prompt", "x")
        self.refused(1, "top_p: 2", "--top-p", 2, "--prompt", "x")
        self.refused(1, "seed", "--seed", -1, "--prompt", "x")
        self.refused(1, "adapter_config.json", "--adapter", self.home, "--prompt", "x")

    def test_tokens_beyond_the_model(self):
        with mock.patch.object(Pieces, "encode", return_value=mock.Mock(ids=[BOS, 4000])):
            self.refused(1, "prompt[1] is 4000", "--prompt", "x")


class Shown(Terminal):
    def test_ctrl_c_ends_a_generation(self):
        self.start("generate", self.model, "--prompt", "who?", "--max-new-tokens", 200)
        self.expect(".")
        self.send("\x03")
        self.expect("\r\n")
        self.assertEqual(self.status(), 130)

    def test_no_control_characters(self):
        shown = [io.StringIO(), io.StringIO()]
        shown[1].isatty = lambda: True
        for stream in shown:
            with contextlib.redirect_stdout(stream):
                Output().write("a\x1b[2J\x9b1m\tb\n\x07\r")
        self.assertEqual(shown[0].getvalue(), "a\x1b[2J\x9b1m\tb\n\x07\r")
        self.assertEqual(shown[1].getvalue(), f"a{BROKEN}[2J{BROKEN}1m\tb\n{BROKEN}{BROKEN}")


if __name__ == "__main__":
    unittest.main()

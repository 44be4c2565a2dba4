"""liblisa chat: conversations line by line and on a terminal, commands, what is dropped, Ctrl-C."""

import io
import json
import os
import signal
import unittest
from unittest import mock

import liblisa
from liblisa.cli import _answers
from talking import Speaking, Terminal, line, user


class Chat(Speaking):
    LENGTH = ["--max-new-tokens", 10, "--temperature", 1]

    def chat(self, *lines, words=(), **changes):
        return self.talk(
            "chat",
            self.model,
            *self.LENGTH,
            *words,
            stdin="".join(text + "\n" for text in lines),
            **changes,
        )

    def answers(self, *questions, system=None, first=0, earlier=()):
        """What the library answers to each, with what was said before in front of it."""
        messages = list(earlier)
        opening = [] if system is None else [{"role": "system", "content": system}]
        for number, question in enumerate(questions, first):
            messages.append(user(question))
            tokens = self.expected([*opening, *messages], 10, temperature=1, seed=number)
            messages.append({"role": "assistant", "content": self.text(tokens)})
        return [message["content"] for message in messages if message["role"] == "assistant"]

    def test_a_turn_a_line(self):
        said = self.answers("who?", "why?")
        self.assertNotEqual(said[1], self.answers("why?", first=1)[0])
        got = self.chat("who?", "", "  why?")
        self.assertEqual(got, (0, "".join(map(line, said)), ""))
        self.assertEqual(
            self.chat("who?", words=["--system", "x"])[1], line(self.answers("who?", system="x")[0])
        )
        self.assertEqual(self.chat(), (0, "", ""))
        self.assertEqual(self.chat(" /quit now", "/nonsense"), (0, "", ""))

    def test_commands(self):
        file = self.home / "said.jsonl"
        first, other = self.answers("who?")[0], self.answers("why?", system="be é")[0]
        lines = ["who?", "/clear", "/system  be é", "why?", f"/save {file}", "/quit", "who?"]
        status, out, err = self.chat(*lines)
        self.assertEqual((status, out), (0, line(first) + line(other)))
        self.assertEqual(err, f"(forgotten)\n(the system message is set)\n(saved to {file})\n")
        (saved,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        self.assertEqual(
            saved["messages"],
            [
                {"role": "system", "content": "be é"},
                user("why?"),
                {"role": "assistant", "content": other},
            ],
        )
        self.assertEqual(liblisa.data.parse_record(saved).messages, saved["messages"])
        self.assertIn("/save FILE", self.chat("/help")[1])
        self.chat("who?", f"/save {file}")
        self.assertEqual(len(file.read_text(encoding="utf-8").splitlines()), 2)

    def test_a_system_message_is_taken_away(self):
        got = self.chat("/system", "who?", words=["--system", "x"])
        self.assertEqual(got, (0, line(self.answers("who?")[0]), "(no system message)\n"))

    def test_failures_end_a_script(self):
        for lines, words in (
            (["/nonsense"], "no command /nonsense"),
            (["/save"], "/save FILE"),
            (["/save x"], "nothing has been said"),
            (["who?", f"/save {self.home}"], "Is a directory"),
            (["x" * 300], "of 256 positions 10 are kept for the answer"),
            (["a\udcff"], "not UTF-8"),
        ):
            status, _, err = self.chat(*lines)
            self.assertEqual((status, err.count("\n")), (1, 1), err)
            self.assertIn(words, err)
        status, out, err = self.chat("who?", template=None)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("no chat template", err)

    def test_a_disk_without_room(self):
        file = self.home / "full.jsonl"
        file.write_text("mine\n")

        class Full(io.FileIO):
            def write(self, data):
                return super().write(data[:7])

        with mock.patch("builtins.open", lambda name, mode, buffering: Full(name, mode)):
            status, _, err = self.chat("who?", f"/save {file}")
        self.assertEqual(status, 1)
        self.assertIn(f"No space left on device: '{file}'", err)
        self.assertEqual(file.read_text(), "mine\n")

    def test_the_oldest_turns_are_dropped(self):
        questions = [letter * 60 for letter in "abcdef"]
        status, out, err = self.chat(*questions)
        self.assertEqual(status, 0, err)
        note = "(the oldest turn is dropped: 256 positions are full)"
        self.assertEqual(err.splitlines(), [note] * 4)  # there is room for two
        answers = out.splitlines()
        earlier = [user(questions[4]), {"role": "assistant", "content": answers[4]}]
        self.assertEqual(answers[4:], self.answers(questions[5], first=5, earlier=earlier))

    def test_ctrl_c_ends_a_script(self):
        push = _answers.TextStream.push

        def signalled(stream, token):
            os.kill(os.getpid(), signal.SIGINT)
            return push(stream, token)

        with mock.patch.object(_answers.TextStream, "push", signalled):
            status, out, err = self.chat("who?", "why?")
        self.assertEqual((status, err), (130, ""))
        self.assertEqual(out, line(self.text(self.expected([user("who?")], 1, temperature=1))))


class Typed(Terminal):
    def test_a_conversation(self):
        self.start("chat", self.model, "--temperature", 1, "--max-new-tokens", 100)
        self.expect("Ctrl-D leaves\r\n> ")
        self.send("/nonsense\n")
        self.expect(r"\(no command /nonsense.*\)\r\n> ")
        self.send("who?\n")
        self.expect("who\\?\r\n.")
        self.send("\x03")
        self.expect(r"\(stopped\)\r\n> ")
        self.press("\x03", r"\(Ctrl-D leaves\)\r\n> ")
        file = self.home / "terminal.jsonl"
        self.send(f"/save {file}\n")
        self.expect(r"\(saved to .*\)\r\n> ")
        (saved,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        answer = saved["messages"][1]["content"]
        whole = self.text(self.expected([user("who?")], 100, temperature=1))
        self.assertTrue(whole.startswith(answer) and 0 < len(answer) < len(whole))
        self.send("\x04")
        self.assertEqual(self.status(), 0)


if __name__ == "__main__":
    unittest.main()

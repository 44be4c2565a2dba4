"""liblisa generate and chat with tokenizers and jinja2: directories as they come, and broken ones."""

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import liblisa
import tokenizers
from liblisa.cli._text import TextStream
from liblisa.data import Formatter
from tokenizers import decoders, models, pre_tokenizers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]


def byte_level():
    """Every byte is a token, in the alphabet of GPT-2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({t: n for n, t in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def byte_fallback():
    """Words begin with U+2581, and what is no piece is bytes, as in LLaMA's first tokenizers."""
    pieces = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", *"abcdefghij"]
    tokenizer = tokenizers.Tokenizer(
        models.BPE({t: n for n, t in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


class Streams(unittest.TestCase):
    def test_characters_stay_whole(self):
        draw = random.Random(2)
        for tokenizer in (byte_level(), byte_fallback()):
            for _ in range(200):
                n = draw.randrange(1, 30)
                text = "".join(draw.choice("ab é🙂世 ") for _ in range(n)).strip()
                tokens = tokenizer.encode(text, add_special_tokens=False).ids
                stream = TextStream(tokenizer)
                pieces = list(map(stream.push, tokens))
                pieces.append(stream.finish())
                self.assertEqual("".join(pieces), text)
                self.assertFalse(any("\ufffd" in piece for piece in pieces))

    def test_a_space_behind_the_prompt(self):
        tokenizer = byte_fallback()
        prompt, whole = (tokenizer.encode(text, add_special_tokens=False).ids
                         for text in ("ab", "ab cd"))
        self.assertEqual(whole[: len(prompt)], prompt)
        stream = TextStream(tokenizer, prompt)
        self.assertEqual("".join(map(stream.push, whole[len(prompt) :])), " cd")


class Home(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        config = liblisa.ModelConfig(n_layers=2, d_model=32, n_heads=4, d_ff=48, vocab_size=259,
                                     max_positions=256)
        with liblisa.Context() as context, liblisa.Model.create(context, config, seed=1) as model:
            model.save(self.home)
        byte_level().save(str(self.home / "tokenizer.json"))
        self.write("tokenizer_config.json", {"eos_token": "<|end|>", "chat_template": CHATML})

    def write(self, name, value):
        (self.home / name).write_text(value if isinstance(value, str) else json.dumps(value))

    def run_command(self, name, *words, stdin=""):
        command = [sys.executable, "-m", "liblisa", name, str(self.home), *map(str, words)]
        return subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=120)


class Directories(Home):
    OPTIONS = ["--temperature", "1", "--max-new-tokens", "60", "--seed", "5"]

    def expected(self, prompt, form):
        with liblisa.Context() as context, liblisa.Model.open(context, self.home) as model:
            tokens = model.generate(prompt, max_new_tokens=60, temperature=1, seed=5,
                                    stop_tokens=[256, 258])
        ended = tokens[-1] in (256, 258)
        return form.tokenizer.decode(tokens[: len(tokens) - ended]).rstrip("\ufffd")

    def test_generate(self):
        form = Formatter.open(self.home)
        text = "Grüße, 世界 🙂"
        for words, prompt in (
            ([], form.prompt([{"role": "user", "content": text}])),
            (["--raw"], form.tokenizer.encode(text).ids),
        ):
            ran = self.run_command("generate", *self.OPTIONS, *words, "--json", stdin=text + "\n")
            self.assertEqual((ran.returncode, ran.stderr), (0, b""))
            found = json.loads(ran.stdout)
            self.assertEqual(found["text"], self.expected(prompt, form))
            self.assertEqual(found["prompt_tokens"], len(prompt))

    def test_a_directory_without_a_template(self):
        self.write("tokenizer_config.json", {})
        raw = self.run_command("generate", "--prompt", "é", "--raw", *self.OPTIONS).stdout
        self.assertEqual(self.run_command("generate", "--prompt", "é", *self.OPTIONS).stdout, raw)
        self.assertTrue(raw.decode("utf-8"))
        ran = self.run_command("chat", stdin="é\n")
        self.assertEqual((ran.returncode, ran.stdout), (1, b""))
        self.assertIn(b"no chat template", ran.stderr)

    def test_chat(self):
        ran = self.run_command("chat", *self.OPTIONS, "--system", "世", stdin="é\n/clear\né\n")
        self.assertEqual((ran.returncode, ran.stderr), (0, b"(forgotten)\n"))
        first = ran.stdout.decode("utf-8")
        half = first[: len(first) // 2]
        self.assertEqual(first, half * 2)

    def test_a_narrow_encoding(self):
        command = [sys.executable, "-m", "liblisa", "generate", str(self.home), "--prompt", "x"]
        env = {**os.environ, "PYTHONIOENCODING": "ascii"}
        ran = subprocess.run([*command, *self.OPTIONS], env=env, capture_output=True)
        self.assertEqual((ran.returncode, ran.stderr), (0, b""))
        self.assertTrue(ran.stdout.isascii())

    def test_what_is_no_text(self):
        command = [sys.executable, "-m", "liblisa", "generate", str(self.home), *self.OPTIONS]
        ran = subprocess.run(command, input=b"a\xff", capture_output=True)
        self.assertEqual((ran.returncode, ran.stdout), (1, b""))
        self.assertEqual(ran.stderr, b"liblisa generate: standard input is not UTF-8\n")

    def test_a_closed_input(self):
        for name in ("generate", "chat"):
            command = [sys.executable, "-m", "liblisa", name, str(self.home), *self.OPTIONS]
            ran = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True)
            self.assertEqual((ran.returncode, ran.stderr), (0, b""))


class Broken(Home):
    def refused(self, words, *options):
        for name in ("generate", "chat"):
            ran = self.run_command(name, *options, stdin="x\n")
            self.assertEqual((ran.returncode, ran.stdout), (1, b""), name)
            self.assertEqual(ran.stderr.count(b"\n"), 1, ran.stderr)
            self.assertIn(words, ran.stderr.decode())

    def test_files(self):
        whole = (self.home / "tokenizer.json").read_text()
        for text in ("", whole[: len(whole) // 2], "[]", '{"model": {}}'):
            self.write("tokenizer.json", text)
            self.refused("tokenizer.json: ")
        (self.home / "tokenizer.json").unlink()
        self.refused("no tokenizer.json")
        self.write("tokenizer.json", whole)
        for text in ("{", "[]", '"x"', "[" * 100000):
            self.write("tokenizer_config.json", text)
            self.refused("tokenizer_config.json: ")
        for template in ("{% for %}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}"):
            self.write("tokenizer_config.json", {"chat_template": template})
            self.refused("chat template: ")
        self.write("tokenizer_config.json", {"chat_template": CHATML})
        self.write("generation_config.json", {"eos_token_id": "</s>"})
        self.refused("eos_token_id: expected a number")

    def test_a_template_without_end(self):
        source = "{% for i in range(99999) %}{{ messages[0]['content'] }}{% endfor %}"
        self.write("tokenizer_config.json", {"chat_template": source})
        self.refused("tokens, ")


if __name__ == "__main__":
    unittest.main()

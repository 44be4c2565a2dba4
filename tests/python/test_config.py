"""Files of options: JSON and YAML, converted and refused as the command line is."""

import argparse
import json
import re
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from liblisa.cli._given import Given
from liblisa.cli._parser import Flag, Parser, count, size
from support import ROOT
from test_command import command_page, run

try:
    import yaml
except ImportError:
    yaml = None


def given():
    """A parser of every kind of option, and what it gives."""
    parser = Parser(prog="x")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="m")
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--max-tokens", type=count, default=8)
    parser.add_argument("--budget", type=size)
    parser.add_argument("--method", choices=("lisa", "lora"), default="lisa")
    parser.add_argument("--targets", default="all")
    parser.add_argument("--pack", action=Flag, help="p")
    parser.add_argument("--quiet", action=Flag, help="q")
    return parser, Given(parser, aside=("quiet",))


class Files(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)

    def file(self, text, name="c.json"):
        path = self.home / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def take(self, text, *arguments, name="c.json"):
        parser, options = given()
        return options.take(parser.parse_args(list(arguments)), self.file(text, name))

    def test_values(self):
        taken = self.take(
            '{"model": "m", "lr": "1e-3", "max_tokens": 4, "budget": "2K", "method": "lora",'
            ' "targets": ["q", "v"], "pack": true}'
        )
        expected = argparse.Namespace(
            model="m",
            lr=1e-3,
            max_tokens=4,
            budget=2048,
            method="lora",
            targets="q,v",
            pack=True,
            quiet=False,
        )
        self.assertEqual(taken.options, expected)
        self.assertEqual(taken.given, set(vars(expected)) - {"quiet"})

    def test_order(self):
        taken = self.take('{"lr": 1, "max-tokens": 4, "pack": true}', "--lr", "2", "--no-pack")
        self.assertEqual((taken.options.lr, taken.options.max_tokens), (2.0, 4))
        self.assertIs(taken.options.pack, False)
        self.assertEqual(taken.given, {"lr", "max_tokens", "pack"})
        parser, options = given()
        taken = options.take(parser.parse_args([]))
        self.assertEqual((taken.options.lr, taken.options.model, taken.given), (0.5, None, set()))

    def test_null_is_not_given(self):
        taken = self.take('{"lr": null}')
        self.assertEqual((taken.options.lr, taken.given), (0.5, set()))

    def test_written_and_read(self):
        parser, options = given()
        values = ["m", "--lr", "0.1", "--budget", "3G", "--pack", "--quiet", "--targets", "q,v"]
        taken = options.take(parser.parse_args(values))
        options.write(self.home / "w.json", taken.options)
        again = options.take(parser.parse_args(["--quiet"]), self.home / "w.json")
        self.assertEqual(again.options, taken.options)
        self.assertEqual([path.name for path in self.home.iterdir()], ["w.json"])

    def test_refused(self):
        for text, words in (
            ('{"learning_rate": 1}', "no option 'learning_rate'; did you mean 'lr'?"),
            ('{"max_token": 1}', "did you mean 'max-tokens'?"),
            ('{"lora_r": 1}', "no option 'lora_r'"),
            ('{"quiet": true}', "no option 'quiet'"),
            ('{"zzz": 1}', "no option 'zzz'"),
            ('{"lr": 1, "lr": 2}', "lr stands there twice"),
            ('{"max-tokens": 1, "max_tokens": 2}', "max_tokens stands there twice"),
            ('{"lr": "much"}', "lr: could not convert"),
            ('{"lr": true}', "lr: expected a value, got true"),
            ('{"lr": {"a": 1}}', "lr: expected a value, got dict"),
            ('{"targets": [1]}', "targets: expected a value, got list"),
            ('{"max-tokens": 0}', "max-tokens: expected a number from 1"),
            ('{"max-tokens": 1.5}', "max-tokens: expected a number from 1"),
            ('{"budget": "8Q"}', "budget: expected a size"),
            ('{"method": "lira"}', "method: expected one of lisa, lora"),
            ('{"pack": "yes"}', 'pack: expected true or false, got "yes"'),
            ("[1]", "expected names with values"),
            ('{"lr": 1', "c.json: "),
            ("", "c.json: "),
            (b"\xff\xfe", "c.json: "),
            ("[" * 100000, "c.json: "),
        ):
            with self.subTest(words), self.assertRaisesRegex(ValueError, "c.json") as caught:
                self.take(text)
            self.assertIn(words, str(caught.exception))
        self.assertNotIn("did you mean", self.message('{"zzz": 1}'))
        self.assertNotIn("did you mean", self.message('{"lora_r": 1}'))  # no --rank here

    def message(self, text):
        try:
            self.take(text)
        except ValueError as error:
            return str(error)

    @unittest.skipIf(yaml is None, "PyYAML is missing")
    def test_yaml(self):
        text = "# mine\nmodel: m\nlr: 1e-3\nbudget: 2K\ntargets: [q, v]\npack: yes\n"
        taken = self.take(text, name="c.yaml")
        self.assertEqual((taken.options.lr, taken.options.budget), (1e-3, 2048))
        self.assertEqual((taken.options.targets, taken.options.pack), ("q,v", True))
        for text, words in (
            ("lr: [", "c.yml: "),
            ("lr: !!python/object/apply:os.getcwd []", "c.yml: "),
            ("a: &a [x]\nb: &b [*a, *a]\nlr: [*b, *b]", "no option 'a'"),
            ("3", "expected names with values, got int"),
        ):
            with self.assertRaisesRegex(ValueError, "c.yml") as caught:
                self.take(text, name="c.yml")
            self.assertIn(words, str(caught.exception))

    def test_without_yaml(self):
        with mock.patch.dict(sys.modules, yaml=None):
            status, out, err = run("finetune", "--config", self.file("lr: 1", "c.yaml"))
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(
            err, "liblisa finetune: the package PyYAML is missing: pip install 'liblisa[yaml]'\n"
        )

    def test_numbers_have_bounds(self):
        for words in (
            "--lr -1",
            "--lr nan",
            "--lr inf",
            "--warmup 1.5",
            "--min-lr -0.1",
            "--eval-every -1",
            "--valid-fraction 2",
            "--save-every 0.5",
            "--min-delta -1",
            "--max-grad-norm x",
            "--seed -1",
        ):
            status, out, err = run("finetune", "m", "d", "--out", "o", *words.split())
            self.assertEqual((status, out, err.count("\n")), (2, "", 1))
            self.assertIn("expected a number from 0", err)
            self.assertIn(words.split()[0], err)
        with self.assertRaisesRegex(ValueError, "c.json: lr: expected a number from 0, got '-1'"):
            parser = command_page.commands()["finetune"]
            parser._defaults["taken"].take(argparse.Namespace(), self.file('{"lr": -1}'))

    def test_the_command_line_knows_the_nearest_too(self):
        for words, meant in (
            ("finetune --learning-rate 1", "--learning-rate; did you mean --lr? ("),
            ("finetune --max_token=3", "--max_token=3; did you mean --max-tokens? ("),
            ("finetune --zzz", "--zzz ("),
            ("plan m --budgets 8G", "--budgets 8G; did you mean --budget? ("),
            ("checkpoint x --jsn", "--jsn ("),
        ):
            status, out, err = run(*words.split())
            self.assertEqual((status, out, err.count("\n")), (2, "", 1))
            self.assertIn(f"unrecognized arguments: {meant}", err)

    def test_files_of_the_project(self):
        taken = command_page.commands()["finetune"]._defaults["taken"]
        recipe = ROOT / "examples/demo/recipe.json"
        found = taken.take(argparse.Namespace(), recipe)
        self.assertEqual((found.options.sampler, found.options.head_rows), ("reshuffle", 64))
        self.assertTrue(
            (ROOT / found.options.data).exists() and (ROOT / found.options.valid).exists()
        )
        (block,) = re.findall("```yaml\n(.*?)```", command_page.PAGE.read_text(), re.S)
        if yaml is not None:
            found = taken.take(argparse.Namespace(), self.file(block, "page.yaml"))
            self.assertEqual((found.options.lr, found.options.patience), (5e-5, 3))

    def test_what_the_command_says(self):
        status, out, err = run("finetune")
        self.assertEqual((status, out, err.count("\n")), (2, "", 1))
        self.assertIn("required: MODEL, DATA.jsonl, --out", err)
        config = self.file(json.dumps({"model": "m", "data": "d"}))
        status, _, err = run("finetune", "--config", config)
        self.assertEqual(status, 2)
        self.assertIn("required: --out (", err)
        status, out, err = run("finetune", "--config", self.home / "none.json")
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertIn("none.json", err)


if __name__ == "__main__":
    unittest.main()

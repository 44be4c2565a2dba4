"""liblisa.evaluation against one position at a time, and the command `liblisa eval`. The tokenizer
is test_data's."""

import io
import json
import math
import random
import shutil
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import liblisa
from liblisa.cli import evaluate
from liblisa.data import Example, pad
from liblisa.evaluation import (
    Score,
    generate_until,
    score_examples,
    score_pairs,
    score_texts,
    total,
    windows,
)
from support import tiny_model, tokens
from test_command import run
from test_data import BOS, OFF, formatter

VOCABULARY = 48


def naive(model, context, continuation):
    """Each token alone, from the logits behind everything that is before it."""
    likelihood, n_greedy = 0.0, 0
    for n, token in enumerate(continuation):
        before = [*context, *continuation[:n]]
        with liblisa.Batch(model, 1, len(before), inference_only=True) as batch:
            batch.set(before)
            row = model.logits(batch, dtype="f64").tolist()[0][-1]
        likelihood += row[token] - math.log(sum(map(math.exp, row)))
        n_greedy += row[token] == max(row)
    return Score(likelihood, len(continuation), n_greedy)


class Scores(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = tiny_model(liblisa.Context(), init_std=0.3)

    def pairs(self, *lengths, seed=5):
        (line,) = tokens(1, 64, seed, VOCABULARY)
        return [(line[:context], line[context : context + n]) for context, n in lengths]

    def greedy_pair(self, n_tokens):
        context = [3, 1, 4]
        return context, self.model.generate(context, max_new_tokens=n_tokens)

    def assertClose(self, got, expected):
        self.assertEqual(len(got), len(expected))
        for one, other in zip(got, expected):
            self.assertEqual(one[1:], other[1:])
            self.assertAlmostEqual(one.log_likelihood, other.log_likelihood, delta=2e-5)

    def test_one_position_at_a_time(self):
        pairs = [*self.pairs((1, 1), (9, 3), (2, 8), (5, 1), (20, 4)), self.greedy_pair(5)]
        found = score_pairs(self.model, pairs, batch_size=3)
        self.assertClose(found, [naive(self.model, *pair) for pair in pairs])
        self.assertEqual([score.greedy for score in found], [False] * 5 + [True])
        context, best = pairs[-1]
        other = [*best[:-1], (best[-1] + 1) % VOCABULARY]
        (score,) = score_pairs(self.model, [(context, other)])
        self.assertEqual((score.greedy, score.n_greedy), (False, 4))

    def test_any_number_at_once_gives_the_same(self):
        pairs = self.pairs((3, 2), (1, 9), (12, 1), (4, 4), (1, 1), (30, 7), (2, 2))
        alone = score_pairs(self.model, pairs, batch_size=1)
        for batch_size in (2, 3, 7, 100):
            self.assertClose(score_pairs(self.model, pairs, batch_size=batch_size), alone)
        mixed = random.Random(1).sample(range(len(pairs)), len(pairs))
        found = score_pairs(self.model, [pairs[n] for n in mixed], batch_size=3)
        self.assertClose(found, [alone[n] for n in mixed])

    def test_longest_first(self):
        seen = []
        set_batch = liblisa.Batch.set

        def noted(batch, rows, *arguments, **options):
            seen.append((len(rows), len(rows[0])))
            return set_batch(batch, rows, *arguments, **options)

        done = []
        with mock.patch.object(liblisa.Batch, "set", noted):
            pairs = self.pairs((3, 2), (1, 9), (12, 1), (4, 4), (1, 1))
            score_pairs(self.model, pairs, batch_size=2, progress=done.append)
        self.assertEqual(seen, [(2, 13), (2, 8), (1, 2)])
        self.assertEqual(done, [2, 2, 1])

    def test_a_window_cuts_the_context(self):
        (pair,) = self.pairs((30, 6))
        (score,) = score_pairs(self.model, [pair], window=10)
        self.assertClose([score], [naive(self.model, pair[0][-4:], pair[1])])
        (score,) = score_pairs(self.model, [pair], window=7)  # one token of it is left
        self.assertClose([score], [naive(self.model, pair[0][-1:], pair[1])])

    def test_refusals(self):
        ((context, continuation),) = self.pairs((30, 6))
        for words, pair, window in (
            ("6 tokens and one before it do not fit a window of 6", (context, continuation), 6),
            ("64 tokens and one before", (context, [0] * 64), None),  # of the model's positions
            ("without tokens", (context, []), None),
            ("a token before it", ([], continuation), None),
        ):
            with self.assertRaisesRegex(ValueError, words):
                score_pairs(self.model, [self.pairs((1, 1))[0], pair], window=window)
        with self.assertRaises(ValueError):
            score_pairs(self.model, [(context, [VOCABULARY])])
        with self.assertRaisesRegex(ValueError, "positions"):
            score_pairs(self.model, [(context, [0] * 40)], window=70)

    def test_nothing(self):
        self.assertEqual(score_pairs(self.model, []), [])
        self.assertEqual(score_texts(self.model, [[]], prefix=BOS), [Score(0, 0, 0)])
        examples = [Example([1], [1]), Example([1, 2], [1, 2]), Example([1, 2, 3], [OFF] * 3)]
        found = score_examples(self.model, examples, batch_size=1)
        self.assertEqual([score.n_tokens for score in found], [0, 1, 0])
        self.assertTrue(math.isnan(Score(0, 0, 0).loss))

    def test_labels(self):
        rows = tokens(3, 12, 7, VOCABULARY)
        examples = [Example(row[: 5 + n], [OFF, *row[1:3], *[OFF] * n, *row[3 + n : 5 + n]])
                    for n, row in enumerate(rows)]
        found = total(score_examples(self.model, examples, batch_size=2))
        filled = pad(examples)
        with liblisa.Batch(self.model, 3, 7) as batch:
            batch.set(filled.tokens, filled.labels)
            expected = self.model.evaluate(batch).loss
            self.assertEqual(found.n_tokens, batch.n_targets)
        self.assertAlmostEqual(found.loss, expected, places=5)
        self.assertAlmostEqual(found.perplexity, math.exp(expected), places=2)
        self.assertEqual(Score(-1e6, 1, 0).perplexity, math.inf)

    def test_texts(self):
        texts = [tokens(1, n, n, VOCABULARY)[0] for n in (23, 1, 8, 9)]
        for options in ({"prefix": BOS}, {"prefix": BOS, "stride": 3}, {}):
            found = score_texts(self.model, texts, window=8, batch_size=3, **options)
            expected = [
                total(naive(self.model, *pair) for pair in windows(text, 8, **options))
                for text in texts
            ]
            self.assertClose(found, expected)
            missing = 0 if options else 1
            self.assertEqual([s.n_tokens + missing for s in found], [len(text) for text in texts])


class Windows(unittest.TestCase):
    def test_the_rule(self):
        # The example of lm-evaluation-harness: four tokens are read, a fifth is scored.
        self.assertEqual(
            windows(range(10), 5, prefix=-1),
            [([-1], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])],
        )
        self.assertEqual(
            windows(range(8), 5, prefix=-1, stride=2),
            [([-1], [0, 1, 2, 3]), ([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7])],
        )
        self.assertEqual(windows([7], 5), [])
        self.assertEqual(windows([7, 8], 2), [([7], [8])])
        self.assertEqual(windows([], 5, prefix=1), [])

    def test_every_token_once_with_all_that_fits_before_it(self):
        for n_tokens in range(1, 30):
            for window in (2, 3, 7, 40):
                for stride in {1, (window + 1) // 2, window - 1}:
                    text = list(range(n_tokens))
                    pairs = windows(text, window, prefix=-1, stride=stride)
                    self.assertEqual([t for _, scored in pairs for t in scored], text)
                    for number, (context, scored) in enumerate(pairs):
                        row = [*context, *scored]
                        self.assertEqual(row, list(range(row[0], row[0] + len(row))))
                        if number:
                            self.assertEqual(len(row), window)
                            self.assertLessEqual(len(scored), stride)
                        else:
                            self.assertEqual(row[0], -1)

    def test_refusals(self):
        for window, stride in ((1, None), (5, 5), (5, 0), (0, None)):
            with self.assertRaisesRegex(ValueError, f"window of {window}"):
                windows([1, 2], window, stride=stride)


class Generation(unittest.TestCase):
    def setUp(self):
        self.form = formatter()
        for word in "abcdefgh":
            self.form.tokenizer.encode(f"{word}{word}", add_special_tokens=False)
        self.model = mock.Mock()
        self.model.config.max_positions = 64
        self.n_made = 0

    def writes(self, text):
        """A model that writes this text, as far as it may."""
        line = self.form.tokenizer.encode(text, add_special_tokens=False).ids

        def generate(prompt, max_new_tokens, stop_tokens, on_token, **_options):
            self.prompt = prompt
            made = []
            for token in line[:max_new_tokens]:
                made.append(token)
                if token in stop_tokens or (on_token is not None and on_token(token)):
                    break
            self.n_made = len(made)
            return made

        self.model.generate = generate

    def generate(self, *until, prompt=(5,), **options):
        options = {"max_new_tokens": 20, **options}
        return generate_until(self.model, self.form, list(prompt), until, **options)

    def test_stop_strings(self):
        self.writes("aa bb cc dd")
        self.assertEqual(self.generate(), "aa bb cc dd")
        self.assertEqual((self.generate("b c"), self.n_made), ("aa b", 5))
        self.assertEqual((self.generate("zz", " dd", "c"), self.n_made), ("aa bb ", 5))
        self.assertEqual((self.generate("aa"), self.n_made), ("", 1))
        self.writes("aa abc dd")
        self.assertEqual((self.generate("c", "b"), self.n_made), ("aa a", 3))
        self.writes("aa bb cc dd")
        self.assertEqual(self.generate(""), "aa bb cc dd")
        self.assertEqual(self.generate(max_new_tokens=3), "aa bb")

    def test_tokens_that_end(self):
        self.writes("aa</s>bb")
        self.assertEqual((self.generate(), self.n_made), ("aa", 2))
        self.writes("aa<s>bb")  # another special token, which a stop string may name
        self.assertEqual((self.generate("<s>"), self.n_made), ("aa", 2))
        self.assertEqual(self.generate("zz"), "aabb")

    def test_window(self):
        self.writes("aa")
        self.generate(prompt=range(100), max_new_tokens=10)
        self.assertEqual(self.prompt, list(range(46, 100)))
        self.generate(prompt=range(9), max_new_tokens=10, window=12)
        self.assertEqual(self.prompt, [7, 8])
        with self.assertRaisesRegex(ValueError, "leave no room"):
            self.generate(max_new_tokens=64)

    def test_a_real_model(self):
        self.form.end_tokens = frozenset()
        with liblisa.Context() as context, tiny_model(context, init_std=0.3) as model:
            self.form.tokenizer.decode = lambda ids, skip_special_tokens: "".join(
                chr(ord("0") + token) for token in ids
            )
            line = model.generate([3, 1, 4], max_new_tokens=12)
            text = self.form.tokenizer.decode(line, False)
            stop = text[6:8]
            found = generate_until(model, self.form, [3, 1, 4], [stop], max_new_tokens=12)
            self.assertEqual(found, text[: text.index(stop)])
            drawn = [
                generate_until(model, self.form, [3], max_new_tokens=9, temperature=2.0, seed=seed)
                for seed in (1, 1, 2)
            ]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])


class Eval(unittest.TestCase):
    def setUp(self):
        self.home = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.home)
        self.directory = self.home / "model"
        self.model = tiny_model(liblisa.Context(), init_std=0.3)
        self.model.save(self.directory)
        self.data, self.text = self.home / "data.jsonl", self.home / "text.txt"
        records = ({"prompt": "aa " * n, "completion": "bb cc"} for n in range(1, 8))
        self.data.write_text("".join(json.dumps(record) + "\n" for record in records))
        self.text.write_text("aa bb é cc " * 9, encoding="utf-8")

    def evaluate(self, *options):
        with mock.patch.object(evaluate.Formatter, "open", lambda _directory: formatter()):
            return run("eval", self.directory, *options)

    def json(self, *options):
        status, out, err = self.evaluate(*options, "--json")
        self.assertEqual((status, err), (0, ""))
        return json.loads(out)

    def refused(self, status, words, *options):
        got, out, err = self.evaluate(*options)
        self.assertEqual((got, out, err.count("\n")), (status, "", 1), err)
        self.assertIn(words, err)

    def test_examples(self):
        found = self.json("--batch", "3", self.data)
        form = formatter()
        examples = [
            form.example(record.content) for record in liblisa.data.read_records(self.data)
        ]
        score = total(score_examples(self.model, examples))
        self.assertEqual(score.n_tokens, 7 * 4)  # bb, space, cc, EOS
        self.assertEqual(found["scored_tokens"], score.n_tokens)
        self.assertAlmostEqual(found["log_likelihood"], score.log_likelihood, places=4)
        self.assertEqual(found["token_accuracy"], score.accuracy)
        self.assertEqual((found["examples"], found["truncated"]), (7, 0))
        self.assertEqual(self.json(self.data, "--limit", "2")["scored_tokens"], 8)
        cut = self.json(self.data, "--max-tokens", "6", "--limit", "2")
        self.assertEqual((cut["truncated"], cut["scored_tokens"]), (2, 3 + 1))
        status, out, _ = self.evaluate(self.data)
        self.assertEqual(status, 0)
        self.assertIn(f"loss {found['loss']:.4f}, perplexity {found['perplexity']:.3f}\n", out)

    def test_text(self):
        form = formatter()
        line = form.tokenizer.encode(self.text.read_text(encoding="utf-8"), False).ids
        for stride in (None, 5):
            options = [] if stride is None else ["--stride", stride]
            found = self.json("--text", self.text, "--max-tokens", "20", *options)
            (score,) = score_texts(self.model, [line], window=20, prefix=BOS, stride=stride)
            self.assertAlmostEqual(found["loss"], score.loss, places=5)
            n_bytes = 9 * 12  # é has two
            self.assertEqual((found["bytes"], found["scored_tokens"]), (n_bytes, 9 * 8))
            bits = -score.log_likelihood / math.log(2) / n_bytes
            self.assertAlmostEqual(found["bits_per_byte"], bits, places=4)
        self.assertEqual(self.json("--text", self.text)["max_tokens"], 64)
        with mock.patch.object(evaluate, "_WINDOW", 16):
            self.assertEqual(self.json("--text", self.text)["max_tokens"], 16)
            self.assertEqual(self.json(self.data)["max_tokens"], 64)
        self.assertIn("bits per byte", self.evaluate("--text", self.text)[1])

    def test_a_terminal_sees_rows_counted(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        with mock.patch("io.StringIO", Terminal):
            status, _, err = self.evaluate(self.data, "--batch", "4")
        self.assertEqual((status, err), (0, "\r4 rows\r7 rows\r\x1b[K"))

    def test_an_adapter(self):
        base = self.json(self.data)
        with liblisa.Adapter.create(self.model, rank=2, targets="all-linear") as adapter:
            adapter.save(self.home / "fresh")
            name = next(t.name for t in adapter.tensors() if "lora_B" in t.name)
            extent = math.prod(adapter.tensor_read(name).shape)
            adapter.tensor_write(name, [0.5] * extent)
            adapter.save(self.home / "other")
        fresh = self.json(self.data, "--adapter", self.home / "fresh")
        self.assertEqual(fresh["loss"], base["loss"])
        other = self.json(self.data, "--adapter", self.home / "other")
        self.assertNotAlmostEqual(other["loss"], base["loss"], places=3)
        self.assertEqual(other["adapter"], str(self.home / "other"))

    def test_refusals(self):
        self.refused(2, "expected one of")
        self.refused(2, "expected one of", self.data, "--text", self.text)
        self.refused(2, "--stride goes with --text", self.data, "--stride", "4")
        self.refused(2, "--chat goes with --tasks", "--text", self.text, "--chat")
        self.refused(2, "--limit goes with", "--text", self.text, "--limit", "4")
        self.refused(1, "64 positions", self.data, "--max-tokens", "65")
        self.refused(1, "cannot score 20", "--text", self.text, "--max-tokens", 20, "--stride", 20)
        self.refused(1, "nowhere", "--text", self.home / "nowhere")
        self.refused(1, "nowhere", self.home / "nowhere")
        self.refused(1, "nowhere", self.data, "--adapter", self.home / "nowhere")
        self.refused(1, "limit", self.data, "--budget", "10K")
        self.text.write_bytes(b"a\xff")
        self.refused(1, "text.txt: ", "--text", self.text)
        self.text.write_bytes(b"")
        self.refused(1, "no token to score", "--text", self.text)
        self.data.write_text('{"prompt": "aa aa aa", "completion": "bb"}\n{"text": 1}\n')
        self.refused(1, "data.jsonl:2: ", self.data)
        self.data.write_text("")
        self.refused(1, "no records", self.data)

    def test_without_the_harness(self):
        with mock.patch.dict("sys.modules", {"lm_eval": None, "lm_eval.api.model": None}):
            self.refused(1, "lm_eval is missing: pip install 'liblisa[eval]'", "--tasks", "gsm8k")


if __name__ == "__main__":
    unittest.main()

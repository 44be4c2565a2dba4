"""Training data without a tokenizer's package: shapes, labels, truncation, packing, findings."""

import re
import tempfile
import types
import unittest
from pathlib import Path

import liblisa
from liblisa.data import (
    Completion,
    Conversation,
    Example,
    Formatter,
    Record,
    Text,
    in_order,
    pack,
    pad,
    parse_record,
    read_records,
    shuffled,
    survey,
)
from support import tiny_model

OFF = liblisa.IGNORE_LABEL
BOS, EOS, END = 1, 2, 3


class Words:
    """Words, single spaces and <tags> are tokens; what encode adds is <s>."""

    def __init__(self):
        self.ids = {"<pad>": 0, "<s>": BOS, "</s>": EOS, "<end>": END}

    def encode(self, text, add_special_tokens):
        found = list(re.finditer(r"<[^<>\s]*>|\w+|\s|.", text))
        ids = [self.ids.setdefault(match[0], len(self.ids)) for match in found]
        offsets = [match.span() for match in found]
        if add_special_tokens:
            ids, offsets = [BOS, *ids], [(0, 0), *offsets]
        return types.SimpleNamespace(ids=ids, offsets=offsets)

    def decode(self, tokens, skip_special_tokens):
        words = {number: word for word, number in self.ids.items()}
        return "".join(words[t] for t in tokens if t > END or not skip_special_tokens)


class Turns:
    """<user>...<end>\n, and so on; `rewrite` and `marks` are what real templates may do."""

    def __init__(self, rewrite=False, marks=False):
        self.rewrite, self.marks = rewrite, marks

    def render(self, messages, prompt=False):
        text, spans = "<s>", []
        for number, message in enumerate(messages):
            content = message["content"]
            if self.rewrite and number + 1 < len(messages):
                content = content.replace("thought ", "")
            text += f"<{message['role']}>\n"
            if message["role"] == "assistant":
                spans.append((len(text), len(text) + len(content)))
            text += f"{content}<end>\n"
        if prompt:
            text += "<assistant>\n"
        return types.SimpleNamespace(text=text, generated=spans if self.marks else [])


def formatter(**changes):
    ends = frozenset([EOS, END])
    made = dict(tokenizer=Words(), template=Turns(), end_tokens=ends, eos=EOS, bos=BOS, pad=0)
    return Formatter(**{**made, **changes})


def talk(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    for number, content in enumerate(contents):
        messages.append({"role": ("user", "assistant")[number % 2], "content": content})
    return Conversation(messages)


def learned(form, example):
    """The pieces of text that have labels."""
    pieces, before = [], OFF
    for token, label in zip(example.tokens, example.labels):
        assert label in (OFF, token)
        if label != OFF:
            word = form.tokenizer.decode([token], skip_special_tokens=False)
            pieces[-1:] = [pieces[-1] + word] if before != OFF else [*pieces[-1:], word]
        before = label
    return pieces


class Records(unittest.TestCase):
    def test_shapes(self):
        ask, say = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
        be = {"role": "system", "content": "s"}
        for value, expected in (
            ({"messages": [be, ask, say]}, Conversation([be, ask, say])),
            ({"text": "t", "id": 1}, Text("t")),
            ({"prompt": "q", "completion": "a"}, Completion("q", "a")),
            ({"prompt": [ask], "completion": [say]}, Conversation([ask, say], 1)),
            ({"instruction": "q", "input": "", "output": "a"}, Conversation([ask, say])),
            (
                {"instruction": "q", "input": "in", "output": "a", "system": "s"},
                Conversation([be, {"role": "user", "content": "q\n\nin"}, say]),
            ),
            (
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
                Conversation([ask, say]),
            ),
            (
                {"system": "s", "conversations": [{"from": "gpt", "value": "a"}]},
                Conversation([be, say]),
            ),
        ):
            self.assertEqual(parse_record(value), expected)

    def test_refusals(self):
        for value, words in (
            ([], "JSON object"),
            ({"foo": 1, "bar": 2}, "got foo, bar"),
            ({"messages": []}, "list of messages"),
            ({"messages": [{"content": "x"}]}, "role"),
            ({"messages": [{"role": "assistant"}]}, "content"),
            ({"messages": [{"role": "user", "content": "x"}]}, "assistant"),
            ({"conversations": [{"from": "bot", "value": "x"}]}, "'bot'"),
            ({"conversations": 3}, "list of objects"),
            ({"text": None}, '"text" must be text'),
            ({"prompt": "a", "completion": 3}, '"completion" must be text'),
            (
                {"prompt": [{"role": "assistant", "content": "a"}], "completion": []},
                '"completion" must be a list of messages',
            ),
            ({"prompt": [3], "completion": [{"role": "assistant", "content": "a"}]}, '"prompt"'),
        ):
            with self.assertRaisesRegex(ValueError, re.escape(words)):
                parse_record(value)

    def test_lines_are_named(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "data.jsonl")
            path.write_text('\ufeff{"text": "a"}\n\n{"text": "b"}\n{"text": }\n', encoding="utf-8")
            records = read_records(path)
            self.assertEqual(next(records), Record(1, Text("a")))
            self.assertEqual(next(records), Record(3, Text("b")))
            with self.assertRaisesRegex(ValueError, r"data\.jsonl:4: "):
                next(records)


class Labels(unittest.TestCase):
    def test_answers_with_their_end(self):
        form = formatter()
        example = form.example(talk("one", "two three", "four", "five", system="be"))
        self.assertEqual(learned(form, example), ["two three<end>", "five<end>"])
        self.assertTrue(example.closed)
        self.assertEqual(example.tokens[-1], END)  # nothing is behind what is learned
        self.assertEqual(example.n_targets, 6)

    def test_marks_of_the_template(self):
        form = formatter(template=Turns(marks=True))
        example = form.example(talk("one", "two", "four", "five"))
        self.assertEqual(learned(form, example), ["two<end>", "five<end>"])
        form = formatter(template=Turns(rewrite=True, marks=True))
        example = form.example(talk("one", "thought two", "four", "thought five"))
        self.assertEqual(learned(form, example), ["two<end>", "thought five<end>"])

    def test_answers_of_a_prompt_are_not_learned(self):
        messages = talk("one", "two", "four", "five").messages
        content = parse_record({"prompt": messages[:3], "completion": messages[3:]})
        for marks in (False, True):
            form = formatter(template=Turns(marks=marks))
            self.assertEqual(learned(form, form.example(content)), ["five<end>"])
        # That the template takes something out of an earlier answer does no harm.
        messages = talk("one", "thought two", "four", "five").messages
        form = formatter(template=Turns(rewrite=True))
        content = parse_record({"prompt": messages[:3], "completion": messages[3:]})
        self.assertEqual(learned(form, form.example(content)), ["five<end>"])
        form = formatter(template=Turns(rewrite=True, marks=True))
        with self.assertRaisesRegex(ValueError, "message 2 otherwise"):
            form.example(parse_record({"prompt": talk("one", "thought two").messages,
                                       "completion": messages[3:]}))

    def test_a_template_that_rewrites(self):
        form = formatter(template=Turns(rewrite=True))
        self.assertEqual(
            learned(form, form.example(talk("one", "thought two"))), ["thought two<end>"]
        )
        with self.assertRaisesRegex(ValueError, "message 2 otherwise"):
            form.example(talk("one", "thought two", "four", "five"))

    def test_an_answer_without_an_end(self):
        form = formatter(end_tokens=frozenset([EOS]))
        example = form.example(talk("one", "two"))
        self.assertEqual(learned(form, example), ["two<end>\n"])
        self.assertFalse(example.closed)

    def test_plain_text(self):
        form = formatter()
        example = form.example(Text("a b"))
        self.assertEqual(example.tokens[:1] + example.tokens[-1:], [BOS, EOS])
        self.assertEqual(example.labels, example.tokens)
        self.assertEqual(form.example(Text("a</s>")).tokens.count(EOS), 1)
        example = form.example(Completion("a b ", "c d"))
        self.assertEqual(learned(form, example), ["c d</s>"])
        self.assertEqual(example.tokens[0], BOS)
        self.assertFalse(formatter(eos=None).example(Text("a")).closed)

    def test_trimmed_spaces(self):
        form = formatter()
        encode = form.tokenizer.encode

        def trimming(text, add_special_tokens):  # as byte-level BPE with trim_offsets has it
            found = encode(text, add_special_tokens)
            offsets = [(e, e) if text[b:e].isspace() else (b, e) for b, e in found.offsets]
            return types.SimpleNamespace(ids=found.ids, offsets=offsets)

        form.tokenizer.encode = trimming
        example = form.example(talk("one", " two three\n"))
        self.assertEqual(learned(form, example), [" two three\n<end>"])

    def test_truncation(self):
        whole = formatter().example(talk("one", "two three"))
        form = formatter(max_tokens=len(whole.tokens) - 1)
        example = form.example(talk("one", "two three"))
        self.assertEqual((example.cut, example.tokens), (1, whole.tokens[:-1]))
        self.assertEqual(learned(form, example), ["two three"])
        self.assertEqual(formatter(max_tokens=4).example(talk("one", "two")).n_targets, 0)
        self.assertEqual(formatter(max_tokens=99).example(talk("one", "two")).cut, 0)

    def test_prompt(self):
        form = formatter()
        whole = form.example(talk("one", "two")).tokens
        prompt = form.prompt(talk("one").messages)
        self.assertEqual(whole[: len(prompt)], prompt)
        self.assertEqual(form.decode(whole[len(prompt) :]), "two")
        with self.assertRaisesRegex(ValueError, "no chat template"):
            formatter(template=None).example(talk("one", "two"))


class Batches(unittest.TestCase):
    @staticmethod
    def example(n, start=1):
        tokens = list(range(start, start + n))
        return Example(tokens, [OFF, *tokens[1:]])

    def test_padding(self):
        batch = pad([self.example(3), self.example(1)])
        self.assertEqual(batch.tokens, [[1, 2, 3], [1, 0, 0]])
        self.assertEqual(batch.labels, [[OFF, 2, 3], [OFF, OFF, OFF]])
        self.assertEqual(batch.documents, [[0, 0, 0], [0, 1, 1]])
        self.assertEqual(batch.n_tokens, 4)

    def test_packing(self):
        examples = [self.example(n, start=10 * n) for n in (3, 7, 5, 2, 4, 1)]
        rows = pack(examples, 8)
        self.assertEqual(sorted(len(row.tokens) for row in rows), [6, 8, 8])
        packed = sorted(token for row in rows for token in row.tokens)
        self.assertEqual(packed, sorted(t for e in examples for t in e.tokens))
        for row in rows:
            self.assertEqual(row.documents, sorted(row.documents))
            for t in range(1, len(row.tokens)):
                same = row.documents[t] == row.documents[t - 1]
                self.assertEqual(same, row.labels[t] != OFF)
        with self.assertRaisesRegex(ValueError, "7 tokens does not fit a row of 6"):
            pack(examples, 6)

    def test_packed_rows_train_as_their_examples_do(self):
        examples = [self.example(n, start=n) for n in (5, 3, 6, 2)]
        with liblisa.Context() as context, tiny_model(context) as model:
            with liblisa.Batch(model, 4, 12) as batch:
                losses = []
                for data in (pad(examples), pad(pack(examples, 9))):
                    batch.set(data.tokens, data.labels, documents=data.documents)
                    losses.append((batch.n_targets, model.evaluate(batch).loss))
        self.assertEqual(losses[0][0], losses[1][0])
        self.assertAlmostEqual(losses[0][1], losses[1][1], places=5)

    def test_epochs(self):
        examples = [self.example(n % 7 + 1, start=n) for n in range(50)]
        first, again = shuffled(examples, 4, seed=1), shuffled(examples, 4, seed=1)
        self.assertEqual(first, again)
        self.assertNotEqual(first, shuffled(examples, 4, seed=2))
        for batches in (first, list(in_order(examples, 4))):
            self.assertEqual(sum(len(batch.tokens) for batch in batches), 50)
            self.assertEqual(sum(b.n_tokens for b in batches), sum(len(e.tokens) for e in examples))


class Findings(unittest.TestCase):
    def found(self, form, *contents, **settings):
        records = (Record(line, content) for line, content in enumerate(contents, 1))
        got = survey(records, form, **settings)
        return {finding.text: (finding.fatal, finding.lines) for finding in got.findings}

    def one(self, found, words):
        (text,) = [text for text in found if words in text]
        return found[text]

    def test_nothing(self):
        self.assertEqual(self.found(formatter(), talk("a", "b"), Text("c")), {})

    def test_each(self):
        good, long = talk("a", "b"), talk("a " * 20, "b")
        n_good = len(formatter().example(good).tokens)
        found = self.found(formatter(max_tokens=n_good), good, long, long)
        self.assertEqual(self.one(found, "no label counts"), (True, [2, 3]))
        self.assertEqual(self.one(found, f"longer than {n_good} tokens"), (False, [2, 3]))
        found = self.found(formatter(), good, Text("<s>again"))
        self.assertEqual(self.one(found, "two BOS"), (True, [2]))
        found = self.found(formatter(), good, Text("x y"), vocab_size=8)
        self.assertEqual(self.one(found, "vocabulary"), (True, [1, 2]))
        found = self.found(formatter(end_tokens=frozenset()), good)
        self.assertEqual(self.one(found, "no token that ends it"), (False, [1]))
        found = self.found(formatter(), good, Completion("a b", "c"))
        self.assertEqual(self.one(found, "shares its first token"), (False, [2]))
        found = self.found(formatter(pad=EOS), good)
        self.assertEqual(self.one(found, "padding token also ends"), (False, []))
        rewriting = formatter(template=Turns(rewrite=True))
        found = self.found(rewriting, good, talk("a", "thought b", "c", "d"))
        self.assertEqual(self.one(found, "cannot be told apart"), (True, [2]))
        self.assertEqual(self.one(self.found(formatter()), "no records"), (True, []))


if __name__ == "__main__":
    unittest.main()

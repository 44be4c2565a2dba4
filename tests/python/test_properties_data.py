"""Data of any kind: batches hold each token once, labels cover the answers and nothing else, and a
file of records is read or refused by name and line."""

import json
import re
import tempfile
import unittest
from pathlib import Path

import properties  # noqa: F401  (first: skips where hypothesis is missing)
import liblisa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from liblisa.data import (
    Conversation,
    Example,
    Formatter,
    Row,
    Text,
    in_order,
    pack,
    pad,
    parse_record,
    read_records,
    shuffled,
)
from test_data import BOS, END, OFF, Turns, Words, formatter

try:
    import jinja2  # noqa: F401
    import tokenizers
except ImportError:
    tokenizers = None

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNMARKED = re.sub(r"\{% (end)?generation %\}", "", CHATML)
MARKED = CHATML.replace("{% generation %}", "{% if m.role == 'assistant' %}{% generation %}")
MARKED = MARKED.replace(
    "{% endgeneration %}",
    "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}",
)


@st.composite
def example_lists(draw, min_size=0):
    """Examples whose tokens are all different, with any labels."""
    lengths = draw(st.lists(st.integers(0, 12), min_size=min_size, max_size=12))
    examples, start = [], 1
    for length in lengths:
        tokens = list(range(start, start + length))
        learned = draw(st.integers(0, 2**length - 1))
        labels = [token if learned >> i & 1 else OFF for i, token in enumerate(tokens)]
        examples.append(Example(tokens, labels))
        start += length
    return examples


def documents_of(tokens, labels, documents):
    """{tokens of a document: their labels}; a document must be in one piece."""
    found = {}
    for token, label, document in zip(tokens, labels, documents):
        found.setdefault(document, []).append((token, label))
    assert list(documents) == sorted(documents)
    return [tuple(pairs) for pairs in found.values()]


class Batches(unittest.TestCase):
    def pairs(self, examples):
        return sorted(tuple(zip(e.tokens, e.labels)) for e in examples if e.tokens)

    @given(example_lists(), st.integers(12, 30))
    def test_packing_keeps_every_example_whole(self, examples, max_tokens):
        rows = pack(examples, max_tokens)
        found = []
        for row in rows:
            self.assertLessEqual(len(row.tokens), max_tokens)
            self.assertEqual(len(row.tokens), len(row.labels))
            self.assertEqual(len(row.tokens), len(row.documents))
            found += documents_of(*row)
        self.assertEqual(sorted(found), self.pairs(examples))
        # Two rows that are at most half full would have been one.
        self.assertLessEqual(sum(2 * len(row.tokens) <= max_tokens for row in rows), 1)

    def check_batches(self, batches, items, batch_size):
        found, n_rows = [], 0
        for batch in batches:
            n_rows += len(batch.tokens)
            self.assertTrue(0 < len(batch.tokens) <= batch_size)
            longest = max(map(len, batch.tokens))
            n_tokens = 0
            for tokens, labels, documents in zip(batch.tokens, batch.labels, batch.documents):
                self.assertEqual({len(tokens), len(labels), len(documents)}, {longest})
                whole = documents_of(tokens, labels, documents)
                filling = [part for part in whole if part[0][0] == 0]
                self.assertLessEqual(len(filling), 1)
                for part in filling:
                    self.assertEqual(set(part), {(0, OFF)})
                    self.assertIs(part, whole[-1])
                real = [part for part in whole if part not in filling]
                n_tokens += sum(map(len, real))
                found += real
            self.assertEqual(batch.n_tokens, n_tokens)
        self.assertEqual(n_rows, len(items))
        return sorted(found)

    @given(example_lists(), st.integers(1, 5), st.integers(0, 2**64), st.booleans())
    def test_an_epoch_has_everything_once(self, examples, batch_size, seed, packed):
        items = pack(examples, 15) if packed else examples
        for batches in (shuffled(items, batch_size, seed), list(in_order(items, batch_size))):
            self.assertEqual(self.check_batches(batches, items, batch_size), self.pairs(examples))
        self.assertEqual(shuffled(items, batch_size, seed), shuffled(items, batch_size, seed))

    @given(st.integers(-3, 0))
    def test_sizes_that_are_none(self, size):
        items = [Example([1], [1])]
        for call in (lambda: shuffled(items, size, 1), lambda: list(in_order(items, size))):
            with self.assertRaisesRegex(ValueError, "batch_size"):
                call()
        with self.assertRaisesRegex(ValueError, "does not fit"):
            pack(items, size)
        with self.assertRaisesRegex(ValueError, "needs an example"):
            pad([])

    @settings(max_examples=20)
    @given(example_lists(min_size=1), st.integers(12, 24))
    def test_packed_documents_do_not_see_each_other(self, examples, max_tokens):
        examples = [e for e in examples if e.n_targets]
        if not examples:
            return
        small = [
            Example([t % 48 for t in e.tokens], [l if l == OFF else l % 48 for l in e.labels])
            for e in examples
        ]
        rows = pack(small, max_tokens)
        self.assertIsInstance(rows[0], Row)
        with liblisa.Context(n_threads=1) as context:
            model = liblisa.Model.create(
                context,
                liblisa.ModelConfig(
                    n_layers=1, d_model=8, n_heads=2, d_ff=8, vocab_size=48, max_positions=32
                ),
                seed=1,
            )
            batch = liblisa.Batch(model, len(small), 24)
            found = []
            for data in (pad(small), pad(rows)):
                batch.set(data.tokens, data.labels, documents=data.documents)
                found.append((batch.n_targets, model.evaluate(batch).loss))
        self.assertEqual(found[0][0], found[1][0])
        self.assertAlmostEqual(found[0][1], found[1][1], places=5)


words = st.text(st.sampled_from("ab <>\n\té世🙂") | st.characters(codec="utf-8"), max_size=8)
tags = st.sampled_from(("<end>", "<s>", "<assistant>\n", "<user>\n"))
contents = st.lists(words | tags, max_size=4).map("".join)
roles = st.sampled_from(("system", "user", "assistant", "assistant"))
messages = st.builds(lambda role, content: {"role": role, "content": content}, roles, contents)
conversations = st.lists(messages, min_size=1, max_size=6)


class Labels(unittest.TestCase):
    """Against the text put together by hand, piece by piece."""

    def expected(self, messages, words):
        tokens, labels = [BOS], [OFF]
        for message in messages:
            answer = message["role"] == "assistant"
            content = words(message["content"])
            for piece, learned in (
                (words(f"<{message['role']}>\n"), False),
                (content, answer),
                ([END], answer),
                (words("\n"), False),
            ):
                tokens += piece
                labels += piece if learned else [OFF] * len(piece)
        while labels and labels[-1] == OFF:
            del tokens[-1], labels[-1]
        return tokens, labels

    @given(conversations, st.booleans())
    def test_what_the_assistant_says_and_its_end(self, messages, marks):
        form = formatter(tokenizer=Words(), template=Turns(marks=marks))
        messages = [{**m, "content": m["content"].rstrip("<") + "."} for m in messages]
        if all(message["role"] != "assistant" for message in messages):
            return
        example = form.example(Conversation(messages))
        expected = self.expected(
            messages, lambda text: form.tokenizer.encode(text, add_special_tokens=False).ids
        )
        self.assertEqual((example.tokens, example.labels), expected)
        self.assertTrue(example.closed)

    @given(conversations, st.integers(1, 30))
    def test_cut(self, messages, max_tokens):
        try:
            whole = formatter().example(Conversation(messages))
        except ValueError:
            return
        cut = formatter(max_tokens=max_tokens).example(Conversation(messages))
        self.assertEqual(cut.tokens, whole.tokens[:max_tokens])
        self.assertEqual(cut.labels, whole.labels[:max_tokens])
        self.assertEqual(len(cut.tokens) + cut.cut, len(whole.tokens))


@unittest.skipUnless(tokenizers, "tokenizers and jinja2 are not installed")
class Tokenized(unittest.TestCase):
    """A byte-level BPE tokenizer and chat templates as they are in the field."""

    @classmethod
    def setUpClass(cls):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        pages = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        tokenizer.train_from_iterator(pages.splitlines(), trainer)
        cls.home = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.home.cleanup)
        cls.forms = {}
        for name, template in (("marked", MARKED), ("unmarked", UNMARKED)):
            home = Path(cls.home.name, name)
            home.mkdir()
            tokenizer.save(str(home / "tokenizer.json"))
            config = {"eos_token": "<|im_end|>", "chat_template": template}
            (home / "tokenizer_config.json").write_text(json.dumps(config))
            cls.forms[name] = Formatter.open(home)

    @given(
        st.lists(
            st.builds(lambda role, content: {"role": role, "content": content}, roles, words),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(("marked", "unmarked")),
    )
    @example([{"role": "assistant", "content": "a\ufdd0b"}], "marked")
    @example([{"role": "assistant", "content": "  12"}], "unmarked")
    @example([{"role": "assistant", "content": "a<|im_end|>b"}], "marked")
    def test_every_answer_and_nothing_else(self, messages, name):
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        form = self.forms[name]
        try:
            example = form.example(Conversation(messages))
        except ValueError as error:
            self.assertIn("\ufdd0", "".join(m["content"] for m in messages), error)
            return
        whole = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        tokens = form.tokenizer.encode(whole, add_special_tokens=False).ids
        self.assertEqual(example.tokens, tokens[: len(example.tokens)])
        learned = [label for label in example.labels if label != OFF]
        self.assertTrue(all(l in (OFF, t) for t, l in zip(example.tokens, example.labels)))
        text = form.tokenizer.decode(learned, skip_special_tokens=False)
        # A token of the prompt may reach into an answer that begins with spaces.
        pattern = "".join(
            f"\\s{{0,{len(a) - len(a.lstrip())}}}{re.escape(a.lstrip())}<\\|im_end\\|>"
            for a in answers
        )
        self.assertRegex(text, f"^{pattern}$")
        if not example.joined:
            self.assertEqual(text, "".join(a + "<|im_end|>" for a in answers))
        self.assertEqual(example.closed, True)

    @given(st.text(max_size=20))
    def test_text_comes_back(self, text):
        form = self.forms["unmarked"]
        example = form.example(Text(text))
        whole = form.tokenizer.decode(example.tokens, skip_special_tokens=False)
        self.assertEqual(whole, text + "<|im_end|>" * (not text.endswith("<|im_end|>")))
        self.assertEqual(example.labels, example.tokens)


keys = st.sampled_from(
    "messages conversations instruction input output prompt completion text system role content "
    "from value tool_calls".split()
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
scalars |= st.sampled_from(("user", "assistant", "system", "human", "gpt"))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=2), inner),
    max_leaves=12,
)
lines = st.one_of(
    values.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore")),
    values.map(lambda value: json.dumps(value).encode()[:-1]),
    st.binary(max_size=30),
    st.integers(1, 5).map(lambda power: b"[" * 10**power),
    st.integers(1, 5).map(lambda power: b'{"text": ' + b"9" * 10**power + b"}"),
)


class Records(unittest.TestCase):
    @given(values)
    def test_a_value_is_a_record_or_refused(self, value):
        try:
            content = parse_record(value)
        except ValueError as error:
            self.assertTrue(str(error))
            return
        if isinstance(content, Conversation):
            self.assertTrue(any(m["role"] == "assistant" for m in content.messages))
        else:
            self.assertTrue(all(isinstance(part, str) for part in content))

    @given(st.lists(lines, max_size=4))
    @example([b'{"text": "\\ud800"}'])
    @example([b'{"text": "a"}', b'{"text": "\xff"}'])
    @example([b'{"conversations": [{"from": ["gpt"], "value": "a"}]}'])
    @example([b'\xef\xbb\xbf{"text": "a"}', b"\xef\xbb\xbf{}"])
    def test_files(self, lines):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "data.jsonl")
            path.write_bytes(b"\n".join(lines))
            n_lines = path.read_bytes().count(b"\n") + 1
            before = 0
            try:
                for record in read_records(path):
                    self.assertTrue(before < record.line <= n_lines)
                    before = record.line
                    json.dumps(record.content, ensure_ascii=False).encode("utf-8")
            except ValueError as error:
                found = re.match(re.escape(f"{path}:") + r"(\d+): .", str(error))
                self.assertTrue(found, error)
                self.assertTrue(before < int(found[1]) <= n_lines)


if __name__ == "__main__":
    unittest.main()

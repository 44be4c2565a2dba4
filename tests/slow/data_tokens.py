"""liblisa.data with tokenizers and jinja2: templates, directories, SmolLM2's own tokenizer."""

import datetime
import json
import os
import tempfile
import unittest
from pathlib import Path

import tokenizers
from liblisa import IGNORE_LABEL
from liblisa.data import Completion, Conversation, Formatter, Text
from liblisa.data._templates import ChatTemplate

ASK = {"role": "user", "content": "How?"}
SAY = {"role": "assistant", "content": "So."}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def learned(form, example):
    """The text that has labels."""
    tokens = [token for token in example.labels if token != IGNORE_LABEL]
    return form.tokenizer.decode(tokens, skip_special_tokens=False)


class Templates(unittest.TestCase):
    def render(self, source, messages=(ASK, SAY), **options):
        return ChatTemplate(source, {"eos_token": "</s>"}).render(list(messages), **options)

    def test_blocks_are_trimmed(self):
        source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n"
        source += "    {% endif %}\n{% endfor %}\n"
        self.assertEqual(self.render(source).text, "How?\nSo.\n")

    def test_what_templates_call(self):
        with self.assertRaisesRegex(ValueError, "chat template: no system"):
            self.render("{{ raise_exception('no system') }}")
        year = str(datetime.datetime.now().year)
        self.assertEqual(self.render("{{ strftime_now('%Y') }}").text, year)
        self.assertEqual(self.render("{{ {'a': '<é>'} | tojson }}").text, '{"a": "<é>"}')
        source = "{% for m in messages %}{% break %}{% endfor %}{{ eos_token }}{{ bos_token }}"
        self.assertEqual(self.render(source).text, "</s>")
        self.assertEqual(self.render("{% if tools is none %}none{% endif %}").text, "none")
        self.assertEqual(self.render("{{ add_generation_prompt }}", prompt=True).text, "True")

    def test_the_sandbox(self):
        for source in (
            "{{ ''.__class__.__mro__ }}",
            "{{ messages.append(1) }}",
            "{% include 'file' %}",
            "{{ 1 / }}",
        ):
            with self.assertRaisesRegex(ValueError, "chat template: "):
                self.render(source)

    def test_generation(self):
        source = (
            "{% for m in messages %}{% if m.role == 'assistant' %}\n"
            "A:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n"
            "{% else %}U:{{ m.content }}{% endif %}{% endfor %}"
        )
        rendered = self.render(source, (ASK, SAY, ASK, {"role": "assistant", "content": "No."}))
        self.assertEqual(rendered.text.replace("\n", ""), "U:How?A:So.</s>U:How?A:No.</s>")
        found = [rendered.text[begin:end] for begin, end in rendered.generated]
        self.assertEqual(found, ["So.</s>", "No.</s>"])


class Directories(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        vocabulary = {"<unk>": 0}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<turn>"])
        tokenizer.add_tokens(["How?", "So.", "user", "assistant"])
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
        self.tokenizer = tokenizer

    def open(self, config, generation=None, template=None):
        self.tokenizer.save(str(self.home / "tokenizer.json"))
        (self.home / "tokenizer_config.json").write_text(json.dumps(config))
        if generation is not None:
            (self.home / "generation_config.json").write_text(json.dumps(generation))
        if template is not None:
            (self.home / "chat_template.jinja").write_text(template)
        return Formatter.open(self.home)

    def ids(self, *words):
        return [self.tokenizer.token_to_id(word) for word in words]

    def test_special_tokens(self):
        form = self.open(
            {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "</s>"},
            generation={"eos_token_id": [*self.ids("<turn>"), 2]},
        )
        self.assertEqual([form.bos, form.eos, form.pad], self.ids("<s>", "</s>", "</s>"))
        self.assertEqual(form.end_tokens, frozenset(self.ids("</s>", "<turn>")))
        self.assertIsNone(form.template)
        self.assertEqual(form.example(Text("So.")).tokens, self.ids("<s>", "So.", "</s>"))
        example = form.example(Completion("How? ", "So."))
        self.assertEqual(example.tokens, self.ids("<s>", "How?", "So.", "</s>"))
        self.assertEqual(example.labels, [IGNORE_LABEL] * 2 + self.ids("So.", "</s>"))

    def test_a_file_that_cuts_and_fills_up(self):
        self.tokenizer.enable_truncation(2)
        self.tokenizer.enable_padding(length=9)
        form = self.open({"eos_token": "</s>"})
        example = form.example(Text("So. How? So."))
        self.assertEqual(example.tokens, self.ids("<s>", "So.", "How?", "So.", "</s>"))

    def test_templates(self):
        named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
        for config, template in (
            ({"chat_template": CHATML}, None),
            ({"chat_template": named}, None),
            ({"chat_template": "no"}, CHATML),
        ):
            form = self.open({"eos_token": "<|im_end|>", **config}, template=template)
            example = form.example(Conversation([ASK, SAY]))
            words = "<|im_start|> user How? <|im_end|> <|im_start|> assistant So. <|im_end|>"
            self.assertEqual(example.tokens, self.ids(*words.split()))
            self.assertEqual(
                example.labels, [IGNORE_LABEL] * 6 + self.ids("So.", "<|im_end|>")
            )

    def test_nothing_there(self):
        with self.assertRaisesRegex(FileNotFoundError, "no tokenizer.json"):
            Formatter.open(self.home)


@unittest.skipUnless("LISA_DEMO_MODEL" in os.environ, "no SmolLM2")
class SmolLM2(unittest.TestCase):
    def setUp(self):
        self.form = Formatter.open(os.environ["LISA_DEMO_MODEL"])

    def test_every_answer_is_learned(self):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Grüße, 世界?"},
            {"role": "assistant", "content": "12 Grüße\n\n🙂"},
            ASK,
            SAY,
        ]
        example = self.form.example(Conversation(messages))
        said = [messages[2]["content"], messages[4]["content"]]
        text = "".join(f"{answer}<|im_end|>" for answer in said)
        self.assertEqual(learned(self.form, example), text)
        whole = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        expected = self.form.tokenizer.encode(whole, add_special_tokens=False).ids
        self.assertEqual(example.tokens, expected[:-1])  # the last line's end is not needed
        self.assertEqual((example.closed, example.joined), (True, False))

    def test_an_answer_that_begins_with_spaces(self):
        example = self.form.example(Conversation([ASK, {"role": "assistant", "content": "  12"}]))
        self.assertEqual(learned(self.form, example), "12<|im_end|>")
        self.assertTrue(example.joined)  # line's end and spaces are one token

    def test_a_prompt_begins_the_conversation(self):
        prompt = self.form.prompt([ASK])
        example = self.form.example(Conversation([ASK, SAY]))
        self.assertEqual(example.tokens[: len(prompt)], prompt)
        self.assertEqual(example.labels[: len(prompt)], [IGNORE_LABEL] * len(prompt))
        self.assertEqual(self.form.decode(example.tokens[len(prompt) :]), "So.")


if __name__ == "__main__":
    unittest.main()

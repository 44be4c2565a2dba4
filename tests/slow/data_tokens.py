"""liblisa.data with tokenizers and jinja2: templates, directories, SmolLM2's own tokenizer; and the
same templates rendered by transformers."""

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

try:
    import transformers
except ImportError:
    transformers = None

ASK = {"role": "user", "content": "How?"}
SAY = {"role": "assistant", "content": "So."}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Short, with what the families' own templates do.
TEMPLATES = {
    "SmolLM2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "Llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}"
        "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' "
        "+ message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "Llama 3.2": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "Gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'assistant') %}"
        "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "Zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "Mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "Qwen 2.5": """{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system") or
           (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' }}{{ tool_call.function.name }}
            {{- '", "arguments": ' }}{{- tool_call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""",
    "Qwen 3": """{%- set ns = namespace(last=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
""",
    "DeepSeek": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{% set ns = namespace(is_first=false, system_prompt='') %}"
        "{%- for message in messages %}{%- if message['role'] == 'system' %}"
        "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
        "{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}"
        "{%- if message['role'] == 'user' %}{{'<|User|>' + message['content']}}{%- endif %}"
        "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
        "{% set content = message['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<|Assistant|>'}}{% endif %}"
    ),
    "tojson": """{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
{{ message | tojson }}
{{ {'b': [1, none, true], 'a': message.content} | tojson(indent=2) }}
    {%- if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}
{{ documents is none }} {{ tools is none }} {{ pad_token }} {{ cls_token is defined }}
""",
    "marks": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}"
        "{% endgeneration %}{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
        "{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "marks of many lines": """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
            {{- message.content | trim }}
            {{- eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|' ~ message.role ~ '|>' ~ message.content }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}
""",
    "marks around tags": """{% for message in messages %}
{% if message.role == 'assistant' %}
A:
    {% generation %}
    {% if loop.last %}
{{ message.content }}
    {% else %}
({{ message.content }})
    {% endif %}
    {% endgeneration %}
{% else %}
U: {{ message.content }}
{% endif %}
{% endfor %}
""",
}

BE = {"role": "system", "content": "Be  brief & <b>\"true\"</b>. "}
THINK = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nGrüße, 世界 🙂\n"}
CONVERSATIONS = {
    "one turn": [ASK, SAY],
    "system": [BE, ASK, SAY],
    "many turns": [BE, ASK, THINK, {"role": "user", "content": "  And?\n"}, SAY, ASK, THINK],
    "no answer yet": [ASK, SAY, ASK],
    "two answers": [ASK, SAY, SAY],
    "a call": [
        ASK,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": "<é>", "n": [1.5]}}}],
        },
        {"role": "tool", "content": "7"},
        SAY,
    ],
    "no content": [ASK, {"role": "assistant", "content": None}],
}


def learned(form, example):
    """The text that has labels."""
    tokens = [token for token in example.labels if token != IGNORE_LABEL]
    return form.tokenizer.decode(tokens, skip_special_tokens=False)


# Its merge makes a token that is not there: no Exception comes of that.
PANICS = json.dumps(
    {"version": "1.0", "added_tokens": [], "model": {
        "type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}
)


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

    def test_damaged_files_are_named(self):
        for name, text in (
            ("tokenizer.json", "{"),
            ("tokenizer.json", '{"model": 7}'),
            ("tokenizer.json", PANICS),
            ("tokenizer_config.json", "[" * 100000),
            ("tokenizer_config.json", "[]"),
            ("generation_config.json", '{"eos_token_id": '),
            ("generation_config.json", '{"eos_token_id": [2, "</s>"]}'),
            ("generation_config.json", '{"eos_token_id": true}'),
        ):
            self.open({"eos_token": "</s>"}, generation={})
            (self.home / name).write_text(text)
            with self.assertRaisesRegex(ValueError, f"/{name}: "):
                Formatter.open(self.home)
        with self.assertRaisesRegex(ValueError, "chat template is not text"):
            self.open({"chat_template": {"default": "x"}}, generation={})
        odd = self.open({"eos_token": 7, "chat_template": [7, {"name": ["default"]}]})
        self.assertEqual((odd.eos, odd.template), (None, None))

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


@unittest.skipUnless(transformers, "transformers is not installed")
class Transformers(unittest.TestCase):
    """Equal text and equal marks of what is generated, or refused by both."""

    @staticmethod
    def both(template, special):
        """Ours, and transformers' tokenizer, to which every character is a token."""
        model = tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>")
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
            tokenizers.Regex(r"[\s\S]"), "isolated"
        )
        other = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, chat_template=template, **special
        )
        return ChatTemplate(template, special), other

    def test_text(self):
        n_equal = 0
        for name, template in TEMPLATES.items():
            special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            ours, other = self.both(template, special)
            for kind, messages in CONVERSATIONS.items():
                for prompt in (False, True):
                    with self.subTest(template=name, conversation=kind, prompt=prompt):
                        try:
                            expected = other.apply_chat_template(
                                messages, tokenize=False, add_generation_prompt=prompt
                            )
                        except Exception as error:  # whatever it raises
                            with self.assertRaises(ValueError) as caught:
                                ours.render(messages, prompt=prompt)
                            self.assertEqual(str(caught.exception), f"chat template: {error}")
                        else:
                            self.assertEqual(ours.render(messages, prompt=prompt).text, expected)
                            n_equal += 1
        self.assertGreater(n_equal, 100)

    def test_marks(self):
        n_marks = 0
        for name in ("marks", "marks of many lines", "marks around tags"):
            ours, other = self.both(TEMPLATES[name], {"bos_token": "[", "eos_token": "]"})
            for kind, messages in CONVERSATIONS.items():
                with self.subTest(template=name, conversation=kind):
                    if kind == "no content":
                        continue
                    rendered = ours.render(messages)
                    mask = [0] * len(rendered.text)
                    for begin, end in rendered.generated:
                        mask[begin:end] = [1] * (end - begin)
                    found = other.apply_chat_template(
                        messages, return_dict=True, return_assistant_tokens_mask=True
                    )
                    self.assertEqual(found["assistant_masks"], mask)
                    n_marks += sum(mask)
        self.assertGreater(n_marks, 100)

    @unittest.skipUnless("LISA_DEMO_MODEL" in os.environ, "no SmolLM2")
    def test_smollm2(self):
        home = os.environ["LISA_DEMO_MODEL"]
        form, other = Formatter.open(home), transformers.AutoTokenizer.from_pretrained(home)
        for kind in ("one turn", "system", "many turns", "no answer yet"):
            messages = CONVERSATIONS[kind]
            with self.subTest(conversation=kind):
                rendered = form.template.render(messages)
                self.assertEqual(rendered.text, other.apply_chat_template(messages, tokenize=False))
                ids = other.apply_chat_template(messages)
                example = form.example(Conversation(messages))
                self.assertEqual(example.tokens, ids[: len(example.tokens)])
                ids = other.apply_chat_template(messages, add_generation_prompt=True)
                self.assertEqual(form.prompt(messages), ids)


if __name__ == "__main__":
    unittest.main()

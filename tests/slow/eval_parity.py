"""lm-evaluation-harness's own model of Hugging Face (HFLM) and liblisa's, on the same requests.

    eval_parity.py DIRECTORY

Both compute in float32. HFLM takes the softmax in float64: PyTorch 1.13's in float32 is off by 2e-5
a token, always to the same side, which is more than all else together.
"""

import json
import pathlib
import sys
import tempfile
import unittest

import transformers.generation.utils
from liblisa.evaluation.harness import LisaLM
from liblisa.evaluation.tasks import run_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

# PyTorch 1.13's own module for it does not import under Python 3.11.
transformers.generation.utils.is_fsdp_managed_module = lambda module: False

ALLOWED = 1e-3  # of a request
MAX_LENGTH = 96
DIRECTORY = sys.argv[1]

STORY = (
    "The ferry left the island at six in the morning, with eleven passengers and a goat on board. "
    "Nobody had asked whose goat it was. The captain, who had seen stranger things, counted the "
    "tickets twice, wrote a twelve into his book and went to make coffee.\n\nBy noon the wind had "
    "turned. Grüße aus Kiel, said the radio, and then: 世界 🙂, and then nothing. The goat slept. "
    "The passengers looked at the captain, and the captain looked at the sea, which was grey and "
    "flat and did not look at anybody. \"We shall be late,\" he said, \"but we shall be there.\"\n"
)
CHAT = (
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Which animal says moo? "},
    {"role": "assistant", "content": " The animal"},
)


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


class Pair(unittest.TestCase):
    """The two models."""

    max_length = None

    @classmethod
    def setUpClass(cls):
        options = {"max_length": cls.max_length, "device": "cpu"}
        cls.theirs = HFLM(
            DIRECTORY, dtype="float32", softmax_dtype="float64", batch_size=1, **options
        )
        cls.ours = LisaLM(DIRECTORY, batch_size=3, **options)

    def assertClose(self, name, theirs, ours):
        self.assertEqual(len(theirs), len(ours))
        far = max(abs(one - other) for one, other in zip(theirs, ours))
        print(f"{name}: {len(ours)} requests, at most {far:.1e} nats apart")
        self.assertLessEqual(far, ALLOWED)


class Requests(Pair):
    max_length = MAX_LENGTH

    def both(self, kind, arguments):
        return [
            getattr(model, kind)(requests(kind, arguments), disable_tqdm=True)
            for model in (self.theirs, self.ours)
        ]

    def test_log_likelihoods(self):
        pairs = [
            ("The capital of France is", " Paris"),
            ("The capital of France is ", " Paris"),
            ("The capital of France is  \n ", "Lyon"),
            ("", "Hello world"),
            ("", "<|im_start|>user"),  # begins with the token that stands in for nothing
            ("Grüße, 世界", " 🙂 é"),
            ("Question: What is 2 + 2?\nAnswer:", " 4"),
            (STORY[:300], " And so on, and on, and on."),
            (STORY * 2, " The goat"),  # does not fit
            (STORY * 2, " " + STORY[:280]),
            ("a", STORY[:250]),
        ]
        # What both write greedily is greedy to both.
        prompts = ("The quick brown fox", "One, two, three,")
        for prompt in prompts:
            text = self.ours.generate_until(
                requests("generate_until", [(prompt, {"max_gen_toks": 6})]), disable_tqdm=True
            )
            pairs.append((prompt, text[0]))
        theirs, ours = self.both("loglikelihood", pairs)
        self.assertClose("log-likelihoods", [one[0] for one in theirs], [one[0] for one in ours])
        self.assertEqual([one[1] for one in theirs], [one[1] for one in ours])
        self.assertEqual([one[1] for one in ours[-len(prompts) :]], [True] * len(prompts))
        self.assertIn(False, [one[1] for one in ours])

    def test_rolling(self):
        texts = [(STORY[:80],), (STORY,), (STORY * 2,), ("x",), ("",)]
        self.assertGreater(len(self.ours.tok_encode(STORY)), MAX_LENGTH + 1)
        self.assertClose("whole texts", *self.both("loglikelihood_rolling", texts))

    def test_generation(self):
        prompts = [
            ("Question: What is 2 + 2?\nAnswer:", {"until": ["Question:", "\n\n"]}),
            ("The quick brown fox", {"until": [" over", "zz"], "do_sample": False}),
            ("Once upon a time", {"until": "\n", "temperature": 0.0}),
            (STORY * 2, {"until": ["."]}),  # does not fit
            (self.ours.apply_chat_template(CHAT[:2]), {"until": [], "max_gen_toks": 28}),  # ends
        ]
        for _prompt, options in prompts:
            options.setdefault("max_gen_toks", 16)
        theirs, ours = self.both("generate_until", prompts)
        self.assertEqual(theirs, ours)
        self.assertTrue(all(ours), ours)
        print(f"generation: {len(ours)} answers are the same")

    def test_chat_templates(self):
        for number, opened in ((1, True), (2, True), (3, False)):
            self.assertEqual(
                self.theirs.apply_chat_template(list(CHAT[:number]), opened),
                self.ours.apply_chat_template(list(CHAT[:number]), opened),
            )
        source = self.theirs.chat_template(True)
        self.assertEqual(self.ours.chat_template(True), source)
        self.assertIsNone(self.ours.chat_template(False))
        with self.assertRaisesRegex(ValueError, "'tool_use'"):
            self.ours.chat_template("tool_use")

    def test_devices(self):
        self.assertEqual(LisaLM(DIRECTORY).model.context.backend, "cpu")
        self.assertIn(LisaLM(DIRECTORY, device="cuda:0").model.context.backend, ("cpu", "cuda"))

    def test_refusals(self):
        for options, words in (
            ({"num_beams": 4}, "generation does not take: num_beams"),
            ({"max_gen_toks": MAX_LENGTH}, "no room"),
        ):
            with self.assertRaisesRegex(ValueError, words):
                self.ours.generate_until(requests("generate_until", [("a", options)]))
        with self.assertRaisesRegex(ValueError, "do not fit"):
            self.ours.loglikelihood(requests("loglikelihood", [("a", STORY)]))
        with self.assertRaisesRegex(ValueError, "max_length: expected 1 to 8191"):
            LisaLM(DIRECTORY, max_length=8192)


def lines(directory, name, records):
    path = pathlib.Path(directory, name)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


class Tasks(Pair):
    """The harness's own tasks, prompts and metrics, on a few documents of ours."""

    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)

    def both(self, task, files, **options):
        found = [
            run_tasks(model, [task], files=files, **options) for model in (self.theirs, self.ours)
        ]
        self.assertEqual(*(results["results"][task] for results in found))
        return [results["samples"][task] for results in found]

    def gsm8k(self):
        def sums(numbers):
            return [
                {
                    "question": f"Ann has {n} pears and gets {m} more. How many has she?",
                    "answer": f"{n} + {m} = <<{n}+{m}={n + m}>>{n + m} pears.\n#### {n + m}",
                }
                for n, m in numbers
            ]

        train = [(1, 2), (3, 5), (2, 2), (4, 5)]
        return {
            "train": lines(self.home, "train.jsonl", sums(train)),
            "test": lines(self.home, "test.jsonl", sums([(2, 3), (6, 1), (1, 1)])),
        }

    def pubmedqa(self):
        documents = [
            {
                "QUESTION": f"Does tea make {what} grow?",
                "CONTEXTS": [f"We gave {what} tea for a year.", f"They grew by {n} %."],
                "final_decision": answer,
            }
            for what, n, answer in (("cats", 0, "no"), ("dogs", 40, "yes"), ("bees", 1, "maybe"))
        ]
        return {"test": lines(self.home, "pubmedqa.jsonl", documents)}

    def test_gsm8k(self):
        theirs, ours = self.both("gsm8k", self.gsm8k(), num_fewshot=2, limit=2)
        self.assertEqual(
            *([(one["arguments"], one["resps"]) for one in samples] for samples in (theirs, ours))
        )
        prompt = ours[0]["arguments"][0][0]
        self.assertEqual(prompt.count("\n#### "), 2)
        self.assertTrue(
            prompt.endswith("Question: Ann has 2 pears and gets 3 more. How many has she?\nAnswer:")
        )
        print(f"gsm8k: {[one['resps'][0][0][:40] for one in ours[:2]]}")

    def test_pubmedqa(self):
        samples = self.both("pubmedqa", self.pubmedqa())
        likelihoods = [
            [resp[0][0] for one in found for resp in one["resps"]] for found in samples
        ]
        self.assertEqual(len(likelihoods[0]), 9)
        self.assertClose("pubmedqa", *likelihoods)
        self.assertEqual(
            list(samples[1][0]["arguments"][2]),
            [
                "Abstract: We gave cats tea for a year.\nThey grew by 0 %.\n"
                "Question: Does tea make cats grow?\nAnswer:",
                " maybe",
            ],
        )

    def test_chat(self):
        theirs, ours = self.both("pubmedqa", self.pubmedqa(), limit=1, chat=True)
        self.assertEqual(theirs[0]["arguments"], ours[0]["arguments"])
        self.assertIn("<|im_start|>assistant\n", ours[0]["arguments"][0][0])

    def test_refusals(self):
        missing, gsm8k = str(self.home / "nowhere.jsonl"), self.gsm8k()
        for names, files, error, words in (
            (["no_such_task"], None, ValueError, "knows no task no_such_task"),
            (["gsm8k"], {"test": missing}, FileNotFoundError, "nowhere.jsonl: no such file"),
            (["gsm8k"], {"test": gsm8k["test"]}, ValueError, "gsm8k shows 5 examples of train"),
            (["gsm8k"], {"dev": gsm8k["test"]}, ValueError, "got 'dev'"),
            (["gsm8k"], {"train": gsm8k["train"]}, ValueError, "test or validation"),
            (["pubmedqa"], {"test": gsm8k["test"]}, ValueError, "nothing named"),
        ):
            with self.assertRaisesRegex(error, words):
                run_tasks(self.ours, names, files=files)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

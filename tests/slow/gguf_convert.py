"""liblisa convert: what a GGUF file holds is what liblisa opens afterwards."""

import contextlib
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import warnings
from unittest import mock

import gguf
import liblisa as lisa
import numpy as np

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "slow"))

import gguf_export  # noqa: E402
from gguf_export import TYPES  # noqa: E402
from liblisa.cli import main  # noqa: E402
from liblisa.gguf import _convert, _source  # noqa: E402

SMALL = dict(n_layers=2, d_model=24, n_heads=4, n_kv_heads=2, d_ff=20, vocab_size=41,
             max_positions=32)
FIXTURES = ("gpt2", "llama-tied", "llama-untied", "phi", "qwen2", "qwen3")
VARIANTS = {
    "llama_with_biases": dict(attention_bias=True, attention_output_bias=True, mlp_bias=True,
                              rope="linear", rope_factor=4.0),
    "llama_with_wide_heads": dict(head_dim=10, tied_head=True, norm_eps=1e-6),
    "qwen2_untied": dict(family="qwen2", attention_bias=True, rope_theta=1e6),
    "qwen3_tied": dict(family="qwen3", qk_norm=True, head_dim=10, rope_theta=1e6, tied_head=True),
}


def run(file, directory, *words):
    """Exit status, standard output and standard error of the command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            status = main(["convert", str(file), "--out", str(directory), *map(str, words)])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def logits(model):
    draw = np.random.default_rng(5)
    tokens = draw.integers(0, model.config.vocab_size, (2, 13))
    with lisa.Batch(model, *tokens.shape, inference_only=True) as batch:
        batch.set(tokens)
        return np.asarray(model.logits(batch, dtype="f64"))


def tensors(model):
    return {info.name: np.asarray(model.tensor_read(info.name)) for info in model.tensors()}


def distance(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


class Case(unittest.TestCase):
    def setUp(self):
        self.scratch = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.context = self.enterContext(lisa.Context())
        self.file = self.scratch / "model.gguf"
        self.directory = self.scratch / "model"

    def enterContext(self, manager):
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def create(self, **changes):
        """A model whose every weight is drawn."""
        config = lisa.ModelConfig(**{**SMALL, **changes})
        model = self.enterContext(lisa.Model.create(self.context, config, seed=1))
        draw = np.random.default_rng(2)
        for info in model.tensors():
            mean = 1.0 if "norm" in info.name and info.name.endswith("weight") else 0.0
            values = draw.normal(mean, config.d_model**-0.5, info.shape)
            model.tensor_write(info.name, values.astype(np.float32))
        return model

    def fixture(self, name="llama-untied"):
        return self.enterContext(lisa.Model.open(self.context, TOP / "tests" / "data" / name))

    def convert(self, *words, directory=None):
        directory = directory or self.directory
        status, self.said, err = run(self.file, directory, *words)
        self.assertEqual((status, err), (0, ""))
        return self.enterContext(lisa.Model.open(self.context, directory))


class Families(Case):
    def check_same(self, model, change=None):
        gguf_export.export(model, self.file, change=change)
        got = self.convert("--dtype", "f32")
        self.assertEqual(vars(got.config), vars(model.config))
        expected, found = tensors(model), tensors(got)
        self.assertEqual(found.keys(), expected.keys())
        for name, values in expected.items():
            self.assertTrue(np.array_equal(found[name], values), name)
        self.assertLessEqual(distance(logits(got), logits(model)), 1e-6)

    def test_phi_with_fused_projections(self):
        self.check_same(self.fixture("phi"), gguf_export.fuse)

    def test_tensors_in_many_blocks(self):
        with mock.patch.object(_source, "BLOCK_ELEMENTS", 50):
            self.check_same(self.fixture("llama-tied"))

    def test_gpt2_with_the_embedding_repeated(self):
        self.check_same(self.fixture("gpt2"),
                        lambda t: {**t, "output.weight": t["token_embd.weight"]})

    def test_gpt2_with_a_head_of_its_own(self):
        model = self.fixture("gpt2")
        head = 2 * np.asarray(model.tensor_read("transformer.wte.weight"))
        gguf_export.export(model, self.file, change=lambda t: {**t, "output.weight": head})
        got = self.convert("--dtype", "f32")
        self.assertFalse(got.config.tied_head)
        self.assertTrue(np.array_equal(got.tensor_read("lm_head.weight"), head))
        self.assertLessEqual(distance(logits(got), 2 * logits(model)), 1e-6)


def _add(name, make):
    setattr(Families, "test_" + name.replace("-", "_"), lambda self: self.check_same(make(self)))


for _fixture in FIXTURES:
    _add(_fixture, lambda self, name=_fixture: self.fixture(name))
for _variant, _changes in VARIANTS.items():
    _add(_variant, lambda self, changes=_changes: self.create(**changes))


class Types(Case):
    """Each type of block, in every matrix of a model that is wide enough for it."""

    def stored(self, kind):
        """A random model as a file of this type, and the values that the file means."""
        model = self.create(n_layers=1, d_model=256, d_ff=256, head_dim=64)
        draw = np.random.default_rng(4)
        meant = {}

        def quantized(name, values):
            if values.ndim == 1:
                return values
            rows = (gguf_export.random_q6_k(values.shape, draw) if kind == TYPES.Q6_K
                    else gguf.quants.quantize(values, kind))
            meant[name] = gguf_export.meaning(rows, kind)
            return rows, kind

        gguf_export.export(model, self.file, change=lambda tensors: {
            name: quantized(name, values) for name, values in tensors.items()})
        return model, meant

    def check(self, kind, bound=None):
        model, meant = self.stored(kind)
        got = self.convert("--dtype", "f32")
        self.assertEqual(len(meant), 9)
        for name, values in gguf_export.exported_tensors(got).items():
            if name in meant:
                self.assertTrue(np.array_equal(values, meant[name]), name)
        if bound is not None:
            off = distance(logits(got), logits(model))
            self.assertLessEqual(off, bound)
            self.assertGreater(off, 0.0)

    def test_f16(self):
        self.check(TYPES.F16, 2e-3)

    def test_bf16(self):
        self.check(TYPES.BF16, 2e-2)

    def test_q8_0(self):
        self.check(TYPES.Q8_0, 0.05)

    def test_q4_0(self):
        self.check(TYPES.Q4_0, 0.5)

    def test_q4_1(self):
        self.check(TYPES.Q4_1, 0.5)

    def test_q6_k(self):
        self.check(TYPES.Q6_K)


class Output(Case):
    def test_bf16_is_what_comes_unasked(self):
        model = self.fixture()
        gguf_export.export(model, self.file)
        got = self.convert()
        self.assertEqual(got.config.weights_dtype, lisa.DType.BF16)
        for name, values in tensors(model).items():
            bits = values.view(np.uint32).astype(np.uint64)
            rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
            self.assertTrue(np.array_equal(tensors(got)[name],
                                           rounded.astype(np.uint32).view(np.float32)), name)

    def test_f16(self):
        model = self.fixture()
        gguf_export.export(model, self.file)
        got = self.convert("--dtype", "f16")
        self.assertEqual(got.config.weights_dtype, lisa.DType.F16)
        for name, values in tensors(model).items():
            self.assertTrue(np.array_equal(tensors(got)[name],
                                           values.astype(np.float16).astype(np.float32)), name)

    def test_shards(self):
        model = self.create(tied_head=True)
        gguf_export.export(model, self.file)
        got = self.convert("--dtype", "f32", "--max-shard-bytes", 8000)
        index = json.loads((self.directory / "model.safetensors.index.json").read_text())
        names = sorted(path.name for path in self.directory.glob("*.safetensors"))
        self.assertGreater(len(names), 2)
        self.assertEqual(sorted(set(index["weight_map"].values())), names)
        self.assertEqual(index["metadata"]["total_size"],
                         sum(4 * values.size for values in tensors(model).values()))
        for name, values in tensors(model).items():
            self.assertTrue(np.array_equal(tensors(got)[name], values), name)

    def test_what_is_said(self):
        gguf_export.export(self.fixture(), self.file,
                           {"general.name": "x", "tokenizer.ggml.scores": [0.5]})
        got = self.convert("--dtype", "f16")
        n = sum(values.size for values in tensors(got).values())
        self.assertEqual(self.said.splitlines(), [
            f"{self.directory}: llama, {n:,} parameters in 30 tensors of f16 (from 30 F32)",
            "rows of q and k put back in their order: 6 tensors",
            "tokenizer: none; --tokenizer copies that of another directory of this model",
            "not carried over: tokenizer.json (tokenizer.ggml.model is None and tokenizer.ggml.pre "
            "None; known are 'gpt2' with gpt-2, phi-2, smollm, qwen2, llama-bpe), general.name, "
            "tokenizer.ggml.scores"])

    def test_in_json(self):
        gguf_export.export(self.fixture("qwen2"), self.file)
        _, out, _ = run(self.file, self.directory, "--json", "--tokenizer", "none")
        found = json.loads(out)
        self.assertEqual((found["family"], found["dtype"], found["reordered"], found["tokenizer"]),
                         ("qwen2", "bf16", 0, None))
        self.assertEqual(found["left_out"], ["tokenizer.json (none was asked for)"])
        self.assertEqual(sum(found["types"].values()), found["tensors"])


class Broken(Case):
    """What ends in the middle leaves nothing that looks whole."""

    def setUp(self):
        super().setUp()
        gguf_export.export(self.fixture(), self.file)

    def left(self):
        return [path.name for path in self.scratch.iterdir() if path != self.file]

    def test_ctrl_c(self):
        write, left = _convert.write_weights, [3]

        def interrupted(source, pieces, *rest):
            self.assertEqual(len(self.left()), 1)
            left.extend(self.left())
            floats = source.floats

            def some(*arguments, **options):
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
                return floats(*arguments, **options)

            source.floats = some
            write(source, pieces, *rest)

        with mock.patch.object(_convert, "write_weights", interrupted):
            self.assertEqual(run(self.file, self.directory), (130, "", ""))
        self.assertEqual(self.left(), [])
        self.assertTrue(left[1].startswith("."), left)

    def test_a_full_disk(self):
        script = """
import resource, signal, sys
from liblisa.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
sys.exit(main(sys.argv[1:]))
"""
        words = ["convert", str(self.file), "--out", str(self.directory)]
        ran = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stderr.count("\n")), (1, 1), ran.stderr)
        self.assertIn(f"File too large: '{self.directory}'", ran.stderr)
        self.assertEqual(self.left(), [])


class Tokenizers(Case):
    PIECES = ["<|start|>", "<|end|>", "a", "b", "1", "2", "\u0120", "ab", "12", "\u0120ab", "[PAD]",
              "<extra>"]
    KEYS = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 5, 4],
        "tokenizer.ggml.merges": ["a b", "1 2", "\u0120 ab"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.chat_template": "{{ messages }}\n",
    }

    def converted(self, *words, **changes):
        keys = {**self.KEYS, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}
        gguf_export.export(self.fixture(), self.file, keys)
        status, said, err = run(self.file, self.directory, *words)
        self.assertEqual((status, err), (0, ""))
        return said

    def encode(self, text):
        import tokenizers

        return tokenizers.Tokenizer.from_file(str(self.directory / "tokenizer.json")).encode(text)

    def document(self, name):
        return json.loads((self.directory / name).read_text())

    def test_digits_stay_apart(self):
        self.assertIn("tokenizer: from the file\n", self.converted())
        self.assertEqual(self.encode("ab ab12<|end|><extra>").tokens,
                         ["ab", "\u0120ab", "1", "2", "<|end|>", "<extra>"])

    def test_gpt2_joins_digits(self):
        self.converted(pre="gpt-2")
        self.assertEqual(self.encode("ab12").tokens, ["ab", "12"])

    def test_llama_begins_with_bos(self):
        self.converted(pre="llama-bpe")
        self.assertEqual(self.encode("ab12").tokens, ["<|start|>", "ab", "12"])

    def test_bos_where_the_file_says_so(self):
        self.converted(pre="qwen2", add_bos_token=True)
        self.assertEqual(self.encode("ab12").tokens, ["<|start|>", "ab", "1", "2"])

    def test_special_tokens_and_template(self):
        self.converted()
        config = self.document("tokenizer_config.json")
        self.assertEqual(config["bos_token"], "<|start|>")
        self.assertEqual(config["pad_token"], "<|end|>")
        self.assertEqual(config["chat_template"], "{{ messages }}\n")
        self.assertEqual(self.document("generation_config.json")["eos_token_id"], [1, 2])
        self.assertEqual(self.document("config.json")["eos_token_id"], 1)

    def test_unknown_kinds_are_left_alone(self):
        changes = ({"pre": "tiktoken"}, {"bos_token_id": 12, "add_bos_token": True},
                   {"tokens": ["$A:x y", *self.PIECES[1:]], "add_bos_token": True},
                   {"model": "llama"}, {"merges": ["a b c"]},
                   {"merges": ["<|start|> <|end|>"]},
                   {"merges": ["a z"]}, {"token_type": [1]}, {"tokens": ["a"] * 12})
        for number, change in enumerate(changes):
            self.directory = self.scratch / str(number)
            said = self.converted(**change)
            self.assertRegex(said, r"tokenizer: none; .*\nnot carried over: tokenizer.json \(.+\)")
            self.assertFalse((self.directory / "tokenizer.json").exists())
            self.assertNotIn("tokenizer_class", self.document("tokenizer_config.json"))

    def other(self, **changes):
        """A directory with a tokenizer of the same tokens."""
        home = self.scratch / "other"
        self.converted(**changes)
        self.directory.rename(home)
        (home / "chat_template.jinja").write_text("other")
        return home

    def test_those_of_another_directory(self):
        home = self.other()
        said = self.converted("--tokenizer", home, model="llama")
        self.assertIn(f"tokenizer: from {home}\n", said)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            self.assertEqual((self.directory / name).read_text(), (home / name).read_text())
        self.assertEqual(self.document("config.json")["eos_token_id"], 1)
        self.assertEqual((home / "model.safetensors").read_bytes(),
                         (self.directory / "model.safetensors").read_bytes())

    def test_none(self):
        self.assertNotIn("tokenizer.ggml", self.converted("--tokenizer", "none"))
        self.assertEqual(sorted(os.listdir(self.directory)),
                         ["config.json", "generation_config.json", "model.safetensors"])

    def test_another_model_s(self):
        tokens = [*self.PIECES[:4], "2", "1", *self.PIECES[6:]]
        home = self.other(tokens=tokens)
        text = (home / "tokenizer.json").read_text()
        document = json.loads(text)
        document["added_tokens"][-1]["id"] = 4000
        for what, pattern in (
            (text, "not this model's: its token 4 is '2', in the GGUF file '1'"),
            (json.dumps(document), "has a token 4000, the embedding has 61 rows"),
            (text[:-9], "not a tokenizer.json that can be read"),
            ("[]", "not a tokenizer.json that can be read"),
            ('{"model": {"vocab": {"a": "b"}}}', "not a tokenizer.json that can be read"),
            (None, "other: no tokenizer.json"),
        ):
            with self.subTest(pattern):
                (home / "tokenizer.json").unlink()
                if what is not None:
                    (home / "tokenizer.json").write_text(what)
                gguf_export.export(self.fixture(), self.file, self.KEYS)
                status, _, said = run(self.file, self.directory, "--tokenizer", home)
                self.assertEqual((status, said.count("\n")), (1, 1))
                self.assertRegex(said, pattern)
                self.assertEqual(sorted(os.listdir(self.scratch)), ["model.gguf", "other"])


class Refusals(Case):
    """One line, exit status 1, and nothing is left behind."""

    def refused(self, pattern, *words):
        status, out, said = run(self.file, self.directory, *words)
        self.assertEqual((status, out), (1, ""), said)
        self.assertRegex(said, pattern)
        self.assertEqual(said.count("\n"), 1, said)
        self.assertTrue(said.isprintable() or said.rstrip("\n").isprintable(), said)
        self.assertEqual([path for path in self.scratch.iterdir() if path != self.file], [])

    def changed(self, pattern, keys=None, change=None, *words):
        gguf_export.export(self.fixture("llama-tied"), self.file, keys, change)
        self.refused(pattern, *words)

    def test_keys(self):
        for pattern, keys in (
            ("general.type is 'adapter'", {"general.type": "adapter"}),
            ("one of several parts", {"split.count": 3}),
            ("a mixture of experts", {"expert_count": 8}),
            ("'llama.logit_scale' is not understood", {"logit_scale": 0.5}),
            ("scaling.type is 'yarn'", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}),
            ("beside rope.scaling.factor", {"rope.scaling.factor": 4.0}),
            ("head_count: expected one number", {"attention.head_count": [4, 4, 4]}),
            ("head_count_kv: expected one number", {"attention.head_count_kv": 0}),
            ("4 heads on 3 key heads", {"attention.head_count_kv": 3}),
            ("block_count is 4000", {"block_count": 4000}),
            ("blk.3.attn_norm.*is missing|blk.3.*missing", {"block_count": 4}),
            ("beyond the last layer", {"block_count": 2}),
            ("epsilon: expected a number", {"attention.layer_norm_rms_epsilon": "small"}),
            ("epsilon: expected a number", {"attention.layer_norm_rms_epsilon": float("nan")}),
            ("embd.weight' has shape .*expected", {"embedding_length": 20, "attention.key_length":
                                                   6}),
            ("not the width of a head", {"rope.dimension_count": 4}),
            ("bos_token_id is not a token", {"tokenizer.ggml.bos_token_id": 53}),
        ):
            with self.subTest(pattern):
                self.changed(pattern, keys)

    def test_tensors(self):
        def without(name):
            return lambda tensors: {n: v for n, v in tensors.items() if n != name}

        def plus(name, values):
            return lambda tensors: {**tensors, name: values}

        def biased_once(tensors):
            biases = {f"blk.0.{name}.bias": np.zeros(rows, dtype=np.float32) for name, rows in (
                ("attn_q", 24), ("attn_k", 12), ("attn_v", 12), ("attn_output", 24))}
            return {**tensors, **biases}

        norm = np.ones(24, dtype=np.float32)
        for pattern, change in (
            ("'blk.1.ffn_up.weight' is missing", without("blk.1.ffn_up.weight")),
            ("'token_embd.weight' is missing", without("token_embd.weight")),
            ("'output_norm.weight' is missing", without("output_norm.weight")),
            ("'blk.0.ffn_up.bias' has no place", plus("blk.0.ffn_up.bias", norm)),
            ("'blk.1.attn_k.bias' is missing", biased_once),
            ("'blk.2.attn_q.bias' has no place", plus("blk.2.attn_q.bias", norm)),
            (r"'new\\nline' has no place", plus("new\nline", norm)),
            ("vocab_size is not the 1 rows", plus("token_embd.weight", np.float32(1))),
            ("vocab_size is not the 1 rows", plus("token_embd.weight", norm)),
            ("'blk.0.attn_norm.weight' has shape", plus("blk.0.attn_norm.weight", norm[:8])),
            ("holds a value that is not finite", plus("blk.0.attn_norm.weight", norm * np.nan)),
            ("is of type I32", plus("output_norm.weight", norm.astype(np.int32))),
            ("not a table of Llama 3.1", plus("rope_freqs.weight",
                                              np.array([1, 1.7, 8], dtype=np.float32))),
        ):
            with self.subTest(pattern):
                self.changed(pattern, None, change)

    def test_too_large_for_f16(self):
        large = np.full(24, 7e4, dtype=np.float32)
        self.changed("not finite in float16", None,
                     lambda tensors: {**tensors, "output_norm.weight": large}, "--dtype", "f16")

    def test_architectures(self):
        for name in ("gemma", "granite\nx"):
            gguf_export.write(self.file, name, {}, {"token_embd.weight": np.ones((2, 2), "f4")})
            self.refused("general.architecture is .*expected one of llama")

    def test_other_headers(self):
        name = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<I", 8)
        for pattern, data in (
            ("byte order", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
            ("'general.architecture' is missing", b"GGUF" + struct.pack("<IQQ", 3, 0, 0)),
            ("general.architecture: .*decode", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + name
             + struct.pack("<Q", 2) + b"\xff\xfe"),
        ):
            with self.subTest(pattern):
                self.file.write_bytes(data)
                self.refused(pattern)

    def test_no_file(self):
        self.refused("No such file")

    def test_a_directory_that_is_there(self):
        gguf_export.export(self.fixture(), self.file)
        self.assertEqual(run(self.file, self.directory)[0], 0)
        before = sorted(os.listdir(self.directory))
        status, _, said = run(self.file, self.directory)
        self.assertEqual(status, 1)
        self.assertRegex(said, "is not empty: give another directory\n$")
        self.assertEqual(sorted(os.listdir(self.directory)), before)

    def test_cut_short(self):
        gguf_export.export(self.fixture("llama-tied"), self.file)
        whole = self.file.read_bytes()
        for length in [*range(0, 2000, 37), len(whole) // 2, len(whole) - 33]:
            with self.subTest(length=length):
                self.file.write_bytes(whole[:length])
                self.refused("not a GGUF file that can be read")

    def test_places(self):
        gguf_export.export(self.fixture("llama-tied"), self.file)
        whole = bytearray(self.file.read_bytes())
        name = b"blk.0.attn_q.weight"
        place = whole.index(name) + len(name) + 4 + 2 * 8 + 4
        (begin,) = struct.unpack_from("<Q", whole, place)
        self.assertGreater(begin, 0)
        for what, offset in (("the header", 2**64 - 64), ("'", 0), ("'", begin - 32)):
            with self.subTest(offset=offset):
                struct.pack_into("<Q", whole, place, offset)
                self.file.write_bytes(whole)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    self.refused(f"tensor '.*' begins within {what}")

    def test_hostile_headers(self):
        def header(n_tensors, n_keys, rest=b"", version=3):
            return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest

        def key(kind, value, name=b"k"):
            return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value

        huge = 1 << 60
        info = struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0)
        for what, data in {
            "another format": b"ELF!" + bytes(100),
            "version": header(0, 0, version=99),
            "tensors without end": header(huge, 0),
            "keys without end": header(0, huge),
            "a long text": header(0, 1, key(8, struct.pack("<Q", huge))),
            "a long array": header(0, 1, key(9, struct.pack("<IQ", 0, huge) + bytes(64))),
            "arrays in arrays": header(0, 1, key(9, struct.pack("<IQ", 9, 1) * 5000)),
            "a kind that is none": header(0, 1, key(77, bytes(8))),
            "a name that is no text": header(0, 1, key(0, b"\0", b"\xff\xfe")),
            "twice": header(0, 2, key(0, b"\1") * 2),
            "a size that wraps": header(1, 0, info + bytes(64)),
            "an alignment": header(0, 1, key(4, struct.pack("<I", 7), b"general.alignment")),
        }.items():
            with self.subTest(what):
                self.file.write_bytes(data)
                self.refused("not a GGUF file that can be read: .")


if __name__ == "__main__":
    unittest.main()

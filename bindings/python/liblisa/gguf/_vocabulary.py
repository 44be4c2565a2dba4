"""The tokenizer of a GGUF file, where it can be rebuilt faithfully, and its special tokens."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from ._source import ConversionError, Source

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
PRE_TOKENIZERS = ("gpt-2", "phi-2", "smollm", "qwen2", "llama-bpe")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Unfaithful(Exception):
    """Why this file's tokenizer is not rebuilt."""


def special_ids(source: Source, n_rows: int) -> Dict[str, int]:
    """Ids of bos, eos, pad, unk and eot, where the file has them."""
    ids = {}
    for name, key in {**SPECIAL, "eot": "eot"}.items():
        value = source.value(f"tokenizer.ggml.{key}_token_id")
        if value is None:
            continue
        if type(value) is not int or not 0 <= value < n_rows:
            raise ConversionError(f"tokenizer.ggml.{key}_token_id is not a token's")
        ids[name] = value
    return ids


def _texts(source: Source, key: str) -> List[str]:
    value = source.value(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Unfaithful(f"tokenizer.ggml.{key} is not a list of texts")
    return value


def _kinds(source: Source, n_tokens: int) -> List[int]:
    kinds = source.value("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != n_tokens:
        raise Unfaithful("tokenizer.ggml.token_type is not a list with a number for each token")
    if not set(kinds) <= {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
        raise Unfaithful("tokenizer.ggml.token_type has kinds that a byte-level BPE has not")
    return kinds


def _splitting(pre: str) -> Any:
    """How a text is cut before its pairs are merged; as the models' own tokenizer.json has it."""
    from tokenizers import Regex, pre_tokenizers

    if pre in ("gpt-2", "phi-2"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":  # every digit is a token of its own
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    digits = r"\p{N}" if pre == "qwen2" else r"\p{N}{1,3}"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS % digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level_bpe(source: Source, pre: str, bos: Optional[int]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    tokens = _texts(source, "tokens")
    kinds = _kinds(source, len(tokens))
    vocabulary = {token: index for index, token in enumerate(tokens) if kinds[index] != UNUSED}
    if len(vocabulary) + kinds.count(UNUSED) != len(tokens):
        raise Unfaithful("a token is there twice")
    merges = [tuple(merge.split(" ")) for merge in _texts(source, "merges")]
    known = vocabulary.keys()  # of the rest the package makes a panic, not an error
    if not all(len(merge) == 2 and {*merge, "".join(merge)} <= known for merge in merges):
        raise Unfaithful("a merge is not of two tokens that make a third")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe")
    )
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitting(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None and source.value("tokenizer.ggml.add_bos_token", pre == "llama-bpe"):
        if bos >= len(tokens):
            raise Unfaithful("the first token of a text is not in tokenizer.ggml.tokens")
        token = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, bos)]
        )
    for kind in (CONTROL, USER_DEFINED):
        added = [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, its_kind in zip(tokens, kinds)
            if its_kind == kind
        ]
        (tokenizer.add_special_tokens if kind == CONTROL else tokenizer.add_tokens)(added)
    return tokenizer


def tokenizer_json(source: Source, ids: Dict[str, int]) -> Dict[str, Any]:
    """The tokenizer's file, merges in the older "a b" form that every reader knows."""
    model, pre = (source.value(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        raise Unfaithful(
            f"tokenizer.ggml.model is {model!r} and tokenizer.ggml.pre {pre!r}; known "
            f"are 'gpt2' with {', '.join(PRE_TOKENIZERS)}"
        )
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise Unfaithful("the package tokenizers is missing: pip install 'liblisa[gguf]'") from None
    try:
        text = _byte_level_bpe(source, pre, ids.get("bos")).to_str()
    except Unfaithful:
        raise
    except Exception as error:  # the package's errors have no class of their own
        raise Unfaithful(" ".join(str(error).split())) from error
    document: Dict[str, Any] = json.loads(text)
    merges = document["model"]["merges"]
    document["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in merges
    ]
    return document


def tokenizer_config(source: Source, ids: Dict[str, int], n_positions: int) -> Dict[str, Any]:
    """tokenizer_config.json: the special tokens as texts, and the chat template."""
    config: Dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_positions,
    }
    tokens = source.value("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        config.update(
            {
                f"{name}_token": tokens[ids[name]]
                for name in SPECIAL
                if name in ids and ids[name] < len(tokens)
            }
        )
    template = source.value("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return config


def generation_config(ids: Dict[str, int]) -> Dict[str, Any]:
    """generation_config.json; an end of turn ends a generation too."""
    config: Dict[str, Any] = {
        f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad") if name in ids
    }
    if "eot" in ids and ids["eot"] != config.get("eos_token_id"):
        config["eos_token_id"] = [ids[name] for name in ("eos", "eot") if name in ids]
    return {"_from_model_config": True, **config}

"""Turns the GGUF file of a LLaMA-architecture chat model into a Hugging Face directory.

Usage: convert.py MODEL.gguf DIRECTORY

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
CONTROL_TOKEN = 3


class ConversionError(Exception):
    """The file is not a model that this script understands."""


def metadata_of(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def float32_value(value: float) -> float:
    """The shortest decimal of a number that was stored in 32 bits: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def config_of(meta: dict[str, Any], tied: bool) -> dict[str, Any]:
    if meta.get("general.architecture") != "llama":
        raise ConversionError(f"general.architecture: {meta.get('general.architecture')!r}, "
                              "expected 'llama'")
    hidden = meta["llama.embedding_length"]
    heads = meta["llama.attention.head_count"]
    head_dim = hidden // heads
    if meta["llama.rope.dimension_count"] != head_dim:
        raise ConversionError("llama.rope.dimension_count differs from the head dimension")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": float32_value(meta["llama.attention.layer_norm_rms_epsilon"]),
        "rope_scaling": None,
        "rope_theta": float32_value(meta["llama.rope.freq_base"]),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def hf_name(name: str) -> str:
    """Hugging Face name of a GGUF tensor, e.g. blk.3.attn_q.weight."""
    if name in TOP_TENSORS:
        return TOP_TENSORS[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in LAYER_TENSORS:
        raise ConversionError(f"tensor {name!r} has no place in a LLaMA model")
    return f"model.layers.{match[1]}.{LAYER_TENSORS[match[2]]}.weight"


def unpermute(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Undoes GGUF's row order of q and k, which interleaves the two halves of every head."""
    head_dim = rows.shape[0] // n_heads
    paired = rows.reshape(n_heads, head_dim // 2, 2, rows.shape[1])
    return paired.swapaxes(1, 2).reshape(rows.shape)


def convert_tensor(tensor: gguf.ReaderTensor, config: dict[str, Any]) -> np.ndarray:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name:
        values = unpermute(values, config["num_attention_heads"])
    elif ".attn_k." in tensor.name:
        values = unpermute(values, config["num_key_value_heads"])
    return np.ascontiguousarray(values, dtype=np.float32).astype(ml_dtypes.bfloat16)


def write_weights(reader: gguf.GGUFReader, config: dict[str, Any], path: Path) -> None:
    tensors = {hf_name(t.name): convert_tensor(t, config) for t in reader.tensors}
    save_file(tensors, str(path), {"format": "pt"})


def build_tokenizer(meta: dict[str, Any]) -> Tokenizer:
    """SmolLM's byte-level BPE: every digit is a token of its own."""
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ConversionError("the tokenizer is not SmolLM's byte-level BPE")
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    types = meta["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False)
         for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN])
    return tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer's file, merges in the older "a b" form that every reader knows."""
    document = json.loads(tokenizer.to_str())
    model = document["model"]
    model["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return document


def tokenizer_config_of(meta: dict[str, Any]) -> dict[str, Any]:
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    types = meta["tokenizer.ggml.token_type"]
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
               "special": True}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": token, **special}
            for index, (token, kind) in enumerate(zip(tokens, types)) if kind == CONTROL_TOKEN},
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "model_max_length": meta["llama.context_length"],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "vocab_size": len(tokens),
    }


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(source: Path, directory: Path) -> None:
    """Writes DIRECTORY whole or not at all."""
    reader = gguf.GGUFReader(str(source))
    meta = metadata_of(reader)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = config_of(meta, tied)
    partial = directory.with_name(directory.name + ".part")
    partial.mkdir(parents=True, exist_ok=True)
    write_weights(reader, config, partial / "model.safetensors")
    write_json(partial / "config.json", config)
    write_json(partial / "tokenizer.json", tokenizer_json(build_tokenizer(meta)))
    write_json(partial / "tokenizer_config.json", tokenizer_config_of(meta))
    write_json(partial / "generation_config.json", {
        "_from_model_config": True,
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
    })
    os.rename(partial, directory)


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print(f"usage: {arguments[0]} MODEL.gguf DIRECTORY", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[1]), Path(arguments[2]))
    except (ConversionError, KeyError, OSError) as error:
        print(f"{arguments[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""What an architecture's GGUF file is called and how it lies in a Hugging Face directory.

A family is a table. Shapes are written with letters: d hidden, f feed forward, n vocabulary,
p positions, h head; q, k and v the rows of those projections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, NamedTuple, Tuple

from ._rope import rope_scaling
from ._source import ConversionError, Source


class Place(NamedTuple):
    """Where a GGUF tensor goes; several names share its rows, in order."""

    names: str
    rows: str
    columns: str = ""  # none: a vector
    transposed: bool = False  # Conv1D has [in, out]


Table = Dict[str, Place]


@dataclass(frozen=True)
class Sizes:
    """A model's widths, from the metadata."""

    layers: int
    heads: int
    kv_heads: int
    letters: Dict[str, int]


class Choice(NamedTuple):
    """Tables of which a file follows one, and what that says in config.json."""

    table: Table
    config: Dict[str, Any] = {}


@dataclass(frozen=True)
class Family:
    config: Callable[[Source, Sizes], Dict[str, Any]]
    top: Tuple[Choice, ...]
    layer: Tuple[Choice, ...]
    prefix: str  # of a layer's tensors
    interleaved: bool = False  # GGUF has the halves of q's and k's heads row by row
    ignored: FrozenSet[str] = frozenset()
    repeats_head: bool = False  # writers may repeat the embedding as the head tied to it


def _linear(gguf_name: str, name: str, rows: str, columns: str) -> Table:
    return {f"{gguf_name}.weight": Place(f"{name}.weight", rows, columns)}


def _bias(gguf_name: str, name: str, rows: str) -> Table:
    return {f"{gguf_name}.bias": Place(f"{name}.bias", rows)}


def _biased(gguf_name: str, name: str, rows: str, columns: str) -> Table:
    return {**_linear(gguf_name, name, rows, columns), **_bias(gguf_name, name, rows)}


def _conv1d(gguf_name: str, name: str, rows: str, columns: str) -> Table:
    return {
        f"{gguf_name}.weight": Place(f"{name}.weight", rows, columns, transposed=True),
        **_bias(gguf_name, name, rows),
    }


def _norm(gguf_name: str, name: str, letter: str = "d") -> Table:
    return {f"{gguf_name}.weight": Place(f"{name}.weight", letter)}


def _layer_norm(gguf_name: str, name: str) -> Table:
    return {**_norm(gguf_name, name), **_bias(gguf_name, name, "d")}


LLAMA_TOP: Table = {
    **_linear("token_embd", "model.embed_tokens", "n", "d"),
    **_norm("output_norm", "model.norm"),
}
HEAD = _linear("output", "lm_head", "n", "d")
TIED_OR_NOT = (
    Choice(LLAMA_TOP, {"tie_word_embeddings": True}),
    Choice({**LLAMA_TOP, **HEAD}, {"tie_word_embeddings": False}),
)
LLAMA_LAYER: Table = {
    **_norm("attn_norm", "input_layernorm"),
    **_linear("attn_q", "self_attn.q_proj", "q", "d"),
    **_linear("attn_k", "self_attn.k_proj", "k", "d"),
    **_linear("attn_v", "self_attn.v_proj", "v", "d"),
    **_linear("attn_output", "self_attn.o_proj", "d", "q"),
    **_norm("ffn_norm", "post_attention_layernorm"),
    **_linear("ffn_gate", "mlp.gate_proj", "f", "d"),
    **_linear("ffn_up", "mlp.up_proj", "f", "d"),
    **_linear("ffn_down", "mlp.down_proj", "d", "f"),
}
QKV_BIAS: Table = {
    **_bias("attn_q", "self_attn.q_proj", "q"),
    **_bias("attn_k", "self_attn.k_proj", "k"),
    **_bias("attn_v", "self_attn.v_proj", "v"),
}
ATTENTION_BIAS: Table = {**QKV_BIAS, **_bias("attn_output", "self_attn.o_proj", "d")}
MLP_BIAS: Table = {
    **_bias("ffn_gate", "mlp.gate_proj", "f"),
    **_bias("ffn_up", "mlp.up_proj", "f"),
    **_bias("ffn_down", "mlp.down_proj", "d"),
}
QK_NORM: Table = {
    **_norm("attn_q_norm", "self_attn.q_norm", "h"),
    **_norm("attn_k_norm", "self_attn.k_norm", "h"),
}
PHI_LAYER: Table = {
    **_layer_norm("attn_norm", "input_layernorm"),
    **_biased("attn_output", "self_attn.dense", "d", "q"),
    **_biased("ffn_up", "mlp.fc1", "f", "d"),
    **_biased("ffn_down", "mlp.fc2", "d", "f"),
}
PHI_QKV: Table = {
    **_biased("attn_q", "self_attn.q_proj", "q", "d"),
    **_biased("attn_k", "self_attn.k_proj", "k", "d"),
    **_biased("attn_v", "self_attn.v_proj", "v", "d"),
}
PHI_FUSED: Table = {
    f"attn_qkv.{kind}": Place(
        " ".join(f"self_attn.{part}_proj.{kind}" for part in "qkv"), "q k v", columns
    )
    for kind, columns in (("weight", "d"), ("bias", ""))
}

GPT2_TOP: Table = {
    **_linear("token_embd", "transformer.wte", "n", "d"),
    **_linear("position_embd", "transformer.wpe", "p", "d"),
    **_layer_norm("output_norm", "transformer.ln_f"),
}


def _common(source: Source, sizes: Sizes) -> Dict[str, Any]:
    """Keys that all but GPT-2 share."""
    letters = sizes.letters
    if letters["h"] % 2:
        raise ConversionError(f"heads have width {letters['h']}, expected an even one")
    return {
        "hidden_size": letters["d"],
        "intermediate_size": letters["f"],
        "max_position_embeddings": letters["p"],
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "attention_dropout": 0.0,
        "rope_theta": source.number("rope.freq_base", 10000.0),
        "rope_scaling": rope_scaling(source, letters["h"]),
    }


def _swiglu(source: Source, sizes: Sizes) -> Dict[str, Any]:
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if source.size(key, sizes.letters["h"]) != sizes.letters["h"]:
            raise ConversionError(f"{source.architecture}.{key} is not the width of a head")
    return {
        **_common(source, sizes),
        "hidden_act": "silu",
        "rms_norm_eps": source.number("attention.layer_norm_rms_epsilon"),
    }


def _llama(source: Source, sizes: Sizes) -> Dict[str, Any]:
    for key in ("expert_count", "expert_used_count"):
        if source.value(key, 0) != 0:
            raise ConversionError("llama.expert_count is not 0: a mixture of experts")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **_swiglu(source, sizes),
        "head_dim": sizes.letters["h"],
        "pretraining_tp": 1,
    }


def _qwen2(source: Source, sizes: Sizes) -> Dict[str, Any]:
    if sizes.letters["h"] * sizes.heads != sizes.letters["d"]:
        raise ConversionError("qwen2.attention.key_length is not embedding_length / head_count")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_swiglu(source, sizes),
        "use_sliding_window": False,
    }


def _qwen3(source: Source, sizes: Sizes) -> Dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **_swiglu(source, sizes),
        "head_dim": sizes.letters["h"],
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _phi2(source: Source, sizes: Sizes) -> Dict[str, Any]:
    rotated = source.size("rope.dimension_count", sizes.letters["h"])
    factor = rotated / sizes.letters["h"]
    if int(factor * sizes.letters["h"]) != rotated or factor > 1 or rotated % 2:
        raise ConversionError("phi2.rope.dimension_count is not a part of a head")
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        **_common(source, sizes),
        "hidden_act": "gelu_new",
        "layer_norm_eps": source.number("attention.layer_norm_epsilon"),
        "partial_rotary_factor": factor,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "qk_layernorm": False,
    }


def _gpt2(source: Source, sizes: Sizes) -> Dict[str, Any]:
    letters = sizes.letters
    if sizes.kv_heads != sizes.heads or letters["q"] != letters["d"]:
        raise ConversionError("gpt2: heads of one kind and the model's width are expected")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "layer_norm_epsilon": source.number("attention.layer_norm_epsilon"),
        "n_ctx": letters["p"],
        "n_positions": letters["p"],
        "n_embd": letters["d"],
        "n_head": sizes.heads,
        "n_layer": sizes.layers,
        "n_inner": letters["f"],
    }


FAMILIES = {
    "llama": Family(
        _llama,
        TIED_OR_NOT,
        (
            Choice(LLAMA_LAYER, {"attention_bias": False, "mlp_bias": False}),
            Choice({**LLAMA_LAYER, **ATTENTION_BIAS}, {"attention_bias": True, "mlp_bias": False}),
            Choice({**LLAMA_LAYER, **MLP_BIAS}, {"attention_bias": False, "mlp_bias": True}),
            Choice(
                {**LLAMA_LAYER, **ATTENTION_BIAS, **MLP_BIAS},
                {"attention_bias": True, "mlp_bias": True},
            ),
        ),
        "model.layers.",
        interleaved=True,
        ignored=frozenset({"rope_freqs.weight"}),
    ),
    "qwen2": Family(_qwen2, TIED_OR_NOT, (Choice({**LLAMA_LAYER, **QKV_BIAS}),), "model.layers."),
    "qwen3": Family(_qwen3, TIED_OR_NOT, (Choice({**LLAMA_LAYER, **QK_NORM}),), "model.layers."),
    "phi2": Family(
        _phi2,
        (
            Choice(
                {
                    **_linear("token_embd", "model.embed_tokens", "n", "d"),
                    **_layer_norm("output_norm", "model.final_layernorm"),
                    **_biased("output", "lm_head", "n", "d"),
                },
                {"tie_word_embeddings": False},
            ),
        ),
        (Choice({**PHI_LAYER, **PHI_QKV}), Choice({**PHI_LAYER, **PHI_FUSED})),
        "model.layers.",
    ),
    "gpt2": Family(
        _gpt2,
        (
            Choice(GPT2_TOP, {"tie_word_embeddings": True}),
            Choice({**GPT2_TOP, **HEAD}, {"tie_word_embeddings": False}),
        ),
        (
            Choice(
                {
                    **_layer_norm("attn_norm", "ln_1"),
                    **_conv1d("attn_qkv", "attn.c_attn", "q k v", "d"),
                    **_conv1d("attn_output", "attn.c_proj", "d", "q"),
                    **_layer_norm("ffn_norm", "ln_2"),
                    **_conv1d("ffn_up", "mlp.c_fc", "f", "d"),
                    **_conv1d("ffn_down", "mlp.c_proj", "d", "f"),
                }
            ),
        ),
        "transformer.h.",
        repeats_head=True,
    ),
}

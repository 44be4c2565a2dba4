"""Writes GGUF files as llama.cpp's converters lay them out: what the importer has to undo.

Written from the format's description, and not from the importer's tables.
"""

import gguf
import numpy as np

TYPES = gguf.GGMLQuantizationType

LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
GPT2_LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2",
                 "phi": "phi2"}


def interleave(values, n_heads):
    """The rows of q or k as GGUF has them: the two halves of a head alternate."""
    return (values.reshape(n_heads, 2, -1, *values.shape[1:]).swapaxes(1, 2)
            .reshape(values.shape))


def exported(name, values, config):
    """A tensor's GGUF name and values."""
    stem, kind = name.rsplit(".", 1)
    for prefix, table in (("model.layers.", LLAMA_LAYER), ("transformer.h.", GPT2_LAYER)):
        if stem.startswith(prefix):
            layer, stem = stem[len(prefix):].split(".", 1)
            if table is GPT2_LAYER and values.ndim == 2:
                values = values.T
            if config.family == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = config.n_heads if stem.endswith("q_proj") else config.n_kv_heads
                values = interleave(values, heads)
            return f"blk.{layer}.{table[stem]}.{kind}", np.ascontiguousarray(values)
    return f"{TOP[stem]}.{kind}", values


def exported_tensors(model):
    """Every tensor of a liblisa model by its GGUF name, as float32."""
    config = model.config
    return dict(exported(info.name, np.asarray(model.tensor_read(info.name)), config)
                for info in model.tensors())


def fuse(tensors):
    """phi2 as its older files have it: q, k and v in one."""
    fused = {}
    for name, values in tensors.items():
        stem, kind = name.rsplit(".", 1)
        if stem.endswith("attn_q"):
            parts = [tensors[f"{stem[:-1]}{part}.{kind}"] for part in "qkv"]
            fused[f"{stem[:-1]}qkv.{kind}"] = np.concatenate(parts)
        elif not stem.endswith(("attn_k", "attn_v")):
            fused[name] = values
    return fused


def rope_table(config):
    """Llama 3.1's scaling as the factors by which frequencies are divided."""
    wavelengths = 2 * np.pi * config.rope_theta ** (
        np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    low = config.rope_original_positions / config.rope_low_freq_factor
    high = config.rope_original_positions / config.rope_high_freq_factor
    factors = []
    for wavelength in wavelengths:
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(config.rope_factor)
        else:
            smooth = (config.rope_original_positions / wavelength - config.rope_low_freq_factor) / (
                config.rope_high_freq_factor - config.rope_low_freq_factor)
            factors.append(1.0 / ((1.0 - smooth) / config.rope_factor + smooth))
    return np.array(factors, dtype=np.float32)


def metadata(config):
    """An architecture's keys, as a model's description says them."""
    keys = {
        "context_length": config.max_positions,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_heads,
    }
    if config.family == "gpt2":
        return {**keys, "attention.layer_norm_epsilon": config.norm_eps}
    keys["attention.head_count_kv"] = config.n_kv_heads
    if config.family == "phi":
        return {**keys, "attention.layer_norm_epsilon": config.norm_eps,
                "rope.dimension_count": config.rotary_dim}
    keys["attention.layer_norm_rms_epsilon"] = config.norm_eps
    keys["rope.freq_base"] = config.rope_theta
    if config.family == "llama":
        keys.update({"vocab_size": config.vocab_size, "rope.dimension_count": config.head_dim})
    if config.head_dim * config.n_heads != config.d_model:
        keys.update({"attention.key_length": config.head_dim,
                     "attention.value_length": config.head_dim})
    if int(config.rope) == 2:
        keys.update({"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor})
    return keys


def add_key(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write(path, architecture, keys, tensors):
    """A file. A tensor is an array of floats, or (bytes of its rows, their type)."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in keys.items():
        known = key.split(".")[0] in ("general", "tokenizer", "split")
        add_key(writer, key if known else f"{architecture}.{key}", value)
    for name, tensor in tensors.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(model, path, keys=None, change=None):
    """A liblisa model as a GGUF file; change(tensors) may replace tensors before."""
    config = model.config
    tensors = exported_tensors(model)
    if int(config.rope) == 3:
        tensors["rope_freqs.weight"] = rope_table(config)
    if change is not None:
        tensors = change(tensors)
    write(path, ARCHITECTURES[config.family], {**metadata(config), **(keys or {})}, tensors)


# The block formats, each as its description in ggml has it, in double precision.


def _f16(raw):
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float64)


def _q8_0(blocks):
    return _f16(blocks[:, :2]) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def _q4_0(blocks):
    packed = blocks[:, 2:].astype(np.int64)
    return _f16(blocks[:, :2]) * (np.concatenate([packed & 15, packed >> 4], axis=1) - 8)


def _q4_1(blocks):
    packed = blocks[:, 4:].astype(np.int64)
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1)
    return _f16(blocks[:, :2]) * nibbles + _f16(blocks[:, 2:4])


def _q6_k(blocks):
    low, high = blocks[:, :128].astype(np.int64), blocks[:, 128:192].astype(np.int64)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    scale = _f16(blocks[:, 208:210])[:, 0]
    values = np.empty((len(blocks), 256))
    for half in range(2):
        for place in range(32):
            bits = high[:, 32 * half + place]
            for quarter in range(4):
                packed = low[:, 64 * half + 32 * (quarter % 2) + place]
                nibble = packed & 15 if quarter < 2 else packed >> 4
                number = (nibble | (bits >> 2 * quarter & 3) << 4) - 32
                sub = scales[:, 8 * half + 2 * quarter + place // 16]
                values[:, 128 * half + 32 * quarter + place] = scale * sub * number
    return values


BLOCKS = {TYPES.Q8_0: (_q8_0, 34), TYPES.Q4_0: (_q4_0, 18), TYPES.Q4_1: (_q4_1, 20),
          TYPES.Q6_K: (_q6_k, 210)}


def meaning(rows, kind):
    """The float32 values of stored rows."""
    if kind == TYPES.F16:
        return rows.astype(np.float32)
    if kind == TYPES.BF16:
        wide = np.ascontiguousarray(rows).view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32)
    decode, size = BLOCKS[kind]
    return decode(rows.reshape(-1, size)).astype(np.float32).reshape(len(rows), -1)


def random_q6_k(shape, draw):
    """Rows of Q6_K whose every bit is drawn, of moderate values."""
    blocks = draw.integers(0, 256, (shape[0] * shape[1] // 256, 210), dtype=np.uint8)
    scales = draw.uniform(1e-5, 1e-4, len(blocks)).astype(np.float16)
    blocks[:, 208:] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1)

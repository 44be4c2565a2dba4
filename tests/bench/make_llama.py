#!/usr/bin/env python3
"""Makes a LLaMA-shaped model directory of random bf16 weights, sharded as Hugging Face shards.

The shape is LLaMA-2-7B's unless options say otherwise. Standard library only; a few MiB of memory,
whatever the size. The same seed and shape give the same bytes.
"""
import argparse
import json
import os
import random
import shutil
import struct
import sys

POOL = 1 << 20  # values that the weights are pieces of
PIECE = 1 << 16
ONE = struct.pack("<H", 0x3F80)  # bf16 1.0
STD = 0.02


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=0, help="as many as heads where 0")
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.kv_heads = options.kv_heads or options.heads
    return options


def config(o):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": o.hidden,
        "intermediate_size": o.ffn,
        "num_hidden_layers": o.layers,
        "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads,
        "max_position_embeddings": o.context,
        "vocab_size": o.vocab,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def tensors(o):
    """(name, shape) in the order of the files."""
    kv = o.hidden // o.heads * o.kv_heads
    yield "model.embed_tokens.weight", (o.vocab, o.hidden)
    for layer in range(o.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "self_attn.q_proj.weight", (o.hidden, o.hidden)
        yield prefix + "self_attn.k_proj.weight", (kv, o.hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, o.hidden)
        yield prefix + "self_attn.o_proj.weight", (o.hidden, o.hidden)
        yield prefix + "mlp.gate_proj.weight", (o.ffn, o.hidden)
        yield prefix + "mlp.up_proj.weight", (o.ffn, o.hidden)
        yield prefix + "mlp.down_proj.weight", (o.hidden, o.ffn)
        yield prefix + "input_layernorm.weight", (o.hidden,)
        yield prefix + "post_attention_layernorm.weight", (o.hidden,)
    yield "model.norm.weight", (o.hidden,)
    yield "lm_head.weight", (o.vocab, o.hidden)


def elements(shape):
    n = 1
    for extent in shape:
        n *= extent
    return n


def shards(o):
    """The tensors in files of at most shard_bytes, a tensor being in one file."""
    out, size = [[]], 0
    for name, shape in tensors(o):
        add = 2 * elements(shape)
        if out[-1] and size + add > o.shard_bytes:
            out.append([])
            size = 0
        out[-1].append((name, shape))
        size += add
    return out


def trained_bytes(o):
    """What training writes beside the weights: each layer's private copy, f32 in all."""
    return sum(4 * elements(s) for n, s in tensors(o) if n.startswith("model.layers."))


def normal_pool(source):
    values = [source.gauss(0.0, STD) for _ in range(POOL)]
    wide = struct.pack(f"<{POOL}f", *values)
    narrow = bytearray(2 * POOL)
    narrow[0::2] = wide[2::4]
    narrow[1::2] = wide[3::4]
    return memoryview(bytes(narrow))


def write_values(out, shape, pool, source):
    left = elements(shape)
    if len(shape) == 1:
        out.write(ONE * left)
        return
    while left > 0:
        n = min(left, PIECE)
        start = source.randrange(POOL - PIECE)
        out.write(pool[2 * start : 2 * (start + n)])
        left -= n


def write_shard(path, listed, pool, source):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in listed:
        end = offset + 2 * elements(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape in listed:
            write_values(out, shape, pool, source)
    return offset


def check_room(o):
    wanted = sum(2 * elements(s) for _, s in tensors(o)) + trained_bytes(o)
    free = shutil.disk_usage(o.directory).free
    if free < wanted:
        sys.exit(
            f"{o.directory}: {free / 1e9:.1f} GB free, expected {wanted / 1e9:.1f}"
            " (the weights and the layers that training writes)"
        )


def main():
    o = arguments()
    os.makedirs(o.directory, exist_ok=True)
    check_room(o)
    source = random.Random(o.seed)
    pool = normal_pool(source)
    files, total, where = shards(o), 0, {}
    for i, listed in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        total += write_shard(os.path.join(o.directory, name), listed, pool, source)
        where.update({tensor: name for tensor, _ in listed})
    index = {"metadata": {"total_size": total}, "weight_map": where}
    with open(os.path.join(o.directory, "model.safetensors.index.json"), "w") as out:
        json.dump(index, out, indent=1)
    with open(os.path.join(o.directory, "config.json"), "w") as out:
        json.dump(config(o), out, indent=1)


if __name__ == "__main__":
    main()

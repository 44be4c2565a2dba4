"""Makes the model families' fixtures under tests/data with PyTorch and transformers in float64.

    python tests/tools/make_family_fixtures.py [--data tests/data] [NAME...]

Made with torch 2.15.0, transformers 5.23.0 and safetensors 0.8.0; needs a transformers that knows
Qwen3 and LLaMA 3's RoPE scaling. Each model of MODELS is tiny and of odd sizes, all its weights are
random, and its config.json looks as the family's do on the hub. For each NAME of MODELS:

  NAME                       the directory, in float32; llama-untied with small files beside it
  NAME-bf16                  the same weights rounded to bfloat16; gpt2-f16: to float16
  gpt2-plain                 gpt2 as on the hub: names without "transformer.", with mask buffers
  llama-tied-sharded         llama-tied in shards, config.json with the keys of transformers 5
  NAME.expected.safetensors  what float64 makes of them; tensors have transformers' names:
      tokens, labels [S,B,T]  one batch per step; labels as in Hugging Face (-100 is not scored)
      lr [S], adam [5]        learning rates; beta1, beta2, eps, and weight_decay and
                              max_grad_norm of the third run
      masks [S,L+2]           groups that train: embedding, layers, final norm and head
      logits, loss, grad.*    of batch 0 and the initial weights; the loss is a sum over shifted
                              targets divided by their number
      full.*                  S steps of AdamW on everything: losses [S], norms [S], final weights
      lisa.*                  S steps under the masks; a layer's state is deleted when it leaves
      clip.*                  the same with weight decay on the blocks' matrices and the untied
                              head, and torch's clip_grad_norm_ over the active groups
      greedy.prompt, .tokens  a prompt and its greedy continuation, of float32's certainty
      bf16.*, f16.*           logits, loss, grad.* of the rounded weights, in float64 too
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from float64 import Float64, NoFloat32
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()

STEPS = 10
BATCH, TOKENS = 2, 11
BETAS, EPS = (0.9, 0.999), 1e-8
WEIGHT_DECAY = 0.1
IGNORE = -100
PROMPT, CONTINUATION = 7, 12
EOS = 2
SHARD_BYTES = 16000

COMMON = dict(bos_token_id=1, eos_token_id=EOS, initializer_range=0.02, torch_dtype="float32",
              transformers_version="4.40.2", use_cache=True)
LLAMA = dict(COMMON, architectures=["LlamaForCausalLM"], model_type="llama", attention_bias=False,
             attention_dropout=0.0, hidden_act="silu", num_hidden_layers=3, pretraining_tp=1,
             rms_norm_eps=1e-5, rope_scaling=None)
MISTRAL = dict(COMMON, architectures=["MistralForCausalLM"], model_type="mistral",
               attention_dropout=0.0, hidden_act="silu", num_hidden_layers=3, rms_norm_eps=1e-5,
               tie_word_embeddings=False)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# config.json of each model.
MODELS = {
    "gpt2": dict(
        COMMON, architectures=["GPT2LMHeadModel"], model_type="gpt2",
        activation_function="gelu_new", attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1,
        layer_norm_epsilon=1e-5, n_embd=15, n_head=3, n_inner=None, n_layer=3, n_positions=29,
        reorder_and_upcast_attn=False, scale_attn_by_inverse_layer_idx=False,
        scale_attn_weights=True, summary_activation=None, summary_first_dropout=0.1,
        summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
        vocab_size=47),
    "llama-untied": dict(
        LLAMA, vocab_size=61, hidden_size=20, intermediate_size=27, num_attention_heads=5,
        num_key_value_heads=1, max_position_embeddings=37, rope_theta=10000.0,
        tie_word_embeddings=False),
    "llama-tied": dict(
        LLAMA, vocab_size=53, hidden_size=24, intermediate_size=21, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rope_theta=500.0,
        tie_word_embeddings=True, rope_scaling=LLAMA3),
    "mistral": dict(
        MISTRAL, vocab_size=55, hidden_size=24, intermediate_size=29, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, rope_theta=10000.0, sliding_window=5),
    "mistral-null": dict(
        MISTRAL, vocab_size=43, hidden_size=18, intermediate_size=23, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=64, rope_theta=1000000.0,
        sliding_window=None),
    "phi": dict(
        COMMON, architectures=["PhiForCausalLM"], model_type="phi", attention_dropout=0.0,
        embd_pdrop=0.0, resid_pdrop=0.1, hidden_act="gelu_new", hidden_size=30,
        intermediate_size=25, layer_norm_eps=1e-5, max_position_embeddings=41,
        num_attention_heads=3, num_hidden_layers=3, num_key_value_heads=None,
        partial_rotary_factor=0.4, qk_layernorm=False, rope_scaling=None, rope_theta=10000.0,
        tie_word_embeddings=False, vocab_size=57),
    "qwen2": dict(
        COMMON, architectures=["Qwen2ForCausalLM"], model_type="qwen2", attention_dropout=0.0,
        hidden_act="silu", hidden_size=24, intermediate_size=19, max_position_embeddings=64,
        max_window_layers=3, num_attention_heads=6, num_hidden_layers=3, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=32, tie_word_embeddings=True,
        use_sliding_window=False, vocab_size=59),
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False,
        attention_dropout=0.0, bos_token_id=1, dtype="float32", eos_token_id=EOS, head_dim=6,
        hidden_act="silu", hidden_size=20, initializer_range=0.02, intermediate_size=23,
        layer_types=["full_attention"] * 3, max_position_embeddings=64, max_window_layers=3,
        num_attention_heads=6, num_hidden_layers=3, num_key_value_heads=3, pad_token_id=None,
        rms_norm_eps=1e-6, rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
        sliding_window=None, tie_word_embeddings=False, transformers_version="5.23.0",
        use_cache=True, use_sliding_window=False, vocab_size=51),
}
ROUNDED = {name: ["bf16"] for name in MODELS}
ROUNDED["gpt2"] = ["bf16", "f16"]
# Files that a directory has beside its weights, and that go where the model goes.
BESIDE = {
    "chat_template.jinja": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "generation_config.json": json.dumps({"bos_token_id": 1, "eos_token_id": EOS}, indent=2) + "\n",
    "tokenizer.json": json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "<s>": 1, "</s>": 2}, "unk_token": "a"},
    }, indent=2) + "\n",
    "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}, indent=2) + "\n",
}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}

# Layers stay over a swap, leave, and come back; one step trains no layer at all.
ACTIVE_LAYERS = [{0}, {0}, {0, 2}, {0, 2}, {1, 2}, {1}, {0, 1}, {0, 1}, set(), {2, 0}]


def write_config(directory, config):
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "config.json").write_text(text)


def write_directory(directory, config, state):
    write_config(directory, config)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def write_shards(directory, config, state):
    """Shards of at most SHARD_BYTES, in the order of the names."""
    write_config(directory, config)
    shards, sizes = [], []
    for name in sorted(state):
        size = state[name].numel() * state[name].element_size()
        if not shards or sizes[-1] + size > SHARD_BYTES:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = state[name]
        sizes[-1] += size
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def with_keys_of_5(config):
    """A transformers 4 config.json in the spelling of 5."""
    config = dict(config)
    scaling = config.pop("rope_scaling") or {"rope_type": "default"}
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **scaling}
    config["dtype"] = config.pop("torch_dtype")
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return dict(config, transformers_version="5.23.0")


def as_on_the_hub(config, state):
    """GPT-2's first files: no prefix, and each layer's mask among the weights."""
    left_out = ("n_inner", "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx",
                "scale_attn_weights", "torch_dtype", "transformers_version", "use_cache")
    config = {key: value for key, value in config.items() if key not in left_out}
    config["n_ctx"] = size = config["n_positions"]
    state = {name.removeprefix("transformer."): value for name, value in state.items()}
    for layer in range(config["n_layer"]):
        state[f"h.{layer}.attn.bias"] = torch.ones(size, size).tril().reshape(1, 1, size, size)
    return config, state


def write_directories(data, name, config, state):
    write_directory(data / name, config, state)
    for short in ROUNDED[name]:
        key = "dtype" if "dtype" in config else "torch_dtype"
        dtype = DTYPES[short]
        rounded = {name: value.to(dtype) for name, value in state.items()}
        said = {**config, key: str(dtype).removeprefix("torch.")}
        write_directory(data / f"{name}-{short}", said, rounded)
    if name == "gpt2":
        write_directory(data / "gpt2-plain", *as_on_the_hub(config, state))
    if name == "llama-untied":
        for file, text in BESIDE.items():
            (data / name / file).write_text(text)
    if name == "llama-tied":
        write_shards(data / "llama-tied-sharded", with_keys_of_5(config), state)


def model_of(directory):
    """The directory's model without its weights, every buffer made in float64."""
    config = AutoConfig.from_pretrained(directory)
    config.dtype = torch.float64
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for name, buffer in model.named_buffers():
        assert buffer.dtype != torch.float32, f"{name} was made in float32"
    return model.double().eval()


def random_state(directory, seed):
    """float32 weights under the names and in the shapes of the directory's model."""
    random = np.random.default_rng(seed)
    state = {}
    for name, parameter in model_of(directory).named_parameters():
        values = 0.2 * random.standard_normal(tuple(parameter.shape))
        if parameter.dim() == 1 and name.endswith("weight"):
            values += 1.0
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def loaded(directory, state):
    model = model_of(directory)
    wide = {name: value.double() for name, value in state.items()}
    missing, unexpected = model.load_state_dict(wide, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def check_readable(directory):
    """transformers finds every weight it wants in the directory, and nothing else."""
    _, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{directory}: {kind} {info[kind]}"


def make_batches(random, vocab_size):
    tokens = torch.tensor(random.integers(0, vocab_size, (STEPS, BATCH, TOKENS)))
    labels = tokens.clone()
    labels[:, 0, :3] = IGNORE
    labels[:, 1, -2:] = IGNORE
    for step in range(STEPS):
        labels[step, 1, step % TOKENS] = IGNORE
    return tokens, labels


def logits_of(model, tokens):
    return model(tokens, use_cache=False).logits


def loss_of(logits, labels):
    shifted = labels[:, 1:].reshape(-1)
    total = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), shifted,
                                              ignore_index=IGNORE, reduction="sum")
    return total / (shifted != IGNORE).sum()


def is_embedding(name):
    return any(part in name for part in ("embed_tokens", ".wte.", ".wpe."))


def group_of(name, n_layers):
    if is_embedding(name):
        return 0
    parts = name.split(".")
    if parts[1] in ("layers", "h"):
        return 1 + int(parts[2])
    return n_layers + 1


def make_masks(n_layers):
    masks = torch.zeros(STEPS, n_layers + 2, dtype=torch.uint8)
    masks[:, 0] = masks[:, -1] = 1
    for step, layers in enumerate(ACTIVE_LAYERS):
        for layer in layers:
            masks[step, 1 + layer] = 1
    return masks


def train(model, data, masks, weight_decay=0.0, max_norm=math.inf):
    """STEPS of torch's AdamW; a parameter's state is deleted when the mask lets its group go."""
    n_layers = model.config.num_hidden_layers
    parameters = dict(model.named_parameters())

    def decays(name):
        return parameters[name].dim() == 2 and not is_embedding(name)

    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in parameters.items() if decays(n)], "weight_decay": weight_decay},
         {"params": [p for n, p in parameters.items() if not decays(n)], "weight_decay": 0.0}],
        betas=BETAS, eps=EPS)
    losses, norms = [], []
    for step in range(STEPS):
        for name, parameter in parameters.items():
            parameter.requires_grad_(bool(masks[step, group_of(name, n_layers)]))
            parameter.grad = None
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)
        for group in optimizer.param_groups:
            group["lr"] = float(data["lr"][step])
        with NoFloat32():
            loss = loss_of(logits_of(model, data["tokens"][step]), data["labels"][step])
            loss.backward()
        active = [p for p in parameters.values() if p.requires_grad]
        norms.append(float(torch.nn.utils.clip_grad_norm_(active, max_norm)))
        losses.append(float(loss.detach()))
        optimizer.step()
    result = {name: p.detach() for name, p in parameters.items()}
    result["losses"] = torch.tensor(losses)
    result["norms"] = torch.tensor(norms)
    return result


def first_pass(model, data):
    """Logits, loss and gradients of batch 0."""
    with NoFloat32():
        logits = logits_of(model, data["tokens"][0])
        loss = loss_of(logits, data["labels"][0])
        loss.backward()
    result = {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for name, parameter in model.named_parameters():
        result["grad." + name] = parameter.grad
        assert parameter.grad.abs().max() > 1e-6, f"{name} has no gradient"
    return result


@torch.no_grad()
def continuation(model, prompt):
    """The greedy tokens, and how far the second choice was behind at least."""
    tokens, margin = prompt, math.inf
    for _ in range(CONTINUATION):
        best = logits_of(model, tokens[None])[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        tokens = torch.cat((tokens, best.indices[:1]))
    return tokens[len(prompt):], margin


def greedy(model, random):
    """A prompt whose continuation varies, does not end, and is beyond float32's doubt."""
    while True:
        prompt = torch.tensor(random.integers(3, model.config.vocab_size, PROMPT))
        tokens, margin = continuation(model, prompt)
        if margin > 1e-2 and EOS not in tokens and len(set(tokens.tolist())) >= 4:
            break
    theirs = model.generate(prompt[None], do_sample=False, max_new_tokens=CONTINUATION,
                            attention_mask=torch.ones_like(prompt[None]), pad_token_id=0)
    assert theirs[0, PROMPT:].tolist() == tokens.tolist()
    print("greedy", prompt.tolist(), tokens.tolist(), f"margin {margin:.3f}")
    return {"greedy.prompt": prompt.int(), "greedy.tokens": tokens.int()}


def expect(data_directory, name, state, random):
    directory = data_directory / name
    model = loaded(directory, state)
    tokens, labels = make_batches(random, model.config.vocab_size)
    lr = 5e-3 * (1.0 - torch.arange(STEPS) / (2 * STEPS))
    data = {"tokens": tokens, "labels": labels, "lr": lr}
    masks = make_masks(model.config.num_hidden_layers)
    runs = {
        "full": train(loaded(directory, state), data, torch.ones_like(masks)),
        "lisa": train(loaded(directory, state), data, masks),
    }
    max_norm = round(float(runs["lisa"]["norms"].median()), 2)
    runs["clip"] = train(loaded(directory, state), data, masks, WEIGHT_DECAY, max_norm)
    clipped = runs["clip"]["norms"] > max_norm
    assert clipped.any() and not clipped.all(), "both sides of the clip are wanted"

    tensors = {
        "tokens": tokens.int(), "labels": labels.int(), "lr": lr, "masks": masks,
        "adam": torch.tensor([*BETAS, EPS, WEIGHT_DECAY, max_norm]),
        **first_pass(model, data), **greedy(model, random),
    }
    for run, values in runs.items():
        tensors.update({f"{run}.{key}": value for key, value in values.items()})
        print(run, "losses", [round(x, 4) for x in values["losses"].tolist()],
              "norms", [round(x, 2) for x in values["norms"].tolist()])
    for short in ROUNDED[name]:
        rounded = {key: value.to(DTYPES[short]) for key, value in state.items()}
        values = first_pass(loaded(directory, rounded), data)
        tensors.update({f"{short}.{key}": value for key, value in values.items()})
    return {key: value.contiguous() for key, value in tensors.items()}


def make(data, name):
    print(name)
    config = MODELS[name]
    seed = 1 + list(MODELS).index(name)
    write_config(data / name, config)
    with Float64():
        state = random_state(data / name, seed)
        expected = expect(data, name, state, np.random.default_rng([seed, 1]))
    write_directories(data, name, config, state)
    for directory in data.glob(f"{name}*/"):
        check_readable(directory)
    save_file(expected, data / f"{name}.expected.safetensors", metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="tests/data", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    options = parser.parse_args()
    for name in options.names or MODELS:
        make(options.data, name)


if __name__ == "__main__":
    main()

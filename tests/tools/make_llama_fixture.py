"""Makes the LLaMA fixtures under tests/data with PyTorch and transformers in float64.

    python tests/tools/make_llama_fixture.py [tests/data]

Made with torch 1.13.1, transformers 4.40.2 and safetensors. Two tiny models, written by transformers
itself in float32 (their weights are exactly representable there), and what float64 makes of them:

  llama-untied          5 heads on 1 KV head, config.json of transformers 4
  llama-tied            4 heads on 2 KV heads, tied head, Llama 3.1's RoPE scaling
  llama-tied-sharded    the same model in shards, config.json with the keys of transformers 5
  llama-*.expected.safetensors
      tokens, labels [S,B,T]  one batch per step; labels as in Hugging Face (-100 is not scored)
      lr [S], adam [5]        learning rates; beta1, beta2, eps, and weight_decay and max_grad_norm of
                              the third run
      masks [S,L+2]           groups that train: embedding, layers, final norm and head
      logits, loss, grad.*    of batch 0 and the initial weights; the loss is a sum over shifted
                              targets divided by their number
      full.*                  S steps of AdamW on everything: losses [S], norms [S], final weights
      lisa.*                  S steps under the masks; a layer's state is deleted when it leaves
      clip.*                  the same with weight decay on the blocks' matrices and the untied head,
                              and torch's clip_grad_norm_ over the active groups

transformers computes RMSNorm, the rotary tables, softmax and the logits of LLaMA in float32 whatever
the model's dtype. float64_llama() replaces those four spots by the same formulas in float64, without
which nothing could agree to 1e-9. Release 4.40 also lacks the "llama3" scaling, which is therefore
written out here.
"""

import contextlib
import json
import math
import pathlib
import sys

import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

STEPS = 10
BATCH, TOKENS = 2, 11
BETAS, EPS = (0.9, 0.999), 1e-8
WEIGHT_DECAY, MAX_GRAD_NORM = 0.1, 3.0
IGNORE = -100

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

MODELS = {
    "llama-untied": dict(
        seed=1,
        vocab_size=61,
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=32,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    ),
    "llama-tied": dict(
        seed=2,
        vocab_size=53,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_theta=500.0,
        tie_word_embeddings=True,
        rope_scaling=LLAMA3,
    ),
}

# Layers stay over a swap, leave, and come back; one step trains no layer at all.
ACTIVE_LAYERS = [{0}, {0}, {0, 2}, {0, 2}, {1, 2}, {1}, {0, 1}, {0, 1}, set(), {2, 0}]


def inverse_frequencies(head_dim, theta, scaling):
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    plain = 1.0 / torch.tensor(theta, dtype=torch.float64) ** exponents
    if scaling is None:
        return plain
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    scaled = []
    for frequency in plain.tolist():
        wavelength = 2.0 * math.pi / frequency
        if wavelength > original / low:
            scaled.append(frequency / factor)
        elif wavelength < original / high:
            scaled.append(frequency)
        else:
            smooth = (original / wavelength - low) / (high - low)
            scaled.append((1.0 - smooth) * frequency / factor + smooth * frequency)
    return torch.tensor(scaled, dtype=torch.float64)


@contextlib.contextmanager
def float64_llama(head_dim, theta, scaling):
    """Keeps transformers' LLaMA in float64 where it would compute in float32."""
    frequencies = inverse_frequencies(head_dim, theta, scaling)

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotary(self, x, position_ids):
        angles = position_ids[:, :, None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def softmax(x, dim, dtype=None):
        return torch.softmax(x, dim)

    functional = modeling_llama.nn.functional
    saved = (modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward,
             functional.softmax)
    modeling_llama.LlamaRMSNorm.forward = norm
    modeling_llama.LlamaRotaryEmbedding.forward = rotary
    functional.softmax = softmax
    try:
        yield
    finally:
        (modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward,
         functional.softmax) = saved


def make_model(options):
    options = dict(options)
    torch.manual_seed(options.pop("seed"))
    options.pop("rope_scaling", None)
    config = LlamaConfig(**options, bos_token_id=1, eos_token_id=2, hidden_act="silu",
                         attn_implementation="eager", torch_dtype="float32")
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.2 * torch.randn(parameter.shape))
            else:
                parameter.copy_(0.15 * torch.randn(parameter.shape))
    return model.eval()


def make_batches(vocab_size):
    tokens = torch.randint(0, vocab_size, (STEPS, BATCH, TOKENS))
    labels = tokens.clone()
    labels[:, 0, :3] = IGNORE
    labels[:, 1, -2:] = IGNORE
    for step in range(STEPS):
        labels[step, 1, step % TOKENS] = IGNORE
    return tokens, labels


def logits_of(model, tokens):
    return model.lm_head(model.model(tokens, use_cache=False)[0])


def loss_of(logits, labels):
    shifted = labels[:, 1:].reshape(-1)
    total = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), shifted,
                                              ignore_index=IGNORE, reduction="sum")
    return total / (shifted != IGNORE).sum()


def group_of(name, n_layers):
    if name.startswith("model.embed_tokens"):
        return 0
    if name.startswith("model.layers."):
        return 1 + int(name.split(".")[2])
    return n_layers + 1


def make_masks(n_layers):
    masks = torch.zeros(STEPS, n_layers + 2, dtype=torch.uint8)
    masks[:, 0] = masks[:, -1] = 1
    for step, layers in enumerate(ACTIVE_LAYERS):
        for layer in layers:
            masks[step, 1 + layer] = 1
    return masks


def train(options, state, data, masks, weight_decay=0.0, max_norm=math.inf):
    """STEPS of torch's AdamW; a parameter's state is deleted when the mask lets its group go."""
    model = make_model(options).double()
    model.load_state_dict(state)
    n_layers = model.config.num_hidden_layers
    parameters = dict(model.named_parameters())

    def decays(name):
        return parameters[name].dim() == 2 and not name.startswith("model.embed_tokens")

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
        loss = loss_of(logits_of(model, data["tokens"][step]), data["labels"][step])
        loss.backward()
        active = [p for p in parameters.values() if p.requires_grad]
        norms.append(float(torch.nn.utils.clip_grad_norm_(active, max_norm)))
        losses.append(float(loss.detach()))
        optimizer.step()
    result = {name: p.detach() for name, p in parameters.items()}
    result["losses"] = torch.tensor(losses, dtype=torch.float64)
    result["norms"] = torch.tensor(norms, dtype=torch.float64)
    return result


def expect(options, state):
    model = make_model(options).double()
    model.load_state_dict(state)
    n_layers = model.config.num_hidden_layers
    tokens, labels = make_batches(model.config.vocab_size)
    lr = 5e-3 * (1.0 - torch.arange(STEPS, dtype=torch.float64) / (2 * STEPS))
    data = {"tokens": tokens, "labels": labels, "lr": lr}
    logits = logits_of(model, tokens[0])
    loss = loss_of(logits, labels[0])
    loss.backward()

    masks = make_masks(n_layers)
    runs = {
        "full": train(options, state, data, torch.ones_like(masks)),
        "lisa": train(options, state, data, masks),
        "clip": train(options, state, data, masks, WEIGHT_DECAY, MAX_GRAD_NORM),
    }
    clipped = runs["clip"]["norms"] > MAX_GRAD_NORM
    assert clipped.any() and not clipped.all(), "both sides of the clip are wanted"
    tensors = {
        "tokens": tokens.int(), "labels": labels.int(), "lr": lr, "masks": masks,
        "adam": torch.tensor([*BETAS, EPS, WEIGHT_DECAY, MAX_GRAD_NORM], dtype=torch.float64),
        "logits": logits.detach(), "loss": loss.detach().reshape(1),
    }
    tensors.update({"grad." + n: p.grad for n, p in model.named_parameters()})
    for run, values in runs.items():
        tensors.update({f"{run}.{name}": value for name, value in values.items()})
        print(run, "losses", [round(x, 4) for x in values["losses"].tolist()],
              "norms", [round(x, 2) for x in values["norms"].tolist()])
    return {name: value.contiguous().numpy() for name, value in tensors.items()}


def write_config(directory, update, remove=()):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(update)
    for key in (*remove, "_name_or_path"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_directories(data, name, options, model):
    directory = data / name
    model.save_pretrained(directory, safe_serialization=True)
    scaling = options.get("rope_scaling")
    write_config(directory, {"rope_scaling": scaling})
    if scaling is not None:
        directory = data / (name + "-sharded")
        model.save_pretrained(directory, safe_serialization=True, max_shard_size="16KB")
        write_config(directory,
                     {"rope_parameters": {"rope_theta": options["rope_theta"], **scaling},
                      "dtype": "float32", "head_dim": options["hidden_size"]
                      // options["num_attention_heads"]},
                     remove=("rope_theta", "rope_scaling", "torch_dtype"))


def main():
    data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
    data.mkdir(parents=True, exist_ok=True)
    for name, options in MODELS.items():
        print(name)
        model = make_model(options)
        write_directories(data, name, options, model)
        state = {key: value.double() for key, value in model.state_dict().items()}
        head_dim = options["hidden_size"] // options["num_attention_heads"]
        with float64_llama(head_dim, options["rope_theta"], options.get("rope_scaling")):
            save_file(expect(options, state), data / f"{name}.expected.safetensors",
                      metadata={"format": "pt"})


if __name__ == "__main__":
    main()

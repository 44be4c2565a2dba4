"""Makes the LoRA fixtures under tests/data with PEFT in float64.

    python tests/tools/make_lora_fixture.py [tests/data]

Made with torch 2.15.0, transformers 5.23.0 and PEFT 0.21.2, on the models that
make_family_fixtures.py made before. Rank and alpha are odd, A and B random:

  lora-gpt2, lora-llama       adapters in PEFT's files, in float32, on gpt2 (Conv1D) and
                              llama-untied (rsLoRA), on every linear module of the blocks
  lora-*.expected.safetensors what float64 makes of them; adapters' tensors have their names there
      tokens, labels [S,B,T], lr [S], adam [3], masks [S,L+2]
                              as in make_family_fixtures.py; adam is beta1, beta2, eps
      logits, loss, grad.*    of batch 0 with the adapter as it is in the files
      full.*                  S steps of AdamW on all adapters: losses [S], norms [S], final tensors
      lisa.*                  S steps on the adapters of the layers in the masks alone; a layer's
                              state is deleted when it leaves
      merged.NAME             the base's tensors that have an adapter, with it merged
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
from float64 import Float64, NoFloat32
from make_family_fixtures import (BETAS, EPS, STEPS, group_of, loaded, logits_of, loss_of,
                                  make_batches, make_masks)
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

PREFIX = "base_model.model."
ADAPTERS = {
    "lora-gpt2": ("gpt2", dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
    "lora-llama": ("llama-untied", dict(use_rslora=True, target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])),
}
# As in make_family_fixtures.py, but that some adapter always trains.
ACTIVE_LAYERS = [{0}, {0}, {0, 2}, {0, 2}, {1, 2}, {1}, {0, 1}, {0, 1}, {2}, {2, 0}]


def file_name(name):
    """A parameter's name in PEFT's files, which leave the adapter's name out."""
    return name.replace(".default.", ".")


def adapters_of(model):
    return {file_name(name): p for name, p in model.named_parameters() if "lora_" in name}


def write_adapter(data, name, random):
    """PEFT's own files of an adapter with random A and B in float32."""
    base, options = ADAPTERS[name]
    model = AutoModelForCausalLM.from_pretrained(data / base)
    model.name_or_path = base
    model = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, lora_dropout=0.0,
                                             task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in adapters_of(model).values():
            assert parameter.dtype == torch.float32
            parameter.copy_(torch.from_numpy(0.2 * random.standard_normal(tuple(parameter.shape))))
    model.save_pretrained(data / name)
    (data / name / "README.md").unlink()
    path = data / name / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()  # a set's order otherwise
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def adapted(data, name):
    """The base with the adapter of the files, in float64, adapters alone trainable."""
    base, _ = ADAPTERS[name]
    state = load_file(data / base / "model.safetensors")
    with Float64():
        model = loaded(data / base, state)
    model = PeftModel.from_pretrained(model, data / name, is_trainable=True).double().eval()
    tensors = load_file(data / name / "adapter_model.safetensors")
    adapters = adapters_of(model)
    assert adapters.keys() == tensors.keys()
    for key, parameter in adapters.items():
        assert parameter.requires_grad and (parameter == tensors[key]).all()
    assert not any(p.requires_grad for n, p in model.named_parameters() if "lora_" not in n)
    return model


def train(model, data, masks):
    """STEPS of torch's AdamW; a tensor's state is deleted when the mask lets its layer go."""
    n_layers = model.config.num_hidden_layers
    adapters = adapters_of(model)
    optimizer = torch.optim.AdamW(adapters.values(), betas=BETAS, eps=EPS, weight_decay=0.0)
    losses, norms = [], []
    for step in range(STEPS):
        for key, parameter in adapters.items():
            group = group_of(key.removeprefix(PREFIX), n_layers)
            parameter.requires_grad_(bool(masks[step, group]))
            parameter.grad = None
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)
        optimizer.param_groups[0]["lr"] = float(data["lr"][step])
        with NoFloat32():
            loss = loss_of(logits_of(model, data["tokens"][step]), data["labels"][step])
            loss.backward()
        active = [p for p in adapters.values() if p.requires_grad]
        norms.append(float(torch.nn.utils.clip_grad_norm_(active, math.inf)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return {"losses": torch.tensor(losses), "norms": torch.tensor(norms),
            **{key: p.detach() for key, p in adapters.items()}}


def layer_masks(n_layers):
    masks = make_masks(n_layers)
    for step, layers in enumerate(ACTIVE_LAYERS):
        for layer in range(n_layers):
            masks[step, 1 + layer] = layer in layers
    return masks


def merged(model, tokens, logits):
    """The base's tensors that have an adapter, with it added, by PEFT."""
    modules = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in adapters_of(model)}
    whole = model.merge_and_unload()
    off = (logits_of(whole, tokens) - logits).abs().max()
    assert off < 1e-12, f"merged logits are off by {off}"
    names = [module + ".weight" for module in sorted(modules)]
    return {"merged." + name: whole.get_parameter(name).detach() for name in names}


def expect(data_directory, name, random):
    models = {kind: adapted(data_directory, name) for kind in ("first", "full", "lisa")}
    with Float64():
        return compute(models, random)


def compute(models, random):
    model = models["first"]
    tokens, labels = make_batches(random, model.config.vocab_size)
    lr = 5e-3 * (1.0 - torch.arange(STEPS) / (2 * STEPS))
    data = {"tokens": tokens, "labels": labels, "lr": lr}
    masks = layer_masks(model.config.num_hidden_layers)
    with NoFloat32():
        logits = logits_of(model, tokens[0])
        loss = loss_of(logits, labels[0])
        loss.backward()
    tensors = {
        "tokens": tokens.int(), "labels": labels.int(), "lr": lr, "masks": masks,
        "adam": torch.tensor([*BETAS, EPS]), "logits": logits.detach(),
        "loss": loss.detach().reshape(1),
    }
    for key, parameter in adapters_of(model).items():
        assert parameter.grad.abs().max() > 1e-6, f"{key} has no gradient"
        tensors["grad." + key] = parameter.grad
    runs = {
        "full": train(models["full"], data, torch.ones_like(masks)),
        "lisa": train(models["lisa"], data, masks),
    }
    for run, values in runs.items():
        tensors.update({f"{run}.{key}": value for key, value in values.items()})
        print(run, "losses", [round(x, 4) for x in values["losses"].tolist()],
              "norms", [round(x, 2) for x in values["norms"].tolist()])
    with torch.no_grad():
        tensors.update(merged(model, tokens[0], logits))
    return {key: value.contiguous() for key, value in tensors.items()}


def main():
    data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
    for seed, name in enumerate(ADAPTERS, 101):
        print(name)
        write_adapter(data, name, np.random.default_rng(seed))
        expected = expect(data, name, np.random.default_rng([seed, 1]))
        save_file(expected, data / f"{name}.expected.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()

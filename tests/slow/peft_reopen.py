"""PEFT opens the adapters that liblisa saves, liblisa those that PEFT saves, with the same logits.

    peft_reopen.py SCRATCH DIRECTORY...

On each directory's model: an adapter that liblisa trained and saved, for several sets of targets, must
have every tensor placed by PeftModel.from_pretrained, and PEFT's float64 logits must be liblisa's to
float32's accuracy. So must those of an adapter with random values that PEFT made and saved; liblisa
opens it, saves it again, and PEFT opens that too.

Exits with 1 if anything was wrong; every directory is tried.
"""

import json
import pathlib
import sys
import warnings

import liblisa as lisa
import numpy as np
import peft
import torch
from oracle import Float64, check_each, error, exact, lisa_logits, opened
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

BOUND = 1e-4
STEPS = 3
TOKENS = (2, 16)
TARGETS = ("all-linear", "attention", "q", "o", "down")


def lora_tensors(model):
    """PEFT's parameters by the names that they have in its files."""
    return {name.replace(".default.", "."): p for name, p in model.named_parameters()
            if "lora_" in name}


def peft_logits(directory, adapter, tokens):
    """Logits in float64 with an adapter of which every tensor must be placed and none be left."""
    base = opened(directory, torch.float64)
    with Float64():
        base = exact(base)
    model = PeftModel.from_pretrained(base, adapter).double().eval()
    saved, placed = load_file(adapter / "adapter_model.safetensors"), lora_tensors(model)
    assert saved.keys() == placed.keys(), "PEFT has other tensors than the file"
    for name, tensor in saved.items():
        assert (placed[name] == tensor).all(), f"{name} is not what was saved"
    with Float64(), torch.no_grad():
        return model(torch.tensor(tokens), use_cache=False).logits.numpy()


def compare(model, source, directory, tokens):
    plain = lisa_logits(lisa, model, tokens)
    with lisa.Adapter.open(model, directory) as adapter, adapter.attach():
        ours = lisa_logits(lisa, model, tokens)
    off = error(ours, peft_logits(source, directory, tokens))
    assert error(plain, ours) > 10 * BOUND, "the adapter changes nothing to be seen"
    assert off <= BOUND, f"{directory.name}: logits differ by {off:.2e}, allowed is {BOUND}"
    return off


def train(model, adapter, tokens):
    with adapter.attach(), lisa.Batch(model, *tokens.shape) as batch, \
            lisa.Optimizer(model, lr=5e-2) as optimizer:
        for step in range(STEPS):
            batch.set(tokens)
            lisa.train_step(model, None, optimizer, batch, step)


def check_ours(model, source, scratch, tokens, targets):
    saved = scratch / f"{source.name}-{targets}"
    with lisa.Adapter.create(model, rank=3, alpha=5, targets=targets, seed=1,
                             use_rslora=targets == "attention") as adapter:
        train(model, adapter, tokens)
        adapter.save(saved)
    return compare(model, source, saved, tokens)


def check_theirs(model, source, scratch, tokens):
    """An adapter of PEFT's own, on every linear module of the blocks, there and back again."""
    theirs, again = scratch / f"{source.name}-theirs", scratch / f"{source.name}-again"
    base = opened(source, torch.float32)
    with_adapter = get_peft_model(base, LoraConfig(
        r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.family == "gpt2"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lora_tensors(with_adapter).values():
            parameter.normal_(0, 0.1)
    with_adapter.save_pretrained(theirs)
    with lisa.Adapter.open(model, theirs) as adapter:
        adapter.save(again)
    assert (again / "adapter_model.safetensors").exists()
    first, second = (json.loads((d / "adapter_config.json").read_text()) for d in (theirs, again))
    for key in first.keys() - {"target_modules"}:
        assert first[key] == second[key], f"{key}: {second[key]} after saving, {first[key]} before"
    a, b = (load_file(d / "adapter_model.safetensors") for d in (theirs, again))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    return max(compare(model, source, d, tokens) for d in (theirs, again))


def check(source, scratch):
    with lisa.Context("cpu") as context, lisa.Model.open(context, source) as model:
        tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, TOKENS)
        off = [check_ours(model, source, scratch, tokens, targets) for targets in TARGETS]
        off.append(check_theirs(model, source, scratch, tokens))
        print(f"  {source.name:<24} logits differ by at most {max(off):.2e} of the largest")


def main():
    scratch = pathlib.Path(sys.argv[1])
    warnings.simplefilter("ignore")
    print(f"peft {peft.__version__}, torch {torch.__version__}")
    return check_each(sys.argv[2:], lambda source: check(source, scratch))


if __name__ == "__main__":
    sys.exit(main())

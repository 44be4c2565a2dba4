"""A model trained and saved by liblisa has the same logits in transformers.

    save_reopen.py SCRATCH DIRECTORY...

Each directory is opened, trained for three LISA steps, saved below SCRATCH once whole and once in
shards, and opened by transformers: every tensor must be what liblisa says it is, bit for bit, and
the float64 logits of what was saved must be liblisa's to float32's accuracy.
"""

import pathlib
import sys

import liblisa as lisa
import numpy as np
import torch
from oracle import error, lisa_logits, rope_of, transformers_logits
from safetensors import safe_open

BOUND = 1e-4
STEPS = 3


def train(model, tokens):
    layers = model.config.n_layers
    with lisa.Sampler(n_layers=layers, n_active=2, interval_steps=1, seed=1) as sampler, \
            lisa.Batch(model, *tokens.shape) as batch, \
            lisa.Optimizer(model, lr=1e-3, max_active_layers=2) as optimizer:
        for step in range(STEPS):
            batch.set(tokens)
            lisa.train_step(model, sampler, optimizer, batch, step)


def saved_tensors(directory):
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(str(path), "pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def check_saved(model, directory, tokens, ours):
    names = set()
    for name, tensor in saved_tensors(directory):
        held = np.asarray(model.tensor_read(name, dtype="f64"))
        assert (tensor.double().numpy() == held).all(), f"{directory}: {name} is not what was held"
        names.add(name)
    assert names == {info.name for info in model.tensors()}, f"{directory}: tensors differ"
    off = error(ours, transformers_logits(directory, tokens, torch.float64))
    print(f"{directory.name:<40} logits differ by {off:.2e} of the largest")
    assert off <= BOUND, f"{directory}: allowed is {BOUND}"


def transformers_reads(directory):
    try:
        from transformers import LlamaConfig
        LlamaConfig.from_pretrained(directory)
    except ValueError:
        print(f"skipped: {directory}: this transformers does not know {rope_of(directory)[2]}")
        return False
    return True


def main():
    scratch = pathlib.Path(sys.argv[1])
    for source in map(pathlib.Path, sys.argv[2:]):
        if not transformers_reads(source):
            continue
        with lisa.Context("cpu") as context, lisa.Model.open(context, source) as model:
            rng = np.random.default_rng(1)
            tokens = rng.integers(0, model.config.vocab_size, (2, 16))
            train(model, tokens)
            ours = lisa_logits(lisa, model, tokens)
            total = sum(int(np.prod(info.shape)) * 2 for info in model.tensors())
            for kind, limit in (("whole", None), ("shards", total // 3)):
                saved = scratch / f"{source.name}-{kind}"
                model.save(saved, max_shard_bytes=limit)
                check_saved(model, saved, tokens, ours)


if __name__ == "__main__":
    main()

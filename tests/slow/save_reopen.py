"""What liblisa saves is what it held, and transformers makes the same of it: all families.

    save_reopen.py SCRATCH DIRECTORY...

Each directory is opened, trained for three LISA steps and saved below SCRATCH whole, in shards, and
in other dtypes; then a new model is made from its description alone and saved. In every case
transformers must find each weight it wants and no other, every tensor must be what liblisa held
(bit for bit, or as near as torch rounds it), the float64 logits of what was saved must be liblisa's to
float32's accuracy, and files beside the weights must have come along unchanged.

Exits with 1 if anything was wrong; every directory is tried.
"""

import pathlib
import sys

import liblisa as lisa
import numpy as np
import torch
import transformers
from oracle import check_each, error, lisa_logits, opened, transformers_logits
from safetensors import safe_open

BOUND = 1e-4
STEPS = 3
TOKENS = (2, 16)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# What a save writes itself.
WRITTEN = ("config.json", "*.safetensors", "*.safetensors.index.json")


def random_tokens(model):
    return np.random.default_rng(1).integers(0, model.config.vocab_size, TOKENS)


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


def check_tensors(model, directory, dtype):
    names = set()
    for name, tensor in saved_tensors(directory):
        held = torch.tensor(np.asarray(model.tensor_read(name, dtype="f64")))
        rounded = held if dtype is None else held.to(DTYPES[dtype]).double()
        off = (tensor.double() - held).abs()
        assert dtype is None or tensor.dtype == DTYPES[dtype], f"{name} is {tensor.dtype}"
        assert (off <= (rounded - held).abs()).all(), f"{name} is not what was held"
        names.add(name)
    assert names == {info.name for info in model.tensors()}, "tensors differ"


def check_logits(model, directory):
    tokens = random_tokens(model)
    theirs = transformers_logits(directory, tokens, torch.float64)
    off = error(lisa_logits(lisa, model, tokens), theirs)
    print(f"  {directory.name:<32} logits differ by {off:.2e} of the largest")
    assert off <= BOUND, f"allowed is {BOUND}"


def check_beside(source, directory):
    for file in source.iterdir():
        if not any(file.match(pattern) for pattern in WRITTEN):
            assert (directory / file.name).read_bytes() == file.read_bytes(), f"{file.name} differs"


def check_trained(context, source, scratch):
    with lisa.Model.open(context, source) as model:
        train(model, random_tokens(model))
        total = sum(int(np.prod(info.shape)) * 2 for info in model.tensors())
        for kind, limit in (("whole", None), ("shards", total // 3)):
            saved = scratch / f"{source.name}-{kind}"
            model.save(saved, max_shard_bytes=limit)
            check_tensors(model, saved, None)
            check_logits(model, saved)
            check_beside(source, saved)
            assert (limit is None) == (saved / "model.safetensors").exists(), f"{kind} was wanted"
        for dtype in DTYPES:
            saved = scratch / f"{source.name}-as-{dtype}"
            model.save(saved, dtype=dtype)
            check_tensors(model, saved, dtype)
            opened(saved, torch.float32)


def check_created(context, source, scratch):
    config = lisa.ModelConfig.read(source)
    config.init_std = 0.2
    saved = scratch / f"{source.name}-created"
    with lisa.Model.create(context, config, seed=1) as model:
        model.save(saved)
        check_tensors(model, saved, None)
        check_logits(model, saved)


def check(source, scratch):
    with lisa.Context("cpu") as context:
        check_trained(context, source, scratch)
        check_created(context, source, scratch)


def main():
    scratch = pathlib.Path(sys.argv[1])
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    return check_each(sys.argv[2:], lambda source: check(source, scratch))


if __name__ == "__main__":
    sys.exit(main())

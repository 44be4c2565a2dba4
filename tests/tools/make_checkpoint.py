"""Writes tests/data/checkpoint-1: what the first format of checkpoints looks like, of LISA and of
LoRA on tests/data/llama-tied-bf16. It was run once; later libraries must read what it wrote.

    PYTHONPATH=bindings/python python3 tests/tools/make_checkpoint.py OUT
"""

import json
import pathlib
import sys

import liblisa

BASE = pathlib.Path(__file__).parents[1] / "data/llama-tied-bf16"


def parts(adapted):
    """(model, sampler, optimizer, batch) as they are before the first step."""
    model = liblisa.Model.open(liblisa.Context(n_threads=1), BASE)
    n_layers = model.config.n_layers
    sampler = liblisa.Sampler(
        n_layers,
        kind="weighted",
        n_active=1,
        interval_steps=2,
        seed=2**63 + 5,
        weights=[1 + layer for layer in range(n_layers)],
    )
    if adapted:
        adapter = liblisa.Adapter.create(model, rank=2, targets="all-linear", dropout=0.1, seed=3)
        adapter.attach()
    optimizer = liblisa.Optimizer(
        model,
        lr=1e-2,
        max_active_layers=1,
        state_policy="keep",
        moments_layers="8bit",
        moments_embedding="bf16",
        seed=11,
    )
    return model, sampler, optimizer, liblisa.Batch(model, max_batch=2, max_tokens=12)


def train(model, sampler, optimizer, batch, first, end):
    """The losses of steps [first, end)."""
    losses = []
    for step in range(first, end):
        rows = [
            [(7 * step + 3 * row + i * i) % model.config.vocab_size for i in range(12)]
            for row in range(2)
        ]
        batch.set(rows)
        losses.append(liblisa.train_step(model, sampler, optimizer, batch, step).loss)
    return losses


def write(out, adapted):
    """The losses of ten steps, in the middle of which the checkpoint is written."""
    model, sampler, optimizer, batch = parts(adapted)
    losses = train(model, sampler, optimizer, batch, 0, 5)
    liblisa.save_checkpoint(optimizer, out, 5, sampler=sampler, blob=b"row 82")
    return losses + train(model, sampler, optimizer, batch, 5, 10)


def main():
    out = pathlib.Path(sys.argv[1])
    losses = {name: write(out / name, name == "lora") for name in ("lisa", "lora")}
    (out / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Models that the studies need and no checkpoint has, made once.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, List

import liblisa
from liblisa.data import Padded, pad

from texts import Text

GPT2 = "gpt2-12x256"
UNTIED = "SmolLM2-135M-untied"
STEPS, RATE, WARMUP = 400, 1e-3, 20  # of teaching a GPT-2
ROWS = 2  # a step of it
BLOCK = 1 << 16  # bytes of a file at a time


def made(directory: Path, make: Callable[[Path], None]) -> Path:
    """The directory, whole: made under another name first, where it is missing."""
    if not directory.is_dir():
        part = directory.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        make(part)
        part.replace(directory)
    return directory


def digest(directory: Path) -> str:
    """Of the weights' files."""
    found = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(BLOCK), b""):
                found.update(block)
    return found.hexdigest()


def gpt2_config(vocab_size: int, tokens: int) -> liblisa.ModelConfig:
    """GPT-2's shape with 12 layers, 256 wide."""
    return liblisa.ModelConfig(
        family="gpt2",
        weights_dtype="bf16",
        n_layers=12,
        d_model=256,
        n_heads=4,
        d_ff=1024,
        vocab_size=vocab_size,
        max_positions=tokens,
        norm="layer",
        activation="gelu_tanh",
        gated_mlp=False,
        tied_head=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        learned_positions=True,
        rope="none",
    )


def teach_gpt2(directory: Path, text: Text, vocab_size: int, tokens: int) -> None:
    """From nothing: full AdamW on every token of the rows to train on."""
    config = gpt2_config(vocab_size, tokens)
    with liblisa.Context() as context, liblisa.Model.create(
        context, config, seed=1
    ) as model, liblisa.Batch(model, ROWS, tokens, head_rows=64) as batch, liblisa.Optimizer(
        model, max_grad_norm=1.0
    ) as optimizer:
        rows = text.order(seed=1)
        for step in range(STEPS):
            padded = pad([next(rows) for _ in range(ROWS)])
            batch.set(padded.tokens, _all_labels(padded), documents=padded.documents)
            optimizer.set_lr(liblisa.scheduled_lr(step, STEPS, RATE, warmup_steps=WARMUP))
            loss = liblisa.train_step(model, None, optimizer, batch, step).loss
            if step % 100 == 0 or step + 1 == STEPS:
                print(f"{GPT2}: {step + 1}/{STEPS}, loss {loss:.3f}", file=sys.stderr)
        model.save(directory)


def _all_labels(padded: Padded) -> List[List[int]]:
    """Every token but the filling, which has a document of its own behind a row's others."""
    labels = []
    for tokens, known, documents in zip(padded.tokens, padded.labels, padded.documents):
        last = max(d for d, label in zip(documents, known) if label >= 0)
        labels.append([t if d <= last else liblisa.IGNORE_LABEL for t, d in zip(tokens, documents)])
    return labels


def untie(source: Path, directory: Path) -> None:
    """A model whose head is a copy of its embedding, to be trained or frozen by itself."""
    with liblisa.Context() as context, liblisa.Model.open(context, source) as tied:
        config = replace(tied.config, tied_head=False)
        with liblisa.Model.create(context, config) as model:
            *others, head = model.tensors()
            for info in others:
                model.tensor_write(info.index, tied.tensor_read(info.name))
            model.tensor_write(head.index, tied.tensor_read(0))
            model.save(directory)

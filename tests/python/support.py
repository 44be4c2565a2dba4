"""A tiny model and a batch for it."""

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import liblisa

ROOT = Path(__file__).resolve().parents[2]

CONFIG = liblisa.ModelConfig(
    n_layers=4, d_model=16, n_heads=4, n_kv_heads=2, d_ff=32, vocab_size=48, max_positions=64
)


def tiny_model(context, seed=1, **changes):
    """A model of CONFIG, changed by keyword."""
    config = liblisa.ModelConfig(**{**vars(CONFIG), **changes})
    return liblisa.Model.create(context, config, seed=seed)


def tokens(n_batch=2, n_tokens=12, seed=3, vocabulary=48):
    """Rows of token ids."""
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary) for _ in range(n_tokens)] for _ in range(n_batch)]


def compile_c(text, output, *flags):
    """Compiles a C program or library."""
    source = Path(output).with_suffix(".c")
    source.write_text(text)
    command = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*command, *flags, "-o", str(output), str(source)], check=True)
    return Path(output)


def run_python(*arguments, **environment):
    """A fresh interpreter that finds the package."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "bindings" / "python"), **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120
    )

"""What the scripts that compare with transformers share."""

import contextlib
import json
import pathlib
import sys

import numpy as np
import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from make_llama_fixture import float64_llama  # noqa: E402

logging.disable_progress_bar()


def rope_of(directory):
    """(head_dim, theta, scaling or None) of a directory's config.json."""
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or (rope if rope.get("rope_type") == "llama3" else None)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return head_dim, config.get("rope_theta") or rope["rope_theta"], scaling


def transformers_logits(directory, tokens, dtype):
    """Logits [B, T, V] as float64; with torch.float64 nothing in between is rounded to float32."""
    model = LlamaForCausalLM.from_pretrained(directory, torch_dtype=dtype,
                                             attn_implementation="eager").eval()
    exact = float64_llama(*rope_of(directory)) if dtype == torch.float64 else contextlib.nullcontext()
    with torch.no_grad(), exact:
        hidden = model.model(torch.tensor(tokens), use_cache=False)[0]
        return model.lm_head(hidden).double().numpy()


def lisa_logits(lisa, model, tokens):
    """The same of a liblisa model."""
    with lisa.Batch(model, *tokens.shape, inference_only=True) as batch:
        batch.set(tokens)
        return np.asarray(model.logits(batch, dtype="f64"))


def error(got, expected):
    """Largest difference over the largest value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())

"""What the scripts that compare with transformers share."""

import json
import pathlib
import sys
import traceback

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from float64 import Float64  # noqa: E402

logging.disable_progress_bar()


def unread(directory):
    """Why this transformers cannot be asked about the directory; None where it can."""
    try:
        AutoConfig.from_pretrained(directory)
    except ValueError as error:
        return str(error).split(". ")[0]
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if "rope_parameters" in config and release < (5, 0):
        return "rope_parameters is passed over before transformers 5"
    if config["model_type"] == "mistral" and config["sliding_window"] and release < (4, 48):
        return "the sliding window is one key too wide in old transformers"
    return None


def opened(directory, dtype):
    """transformers' model, in which every weight must be from the directory and used."""
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=dtype, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{directory}: {kind} {info[kind]}"
    return model.eval()


def exact(model):
    """The same model with every buffer, too, made in float64; to be used inside Float64()."""
    wide = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").double()
    wide.load_state_dict(model.double().state_dict())
    return wide.eval()


def transformers_logits(directory, tokens, dtype):
    """Logits [B, T, V] as float64; with torch.float64 nothing in between is rounded to float32."""
    model = opened(directory, dtype)
    tokens = torch.tensor(tokens)
    with torch.no_grad():
        if dtype != torch.float64:
            return model(tokens, use_cache=False).logits.double().numpy()
        with Float64():
            return exact(model)(tokens, use_cache=False).logits.numpy()


def lisa_logits(lisa, model, tokens):
    """The same of a liblisa model."""
    with lisa.Batch(model, *tokens.shape, inference_only=True) as batch:
        batch.set(tokens)
        return np.asarray(model.logits(batch, dtype="f64"))


def error(got, expected):
    """Largest difference over the largest value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def check_each(directories, check):
    """Calls check(directory) for all that transformers can read; 1 if any of them failed."""
    skipped, failed = [], []
    for source in map(pathlib.Path, directories):
        reason = unread(source)
        if reason is not None:
            print(f"skipped: {source.name}: {reason}")
            skipped.append(source.name)
            continue
        try:
            check(source)
        except Exception:  # the others are tried all the same
            print(f"failed: {source.name}\n{traceback.format_exc()}")
            failed.append(source.name)
    print(f"{len(directories)} directories; skipped: {', '.join(skipped) or 'none'}; "
          f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0

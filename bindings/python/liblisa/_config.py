"""A transformer's mathematics as data."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields
from typing import Any, Dict, Union

from . import _ffi
from ._choices import Activation, DType, Norm, Rope, parse
from ._options import PathLike, make, path_bytes, text_bytes

_CHOICES: Dict[str, Any] = {
    "weights_dtype": DType,
    "norm": Norm,
    "activation": Activation,
    "rope": Rope,
}


@dataclass
class ModelConfig:
    """What config.json says, or what Model.create shall make. Shaped like LLaMA by default.

    The sizes (n_layers L, d_model C, n_heads, d_ff, vocab_size V, max_positions) must be given.
    Choices may be names: weights_dtype="bf16", norm="layer", activation="gelu_tanh", rope="llama3".
    """

    family: str = "llama"
    n_layers: int = 0
    d_model: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0  # 0: n_heads
    head_dim: int = 0  # 0: d_model / n_heads
    d_ff: int = 0
    vocab_size: int = 0
    max_positions: int = 0
    weights_dtype: Union[DType, int, str] = DType.F32
    norm: Union[Norm, int, str] = Norm.RMS
    activation: Union[Activation, int, str] = Activation.SILU
    gated_mlp: bool = True
    tied_head: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    parallel_residual: bool = False
    qk_norm: bool = False
    learned_positions: bool = False
    sliding_window: int = 0  # keys visible to a query, itself included; 0: all before it
    rope: Union[Rope, int, str] = Rope.DEFAULT
    rotary_dim: int = 0  # 0: head_dim
    rope_original_positions: int = 0
    rope_theta: float = 10000.0
    rope_factor: float = 0.0
    rope_low_freq_factor: float = 0.0
    rope_high_freq_factor: float = 0.0
    norm_eps: float = 1e-5
    init_std: float = 0.0  # 0: 0.02

    @classmethod
    def read(cls, directory: PathLike) -> ModelConfig:
        """From DIRECTORY/config.json; no weights are loaded."""
        struct = _ffi.lisa_model_config()
        struct.struct_size = ctypes.sizeof(struct)
        _ffi.lisa_model_config_read(ctypes.byref(struct), path_bytes(directory, "directory"))
        return config_from_c(struct)


def config_to_c(config: ModelConfig) -> _ffi.lisa_model_config:
    """The C struct of a description."""
    values = {}
    for field in fields(ModelConfig):
        value = getattr(config, field.name)
        if field.name in _CHOICES:
            value = parse(_CHOICES[field.name], value)
        values[field.name] = value
    values["family"] = text_bytes(config.family, "family")
    return make(_ffi.lisa_model_config, _ffi.lisa_model_config_init, values)


def config_from_c(struct: _ffi.lisa_model_config) -> ModelConfig:
    """The description in a C struct."""
    values = {}
    for field in fields(ModelConfig):
        value = getattr(struct, field.name)
        if field.name in _CHOICES:
            value = parse(_CHOICES[field.name], value)
        elif isinstance(field.default, bool):
            value = bool(value)
        values[field.name] = value
    values["family"] = struct.family.decode()
    return ModelConfig(**values)

"""The C interface's numbered choices as enumerations; every function takes the name as well."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Type, TypeVar, Union

from . import _ffi
from ._errors import InvalidArgument


class DType(IntEnum):
    """Element types of tensors."""

    F32 = _ffi.LISA_DTYPE_F32
    BF16 = _ffi.LISA_DTYPE_BF16
    F16 = _ffi.LISA_DTYPE_F16
    F64 = _ffi.LISA_DTYPE_F64


class LogLevel(IntEnum):
    """Levels of log lines, from the rarest to the most verbose."""

    ERROR = _ffi.LISA_LOG_ERROR
    WARN = _ffi.LISA_LOG_WARN
    INFO = _ffi.LISA_LOG_INFO


class Activations(IntEnum):
    """What forward keeps for backward."""

    AUTO = _ffi.LISA_ACTIVATIONS_AUTO
    STORE = _ffi.LISA_ACTIVATIONS_STORE
    RECOMPUTE = _ffi.LISA_ACTIVATIONS_RECOMPUTE


class Norm(IntEnum):
    """Normalisation before attention and MLP."""

    RMS = _ffi.LISA_NORM_RMS
    LAYER = _ffi.LISA_NORM_LAYER


class Activation(IntEnum):
    """The MLP's non-linearity."""

    SILU = _ffi.LISA_ACT_SILU
    GELU_TANH = _ffi.LISA_ACT_GELU_TANH
    GELU_ERF = _ffi.LISA_ACT_GELU_ERF
    RELU = _ffi.LISA_ACT_RELU


class Rope(IntEnum):
    """Rotary positions and their scaling."""

    NONE = _ffi.LISA_ROPE_NONE
    DEFAULT = _ffi.LISA_ROPE_DEFAULT
    LINEAR = _ffi.LISA_ROPE_LINEAR
    LLAMA3 = _ffi.LISA_ROPE_LLAMA3


class Load(IntEnum):
    """How weights come from their files: as file pages, or copied."""

    MAP = _ffi.LISA_LOAD_MAP
    COPY = _ffi.LISA_LOAD_COPY


class Weights(IntEnum):
    """Where the weights of frozen layers are, on a backend with memory of its own."""

    AUTO = _ffi.LISA_WEIGHTS_AUTO
    RESIDENT = _ffi.LISA_WEIGHTS_RESIDENT
    STREAMED = _ffi.LISA_WEIGHTS_STREAMED


class Target(IntFlag):
    """Linear maps that an adapter stands beside."""

    Q = _ffi.LISA_TARGET_Q
    K = _ffi.LISA_TARGET_K
    V = _ffi.LISA_TARGET_V
    O = _ffi.LISA_TARGET_O
    GATE = _ffi.LISA_TARGET_GATE
    UP = _ffi.LISA_TARGET_UP
    DOWN = _ffi.LISA_TARGET_DOWN
    HEAD = _ffi.LISA_TARGET_HEAD
    ATTENTION = _ffi.LISA_TARGET_ATTENTION
    MLP = _ffi.LISA_TARGET_MLP
    ALL_LAYERS = _ffi.LISA_TARGET_ALL_LAYERS


class StatePolicy(IntEnum):
    """What happens to the optimizer state of a layer that leaves the mask."""

    DROP = _ffi.LISA_STATE_DROP
    KEEP = _ffi.LISA_STATE_KEEP
    OFFLOAD = _ffi.LISA_STATE_OFFLOAD


Moments = IntEnum(
    "Moments",
    {
        "F32": _ffi.LISA_MOMENTS_F32,
        "BF16": _ffi.LISA_MOMENTS_BF16,
        "8BIT": _ffi.LISA_MOMENTS_8BIT,
    },
    module=__name__,
)
Moments.__doc__ = "How the optimizer keeps its moments between steps."


class SamplerKind(IntEnum):
    """How the layers of a period are drawn."""

    UNIFORM = _ffi.LISA_SAMPLER_UNIFORM
    BERNOULLI = _ffi.LISA_SAMPLER_BERNOULLI
    RESHUFFLE = _ffi.LISA_SAMPLER_RESHUFFLE
    WEIGHTED = _ffi.LISA_SAMPLER_WEIGHTED
    ROUND_ROBIN = _ffi.LISA_SAMPLER_ROUND_ROBIN
    FIXED = _ffi.LISA_SAMPLER_FIXED


Choice = TypeVar("Choice", bound=IntEnum)


def parse(kind: Type[Choice], value: Union[Choice, int, str]) -> Choice:
    """The member that a name ("bf16", in any case) or a number stands for."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        names = ", ".join(repr(member.name.lower()) for member in kind)
        raise InvalidArgument(f"{kind.__name__}: expected one of {names}, got {value!r}") from None

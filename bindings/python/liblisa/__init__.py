"""liblisa: fine-tune language models with LISA inside your own process.

Importing loads the shared library (see docs/python.md for where it is looked for). Every failure
is a LisaError, and where Python has a word for it that as well (ValueError, OSError, ...).
"""

import os
import sys
from typing import Any


def _is_command() -> bool:
    """Whether this process is `liblisa` or `python -m liblisa`, and nobody's host."""
    if os.path.basename(next(iter(getattr(sys, "argv", [])), "")) == "liblisa":
        return True
    frame: Any = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_run_module_as_main":
        frame = frame.f_back
    return frame is not None and frame.f_locals.get("mod_name") == __name__


try:
    from . import _ffi
except ImportError as error:
    # The package is imported before a line of the command runs.
    if _is_command():
        sys.exit(f"liblisa: {error}")
    raise

from ._adapter import Adapter
from ._checkpoint import (
    CheckpointInfo,
    checkpoint_blob,
    checkpoint_sampler,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ._choices import (
    Activation,
    Activations,
    DType,
    Load,
    LogLevel,
    Moments,
    Norm,
    Rope,
    SamplerKind,
    StatePolicy,
    Target,
    Weights,
)
from ._config import ModelConfig
from ._context import MEMORY_CLASSES, UNLIMITED_CLASSES, Context, MemoryUse
from ._errors import (
    AbiError,
    BackendError,
    BudgetExceeded,
    Cancelled,
    FormatError,
    InternalError,
    InvalidArgument,
    IOFailure,
    LisaError,
    NonFinite,
    NotFound,
    OutOfMemory,
    StateError,
    Unsupported,
)
from ._metrics import log_metrics, read_metrics
from ._model import Attachment, Evaluation, Model
from ._plan import Plan, plan
from ._sampler import Sampler
from ._schedule import scheduled_lr
from ._tensors import TensorInfo
from ._train import Batch, Optimizer, StepStats, backward, forward, train_step
from ._version import __version__

IGNORE_LABEL: int = _ffi.LISA_IGNORE_LABEL
"""A label that is not trained on, as in Hugging Face."""

NO_LAYERS: int = _ffi.LISA_NO_LAYERS
"""max_active_layers of an optimizer that trains embedding and head alone."""


def library_version() -> str:
    """The version of the loaded library, which may be newer than the package's."""
    return _ffi.lisa_version_string().decode()


__all__ = [
    "IGNORE_LABEL",
    "MEMORY_CLASSES",
    "NO_LAYERS",
    "AbiError",
    "Activation",
    "Activations",
    "Adapter",
    "Attachment",
    "BackendError",
    "Batch",
    "BudgetExceeded",
    "Cancelled",
    "CheckpointInfo",
    "Context",
    "DType",
    "Evaluation",
    "FormatError",
    "IOFailure",
    "InternalError",
    "InvalidArgument",
    "LisaError",
    "Load",
    "LogLevel",
    "MemoryUse",
    "Model",
    "ModelConfig",
    "Moments",
    "NonFinite",
    "Norm",
    "NotFound",
    "Optimizer",
    "OutOfMemory",
    "Plan",
    "Rope",
    "Sampler",
    "SamplerKind",
    "StateError",
    "StatePolicy",
    "StepStats",
    "Target",
    "TensorInfo",
    "UNLIMITED_CLASSES",
    "Unsupported",
    "Weights",
    "__version__",
    "backward",
    "checkpoint_blob",
    "checkpoint_sampler",
    "find_checkpoint",
    "forward",
    "library_version",
    "load_checkpoint",
    "log_metrics",
    "plan",
    "read_metrics",
    "save_checkpoint",
    "scheduled_lr",
    "train_step",
    "verify_checkpoint",
]

"""How many bytes a training run takes, before anything is loaded."""

from __future__ import annotations

import ctypes
from typing import Any, Dict, Mapping, NamedTuple, Optional

from . import _ffi
from ._adapter import adapter_options
from ._config import ModelConfig, config_to_c
from ._context import MEMORY_CLASSES, context_options
from ._model import model_options
from ._options import make
from ._train import batch_options, optimizer_options


class Plan(NamedTuple):
    """The most bytes that will be held at once."""

    bytes: Dict[str, int]  # by memory class
    total: int  # all classes that a memory_limit counts
    n_parameters: int
    n_trained: int  # parameters with gradients and moments at any one time
    stored_layers: int  # layers whose activations are kept; the others recompute
    head_rows: int  # rows of logits that exist at once
    fits: bool  # total is within the memory limit, or there is none
    largest_class: str


def plan(
    config: ModelConfig,
    max_batch: int,
    max_tokens: int,
    *,
    generate_tokens: Optional[int] = None,
    context: Optional[Mapping[str, Any]] = None,
    model: Optional[Mapping[str, Any]] = None,
    batch: Optional[Mapping[str, Any]] = None,
    optimizer: Optional[Mapping[str, Any]] = None,
    adapter: Optional[Mapping[str, Any]] = None,
) -> Plan:
    """Plans memory for batches of up to max_batch x max_tokens.

    context, model, batch, optimizer: the keyword arguments of Context, Model.open or create, Batch
    and Optimizer; optimizer=None plans no training, optimizer={} its defaults.
    adapter: the keyword arguments of Adapter.create, which the optimizer then trains; None: none.
    generate_tokens: longest prompt and continuation; 0 (default): none.
    """
    pointer = ctypes.pointer
    values = {
        "config": pointer(config_to_c(config)),
        "context": pointer(context_options(**(context or {}))),
        "model": pointer(model_options(**(model or {}))),
        "batch": pointer(batch_options(**(batch or {}))),
        "optimizer": None if optimizer is None else pointer(optimizer_options(**optimizer)),
        "adapter": None if adapter is None else pointer(adapter_options(**adapter)),
        "max_batch": max_batch,
        "max_tokens": max_tokens,
        "generate_tokens": generate_tokens,
    }
    request = make(_ffi.lisa_plan_request, _ffi.lisa_plan_request_init, values)
    report = _ffi.lisa_plan_report()
    report.struct_size = ctypes.sizeof(report)
    _ffi.lisa_plan(ctypes.byref(request), ctypes.byref(report))
    return Plan(
        bytes=dict(zip(MEMORY_CLASSES, report.bytes)),
        total=report.total,
        n_parameters=report.n_parameters,
        n_trained=report.n_trained,
        stored_layers=report.stored_layers,
        head_rows=report.head_rows,
        fits=bool(report.fits),
        largest_class=_ffi.lisa_memory_class_name(report.largest_class).decode(),
    )

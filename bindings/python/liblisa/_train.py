"""Batches, the optimizer, and a training step with its parts."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, List, NamedTuple, Optional, Tuple, Union

from . import _ffi
from ._buffers import CODES, c_array, float_output
from ._choices import Activations, DType, Moments, StatePolicy, parse
from ._errors import InvalidArgument, StateError, Unsupported
from ._handles import Handle, Host
from ._model import Model
from ._options import PathLike, make, path_bytes, real, unsigned
from ._sampler import Sampler
from ._tensors import DTypeLike, TensorHandle, TensorKey


def batch_options(
    *,
    activations: Union[Activations, int, str, None] = None,
    head_rows: Optional[int] = None,
    inference_only: Optional[bool] = None,
) -> _ffi.lisa_batch_options:
    """The C options of Batch's keywords."""
    values = {
        "activations": None if activations is None else parse(Activations, activations),
        "head_rows": head_rows,
        "inference_only": inference_only,
    }
    return make(_ffi.lisa_batch_options, _ffi.lisa_batch_options_init, values)


class Batch(Handle):
    """Tokens and labels of a step, and the memory that forward and backward need for them."""

    def __init__(
        self,
        model: Model,
        max_batch: int,
        max_tokens: int,
        *,
        activations: Union[Activations, int, str, None] = None,
        head_rows: Optional[int] = None,
        inference_only: Optional[bool] = None,
    ) -> None:
        """Reserves everything for up to max_batch x max_tokens tokens.

        activations: "auto" (default: what the memory limit allows), "store" or "recompute".
        head_rows: rows of logits that exist at once; 0 (default): chosen by the plan.
        inference_only: True: for evaluate and logits alone.
        """
        self.model = model
        self.shape: Tuple[int, int] = (0, 0)
        self._host: Host = model._host
        options = batch_options(
            activations=activations, head_rows=head_rows, inference_only=inference_only
        )
        pointer = self._host.create(
            _ffi.lisa_batch,
            _ffi.lisa_batch_create,
            _ffi.lisa_batch_destroy,
            model._c(),
            unsigned(max_batch, 32, "max_batch"),
            unsigned(max_tokens, 32, "max_tokens"),
            ctypes.byref(options),
        )
        super().__init__(pointer, self._host.release, _ffi.lisa_batch_destroy)

    def set(
        self, tokens: Any, targets: Any = None, *, documents: Any = None, weights: Any = None
    ) -> None:
        """Copies a step's data in: [B, T], or [T] for one sequence; the others like the tokens.

        targets[b][t] labels token t, as in Hugging Face (the library shifts); -100 is skipped;
        None means the tokens. documents: ids of packed sequences, None: one per row.
        weights: of the targets, >= 0; None: all 1.
        """
        ids = c_array(tokens, ctypes.c_int32, "tokens")
        shape = ids.shape if len(ids.shape) == 2 else (1, *ids.shape)
        if len(shape) != 2:
            raise InvalidArgument(f"tokens: expected [B, T] or [T], got shape {list(shape)}")
        labels = self._like_tokens(targets, ctypes.c_int32, "targets", ids.shape)
        owners = self._like_tokens(documents, ctypes.c_int32, "documents", ids.shape)
        scale = self._like_tokens(weights, ctypes.c_float, "weights", ids.shape)
        self._host.call(_ffi.lisa_batch_set, self._c(), ids.data, labels, *shape)
        self.shape = shape
        if owners is not None:
            self._host.call(_ffi.lisa_batch_set_documents, self._c(), owners)
        if scale is not None:
            self._host.call(_ffi.lisa_batch_set_weights, self._c(), scale)

    @staticmethod
    def _like_tokens(data: Any, ctype: Any, name: str, shape: Tuple[int, ...]) -> Any:
        if data is None:
            return None
        values = c_array(data, ctype, name)
        if values.shape != shape:
            raise InvalidArgument(
                f"{name}: expected the tokens' shape {list(shape)}, got {list(values.shape)}"
            )
        return values.data

    @property
    def n_targets(self) -> int:
        """Scored positions of the batch as it is set now."""
        return self._host.call(_ffi.lisa_batch_n_targets, self._c())


class StepStats(NamedTuple):
    """What one update did."""

    loss: float  # weighted mean over the window, in nats
    weight_sum: float  # the sum of target weights it was divided by
    grad_norm: float  # of the normalised gradient of active groups, before clipping
    lr: float
    n_targets: int  # scored positions of the window
    n_backward: int  # batches of the window
    updated: bool  # False: no targets, nothing changed and no step counted
    swapped: bool  # train_step: this step's mask replaced another
    n_active_layers: int


def _new_stats() -> _ffi.lisa_step_stats:
    stats = _ffi.lisa_step_stats()
    stats.struct_size = ctypes.sizeof(stats)
    return stats


def _read_stats(stats: _ffi.lisa_step_stats) -> StepStats:
    values = {name: getattr(stats, name) for name in StepStats._fields}
    values.update(updated=bool(stats.updated), swapped=bool(stats.swapped))
    return StepStats(**values)


def _moments(value: Union[Moments, int, str, None]) -> Optional[Moments]:
    return None if value is None else parse(Moments, value)


def optimizer_options(
    *,
    lr: Optional[float] = None,
    beta1: Optional[float] = None,
    beta2: Optional[float] = None,
    eps: Optional[float] = None,
    weight_decay: Optional[float] = None,
    max_grad_norm: Optional[float] = None,
    seed: Optional[int] = None,
    max_active_layers: Optional[int] = None,
    state_policy: Union[StatePolicy, int, str, None] = None,
    train_embedding: Optional[bool] = None,
    train_head: Optional[bool] = None,
    scratch_dir: Optional[PathLike] = None,
    moments_embedding: Union[Moments, int, str, None] = None,
    moments_layers: Union[Moments, int, str, None] = None,
    moments_head: Union[Moments, int, str, None] = None,
    warmup_steps: Optional[int] = None,
    lr_factor_embedding: Optional[float] = None,
    lr_factor_layers: Optional[float] = None,
    lr_factor_head: Optional[float] = None,
    update_in_backward: Optional[bool] = None,
    embedding_rows: Optional[int] = None,
) -> _ffi.lisa_optimizer_options:
    """The C options of Optimizer's keywords."""
    values = {
        "lr": lr,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "seed": seed,
        "max_active_layers": max_active_layers,
        "state_policy": None if state_policy is None else parse(StatePolicy, state_policy),
        "train_embedding": train_embedding,
        "train_head": train_head,
        "scratch_dir": None if scratch_dir is None else path_bytes(scratch_dir, "scratch_dir"),
        "moments_embedding": _moments(moments_embedding),
        "moments_layers": _moments(moments_layers),
        "moments_head": _moments(moments_head),
        "warmup_steps": warmup_steps,
        "lr_factor_embedding": lr_factor_embedding,
        "lr_factor_layers": lr_factor_layers,
        "lr_factor_head": lr_factor_head,
        "update_in_backward": update_in_backward,
        "embedding_rows": embedding_rows,
    }
    return make(_ffi.lisa_optimizer_options, _ffi.lisa_optimizer_options_init, values)


class Optimizer(Handle):
    """AdamW on the groups that train: gradients, moments, masters, and their swap."""

    def __init__(
        self,
        model: Model,
        *,
        lr: Optional[float] = None,
        beta1: Optional[float] = None,
        beta2: Optional[float] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        max_grad_norm: Optional[float] = None,
        seed: Optional[int] = None,
        max_active_layers: Optional[int] = None,
        state_policy: Union[StatePolicy, int, str, None] = None,
        train_embedding: Optional[bool] = None,
        train_head: Optional[bool] = None,
        scratch_dir: Optional[PathLike] = None,
        moments_embedding: Union[Moments, int, str, None] = None,
        moments_layers: Union[Moments, int, str, None] = None,
        moments_head: Union[Moments, int, str, None] = None,
        warmup_steps: Optional[int] = None,
        lr_factor_embedding: Optional[float] = None,
        lr_factor_layers: Optional[float] = None,
        lr_factor_head: Optional[float] = None,
        update_in_backward: Optional[bool] = None,
        embedding_rows: Optional[int] = None,
    ) -> None:
        """Reserves slots and gradients, and binds to the model: one optimizer at a time.

        It trains the adapter that is attached now, and nothing else, or the model's own weights.
        Defaults: AdamW with lr 1e-5, betas 0.9 and 0.999, eps 1e-8, no decay, no clipping.
        max_active_layers: slots; 0 (default): all layers, which is full AdamW.
        state_policy: "drop" (default), "keep" or "offload" (to scratch_dir on the CPU).
        moments_*: "f32" (default), "bf16" or "8bit", by class of groups.
        lr_factor_*: multiply lr for a class of groups.
        warmup_steps: every new state's first steps, over which its lr rises to its full height.
        update_in_backward: each tensor is updated as soon as its gradient is whole.
        embedding_rows: rows of an untied embedding that may train; 0 (default): all.
        """
        self.model = model
        self.adapter = model.adapter
        self._host: Host = model._host
        self._region: Any = None
        options = optimizer_options(
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            seed=seed,
            max_active_layers=max_active_layers,
            state_policy=state_policy,
            train_embedding=train_embedding,
            train_head=train_head,
            scratch_dir=scratch_dir,
            moments_embedding=moments_embedding,
            moments_layers=moments_layers,
            moments_head=moments_head,
            warmup_steps=warmup_steps,
            lr_factor_embedding=lr_factor_embedding,
            lr_factor_layers=lr_factor_layers,
            lr_factor_head=lr_factor_head,
            update_in_backward=update_in_backward,
            embedding_rows=embedding_rows,
        )
        pointer = self._host.create(
            _ffi.lisa_optimizer,
            _ffi.lisa_optimizer_create,
            _ffi.lisa_optimizer_destroy,
            model._c(),
            ctypes.byref(options),
        )
        super().__init__(pointer, self._host.release, _ffi.lisa_optimizer_destroy)
        self._n_groups = model.config.n_layers + 2

    def close(self) -> None:
        """As Handle.close; StateError while a view from gradients() is in use."""
        if self._region is not None and self._region() is not None:
            raise StateError("Optimizer.close: a view from gradients() is still in use")
        super().close()

    def set_lr(self, lr: float) -> None:
        """Learning rate of the following steps."""
        self._host.call(_ffi.lisa_optimizer_set_lr, self._c(), real(lr, "lr"))

    def apply_mask(self, mask: Any) -> None:
        """Makes a mask (L + 2 values of 0 or 1, e.g. Sampler.mask) the one in force."""
        data = c_array(mask, ctypes.c_uint8, "mask").data
        self._host.call(_ffi.lisa_optimizer_apply_mask, self._c(), data, len(data))

    @property
    def mask(self) -> bytes:
        """The mask in force, one byte per group."""
        mask = (ctypes.c_uint8 * self._n_groups)()
        self._host.call(_ffi.lisa_optimizer_get_mask, self._c(), mask, len(mask))
        return bytes(mask)

    @property
    def active_layers(self) -> List[int]:
        """The middle layers that train by the mask in force, counted from 0."""
        return [layer for layer, on in enumerate(self.mask[1:-1]) if on]

    def step(self) -> StepStats:
        """Updates the active groups from the window's gradients, then clears them."""
        stats = _new_stats()
        self._host.call(_ffi.lisa_optimizer_step, self._c(), ctypes.byref(stats))
        return _read_stats(stats)

    def discard(self) -> None:
        """Forgets the window: gradients cleared, nothing else."""
        self._host.call(_ffi.lisa_optimizer_discard, self._c())

    def gradients(self) -> memoryview:
        """A live view of the un-normalised gradient sums of all active groups, for an all-reduce.

        The first element is the window's sum of target weights; step() divides by it. Meaningful
        until the mask changes.
        """
        if self.model.context.backend not in ("cpu", "reference", "reference64"):
            raise Unsupported("gradients: this backend's gradients are not in host memory")
        data, count, dtype = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint32()
        self._host.call(
            _ffi.lisa_optimizer_gradients,
            self._c(),
            ctypes.byref(data),
            ctypes.byref(count),
            ctypes.byref(dtype),
        )
        ctype: Any = ctypes.c_double if dtype.value == DType.F64 else ctypes.c_float
        region = (ctype * count.value).from_address(data.value or 0)
        region.owner = self
        self._region = weakref.ref(region)
        return memoryview(region).cast("B").cast(CODES[ctype])

    def gradient_read(
        self, key: TensorKey, *, dtype: DTypeLike = DType.F32, out: Any = None
    ) -> Any:
        """A copy of one tensor's gradient sum in its shape; StateError when its group is frozen."""
        trained: TensorHandle = self.model if self.adapter is None else self.adapter
        info = trained.tensor(key)
        result, data, kind = float_output(out, parse(DType, dtype), info.shape)
        self._host.call(
            _ffi.lisa_optimizer_gradient_read, self._c(), info.index, data, kind, len(data)
        )
        return result

    def gradient_norm(self, group: int) -> float:
        """Euclidean norm of a group's un-normalised gradient; 0 when frozen."""
        norm = ctypes.c_double()
        group = unsigned(group, 32, "group")
        self._host.call(_ffi.lisa_optimizer_gradient_norm, self._c(), group, ctypes.byref(norm))
        return norm.value

    def group_steps(self, group: int) -> int:
        """Steps counted by a group's state; 0 when it holds none."""
        steps = ctypes.c_uint64()
        group = unsigned(group, 32, "group")
        self._host.call(_ffi.lisa_optimizer_group_steps, self._c(), group, ctypes.byref(steps))
        return steps.value


def forward(model: Model, batch: Batch, *, loss: bool = True) -> Optional[float]:
    """Runs the model on the batch and saves what backward needs.

    Returns the weighted mean loss in nats; loss=False leaves the head to backward: cheaper.
    """
    value = ctypes.c_double()
    out = ctypes.byref(value) if loss else None
    model._host.call(_ffi.lisa_forward, model._c(), batch._c(), out)
    return value.value if loss else None


def backward(model: Model, batch: Batch) -> None:
    """Adds the gradients of the last forward of this batch into the bound optimizer's window."""
    model._host.call(_ffi.lisa_backward, model._c(), batch._c())


def train_step(
    model: Model, sampler: Optional[Sampler], optimizer: Optimizer, batch: Batch, step: int
) -> StepStats:
    """One step: the sampler's mask of `step`, forward, backward, update.

    sampler=None keeps the mask in force: full AdamW where all layers have slots.
    """
    stats = _new_stats()
    model._host.call(
        _ffi.lisa_train_step,
        model._c(),
        None if sampler is None else sampler._c(),
        optimizer._c(),
        batch._c(),
        unsigned(step, 64, "step"),
        ctypes.byref(stats),
    )
    return _read_stats(stats)

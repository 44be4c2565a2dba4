"""LoRA: low-rank adapters beside a model's frozen linear maps."""

from __future__ import annotations

import ctypes
from typing import Any, Iterable, Optional, Union

from . import _ffi
from ._choices import Target
from ._errors import InvalidArgument, error_for
from ._handles import Host
from ._model import Attachment, Model
from ._options import PathLike, make, path_bytes, unsigned
from ._tensors import TensorHandle

Targets = Union[Target, int, str, Iterable[str]]


def parse_targets(targets: Targets) -> Target:
    """The maps that a name, several names ("q", "v", "all-linear") or a sum of bits stand for."""
    if isinstance(targets, int):
        return Target(unsigned(targets, 32, "targets"))
    found = Target(0)
    for name in [targets] if isinstance(targets, str) else targets:
        member = "ALL_LAYERS" if name == "all-linear" else str(name).upper()
        if member not in Target.__members__:
            names = ", ".join(repr(known.lower()) for known in Target.__members__)
            raise InvalidArgument(f"targets: expected 'all-linear' or of {names}, got {name!r}")
        found |= Target[member]
    return found


def adapter_options(
    *,
    rank: Optional[int] = None,
    alpha: Optional[float] = None,
    dropout: Optional[float] = None,
    targets: Optional[Targets] = None,
    use_rslora: Optional[bool] = None,
    seed: Optional[int] = None,
) -> _ffi.lisa_adapter_options:
    """The C options of Adapter.create's keywords."""
    values = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "targets": None if targets is None else int(parse_targets(targets)),
        "use_rslora": use_rslora,
        "seed": seed,
    }
    return make(_ffi.lisa_adapter_options, _ffi.lisa_adapter_options_init, values)


class Adapter(TensorHandle):
    """A LoRA adapter: two matrices A and B beside each of a model's targeted linear maps.

    It takes part in every pass of its model while it is attached, and an Optimizer made while it is
    trains it and nothing else. Made by Adapter.create or Adapter.open.
    """

    _tensor_count = _ffi.lisa_adapter_n_tensors
    _tensor_info = _ffi.lisa_adapter_tensor_info
    _tensor_get = _ffi.lisa_adapter_tensor_read
    _tensor_put = _ffi.lisa_adapter_tensor_write

    def __init__(self, model: Model, create: Any, *arguments: Any) -> None:
        """Internal: use Adapter.create or Adapter.open."""
        self.model = model
        self._host: Host = model._host
        destroy = _ffi.lisa_adapter_destroy
        pointer = self._host.create(_ffi.lisa_adapter, create, destroy, model._c(), *arguments)
        super().__init__(pointer, self._host.release, destroy)

    @classmethod
    def create(
        cls,
        model: Model,
        *,
        rank: Optional[int] = None,
        alpha: Optional[float] = None,
        dropout: Optional[float] = None,
        targets: Optional[Targets] = None,
        use_rslora: Optional[bool] = None,
        seed: Optional[int] = None,
    ) -> Adapter:
        """Makes a fresh adapter, A random by the seed and B zero; it is not attached.

        rank: 8. alpha: 8; the scale is alpha / rank, with use_rslora alpha / sqrt(rank).
        dropout: of A's input while training; 0.
        targets: names of "q", "k", "v", "o", "gate", "up", "down", "head", "attention", "mlp",
        "all-linear" (every map of the layers); ("q", "v"). What the model has not is passed over.
        """
        options = adapter_options(
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            targets=targets,
            use_rslora=use_rslora,
            seed=seed,
        )
        return cls(model, _ffi.lisa_adapter_create, ctypes.byref(options))

    @classmethod
    def open(cls, model: Model, directory: PathLike, *, seed: Optional[int] = None) -> Adapter:
        """Reads a PEFT directory, whose rank, alpha, targets and dropout it takes; not attached.

        seed: of dropout. Unsupported names what PEFT can say and this library has not.
        """
        path = path_bytes(directory, "directory")
        options = adapter_options(seed=seed)
        return cls(model, _ffi.lisa_adapter_open, path, ctypes.byref(options))

    def save(self, directory: PathLike) -> None:
        """Writes a PEFT directory, float32; it is made if need be."""
        path = path_bytes(directory, "directory")
        self._host.call(_ffi.lisa_adapter_save, self._c(), path)

    def _options(self) -> _ffi.lisa_adapter_options:
        options = _ffi.lisa_adapter_options()
        options.struct_size = ctypes.sizeof(options)
        self._host.call(_ffi.lisa_adapter_get_options, self._c(), ctypes.byref(options))
        return options

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self._options().rank

    @property
    def alpha(self) -> float:
        """The numerator of the scale."""
        return self._options().alpha

    @property
    def dropout(self) -> float:
        """Of A's input while training."""
        return self._options().dropout

    @property
    def targets(self) -> Target:
        """The maps it was made for."""
        return Target(self._options().targets)

    @property
    def use_rslora(self) -> bool:
        """True where the scale is alpha / sqrt(rank)."""
        return bool(self._options().use_rslora)

    @property
    def seed(self) -> int:
        """Of A's first values and of dropout."""
        return self._options().seed

    @property
    def attached(self) -> bool:
        """True while it takes part in its model's passes."""
        return self.model.adapter is self

    def attach(self) -> Attachment:
        """Attaches it in place of another; a with block puts back what was attached before."""
        return self.model.set_adapter(self)

    def detach(self) -> None:
        """Detaches it; harmless where it is not attached."""
        self._c()
        if self.attached:
            self.model.set_adapter(None)

    def merge(self) -> None:
        """Adds s B A to the model's weights and detaches the adapter, which keeps its values.

        StateError while the model has an optimizer; NonFinite where a sum does not fit.
        """
        self._host.call(_ffi.lisa_adapter_merge, self._c())
        self._forget()

    def weight_norm(self, group: int) -> float:
        """Euclidean norm of a group's A and B together; 0 where it has none."""
        norm = ctypes.c_double()
        group = unsigned(group, 32, "group")
        self._host.call(_ffi.lisa_adapter_weight_norm, self._c(), group, ctypes.byref(norm))
        return norm.value

    def close(self) -> None:
        """Detaches and destroys it; an optimizer that trains it keeps its values alive."""
        super().close()
        self._forget()

    def _forget(self) -> None:
        if self.model._adapter is self:
            self.model._adapter = None

    def _find(self, name: str) -> int:
        for info in self.tensors():
            if info.name == name:
                return info.index
        raise error_for(_ffi.LISA_E_NOTFOUND, f'no tensor "{name}" in this adapter')

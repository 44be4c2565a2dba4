"""Which layers train at a step: immutable, and a pure function of its options and the step."""

from __future__ import annotations

import ctypes
from typing import Any, Dict, Optional, Union

from . import _ffi
from ._buffers import c_array, new_array
from ._choices import SamplerKind, parse
from ._errors import InvalidArgument
from ._handles import Handle
from ._options import make, unsigned


class Sampler(Handle):
    """Draws the layers that train. Usable from any number of threads; needs no context."""

    def __init__(
        self,
        n_layers: int,
        *,
        kind: Union[SamplerKind, int, str] = SamplerKind.UNIFORM,
        n_active: Optional[int] = None,
        interval_steps: Optional[int] = None,
        seed: Optional[int] = None,
        first_step: Optional[int] = None,
        max_active: Optional[int] = None,
        descending: Optional[bool] = None,
        train_embedding: Optional[bool] = None,
        train_head: Optional[bool] = None,
        weights: Any = None,
        layers: Any = None,
    ) -> None:
        """Options as in include/lisa/sampler.h; what is not given has the library's default.

        kind: "uniform", "bernoulli", "reshuffle", "weighted", "round_robin" or "fixed".
        n_active: layers per draw (2). interval_steps: steps between two draws (20).
        weights: n_layers floats ("weighted"; "bernoulli": probabilities).
        layers: n_active layer indices ("fixed", where n_active defaults to their number).
        """
        values: Dict[str, Any] = {
            "n_layers": n_layers,
            "kind": parse(SamplerKind, kind),
            "n_active": n_active,
            "interval_steps": interval_steps,
            "seed": seed,
            "first_step": first_step,
            "max_active": max_active,
            "descending": descending,
            "train_embedding": train_embedding,
            "train_head": train_head,
        }
        if layers is not None:
            values["layers"] = c_array(layers, ctypes.c_uint32, "layers").data
            count = len(values["layers"])
            if n_active is not None and n_active != count:
                raise InvalidArgument(
                    f"layers: expected n_active = {n_active} indices, got {count}"
                )
            values["n_active"] = count
        if weights is not None:
            values["weights"] = c_array(weights, ctypes.c_double, "weights").data
            if len(values["weights"]) != n_layers:
                raise InvalidArgument(
                    f"weights: expected n_layers = {n_layers} values, got {len(values['weights'])}"
                )
        options = make(_ffi.lisa_sampler_options, _ffi.lisa_sampler_options_init, values)
        pointer = ctypes.POINTER(_ffi.lisa_sampler)()
        _ffi.lisa_sampler_create(ctypes.byref(pointer), ctypes.byref(options))
        super().__init__(pointer, _ffi.lisa_sampler_destroy)

    def mask(self, step: int) -> bytes:
        """One byte per group of L + 2, 0 or 1: embedding, L layers, final norm and head."""
        mask = (ctypes.c_uint8 * self.n_groups)()
        _ffi.lisa_sampler_mask(self._c(), unsigned(step, 64, "step"), mask, len(mask))
        return bytes(mask)

    def probabilities(self) -> memoryview:
        """P(layer l is active in a period): float64 [L]."""
        view, data = new_array(ctypes.c_double, [self.n_groups - 2])
        _ffi.lisa_sampler_probabilities(self._c(), data, len(data))
        return view

    @property
    def max_active(self) -> int:
        """The most layers of any mask: what an optimizer must hold slots for."""
        return _ffi.lisa_sampler_max_active(self._c())

    @property
    def n_groups(self) -> int:
        """L + 2."""
        return _ffi.lisa_sampler_n_groups(self._c())

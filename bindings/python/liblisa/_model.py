"""A language model: its weights, files in and out, evaluation and generation.

Shapes: B sequences of T tokens, C = d_model, V = vocab_size, L = n_layers. Groups: 0 is the
embedding, 1 + l is layer l, L + 1 is the final norm and head.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, List, NamedTuple, Optional, Union

from . import _ffi
from ._buffers import c_array, float_output, new_array
from ._choices import DType, Load, Weights, parse
from ._config import ModelConfig, config_from_c, config_to_c
from ._context import Context
from ._handles import Host
from ._options import PathLike, make, path_bytes, text_bytes, unsigned
from ._tensors import DTypeLike, TensorHandle

if TYPE_CHECKING:
    from ._adapter import Adapter
    from ._train import Batch

class Evaluation(NamedTuple):
    """What Model.evaluate found."""

    loss: float  # mean over the batch's targets, in nats
    log_probs: Optional[memoryview]  # float32 [B, T]: of each target, 0 where there is none
    greedy: Optional[memoryview]  # uint8 [B, T]: 1 where the target was the most likely token


def model_options(
    *,
    load: Union[Load, int, str, None] = None,
    scratch_dir: Optional[PathLike] = None,
    seed: Optional[int] = None,
    weights: Union[Weights, int, str, None] = None,
) -> _ffi.lisa_model_options:
    """The C options of Model.open and Model.create."""
    values = {
        "load": None if load is None else parse(Load, load),
        "scratch_dir": None if scratch_dir is None else path_bytes(scratch_dir, "scratch_dir"),
        "seed": seed,
        "weights": None if weights is None else parse(Weights, weights),
    }
    return make(_ffi.lisa_model_options, _ffi.lisa_model_options_init, values)


class Attachment:
    """What Model.set_adapter did; a with block undoes it at its end."""

    def __init__(self, model: Model, before: Optional[Adapter]) -> None:
        """Internal: use Model.set_adapter or Adapter.attach."""
        self._model = model
        self._before = before

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_exception: Any) -> None:
        before = self._before
        self._model.set_adapter(None if before is None or before.closed else before)


class Model(TensorHandle):
    """A transformer language model. Made by Model.open or Model.create."""

    _tensor_count = _ffi.lisa_model_n_tensors
    _tensor_info = _ffi.lisa_model_tensor_info
    _tensor_get = _ffi.lisa_model_tensor_read
    _tensor_put = _ffi.lisa_model_tensor_write

    def __init__(self, context: Context, create: Any, *arguments: Any) -> None:
        """Internal: use Model.open or Model.create."""
        self.context = context
        self._host: Host = context._host
        self._adapter: Optional[Adapter] = None
        destroy = _ffi.lisa_model_destroy
        pointer = self._host.create(_ffi.lisa_model, create, destroy, context._c(), *arguments)
        super().__init__(pointer, self._host.release, destroy)

    @classmethod
    def open(
        cls,
        context: Context,
        directory: PathLike,
        *,
        load: Union[Load, int, str, None] = None,
        scratch_dir: Optional[PathLike] = None,
        weights: Union[Weights, int, str, None] = None,
    ) -> Model:
        """Opens a Hugging Face directory: config.json with model.safetensors or its shards.

        load: "map" (default; frozen weights stay file pages) or "copy".
        scratch_dir: trained layers go to an unlinked file there.
        weights: "auto" (default), "resident", or "streamed": frozen layers are in host memory.
        """
        options = model_options(load=load, scratch_dir=scratch_dir, weights=weights)
        path = path_bytes(directory, "directory")
        return cls(context, _ffi.lisa_model_open, path, ctypes.byref(options))

    @classmethod
    def create(
        cls,
        context: Context,
        config: ModelConfig,
        *,
        seed: Optional[int] = None,
        scratch_dir: Optional[PathLike] = None,
        weights: Union[Weights, int, str, None] = None,
    ) -> Model:
        """Makes a model from a description, with random weights that depend on the seed alone."""
        options = model_options(scratch_dir=scratch_dir, seed=seed, weights=weights)
        struct = config_to_c(config)
        return cls(context, _ffi.lisa_model_create, ctypes.byref(struct), ctypes.byref(options))

    @property
    def config(self) -> ModelConfig:
        """The model's description; a copy."""
        struct = _ffi.lisa_model_config()
        struct.struct_size = ctypes.sizeof(struct)
        self._host.call(_ffi.lisa_model_get_config, self._c(), ctypes.byref(struct))
        return config_from_c(struct)

    def save(
        self,
        directory: PathLike,
        *,
        dtype: Optional[DTypeLike] = None,
        max_shard_bytes: Optional[int] = None,
    ) -> None:
        """Writes a Hugging Face directory, with the small files of the one the model came from.

        dtype: "f32", "bf16" or "f16"; by default each tensor's own. max_shard_bytes: 5 GB.
        """
        values = {
            "dtype": None if dtype is None else parse(DType, dtype),
            "max_shard_bytes": max_shard_bytes,
        }
        options = make(_ffi.lisa_save_options, _ffi.lisa_save_options_init, values)
        path = path_bytes(directory, "directory")
        self._host.call(_ffi.lisa_model_save, self._c(), path, ctypes.byref(options))

    @property
    def adapter(self) -> Optional[Adapter]:
        """The adapter that is attached."""
        return self._adapter

    def set_adapter(self, adapter: Optional[Adapter]) -> Attachment:
        """Attaches an adapter of this model in place of the one that is, or none.

        Allowed at any time. A with block on the result puts back what was attached before:
        `with model.set_adapter(None):` evaluates the base while an adapter trains.
        """
        pointer = None if adapter is None else adapter._c()
        self._host.call(_ffi.lisa_model_set_adapter, self._c(), pointer)
        before, self._adapter = self._adapter, adapter
        return Attachment(self, before)

    def weight_norm(self, group: int) -> float:
        """Euclidean norm of a group's weights."""
        norm = ctypes.c_double()
        self._host.call(
            _ffi.lisa_model_weight_norm,
            self._c(),
            unsigned(group, 32, "group"),
            ctypes.byref(norm),
        )
        return norm.value

    def evaluate(self, batch: Batch, *, per_token: bool = False) -> Evaluation:
        """Loss of the batch, and with per_token the log-probability of each target.

        Touches neither gradients nor saved activations: allowed at any time.
        """
        loss = ctypes.c_double()
        log_probs = greedy = log_data = greedy_data = None
        if per_token:
            log_probs, log_data = new_array(ctypes.c_float, batch.shape)
            greedy, greedy_data = new_array(ctypes.c_uint8, batch.shape)
        self._host.call(
            _ffi.lisa_model_evaluate,
            self._c(),
            batch._c(),
            ctypes.byref(loss),
            log_data,
            greedy_data,
        )
        return Evaluation(loss.value, log_probs, greedy)

    def logits(self, batch: Batch, *, dtype: DTypeLike = DType.F32, out: Any = None) -> Any:
        """Logits of every position, [B, T, V], as "f32" or "f64": for tests and small models."""
        shape = (*batch.shape, self.config.vocab_size)
        result, data, kind = float_output(out, parse(DType, dtype), shape)
        self._host.call(_ffi.lisa_model_logits, self._c(), batch._c(), data, kind, len(data))
        return result

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: Optional[int] = None,
        stop_tokens: Any = (),
        on_token: Optional[Callable[[int], Any]] = None,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        seed: Optional[int] = None,
    ) -> List[int]:
        """A continuation of `prompt` (token ids, [n]); a stop token is included.

        on_token(token) is called with each new token and ends the generation when it returns true.

        temperature: 0 (default): greedy; above: drawn by the seed.
        top_k: of this many most likely tokens; 0 (default): of all.
        top_p: of the fewest most likely whose probability reaches this; 0 (default) or 1: of all.
        seed: the same seed makes the same tokens.
        """
        tokens = c_array(prompt, ctypes.c_int32, "prompt").data
        stops = c_array(stop_tokens, ctypes.c_int32, "stop_tokens").data
        values = {
            "max_new_tokens": max_new_tokens,
            "n_stop_tokens": len(stops),
            "stop_tokens": stops,
            "on_token": None if on_token is None else self._token_fn(on_token),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        options = make(_ffi.lisa_generate_options, _ffi.lisa_generate_options_init, values)
        # More than the model has positions is refused, and not worth the memory.
        new = (ctypes.c_int32 * min(options.max_new_tokens, self.config.max_positions))()
        count = ctypes.c_uint32()
        self._host.call(
            _ffi.lisa_model_generate,
            self._c(),
            tokens,
            len(tokens),
            ctypes.byref(options),
            new,
            ctypes.byref(count),
        )
        return new[: count.value]

    def _token_fn(self, on_token: Callable[[int], Any]) -> Any:
        def call(_user: Any, token: int) -> int:
            try:
                return 1 if on_token(token) else 0
            except BaseException as error:
                self._host.remember(error)
                return 1

        return _ffi.lisa_token_fn(call)

    def _find(self, name: str) -> int:
        index = ctypes.c_uint32()
        encoded = text_bytes(name, "tensor name")
        self._host.call(_ffi.lisa_model_tensor_find, self._c(), encoded, ctypes.byref(index))
        return index.value

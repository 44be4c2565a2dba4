"""The C interface as it is: the library, its structs and a prototype for every public function.

Names are the C names. Nothing here is part of the package's promise; tests hold every line of it
to include/lisa/*.h.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, List

from ._errors import AbiError, error_for
from ._version import __version__

SONAME = "liblisa.so.0"

# ---- version.h ----

LISA_ABI_VERSION = 0

# ---- common.h ----

LISA_OK = 0
LISA_E_INVAL = -1
LISA_E_NOMEM = -2
LISA_E_IO = -3
LISA_E_FORMAT = -4
LISA_E_UNSUPPORTED = -5
LISA_E_STATE = -6
LISA_E_BUDGET = -7
LISA_E_NONFINITE = -8
LISA_E_BACKEND = -9
LISA_E_ABI = -10
LISA_E_CANCELLED = -11
LISA_E_NOTFOUND = -12
LISA_E_INTERNAL = -13

LISA_DTYPE_F32 = 1
LISA_DTYPE_BF16 = 2
LISA_DTYPE_F16 = 3
LISA_DTYPE_F64 = 4

LISA_MOMENTS_F32 = 1
LISA_MOMENTS_BF16 = 2
LISA_MOMENTS_8BIT = 3

LISA_LOG_ERROR = 1
LISA_LOG_WARN = 2
LISA_LOG_INFO = 3

# typedef void *(*lisa_alloc_fn)(void *user, size_t size, size_t align);
lisa_alloc_fn = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)
# typedef void (*lisa_release_fn)(void *user, void *ptr, size_t size, size_t align);
lisa_release_fn = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t, c_size_t)
# typedef void (*lisa_log_fn)(void *user, int32_t level, const char *line);
lisa_log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
# typedef int32_t (*lisa_interrupt_fn)(void *user);
lisa_interrupt_fn = CFUNCTYPE(c_int32, c_void_p)
# typedef int32_t (*lisa_token_fn)(void *user, int32_t token);
lisa_token_fn = CFUNCTYPE(c_int32, c_void_p, c_int32)

# ---- opaque handles ----


class lisa_context(Structure):
    pass


class lisa_model(Structure):
    pass


class lisa_adapter(Structure):
    pass


class lisa_sampler(Structure):
    pass


class lisa_batch(Structure):
    pass


class lisa_optimizer(Structure):
    pass


# ---- context.h ----

LISA_MEM_WEIGHTS_MAPPED = 0
LISA_MEM_WEIGHTS_PRIVATE = 1
LISA_MEM_GRADIENTS = 2
LISA_MEM_MOMENTS = 3
LISA_MEM_LOW_BITS = 4
LISA_MEM_ACTIVATIONS = 5
LISA_MEM_RECOMPUTE = 6
LISA_MEM_LOGITS = 7
LISA_MEM_WORKSPACE = 8
LISA_MEM_EVALUATION = 9
LISA_MEM_STAGING = 10
LISA_MEM_DISK = 11
LISA_MEM_HANDLES = 12
LISA_MEM_DRIVER = 13
LISA_MEM_HOST = 14
LISA_MEM_CLASSES = 15


class lisa_context_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("backend", c_char_p),
        ("memory_limit", c_uint64),
        ("n_threads", c_uint32),
        ("log_level", c_int32),
        ("alloc", lisa_alloc_fn),
        ("release", lisa_release_fn),
        ("alloc_user", c_void_p),
        ("log", lisa_log_fn),
        ("log_user", c_void_p),
        ("interrupt", lisa_interrupt_fn),
        ("interrupt_user", c_void_p),
    ]


# ---- batch.h ----

LISA_IGNORE_LABEL = -100

LISA_ACTIVATIONS_AUTO = 0
LISA_ACTIVATIONS_STORE = 1
LISA_ACTIVATIONS_RECOMPUTE = 2


class lisa_batch_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("activations", c_uint32),
        ("head_rows", c_uint32),
        ("inference_only", c_uint32),
        ("reserved", c_uint32),
    ]


# ---- model.h ----

LISA_NORM_RMS = 1
LISA_NORM_LAYER = 2

LISA_ACT_SILU = 1
LISA_ACT_GELU_TANH = 2
LISA_ACT_GELU_ERF = 3
LISA_ACT_RELU = 4

LISA_ROPE_NONE = 0
LISA_ROPE_DEFAULT = 1
LISA_ROPE_LINEAR = 2
LISA_ROPE_LLAMA3 = 3

LISA_LOAD_MAP = 1
LISA_LOAD_COPY = 2
LISA_WEIGHTS_AUTO = 0
LISA_WEIGHTS_RESIDENT = 1
LISA_WEIGHTS_STREAMED = 2


class lisa_model_config(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("family", c_char * 32),
        ("n_layers", c_uint32),
        ("d_model", c_uint32),
        ("n_heads", c_uint32),
        ("n_kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("d_ff", c_uint32),
        ("vocab_size", c_uint32),
        ("max_positions", c_uint32),
        ("weights_dtype", c_uint32),
        ("norm", c_uint32),
        ("activation", c_uint32),
        ("gated_mlp", c_uint32),
        ("tied_head", c_uint32),
        ("attention_bias", c_uint32),
        ("attention_output_bias", c_uint32),
        ("mlp_bias", c_uint32),
        ("head_bias", c_uint32),
        ("parallel_residual", c_uint32),
        ("qk_norm", c_uint32),
        ("learned_positions", c_uint32),
        ("sliding_window", c_uint32),
        ("rope", c_uint32),
        ("rotary_dim", c_uint32),
        ("rope_original_positions", c_uint32),
        ("rope_theta", c_double),
        ("rope_factor", c_double),
        ("rope_low_freq_factor", c_double),
        ("rope_high_freq_factor", c_double),
        ("norm_eps", c_double),
        ("init_std", c_double),
    ]


class lisa_model_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("scratch_dir", c_char_p),
        ("seed", c_uint64),
        ("load", c_uint32),
        ("weights", c_uint32),
    ]


class lisa_save_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_shard_bytes", c_uint64),
        ("dtype", c_uint32),
        ("reserved", c_uint32),
    ]


class lisa_tensor_info(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("n_elements", c_uint64),
        ("shape", c_uint64 * 2),
        ("n_dims", c_uint32),
        ("dtype", c_uint32),
        ("group", c_uint32),
        ("reserved", c_uint32),
    ]


class lisa_generate_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_new_tokens", c_uint32),
        ("n_stop_tokens", c_uint32),
        ("stop_tokens", POINTER(c_int32)),
        ("on_token", lisa_token_fn),
        ("on_token_user", c_void_p),
        ("temperature", c_double),
        ("top_p", c_double),
        ("top_k", c_uint32),
        ("reserved", c_uint32),
        ("seed", c_uint64),
    ]


# ---- adapter.h ----

LISA_TARGET_Q = 1
LISA_TARGET_K = 2
LISA_TARGET_V = 4
LISA_TARGET_O = 8
LISA_TARGET_GATE = 16
LISA_TARGET_UP = 32
LISA_TARGET_DOWN = 64
LISA_TARGET_HEAD = 128
LISA_TARGET_ATTENTION = 15
LISA_TARGET_MLP = 112
LISA_TARGET_ALL_LAYERS = 127


class lisa_adapter_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("alpha", c_double),
        ("dropout", c_double),
        ("seed", c_uint64),
        ("rank", c_uint32),
        ("targets", c_uint32),
        ("use_rslora", c_uint32),
        ("reserved", c_uint32),
    ]


# ---- optimizer.h ----

LISA_STATE_DROP = 1
LISA_STATE_KEEP = 2
LISA_STATE_OFFLOAD = 3

LISA_NO_LAYERS = 0xFFFFFFFF


class lisa_optimizer_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("lr", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
        ("weight_decay", c_double),
        ("max_grad_norm", c_double),
        ("seed", c_uint64),
        ("max_active_layers", c_uint32),
        ("state_policy", c_uint32),
        ("train_embedding", c_uint32),
        ("train_head", c_uint32),
        ("scratch_dir", c_char_p),
        ("moments_embedding", c_uint32),
        ("moments_layers", c_uint32),
        ("moments_head", c_uint32),
        ("warmup_steps", c_uint32),
        ("lr_factor_embedding", c_double),
        ("lr_factor_layers", c_double),
        ("lr_factor_head", c_double),
        ("update_in_backward", c_uint32),
        ("embedding_rows", c_uint32),
    ]


class lisa_step_stats(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("loss", c_double),
        ("weight_sum", c_double),
        ("grad_norm", c_double),
        ("lr", c_double),
        ("n_targets", c_uint64),
        ("n_backward", c_uint32),
        ("updated", c_uint32),
        ("swapped", c_uint32),
        ("n_active_layers", c_uint32),
    ]


# ---- plan.h ----


class lisa_plan_request(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("config", POINTER(lisa_model_config)),
        ("context", POINTER(lisa_context_options)),
        ("model", POINTER(lisa_model_options)),
        ("batch", POINTER(lisa_batch_options)),
        ("optimizer", POINTER(lisa_optimizer_options)),
        ("max_batch", c_uint32),
        ("max_tokens", c_uint32),
        ("generate_tokens", c_uint32),
        ("reserved", c_uint32),
        ("adapter", POINTER(lisa_adapter_options)),
    ]


class lisa_plan_report(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("bytes", c_uint64 * 16),
        ("total", c_uint64),
        ("n_parameters", c_uint64),
        ("n_trained", c_uint64),
        ("stored_layers", c_uint32),
        ("head_rows", c_uint32),
        ("fits", c_uint32),
        ("largest_class", c_uint32),
    ]


# ---- sampler.h ----

LISA_SAMPLER_UNIFORM = 1
LISA_SAMPLER_BERNOULLI = 2
LISA_SAMPLER_RESHUFFLE = 3
LISA_SAMPLER_WEIGHTED = 4
LISA_SAMPLER_ROUND_ROBIN = 5
LISA_SAMPLER_FIXED = 6

LISA_SAMPLER_MAX_LAYERS = 4096


class lisa_sampler_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("seed", c_uint64),
        ("first_step", c_uint64),
        ("kind", c_uint32),
        ("n_layers", c_uint32),
        ("n_active", c_uint32),
        ("interval_steps", c_uint32),
        ("max_active", c_uint32),
        ("descending", c_uint32),
        ("train_embedding", c_uint32),
        ("train_head", c_uint32),
        ("weights", POINTER(c_double)),
        ("layers", POINTER(c_uint32)),
    ]


# ---- checkpoint.h ----


class lisa_checkpoint_options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("sampler", POINTER(lisa_sampler)),
        ("blob", c_void_p),
        ("blob_bytes", c_uint64),
        ("keep", c_uint32),
        ("reserved", c_uint32),
    ]


class lisa_checkpoint_info(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("step", c_uint64),
        ("blob_bytes", c_uint64),
        ("bytes", c_uint64),
        ("format", c_uint32),
        ("n_layers", c_uint32),
        ("has_sampler", c_uint32),
        ("adapted", c_uint32),
    ]


# ---- the library ----


def candidates() -> List[str]:
    """Where the library is looked for, in order; a bare name is the system's own search.

    $LISA_LIBRARY, where set, is the only one. A build tree is considered where this package lies
    in a checkout, its release build first.
    """
    chosen = os.environ.get("LISA_LIBRARY")
    if chosen:
        return [chosen]
    package = Path(__file__).resolve().parent
    found = [str(package / SONAME)]
    checkout = package.parents[2]
    if (checkout / "include" / "lisa" / "lisa.h").is_file():
        builds = sorted(checkout.glob("build/*/" + SONAME), key=lambda p: p.parent.name)
        builds.sort(key=lambda p: p.parent.name != "release")
        found += [str(path) for path in builds] or [str(checkout / "build" / "*" / SONAME)]
    return found + [SONAME]


def load() -> ctypes.CDLL:
    """Opens the first candidate that exists. ImportError names all of them and their failures."""
    failures = []
    for path in candidates():
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            failures.append(str(error) if path in str(error) else f"{path}: {error}")
            if os.path.exists(path):
                break  # found but unusable: another one must not hide that
    raise ImportError(
        "liblisa's shared library could not be loaded: build it (make), install it, or set "
        "LISA_LIBRARY to its path; looked for " + "; ".join(failures)
    )


def _version_number(text: str) -> int:
    major, minor, patch = (int(part) for part in text.split("."))
    return major * 1000000 + minor * 1000 + patch


def check_abi(library: ctypes.CDLL) -> None:
    """AbiError unless the library has this package's ABI number and is not older than it."""
    try:
        library.lisa_abi_version.restype = c_uint32
        library.lisa_version_number.restype = c_uint32
        library.lisa_version_string.restype = c_char_p
    except AttributeError as error:
        raise AbiError(f"{library._name} is not liblisa: {error}") from None
    abi = library.lisa_abi_version()
    number = library.lisa_version_number()
    if abi == LISA_ABI_VERSION and number >= _version_number(__version__):
        return
    version = library.lisa_version_string().decode()
    raise AbiError(
        f"{library._name} is liblisa {version} with ABI {abi}, but the Python package is "
        f"{__version__} and needs ABI {LISA_ABI_VERSION}, version {__version__} or newer: "
        "was one of the two installed without the other?"
    )


LIBRARY = load()
check_abi(LIBRARY)


def _raise_status(status: int, _function: Any, _arguments: Any) -> int:
    if status != LISA_OK:
        raise error_for(status, lisa_error_last().decode("utf-8", "replace"))
    return status


def _bind(name: str, restype: Any, *argtypes: Any) -> Any:
    function = LIBRARY[name]
    function.argtypes = argtypes
    function.restype = restype
    return function


def _bind_status(name: str, *argtypes: Any) -> Any:
    function = _bind(name, c_int32, *argtypes)
    function.errcheck = _raise_status
    return function


# ---- common.h ----

# const char *lisa_error_last(void);
lisa_error_last = _bind("lisa_error_last", c_char_p)
# const char *lisa_status_name(lisa_status status);
lisa_status_name = _bind("lisa_status_name", c_char_p, c_int32)
# const char *lisa_dtype_name(uint32_t dtype);
lisa_dtype_name = _bind("lisa_dtype_name", c_char_p, c_uint32)

# ---- version.h ----

# const char *lisa_version_string(void);
lisa_version_string = _bind("lisa_version_string", c_char_p)
# uint32_t lisa_version_number(void);
lisa_version_number = _bind("lisa_version_number", c_uint32)
# uint32_t lisa_abi_version(void);
lisa_abi_version = _bind("lisa_abi_version", c_uint32)

# ---- context.h ----

# lisa_status lisa_context_options_init(lisa_context_options *options, size_t struct_size);
lisa_context_options_init = _bind_status(
    "lisa_context_options_init",
    POINTER(lisa_context_options),
    c_size_t,
)
# lisa_status lisa_context_create(lisa_context **out, const lisa_context_options *options);
lisa_context_create = _bind_status(
    "lisa_context_create",
    POINTER(POINTER(lisa_context)),
    POINTER(lisa_context_options),
)
# void lisa_context_destroy(lisa_context *context);
lisa_context_destroy = _bind("lisa_context_destroy", None, POINTER(lisa_context))
# lisa_status lisa_context_memory(const lisa_context *context, uint32_t memory_class,
#     uint64_t *current, uint64_t *peak);
lisa_context_memory = _bind_status(
    "lisa_context_memory",
    POINTER(lisa_context),
    c_uint32,
    POINTER(c_uint64),
    POINTER(c_uint64),
)
# const char *lisa_context_backend(const lisa_context *context);
lisa_context_backend = _bind("lisa_context_backend", c_char_p, POINTER(lisa_context))
# uint32_t lisa_context_n_threads(const lisa_context *context);
lisa_context_n_threads = _bind("lisa_context_n_threads", c_uint32, POINTER(lisa_context))

# ---- batch.h ----

# lisa_status lisa_batch_options_init(lisa_batch_options *options, size_t struct_size);
lisa_batch_options_init = _bind_status(
    "lisa_batch_options_init",
    POINTER(lisa_batch_options),
    c_size_t,
)
# lisa_status lisa_batch_create(lisa_batch **out, struct lisa_model *model, uint32_t max_batch,
#     uint32_t max_tokens, const lisa_batch_options *options);
lisa_batch_create = _bind_status(
    "lisa_batch_create",
    POINTER(POINTER(lisa_batch)),
    POINTER(lisa_model),
    c_uint32,
    c_uint32,
    POINTER(lisa_batch_options),
)
# void lisa_batch_destroy(lisa_batch *batch);
lisa_batch_destroy = _bind("lisa_batch_destroy", None, POINTER(lisa_batch))
# lisa_status lisa_batch_set(lisa_batch *batch, const int32_t *tokens, const int32_t *targets,
#     uint32_t n_batch, uint32_t n_tokens);
lisa_batch_set = _bind_status(
    "lisa_batch_set",
    POINTER(lisa_batch),
    POINTER(c_int32),
    POINTER(c_int32),
    c_uint32,
    c_uint32,
)
# lisa_status lisa_batch_set_documents(lisa_batch *batch, const int32_t *documents);
lisa_batch_set_documents = _bind_status(
    "lisa_batch_set_documents",
    POINTER(lisa_batch),
    POINTER(c_int32),
)
# lisa_status lisa_batch_set_weights(lisa_batch *batch, const float *weights);
lisa_batch_set_weights = _bind_status(
    "lisa_batch_set_weights",
    POINTER(lisa_batch),
    POINTER(c_float),
)
# uint64_t lisa_batch_n_targets(const lisa_batch *batch);
lisa_batch_n_targets = _bind("lisa_batch_n_targets", c_uint64, POINTER(lisa_batch))

# ---- model.h ----

# lisa_status lisa_model_config_init(lisa_model_config *config, size_t struct_size);
lisa_model_config_init = _bind_status(
    "lisa_model_config_init",
    POINTER(lisa_model_config),
    c_size_t,
)
# lisa_status lisa_model_config_read(lisa_model_config *config, const char *directory);
lisa_model_config_read = _bind_status(
    "lisa_model_config_read",
    POINTER(lisa_model_config),
    c_char_p,
)
# lisa_status lisa_model_options_init(lisa_model_options *options, size_t struct_size);
lisa_model_options_init = _bind_status(
    "lisa_model_options_init",
    POINTER(lisa_model_options),
    c_size_t,
)
# lisa_status lisa_model_open(lisa_model **out, lisa_context *context, const char *directory,
#     const lisa_model_options *options);
lisa_model_open = _bind_status(
    "lisa_model_open",
    POINTER(POINTER(lisa_model)),
    POINTER(lisa_context),
    c_char_p,
    POINTER(lisa_model_options),
)
# lisa_status lisa_model_create(lisa_model **out, lisa_context *context,
#     const lisa_model_config *config, const lisa_model_options *options);
lisa_model_create = _bind_status(
    "lisa_model_create",
    POINTER(POINTER(lisa_model)),
    POINTER(lisa_context),
    POINTER(lisa_model_config),
    POINTER(lisa_model_options),
)
# void lisa_model_destroy(lisa_model *model);
lisa_model_destroy = _bind("lisa_model_destroy", None, POINTER(lisa_model))
# lisa_status lisa_model_get_config(const lisa_model *model, lisa_model_config *config);
lisa_model_get_config = _bind_status(
    "lisa_model_get_config",
    POINTER(lisa_model),
    POINTER(lisa_model_config),
)
# lisa_status lisa_save_options_init(lisa_save_options *options, size_t struct_size);
lisa_save_options_init = _bind_status(
    "lisa_save_options_init",
    POINTER(lisa_save_options),
    c_size_t,
)
# lisa_status lisa_model_save(lisa_model *model, const char *directory,
#     const lisa_save_options *options);
lisa_model_save = _bind_status(
    "lisa_model_save",
    POINTER(lisa_model),
    c_char_p,
    POINTER(lisa_save_options),
)
# uint32_t lisa_model_n_tensors(const lisa_model *model);
lisa_model_n_tensors = _bind("lisa_model_n_tensors", c_uint32, POINTER(lisa_model))
# lisa_status lisa_model_tensor_info(const lisa_model *model, uint32_t index,
#     lisa_tensor_info *info);
lisa_model_tensor_info = _bind_status(
    "lisa_model_tensor_info",
    POINTER(lisa_model),
    c_uint32,
    POINTER(lisa_tensor_info),
)
# lisa_status lisa_model_tensor_find(const lisa_model *model, const char *name, uint32_t *index);
lisa_model_tensor_find = _bind_status(
    "lisa_model_tensor_find",
    POINTER(lisa_model),
    c_char_p,
    POINTER(c_uint32),
)
# lisa_status lisa_model_tensor_read(lisa_model *model, uint32_t index, void *data,
#     uint32_t dtype, uint64_t n_elements);
lisa_model_tensor_read = _bind_status(
    "lisa_model_tensor_read",
    POINTER(lisa_model),
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_model_tensor_write(lisa_model *model, uint32_t index, const void *data,
#     uint32_t dtype, uint64_t n_elements);
lisa_model_tensor_write = _bind_status(
    "lisa_model_tensor_write",
    POINTER(lisa_model),
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_model_weight_norm(lisa_model *model, uint32_t group, double *norm);
lisa_model_weight_norm = _bind_status(
    "lisa_model_weight_norm",
    POINTER(lisa_model),
    c_uint32,
    POINTER(c_double),
)
# lisa_status lisa_model_evaluate(lisa_model *model, lisa_batch *batch, double *loss,
#     float *log_probs, uint8_t *greedy);
lisa_model_evaluate = _bind_status(
    "lisa_model_evaluate",
    POINTER(lisa_model),
    POINTER(lisa_batch),
    POINTER(c_double),
    POINTER(c_float),
    POINTER(c_uint8),
)
# lisa_status lisa_model_logits(lisa_model *model, lisa_batch *batch, void *logits,
#     uint32_t dtype, uint64_t n_elements);
lisa_model_logits = _bind_status(
    "lisa_model_logits",
    POINTER(lisa_model),
    POINTER(lisa_batch),
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_generate_options_init(lisa_generate_options *options, size_t struct_size);
lisa_generate_options_init = _bind_status(
    "lisa_generate_options_init",
    POINTER(lisa_generate_options),
    c_size_t,
)
# lisa_status lisa_model_generate(lisa_model *model, const int32_t *prompt, uint32_t n_prompt,
#     const lisa_generate_options *options, int32_t *tokens, uint32_t *n_tokens);
lisa_model_generate = _bind_status(
    "lisa_model_generate",
    POINTER(lisa_model),
    POINTER(c_int32),
    c_uint32,
    POINTER(lisa_generate_options),
    POINTER(c_int32),
    POINTER(c_uint32),
)

# ---- adapter.h ----

# lisa_status lisa_adapter_options_init(lisa_adapter_options *options, size_t struct_size);
lisa_adapter_options_init = _bind_status(
    "lisa_adapter_options_init",
    POINTER(lisa_adapter_options),
    c_size_t,
)
# lisa_status lisa_adapter_create(lisa_adapter **out, lisa_model *model,
#     const lisa_adapter_options *options);
lisa_adapter_create = _bind_status(
    "lisa_adapter_create",
    POINTER(POINTER(lisa_adapter)),
    POINTER(lisa_model),
    POINTER(lisa_adapter_options),
)
# lisa_status lisa_adapter_open(lisa_adapter **out, lisa_model *model, const char *directory,
#     const lisa_adapter_options *options);
lisa_adapter_open = _bind_status(
    "lisa_adapter_open",
    POINTER(POINTER(lisa_adapter)),
    POINTER(lisa_model),
    c_char_p,
    POINTER(lisa_adapter_options),
)
# void lisa_adapter_destroy(lisa_adapter *adapter);
lisa_adapter_destroy = _bind("lisa_adapter_destroy", None, POINTER(lisa_adapter))
# lisa_status lisa_adapter_get_options(const lisa_adapter *adapter,
#     lisa_adapter_options *options);
lisa_adapter_get_options = _bind_status(
    "lisa_adapter_get_options",
    POINTER(lisa_adapter),
    POINTER(lisa_adapter_options),
)
# lisa_status lisa_adapter_save(lisa_adapter *adapter, const char *directory);
lisa_adapter_save = _bind_status("lisa_adapter_save", POINTER(lisa_adapter), c_char_p)
# lisa_status lisa_model_set_adapter(lisa_model *model, lisa_adapter *adapter);
lisa_model_set_adapter = _bind_status(
    "lisa_model_set_adapter",
    POINTER(lisa_model),
    POINTER(lisa_adapter),
)
# lisa_status lisa_adapter_merge(lisa_adapter *adapter);
lisa_adapter_merge = _bind_status("lisa_adapter_merge", POINTER(lisa_adapter))
# uint32_t lisa_adapter_n_tensors(const lisa_adapter *adapter);
lisa_adapter_n_tensors = _bind("lisa_adapter_n_tensors", c_uint32, POINTER(lisa_adapter))
# lisa_status lisa_adapter_tensor_info(const lisa_adapter *adapter, uint32_t index,
#     lisa_tensor_info *info);
lisa_adapter_tensor_info = _bind_status(
    "lisa_adapter_tensor_info",
    POINTER(lisa_adapter),
    c_uint32,
    POINTER(lisa_tensor_info),
)
# lisa_status lisa_adapter_tensor_read(lisa_adapter *adapter, uint32_t index, void *data,
#     uint32_t dtype, uint64_t n_elements);
lisa_adapter_tensor_read = _bind_status(
    "lisa_adapter_tensor_read",
    POINTER(lisa_adapter),
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_adapter_tensor_write(lisa_adapter *adapter, uint32_t index,
#     const void *data, uint32_t dtype, uint64_t n_elements);
lisa_adapter_tensor_write = _bind_status(
    "lisa_adapter_tensor_write",
    POINTER(lisa_adapter),
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_adapter_weight_norm(lisa_adapter *adapter, uint32_t group, double *norm);
lisa_adapter_weight_norm = _bind_status(
    "lisa_adapter_weight_norm",
    POINTER(lisa_adapter),
    c_uint32,
    POINTER(c_double),
)

# ---- optimizer.h ----

# lisa_status lisa_optimizer_options_init(lisa_optimizer_options *options, size_t struct_size);
lisa_optimizer_options_init = _bind_status(
    "lisa_optimizer_options_init",
    POINTER(lisa_optimizer_options),
    c_size_t,
)
# lisa_status lisa_optimizer_create(lisa_optimizer **out, lisa_model *model,
#     const lisa_optimizer_options *options);
lisa_optimizer_create = _bind_status(
    "lisa_optimizer_create",
    POINTER(POINTER(lisa_optimizer)),
    POINTER(lisa_model),
    POINTER(lisa_optimizer_options),
)
# void lisa_optimizer_destroy(lisa_optimizer *optimizer);
lisa_optimizer_destroy = _bind("lisa_optimizer_destroy", None, POINTER(lisa_optimizer))
# lisa_status lisa_optimizer_set_lr(lisa_optimizer *optimizer, double lr);
lisa_optimizer_set_lr = _bind_status("lisa_optimizer_set_lr", POINTER(lisa_optimizer), c_double)
# lisa_status lisa_optimizer_apply_mask(lisa_optimizer *optimizer, const uint8_t *mask,
#     uint32_t n_groups);
lisa_optimizer_apply_mask = _bind_status(
    "lisa_optimizer_apply_mask",
    POINTER(lisa_optimizer),
    POINTER(c_uint8),
    c_uint32,
)
# lisa_status lisa_optimizer_get_mask(const lisa_optimizer *optimizer, uint8_t *mask,
#     uint32_t n_groups);
lisa_optimizer_get_mask = _bind_status(
    "lisa_optimizer_get_mask",
    POINTER(lisa_optimizer),
    POINTER(c_uint8),
    c_uint32,
)
# lisa_status lisa_optimizer_step(lisa_optimizer *optimizer, lisa_step_stats *stats);
lisa_optimizer_step = _bind_status(
    "lisa_optimizer_step",
    POINTER(lisa_optimizer),
    POINTER(lisa_step_stats),
)
# lisa_status lisa_optimizer_discard(lisa_optimizer *optimizer);
lisa_optimizer_discard = _bind_status("lisa_optimizer_discard", POINTER(lisa_optimizer))
# lisa_status lisa_optimizer_gradients(lisa_optimizer *optimizer, void **data,
#     uint64_t *n_elements, uint32_t *dtype);
lisa_optimizer_gradients = _bind_status(
    "lisa_optimizer_gradients",
    POINTER(lisa_optimizer),
    POINTER(c_void_p),
    POINTER(c_uint64),
    POINTER(c_uint32),
)
# lisa_status lisa_optimizer_gradient_read(lisa_optimizer *optimizer, uint32_t tensor, void *data,
#     uint32_t dtype, uint64_t n_elements);
lisa_optimizer_gradient_read = _bind_status(
    "lisa_optimizer_gradient_read",
    POINTER(lisa_optimizer),
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint64,
)
# lisa_status lisa_optimizer_gradient_norm(lisa_optimizer *optimizer, uint32_t group,
#     double *norm);
lisa_optimizer_gradient_norm = _bind_status(
    "lisa_optimizer_gradient_norm",
    POINTER(lisa_optimizer),
    c_uint32,
    POINTER(c_double),
)
# lisa_status lisa_optimizer_group_steps(const lisa_optimizer *optimizer, uint32_t group,
#     uint64_t *steps);
lisa_optimizer_group_steps = _bind_status(
    "lisa_optimizer_group_steps",
    POINTER(lisa_optimizer),
    c_uint32,
    POINTER(c_uint64),
)

# ---- plan.h ----

# lisa_status lisa_plan_request_init(lisa_plan_request *request, size_t struct_size);
lisa_plan_request_init = _bind_status(
    "lisa_plan_request_init",
    POINTER(lisa_plan_request),
    c_size_t,
)
# lisa_status lisa_plan(const lisa_plan_request *request, lisa_plan_report *report);
lisa_plan = _bind_status("lisa_plan", POINTER(lisa_plan_request), POINTER(lisa_plan_report))
# const char *lisa_memory_class_name(uint32_t memory_class);
lisa_memory_class_name = _bind("lisa_memory_class_name", c_char_p, c_uint32)

# ---- sampler.h ----

# lisa_status lisa_sampler_options_init(lisa_sampler_options *options, size_t struct_size);
lisa_sampler_options_init = _bind_status(
    "lisa_sampler_options_init",
    POINTER(lisa_sampler_options),
    c_size_t,
)
# lisa_status lisa_sampler_create(lisa_sampler **out, const lisa_sampler_options *options);
lisa_sampler_create = _bind_status(
    "lisa_sampler_create",
    POINTER(POINTER(lisa_sampler)),
    POINTER(lisa_sampler_options),
)
# void lisa_sampler_destroy(lisa_sampler *sampler);
lisa_sampler_destroy = _bind("lisa_sampler_destroy", None, POINTER(lisa_sampler))
# lisa_status lisa_sampler_mask(const lisa_sampler *sampler, uint64_t step, uint8_t *mask,
#     uint32_t n_groups);
lisa_sampler_mask = _bind_status(
    "lisa_sampler_mask",
    POINTER(lisa_sampler),
    c_uint64,
    POINTER(c_uint8),
    c_uint32,
)
# lisa_status lisa_sampler_probabilities(const lisa_sampler *sampler, double *probabilities,
#     uint32_t n_layers);
lisa_sampler_probabilities = _bind_status(
    "lisa_sampler_probabilities",
    POINTER(lisa_sampler),
    POINTER(c_double),
    c_uint32,
)
# uint32_t lisa_sampler_max_active(const lisa_sampler *sampler);
lisa_sampler_max_active = _bind("lisa_sampler_max_active", c_uint32, POINTER(lisa_sampler))
# uint32_t lisa_sampler_n_groups(const lisa_sampler *sampler);
lisa_sampler_n_groups = _bind("lisa_sampler_n_groups", c_uint32, POINTER(lisa_sampler))

# ---- checkpoint.h ----

# lisa_status lisa_checkpoint_options_init(lisa_checkpoint_options *options, size_t struct_size);
lisa_checkpoint_options_init = _bind_status(
    "lisa_checkpoint_options_init",
    POINTER(lisa_checkpoint_options),
    c_size_t,
)
# lisa_status lisa_checkpoint_save(lisa_optimizer *optimizer, const char *directory, uint64_t
#     step, const lisa_checkpoint_options *options);
lisa_checkpoint_save = _bind_status(
    "lisa_checkpoint_save",
    POINTER(lisa_optimizer),
    c_char_p,
    c_uint64,
    POINTER(lisa_checkpoint_options),
)
# lisa_status lisa_checkpoint_verify(const char *path, lisa_checkpoint_info *info);
lisa_checkpoint_verify = _bind_status(
    "lisa_checkpoint_verify",
    c_char_p,
    POINTER(lisa_checkpoint_info),
)
# lisa_status lisa_checkpoint_find(const char *directory, char *path, size_t path_bytes);
lisa_checkpoint_find = _bind_status("lisa_checkpoint_find", c_char_p, c_char_p, c_size_t)
# lisa_status lisa_checkpoint_load(lisa_optimizer *optimizer, const char *path,
#     lisa_checkpoint_info *info);
lisa_checkpoint_load = _bind_status(
    "lisa_checkpoint_load",
    POINTER(lisa_optimizer),
    c_char_p,
    POINTER(lisa_checkpoint_info),
)
# lisa_status lisa_checkpoint_blob(const char *path, void *blob, uint64_t n);
lisa_checkpoint_blob = _bind_status("lisa_checkpoint_blob", c_char_p, c_void_p, c_uint64)
# lisa_status lisa_checkpoint_sampler(lisa_sampler **out, const char *path);
lisa_checkpoint_sampler = _bind_status(
    "lisa_checkpoint_sampler",
    POINTER(POINTER(lisa_sampler)),
    c_char_p,
)

# ---- train.h ----

# lisa_status lisa_forward(lisa_model *model, lisa_batch *batch, double *loss);
lisa_forward = _bind_status(
    "lisa_forward",
    POINTER(lisa_model),
    POINTER(lisa_batch),
    POINTER(c_double),
)
# lisa_status lisa_backward(lisa_model *model, lisa_batch *batch);
lisa_backward = _bind_status("lisa_backward", POINTER(lisa_model), POINTER(lisa_batch))
# lisa_status lisa_train_step(lisa_model *model, const lisa_sampler *sampler,
#     lisa_optimizer *optimizer, lisa_batch *batch, uint64_t step, lisa_step_stats *stats);
lisa_train_step = _bind_status(
    "lisa_train_step",
    POINTER(lisa_model),
    POINTER(lisa_sampler),
    POINTER(lisa_optimizer),
    POINTER(lisa_batch),
    c_uint64,
    POINTER(lisa_step_stats),
)

#include "backend/cuda/cuda.h"

#include "backend/cuda/cublas.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "core/error.h"

#include <cstdio>
#include <new>

/* What start takes from the host in one piece. */
struct started {
    struct lisa__cuda cuda;
    struct lisa__cublas cublas;
    struct lisa__staging staging;
};

/* ---- errors ---- */

/* Those of which NVIDIA says that all further work returns the same, and those that explain
 * nothing. */
static bool is_lost(cudaError_t error) {
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorUnknown:
        return true;
    default:
        return false;
    }
}

static lisa_status say(const lisa_backend *be, lisa_status status, const char *what,
                       cudaError_t error) {
    char text[512];
    snprintf(text, sizeof text, "cuda: %s: %s", what, cudaGetErrorString(error));
    return be->host->fail(be->host->self, status, text);
}

static lisa_status was_lost(const struct lisa__cuda *cuda) {
    return say(&cuda->base, LISA_E_BACKEND, "the device was lost",
               static_cast<cudaError_t>(cuda->lost));
}

/* The runtime's own note of the error is cleared: the next launch must not find it. */
lisa_status lisa__cuda_fail(lisa_backend *be, cudaError_t error, const char *what) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    cudaGetLastError();
    if (is_lost(error)) {
        cuda->lost = error;
        return was_lost(cuda);
    }
    return say(be, error == cudaErrorMemoryAllocation ? LISA_E_NOMEM : LISA_E_BACKEND, what, error);
}

lisa_status lisa__cuda_launched(lisa_backend *be, const char *what) {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? LISA_OK : lisa__cuda_fail(be, error, what);
}

lisa_status lisa__cuda_refuse(lisa_backend *be, const char *text) {
    return be->host->fail(be->host->self, LISA_E_INVAL, text);
}

/* ---- whose device is current ---- */

/* While it lives, the backend's device is the calling thread's; then the host's is again. */
class our_device {
  public:
    explicit our_device(const struct lisa__cuda *cuda) {
        error = cudaGetDevice(&hosts);
        if (error != cudaSuccess || hosts == cuda->device)
            return;
        error = cudaSetDevice(cuda->device);
        changed = error == cudaSuccess;
    }
    ~our_device() {
        if (changed)
            cudaSetDevice(hosts);
    }
    our_device(const our_device &) = delete;
    our_device &operator=(const our_device &) = delete;

    cudaError_t error;

  private:
    int hosts = 0;
    bool changed = false;
};

/* An operation as it stands in the table: on the backend's device, unless that was lost. */
template <auto operation> struct on_device;
template <class... Arguments, lisa_status (*operation)(lisa_backend *be, Arguments... arguments)>
struct on_device<operation> {
    static lisa_status call(lisa_backend *be, Arguments... arguments) {
        const struct lisa__cuda *cuda = lisa__cuda_of(be);
        if (cuda->lost != 0)
            return was_lost(cuda);
        const our_device current(cuda);
        if (current.error != cudaSuccess)
            return lisa__cuda_fail(be, current.error, "the device cannot be made current");
        return operation(be, arguments...);
    }
};

static lisa_status alloc(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes) {
    *out = nullptr;
    return on_device<lisa__cuda_alloc>::call(be, out, memory_class, bytes);
}

/* What can be freed is freed even where the device was lost. */
static void release(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes) {
    const our_device current(lisa__cuda_of(be));
    lisa__cuda_release(be, ptr, memory_class, bytes);
}

/* ---- start and stop ---- */

static lisa_status refuse_old(const struct lisa__cuda *cuda, int major, int minor) {
    const lisa_backend_host *host = cuda->base.host;
    cudaDeviceProp device;
    const bool named = cudaGetDeviceProperties(&device, cuda->device) == cudaSuccess;
    char text[384];
    snprintf(text, sizeof text,
             "cuda: device %d (%s) has compute capability %d.%d, at least 8.0 is needed",
             cuda->device, named ? device.name : "?", major, minor);
    return host->fail(host->self, LISA_E_BACKEND, text);
}

/* The device that is current for the calling thread. */
static lisa_status find_device(struct lisa__cuda *cuda) {
    int n_devices = 0, major = 0, minor = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error == cudaSuccess && n_devices == 0)
        error = cudaErrorNoDevice;
    if (error == cudaSuccess)
        error = cudaGetDevice(&cuda->device);
    const struct {
        int *value;
        cudaDeviceAttr attribute;
    } wanted[] = {
        {&major, cudaDevAttrComputeCapabilityMajor},
        {&minor, cudaDevAttrComputeCapabilityMinor},
        {&cuda->multiprocessors, cudaDevAttrMultiProcessorCount},
        {&cuda->shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin},
    };
    for (const auto &each : wanted)
        if (error == cudaSuccess)
            error = cudaDeviceGetAttribute(each.value, each.attribute, cuda->device);
    if (error != cudaSuccess)
        return lisa__cuda_fail(&cuda->base, error, "no usable device");
    return major < 8 ? refuse_old(cuda, major, minor) : LISA_OK;
}

/* The first of these creates the device's context, where the process has none yet. Neither stream
 * waits for the default one, which is the host's. */
static lisa_status make_streams(struct lisa__cuda *cuda) {
    cudaError_t error = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&cuda->copies, cudaStreamNonBlocking);
    if (error != cudaSuccess)
        return lisa__cuda_fail(&cuda->base, error, "no stream");
    LISA_TRY(lisa__cuda_make_events(cuda, cuda->filled, LISA_TRANSFER_SLOTS));
    LISA_TRY(lisa__cuda_make_events(cuda, cuda->freed, LISA_TRANSFER_SLOTS));
    return lisa__cuda_make_events(cuda, cuda->posted, LISA_CUDA_TICKETS);
}

static uint64_t workspace_bytes(uint32_t n_threads) {
    (void)n_threads;
    return LISA_CUDA_BLAS_WORKSPACE + LISA_CUDA_SCRATCH * sizeof(float) + LISA_CUDA_STAGING;
}

static lisa_status take_workspace(struct lisa__cuda *cuda) {
    lisa_backend *be = &cuda->base;
    void *scratch = nullptr;
    LISA_TRY(lisa__staging_create(cuda));
    LISA_TRY(
        lisa__cuda_alloc(be, &cuda->blas_workspace, LISA_MEM_WORKSPACE, LISA_CUDA_BLAS_WORKSPACE));
    LISA_TRY(lisa__cuda_alloc(be, &scratch, LISA_MEM_WORKSPACE, LISA_CUDA_SCRATCH * sizeof(float)));
    cuda->scratch = static_cast<float *>(scratch);
    return LISA_OK;
}

static lisa_status free_bytes(struct lisa__cuda *cuda, size_t *out) {
    size_t total;
    const cudaError_t error = cudaMemGetInfo(out, &total);
    return error == cudaSuccess ? LISA_OK
                                : lisa__cuda_fail(&cuda->base, error, "the device's free memory");
}

/* What the device has less of than before, and we have not taken: cuBLAS, and what the driver
 * rounds up. The context itself is older than the first question that can be asked. */
static lisa_status account_driver(struct lisa__cuda *cuda, size_t before) {
    const lisa_backend_host *host = cuda->base.host;
    const size_t ours = LISA_CUDA_BLAS_WORKSPACE + LISA_CUDA_SCRATCH * sizeof(float);
    size_t after;
    LISA_TRY(free_bytes(cuda, &after));
    if (before <= after + ours)
        return LISA_OK;
    LISA_TRY(host->account(host->self, LISA_MEM_DRIVER, before - after - ours));
    cuda->driver_bytes = before - after - ours;
    return LISA_OK;
}

static lisa_status set_up(struct started *started) {
    struct lisa__cuda *cuda = &started->cuda;
    size_t before;
    LISA_TRY(find_device(cuda));
    LISA_TRY(lisa__cublas_find(&cuda->base, &started->cublas));
    LISA_TRY(make_streams(cuda));
    LISA_TRY(free_bytes(cuda, &before));
    LISA_TRY(take_workspace(cuda));
    LISA_TRY(lisa__cublas_open(cuda));
    return account_driver(cuda, before);
}

static void stop(lisa_backend *be) {
    if (be == nullptr)
        return;
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    const lisa_backend_host *host = be->host;
    {
        const our_device current(cuda);
        if (cuda->handle != nullptr)
            cuda->cublas->destroy(cuda->handle);
        lisa__cuda_release(be, cuda->scratch, LISA_MEM_WORKSPACE,
                           LISA_CUDA_SCRATCH * sizeof(float));
        lisa__cuda_release(be, cuda->blas_workspace, LISA_MEM_WORKSPACE, LISA_CUDA_BLAS_WORKSPACE);
        lisa__staging_destroy(cuda);
        lisa__cuda_destroy_events(cuda->posted, LISA_CUDA_TICKETS);
        lisa__cuda_destroy_events(cuda->freed, LISA_TRANSFER_SLOTS);
        lisa__cuda_destroy_events(cuda->filled, LISA_TRANSFER_SLOTS);
        if (cuda->copies != nullptr)
            cudaStreamDestroy(cuda->copies);
        if (cuda->stream != nullptr)
            cudaStreamDestroy(cuda->stream);
        cudaGetLastError();
    }
    if (cuda->driver_bytes > 0)
        host->unaccount(host->self, LISA_MEM_DRIVER, cuda->driver_bytes);
    host->release(host->self, LISA_MEM_HANDLES, cuda, sizeof(struct started));
}

static lisa_status start(lisa_backend **out, const lisa_backend_host *host);

static const lisa_backend_ops ops = {
    .api_version = LISA_BACKEND_API_VERSION,
    .flags = LISA_BACKEND_TYPED_OPERANDS,
    .real_dtype = LISA_DTYPE_F32,
    .reserved = 0,
    .name = "cuda",
    .start = start,
    .stop = stop,
    .workspace_bytes = workspace_bytes,
    .alloc = alloc,
    .release = release,
    .upload = on_device<lisa__cuda_upload>::call,
    .download = on_device<lisa__cuda_download>::call,
    .copy = on_device<lisa__cuda_copy>::call,
    .zero = on_device<lisa__cuda_zero>::call,
    .sync = on_device<lisa__cuda_sync>::call,
    .post = on_device<lisa__cuda_post>::call,
    .passed = on_device<lisa__cuda_passed>::call,
    .transfer = on_device<lisa__cuda_transfer>::call,
    .transfer_wait = on_device<lisa__cuda_transfer_wait>::call,
    .transfer_free = on_device<lisa__cuda_transfer_free>::call,
    .convert = on_device<lisa__cuda_convert>::call,
    .gemm = on_device<lisa__cuda_gemm>::call,
    .bias_forward = on_device<lisa__cuda_bias_forward>::call,
    .bias_backward = on_device<lisa__cuda_bias_backward>::call,
    .embed_forward = on_device<lisa__cuda_embed_forward>::call,
    .embed_backward = on_device<lisa__cuda_embed_backward>::call,
    .gather = on_device<lisa__cuda_gather>::call,
    .scatter = on_device<lisa__cuda_scatter>::call,
    .norm_forward = on_device<lisa__cuda_norm_forward>::call,
    .norm_backward = on_device<lisa__cuda_norm_backward>::call,
    .rope = on_device<lisa__cuda_rope>::call,
    .attention_forward = on_device<lisa__cuda_attention_forward>::call,
    .attention_backward = on_device<lisa__cuda_attention_backward>::call,
    .activation_forward = on_device<lisa__cuda_activation_forward>::call,
    .activation_backward = on_device<lisa__cuda_activation_backward>::call,
    .dropout = on_device<lisa__cuda_dropout>::call,
    .cross_entropy = on_device<lisa__cuda_cross_entropy>::call,
    .judge = on_device<lisa__cuda_judge>::call,
    .adamw = on_device<lisa__cuda_adamw>::call,
    .master = on_device<lisa__cuda_master>::call,
    .sum_squares = on_device<lisa__cuda_sum_squares>::call,
    .sum = on_device<lisa__cuda_sum>::call,
};

static lisa_status start(lisa_backend **out, const lisa_backend_host *host) {
    *out = nullptr;
    void *memory;
    LISA_TRY(host->alloc(host->self, &memory, LISA_MEM_HANDLES, sizeof(struct started)));
    struct started *started = new (memory) struct started();
    struct lisa__cuda *cuda = &started->cuda;
    cuda->base.ops = &ops;
    cuda->base.host = host;
    cuda->cublas = &started->cublas;
    cuda->staging = &started->staging;
    const lisa_status status = set_up(started);
    if (status == LISA_OK)
        *out = &cuda->base;
    else
        stop(&cuda->base);
    return status;
}

/* Its prototype is lisa_backend_get_fn, its name LISA_BACKEND_ENTRY. */
extern "C" __attribute__((visibility("default"))) const lisa_backend_ops *
lisa_backend_get(uint32_t api_version) {
    return api_version == LISA_BACKEND_API_VERSION ? &ops : nullptr;
}

#include "backend/cuda/memory.h"

#include "core/error.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#define TRY_CUDA(be, call, what)                                                                   \
    do {                                                                                           \
        const cudaError_t try_error = (call);                                                      \
        if (try_error != cudaSuccess)                                                              \
            return lisa__cuda_fail(be, try_error, what);                                           \
    } while (0)

/* As lisa_memory_class_name: a module uses headers of the library alone. */
static const char *class_name(uint32_t memory_class) {
    static const char *const names[] = {
        "mapped weights", "private weights", "gradients", "moments",    "low bits", "activations",
        "recompute",      "logits",          "workspace", "evaluation", "staging",  "disk",
        "handles",        "driver",          "host",
    };
    static_assert(sizeof names / sizeof *names == LISA_MEM_CLASSES, "a name for each class");
    return memory_class < LISA_MEM_CLASSES ? names[memory_class] : "?";
}

static cudaError_t take_device(void **out, size_t bytes) {
    return cudaMalloc(out, bytes);
}

static cudaError_t take_pinned(void **out, size_t bytes) {
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

/* Memory that is counted first, so that a limit is kept; 0 bytes give a pointer too. */
static lisa_status take(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes,
                        cudaError_t (*allocate)(void **out, size_t bytes)) {
    const lisa_backend_host *host = be->host;
    *out = nullptr;
    LISA_TRY(host->account(host->self, memory_class, bytes));
    void *memory = nullptr;
    const cudaError_t error = allocate(&memory, std::max<size_t>(bytes, 1));
    if (error != cudaSuccess) {
        host->unaccount(host->self, memory_class, bytes);
        char what[96];
        snprintf(what, sizeof what, "%zu bytes of class %s", bytes, class_name(memory_class));
        return lisa__cuda_fail(be, error, what);
    }
    *out = memory;
    return LISA_OK;
}

/* Class HOST is the host's, and lies where the device can reach it: what a caller says of it is
 * `device` memory, too (unified addresses), so copies tell by the pointers which way they go. */
lisa_status lisa__cuda_alloc(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes) {
    return take(be, out, memory_class, bytes,
                memory_class == LISA_MEM_HOST ? take_pinned : take_device);
}

/* Both ways of freeing wait for what the device does with the memory. A lost device's errors say
 * nothing new. */
void lisa__cuda_release(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes) {
    const lisa_backend_host *host = be->host;
    if (ptr == nullptr)
        return;
    const cudaError_t error = memory_class == LISA_MEM_HOST ? cudaFreeHost(ptr) : cudaFree(ptr);
    if (error != cudaSuccess)
        cudaGetLastError();
    host->unaccount(host->self, memory_class, bytes);
}

lisa_status lisa__cuda_make_events(struct lisa__cuda *cuda, cudaEvent_t *events, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        TRY_CUDA(&cuda->base, cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming),
                 "an event");
    return LISA_OK;
}

void lisa__cuda_destroy_events(cudaEvent_t *events, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (events[i] != nullptr)
            cudaEventDestroy(events[i]);
}

lisa_status lisa__staging_create(struct lisa__cuda *cuda) {
    struct lisa__staging *staging = cuda->staging;
    void *memory;
    LISA_TRY(take(&cuda->base, &memory, LISA_MEM_WORKSPACE, LISA_CUDA_STAGING, take_pinned));
    staging->memory = static_cast<char *>(memory);
    return lisa__cuda_make_events(cuda, staging->read, LISA_CUDA_STAGING_SLOTS);
}

void lisa__staging_destroy(struct lisa__cuda *cuda) {
    const lisa_backend_host *host = cuda->base.host;
    struct lisa__staging *staging = cuda->staging;
    lisa__cuda_destroy_events(staging->read, LISA_CUDA_STAGING_SLOTS);
    if (staging->memory == nullptr)
        return;
    cudaFreeHost(staging->memory);
    host->unaccount(host->self, LISA_MEM_WORKSPACE, LISA_CUDA_STAGING);
}

/* As a rule it has passed long since, and the host does not wait. */
static cudaError_t wait_for(cudaEvent_t event) {
    const cudaError_t error = cudaEventQuery(event);
    if (error != cudaErrorNotReady)
        return error;
    cudaGetLastError();
    return cudaEventSynchronize(event);
}

/* At most a slot's bytes. */
static lisa_status upload_piece(struct lisa__cuda *cuda, void *device, const void *host,
                                size_t bytes) {
    struct lisa__staging *staging = cuda->staging;
    const uint32_t slot = staging->next;
    char *pinned = staging->memory + (size_t)slot * LISA_CUDA_STAGING_SLOT;
    TRY_CUDA(&cuda->base, wait_for(staging->read[slot]), "upload");
    memcpy(pinned, host, bytes);
    TRY_CUDA(&cuda->base, cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyDefault, cuda->stream),
             "upload");
    TRY_CUDA(&cuda->base, cudaEventRecord(staging->read[slot], cuda->stream), "upload");
    staging->next = (slot + 1) % LISA_CUDA_STAGING_SLOTS;
    return LISA_OK;
}

lisa_status lisa__cuda_upload(lisa_backend *be, void *device, const void *host, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LISA_CUDA_STAGING_SLOT)
        LISA_TRY(upload_piece(lisa__cuda_of(be), static_cast<char *>(device) + at,
                              static_cast<const char *>(host) + at,
                              std::min<size_t>(bytes - at, LISA_CUDA_STAGING_SLOT)));
    return LISA_OK;
}

lisa_status lisa__cuda_download(lisa_backend *be, void *host, const void *device, size_t bytes) {
    const cudaStream_t stream = lisa__cuda_of(be)->stream;
    if (bytes > 0)
        TRY_CUDA(be, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDefault, stream), "download");
    TRY_CUDA(be, cudaStreamSynchronize(stream), "download");
    return LISA_OK;
}

lisa_status lisa__cuda_copy(lisa_backend *be, void *dst, const void *src, size_t bytes) {
    const cudaStream_t stream = lisa__cuda_of(be)->stream;
    if (bytes > 0)
        TRY_CUDA(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream), "copy");
    return LISA_OK;
}

lisa_status lisa__cuda_zero(lisa_backend *be, void *dst, size_t bytes) {
    if (bytes > 0)
        TRY_CUDA(be, cudaMemsetAsync(dst, 0, bytes, lisa__cuda_of(be)->stream), "zero");
    return LISA_OK;
}

lisa_status lisa__cuda_sync(lisa_backend *be) {
    TRY_CUDA(be, cudaStreamSynchronize(lisa__cuda_of(be)->stream), "sync");
    return LISA_OK;
}

/* A ticket's event is lent to another one LISA_CUDA_TICKETS later, when it has passed: so every
 * older ticket has passed as well. */
lisa_status lisa__cuda_post(lisa_backend *be, void *host, const void *device, size_t bytes,
                            uint64_t *ticket) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    const uint64_t next = cuda->n_posted + 1;
    const cudaEvent_t event = cuda->posted[next % LISA_CUDA_TICKETS];
    TRY_CUDA(be, wait_for(event), "post");
    if (bytes > 0)
        TRY_CUDA(be, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                 "post");
    TRY_CUDA(be, cudaEventRecord(event, cuda->stream), "post");
    cuda->n_posted = next;
    *ticket = next;
    return LISA_OK;
}

lisa_status lisa__cuda_passed(lisa_backend *be, uint64_t ticket, uint32_t *passed) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    *passed = 1;
    if (ticket + LISA_CUDA_TICKETS <= cuda->n_posted)
        return LISA_OK;
    const cudaError_t error = cudaEventQuery(cuda->posted[ticket % LISA_CUDA_TICKETS]);
    if (error == cudaErrorNotReady) {
        cudaGetLastError();
        *passed = 0;
    } else if (error != cudaSuccess) {
        return lisa__cuda_fail(be, error, "a posted copy");
    }
    return LISA_OK;
}

lisa_status lisa__cuda_transfer(lisa_backend *be, const lisa_transfer *op) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    const cudaMemcpyKind kind = op->to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice;
    TRY_CUDA(be, cudaStreamWaitEvent(cuda->copies, cuda->freed[op->slot], 0), "transfer");
    if (op->bytes > 0)
        TRY_CUDA(be, cudaMemcpyAsync(op->dst, op->src, op->bytes, kind, cuda->copies), "transfer");
    TRY_CUDA(be, cudaEventRecord(cuda->filled[op->slot], cuda->copies), "transfer");
    return LISA_OK;
}

lisa_status lisa__cuda_transfer_wait(lisa_backend *be, uint32_t slot) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    TRY_CUDA(be, cudaStreamWaitEvent(cuda->stream, cuda->filled[slot], 0), "transfer");
    return LISA_OK;
}

lisa_status lisa__cuda_transfer_free(lisa_backend *be, uint32_t slot) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    TRY_CUDA(be, cudaEventRecord(cuda->freed[slot], cuda->stream), "transfer");
    return LISA_OK;
}

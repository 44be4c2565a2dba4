#include "backend/cpu/cpu.h"

#include "backend/cpu/ops.h"

#include <string.h>

#define PAGE ((size_t)4096)

lisa_status lisa__cpu_refuse(lisa_backend *be, const char *text) {
    return be->host->fail(be->host->self, LISA_E_INVAL, text);
}

lisa_status lisa__cpu_check_real(lisa_backend *be, uint32_t dtype) {
    return dtype == LISA_DTYPE_F32 ? LISA_OK
                                   : lisa__cpu_refuse(be, "cpu: an activation's dtype is not f32");
}

lisa_status lisa__cpu_check_dtype(lisa_backend *be, lisa_typed x) {
    if (lisa__dtype_size(x.dtype) == 0)
        return lisa__cpu_refuse(be, "cpu: an operand's dtype is none of f32, bf16, f16, f64");
    return LISA_OK;
}

static void piece_task(void *arg, uint32_t i, uint32_t thread) {
    const struct lisa__pieces *all = arg;
    size_t from = i * all->piece;
    (void)thread;
    all->task(all, from, lisa__min(all->n, from + all->piece));
}

void lisa__cpu_in_pieces(struct lisa__cpu *cpu, const void *op, size_t n, size_t piece,
                         void (*task)(const struct lisa__pieces *all, size_t from, size_t to)) {
    struct lisa__pieces all = {.cpu = cpu, .op = op, .n = n, .piece = piece, .task = task};
    /* 2^32 pieces of the usual size would be 256 TiB of floats; rows may be many and short. */
    while (lisa__ceil_div(n, all.piece) > UINT32_MAX)
        all.piece *= 2;
    const lisa_backend_host *host = cpu->base.host;
    host->parallel(host->self, (uint32_t)lisa__ceil_div(n, all.piece), piece_task, &all);
}

const float *lisa__cpu_floats(const struct lisa__cpu *cpu, lisa_typed x, size_t from, size_t n,
                              float *buffer) {
    if (x.dtype == LISA_DTYPE_F32)
        return (const float *)x.data + from;
    cpu->vector->widen(buffer, lisa__typed_at(x, from).data, x.dtype, n);
    return buffer;
}

/* One page more than the parts, so that they can begin on one. */
static size_t memory_bytes(size_t blas_bytes, uint32_t n_threads) {
    return n_threads * lisa__cpu_thread_bytes(blas_bytes) + LISA_CPU_PARTIALS * sizeof(float) +
           PAGE;
}

static uint64_t workspace_bytes(uint32_t n_threads) {
    return memory_bytes(lisa__blas_buffer_bytes(), n_threads);
}

static lisa_status take_workspace(struct lisa__cpu *cpu) {
    const lisa_backend_host *host = cpu->base.host;
    cpu->blas_bytes = lisa__blas_buffer_bytes();
    if (cpu->blas_bytes == 0)
        return host->fail(host->self, LISA_E_NOMEM,
                          "out of address space: the cpu backend cannot measure its BLAS buffer");
    lisa_status status = host->alloc(host->self, &cpu->memory, LISA_MEM_WORKSPACE,
                                     memory_bytes(cpu->blas_bytes, host->n_threads));
    if (status != LISA_OK)
        return status;
    cpu->workspace = (char *)(((uintptr_t)cpu->memory + PAGE - 1) / PAGE * PAGE);
    /* How much of it a model's products use depends on the BLAS's kernels; resident is what was
     * planned all the same, and no step comes by a page for the first time. */
    memset(cpu->memory, 0, memory_bytes(cpu->blas_bytes, host->n_threads));
    return LISA_OK;
}

static lisa_status start(lisa_backend **out, const lisa_backend_host *host) {
    *out = NULL;
    void *memory;
    lisa_status status =
        host->alloc(host->self, &memory, LISA_MEM_HANDLES, sizeof(struct lisa__cpu));
    if (status != LISA_OK)
        return status;
    struct lisa__cpu *cpu = memory;
    cpu->base.ops = &lisa__backend_cpu;
    cpu->base.host = host;
    cpu->vector = lisa__vector_choose();
    status = take_workspace(cpu);
    if (status != LISA_OK)
        host->release(host->self, LISA_MEM_HANDLES, cpu, sizeof *cpu);
    else
        *out = &cpu->base;
    return status;
}

static void stop(lisa_backend *be) {
    if (be == NULL)
        return;
    struct lisa__cpu *cpu = lisa__cpu_of(be);
    const lisa_backend_host *host = be->host;
    host->release(host->self, LISA_MEM_WORKSPACE, cpu->memory,
                  memory_bytes(cpu->blas_bytes, host->n_threads));
    host->release(host->self, LISA_MEM_HANDLES, cpu, sizeof *cpu);
}

const lisa_backend_ops lisa__backend_cpu = {
    .api_version = LISA_BACKEND_API_VERSION,
    .flags = LISA_BACKEND_HOST_MEMORY,
    .real_dtype = LISA_DTYPE_F32,
    .reserved = 0,
    .name = "cpu",
    .start = start,
    .stop = stop,
    .workspace_bytes = workspace_bytes,
    .alloc = lisa__cpu_alloc,
    .release = lisa__cpu_release,
    .upload = lisa__cpu_copy,
    .download = lisa__cpu_copy,
    .copy = lisa__cpu_copy,
    .zero = lisa__cpu_zero,
    .sync = lisa__cpu_sync,
    .post = lisa__cpu_post,
    .passed = lisa__cpu_passed,
    .transfer = lisa__cpu_transfer,
    .transfer_wait = lisa__cpu_transfer_order,
    .transfer_free = lisa__cpu_transfer_order,
    .convert = lisa__cpu_convert,
    .gemm = lisa__cpu_gemm,
    .bias_forward = lisa__cpu_bias_forward,
    .bias_backward = lisa__cpu_bias_backward,
    .embed_forward = lisa__cpu_embed_forward,
    .embed_backward = lisa__cpu_embed_backward,
    .gather = lisa__cpu_gather,
    .scatter = lisa__cpu_scatter,
    .norm_forward = lisa__cpu_norm_forward,
    .norm_backward = lisa__cpu_norm_backward,
    .rope = lisa__cpu_rope,
    .attention_forward = lisa__cpu_attention_forward,
    .attention_backward = lisa__cpu_attention_backward,
    .activation_forward = lisa__cpu_activation_forward,
    .activation_backward = lisa__cpu_activation_backward,
    .dropout = lisa__cpu_dropout,
    .cross_entropy = lisa__cpu_cross_entropy,
    .judge = lisa__cpu_judge,
    .adamw = lisa__cpu_adamw,
    .master = lisa__cpu_master,
    .sum_squares = lisa__cpu_sum_squares,
    .sum = lisa__cpu_sum,
};

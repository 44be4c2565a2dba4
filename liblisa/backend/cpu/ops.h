/* ops.h - what the files of the CPU backend share. Every operation is cut into tasks by its shape
 * alone, and each element is computed by one task in one order, so that no bit depends on the
 * number of threads. */
#ifndef LISA_BACKEND_CPU_OPS_H
#define LISA_BACKEND_CPU_OPS_H

#include "backend/cpu/blas.h"
#include "backend/cpu/vector.h"
#include "core/dtype.h"
#include "lisa/sys/backend.h"

/* Scratch of a thread, in floats: one block of a 16-bit weight as float (gemm), or two blocks of
 * attention scores with what belongs to their rows. */
#define LISA_CPU_SCRATCH ((size_t)640 * 336)

/* Partial sums of a product beside its result, in floats, for all threads together. */
#define LISA_CPU_PARTIALS ((size_t)3 * 256 * 768)

/* Elements that make a task worth its handing out. */
#define LISA_CPU_CHUNK ((size_t)16384)

/* Columns that a task sums over all rows; a few cache lines. */
#define LISA_CPU_COLUMNS ((size_t)64)

struct lisa__cpu {
    lisa_backend base;
    const struct lisa__vector *vector;
    void *memory;      /* as allocated */
    size_t blas_bytes; /* of each thread, at the front of its part */
    char *workspace; /* aligned to 4096: for each thread a BLAS buffer and scratch; partial sums */
};

static inline struct lisa__cpu *lisa__cpu_of(lisa_backend *be) {
    return (struct lisa__cpu *)be;
}

static inline size_t lisa__cpu_thread_bytes(size_t blas_bytes) {
    return blas_bytes + LISA_CPU_SCRATCH * sizeof(float);
}

static inline void *lisa__cpu_blas_buffer(const struct lisa__cpu *cpu, uint32_t thread) {
    return cpu->workspace + thread * lisa__cpu_thread_bytes(cpu->blas_bytes);
}

static inline float *lisa__cpu_scratch(const struct lisa__cpu *cpu, uint32_t thread) {
    void *behind = (char *)lisa__cpu_blas_buffer(cpu, thread) + cpu->blas_bytes;
    return behind;
}

static inline float *lisa__cpu_partials(const struct lisa__cpu *cpu) {
    return lisa__cpu_blas_buffer(cpu, cpu->base.host->n_threads);
}

static inline size_t lisa__min(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t lisa__ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* Element i of a typed array. */
static inline lisa_typed lisa__typed_at(lisa_typed x, size_t i) {
    x.data = (char *)x.data + i * lisa__dtype_size(x.dtype);
    return x;
}

lisa_status lisa__cpu_refuse(lisa_backend *be, const char *text);
lisa_status lisa__cpu_check_dtype(lisa_backend *be, lisa_typed x);

/* LISA_E_INVAL unless it is float's: activations and gradients. */
lisa_status lisa__cpu_check_real(lisa_backend *be, uint32_t dtype);

/* Calls task(arg, from, to) for [0, n) in pieces of `piece`. */
struct lisa__pieces {
    struct lisa__cpu *cpu;
    const void *op;
    size_t n, piece;
    void (*task)(const struct lisa__pieces *all, size_t from, size_t to);
};
void lisa__cpu_in_pieces(struct lisa__cpu *cpu, const void *op, size_t n, size_t piece,
                         void (*task)(const struct lisa__pieces *all, size_t from, size_t to));

/* Rows of `cols` elements that make a task. */
static inline size_t lisa__cpu_rows(size_t cols) {
    return cols >= LISA_CPU_CHUNK ? 1 : LISA_CPU_CHUNK / (cols > 0 ? cols : 1);
}

/* Elements [from, from + n) of a typed array as floats: in place, or in `buffer`. */
const float *lisa__cpu_floats(const struct lisa__cpu *cpu, lisa_typed x, size_t from, size_t n,
                              float *buffer);
#define LISA_CPU_FLOATS ((size_t)256) /* the usual length of such a buffer, on the stack */

lisa_status lisa__cpu_alloc(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes);
void lisa__cpu_release(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes);
lisa_status lisa__cpu_copy(lisa_backend *be, void *dst, const void *src, size_t bytes);
lisa_status lisa__cpu_zero(lisa_backend *be, void *dst, size_t bytes);
lisa_status lisa__cpu_sync(lisa_backend *be);
lisa_status lisa__cpu_post(lisa_backend *be, void *host, const void *device, size_t bytes,
                           uint64_t *ticket);
lisa_status lisa__cpu_passed(lisa_backend *be, uint64_t ticket, uint32_t *passed);
lisa_status lisa__cpu_transfer(lisa_backend *be, const lisa_transfer *op);
lisa_status lisa__cpu_transfer_order(lisa_backend *be, uint32_t slot);
lisa_status lisa__cpu_convert(lisa_backend *be, lisa_typed dst, lisa_typed src, size_t n);
lisa_status lisa__cpu_gemm(lisa_backend *be, const lisa_gemm *op);
lisa_status lisa__cpu_bias_forward(lisa_backend *be, const lisa_bias *op);
lisa_status lisa__cpu_bias_backward(lisa_backend *be, const lisa_bias *op);
lisa_status lisa__cpu_embed_forward(lisa_backend *be, const lisa_embed *op);
lisa_status lisa__cpu_embed_backward(lisa_backend *be, const lisa_embed *op);
lisa_status lisa__cpu_gather(lisa_backend *be, const lisa_rows *op);
lisa_status lisa__cpu_scatter(lisa_backend *be, const lisa_rows *op);
lisa_status lisa__cpu_norm_forward(lisa_backend *be, const lisa_norm *op);
lisa_status lisa__cpu_norm_backward(lisa_backend *be, const lisa_norm *op);
lisa_status lisa__cpu_rope(lisa_backend *be, const lisa_rope *op);
lisa_status lisa__cpu_attention_forward(lisa_backend *be, const lisa_attention *op);
lisa_status lisa__cpu_attention_backward(lisa_backend *be, const lisa_attention *op);
lisa_status lisa__cpu_activation_forward(lisa_backend *be, const lisa_activation *op);
lisa_status lisa__cpu_activation_backward(lisa_backend *be, const lisa_activation *op);
lisa_status lisa__cpu_dropout(lisa_backend *be, const lisa_dropout *op);
lisa_status lisa__cpu_cross_entropy(lisa_backend *be, const lisa_cross_entropy *op);
lisa_status lisa__cpu_judge(lisa_backend *be, const lisa_judge *op);
lisa_status lisa__cpu_adamw(lisa_backend *be, const lisa_adamw *op);
lisa_status lisa__cpu_master(lisa_backend *be, const lisa_master *op);
lisa_status lisa__cpu_sum_squares(lisa_backend *be, lisa_typed x, size_t n, double *result);
lisa_status lisa__cpu_sum(lisa_backend *be, const double *x, size_t n, double *result);

#endif

/* Rates of the CPU backend's operations in the shapes of SmolLM2-135M (1024 tokens as 2 x 512).
 * usage: bench_cpu [THREADS]. The best of several calls counts: the machine may be shared. */
#include "backend/cpu/blas.h"
#include "backend/cpu/ops.h"
#include "core/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 1024, BATCH = 2, C = 576, F = 1536, HEADS = 9, KV = 3, D = 64, V = 49152 };
enum { HEAD_ROWS = 256, REPEATS = 7 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == NULL)
        exit(1);
    return p;
}

static float *noise(size_t n) {
    float *x = take(n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / (1 << 24) - 0.5f;
    }
    return x;
}

static lisa_typed halves(lisa_backend *be, const float *x, size_t n) {
    lisa_typed to = {take(n * 2), LISA_DTYPE_BF16};
    be->ops->convert(be, to, (lisa_typed){(void *)(uintptr_t)x, LISA_DTYPE_F32}, n);
    return to;
}

/* Best seconds of a statement. */
#define BEST(seconds, statement)                                                                   \
    do {                                                                                           \
        seconds = 1e9;                                                                             \
        for (int repeat = 0; repeat < REPEATS; repeat++) {                                         \
            double begin = now();                                                                  \
            statement;                                                                             \
            double took = now() - begin;                                                           \
            seconds = took < seconds ? took : seconds;                                             \
        }                                                                                          \
    } while (0)

static lisa_backend *be;

/* What the threads reach on products of the largest tile, each its own. */
struct ceiling {
    const float *x;
    float *y[64];
};

static void ceiling_task(void *arg, uint32_t i, uint32_t thread) {
    struct ceiling *c = arg;
    lisa__sgemm(lisa__cpu_blas_buffer(lisa__cpu_of(be), thread),
                &(struct lisa__sgemm){.m = 512,
                                      .n = 256,
                                      .k = C,
                                      .trans_b = 1,
                                      .alpha = 1,
                                      .a = c->x,
                                      .lda = C,
                                      .b = c->x,
                                      .ldb = C,
                                      .c = c->y[i % 64],
                                      .ldc = 256});
}

static double ceiling(const float *x) {
    struct ceiling c = {.x = x};
    for (int i = 0; i < 64; i++)
        c.y[i] = take(512 * 256 * 4);
    double seconds;
    BEST(seconds, be->host->parallel(be->host->self, 64, ceiling_task, &c));
    for (int i = 0; i < 64; i++)
        free(c.y[i]);
    return 64 * 2e-9 * 512 * 256 * C / seconds;
}

static lisa_typed f32(const float *x) {
    return (lisa_typed){(void *)(uintptr_t)x, LISA_DTYPE_F32};
}

/* Forward, gradient of the input, gradient of the weights: for a weight [out, in]. */
static void bench_linear(const char *name, uint32_t tokens, uint32_t out, uint32_t in,
                         const float *x) {
    float *y = take((size_t)(tokens > out ? tokens : out) * (out > in ? out : in) * 4);
    lisa_typed types[2] = {{(void *)(uintptr_t)x, LISA_DTYPE_F32}, halves(be, x, (size_t)out * in)};
    const lisa_typed a = f32(x), c = f32(y);
    lisa_gemm forward = {tokens, out, in, 0, 1, a, in, types[0], in, c, out, 1, 0};
    lisa_gemm input = {tokens, in, out, 0, 0, a, out, types[0], in, c, in, 1, 0};
    lisa_gemm weight = {out, in, tokens, 1, 0, a, out, types[0], in, c, in, 1, 0};
    double work = 2e-9 * tokens * out * in, seconds;
    printf("%-10s %5ux%5ux%4u ", name, tokens, out, in);
    for (int t = 0; t < 2; t++) {
        forward.b = input.b = types[t];
        BEST(seconds, be->ops->gemm(be, &forward));
        printf("  %s fwd %6.1f", t ? "bf16" : "f32", work / seconds);
        BEST(seconds, be->ops->gemm(be, &input));
        printf(" dx %6.1f", work / seconds);
    }
    BEST(seconds, be->ops->gemm(be, &weight));
    printf("  dw %6.1f GFLOP/s\n", work / seconds);
    free(types[1].data);
    free(y);
}

static void bench_attention(const float *x) {
    float *out = take(TOKENS * C * 4), *lse = take(TOKENS * HEADS * 4);
    float *dq = take(TOKENS * C * 4), *dk = take(TOKENS * C * 4), *dv = take(TOKENS * C * 4);
    lisa_attention op = {.dtype = LISA_DTYPE_F32,
                         .batch = BATCH,
                         .n_queries = TOKENS / BATCH,
                         .n_keys = TOKENS / BATCH,
                         .key_stride = TOKENS / BATCH,
                         .heads = HEADS,
                         .kv_heads = KV,
                         .head_dim = D,
                         .scale = 0.125,
                         .q = x,
                         .k = x + TOKENS * C,
                         .v = x + 2 * TOKENS * C,
                         .ldq = C,
                         .ldk = KV * D,
                         .ldv = KV * D,
                         .out = out,
                         .ldout = C,
                         .lse = lse,
                         .dout = x,
                         .lddout = C,
                         .dq = dq,
                         .dk = dk,
                         .dv = dv,
                         .lddq = C,
                         .lddk = KV * D,
                         .lddv = KV * D};
    double seconds, work = 2e-9 * 2 * TOKENS * (TOKENS / BATCH / 2.0) * C;
    BEST(seconds, be->ops->attention_forward(be, &op));
    printf("attention forward %.2f ms (%.1f GFLOP/s of the causal half)", 1e3 * seconds,
           work / seconds);
    BEST(seconds, be->ops->attention_backward(be, &op));
    printf(", backward %.2f ms (%.1f)\n", 1e3 * seconds, 2.5 * work / seconds);
    free(out), free(lse), free(dq), free(dk), free(dv);
}

static void bench_rows(float *x) {
    float *y = take((size_t)TOKENS * F * 4), *stats = take(TOKENS * 8), *dw = take(C * 4);
    double seconds;
    memset(dw, 0, C * 4);
    lisa_norm norm = {.kind = 1,
                      .rows = TOKENS,
                      .segments = 1,
                      .cols = C,
                      .eps = 1e-5,
                      .x = f32(x),
                      .ldx = C,
                      .weight = {x, LISA_DTYPE_F32},
                      .y = f32(y),
                      .ldy = C,
                      .stats = stats,
                      .dy = f32(x),
                      .lddy = C,
                      .dx = f32(y),
                      .lddx = C,
                      .dweight = dw};
    BEST(seconds, be->ops->norm_forward(be, &norm));
    printf("norm forward %.2f ms", 1e3 * seconds);
    BEST(seconds, be->ops->norm_backward(be, &norm));
    printf(", backward %.2f ms;", 1e3 * seconds);
    lisa_activation act = {.kind = 1,
                           .dtype = LISA_DTYPE_F32,
                           .n = (size_t)TOKENS * F,
                           .gate = x,
                           .up = x,
                           .y = y,
                           .dy = x,
                           .dgate = y,
                           .dup = y};
    BEST(seconds, be->ops->activation_forward(be, &act));
    printf(" swiglu forward %.2f ms", 1e3 * seconds);
    BEST(seconds, be->ops->activation_backward(be, &act));
    printf(", backward %.2f ms\n", 1e3 * seconds);
    free(y), free(stats), free(dw);
}

static void bench_loss(const float *x) {
    float *logits = take((size_t)HEAD_ROWS * V * 4), weights[HEAD_ROWS];
    int32_t targets[HEAD_ROWS];
    double nll[HEAD_ROWS], seconds;
    for (int i = 0; i < HEAD_ROWS; i++) {
        memcpy(logits + (size_t)i * V, x, V * 4);
        weights[i] = 1;
        targets[i] = i;
    }
    lisa_cross_entropy op = {.rows = HEAD_ROWS,
                             .cols = V,
                             .logits = logits,
                             .ldlogits = V,
                             .targets = targets,
                             .weights = weights,
                             .nll = nll,
                             .dlogits = f32(logits),
                             .lddlogits = V,
                             .gradient_scale = 1};
    BEST(seconds, be->ops->cross_entropy(be, &op));
    printf("cross-entropy with gradient, %d rows: %.2f ms, %.2f ns a logit\n", HEAD_ROWS,
           1e3 * seconds, 1e9 * seconds / HEAD_ROWS / V);
    free(logits);
}

static void bench_update(const float *x) {
    const size_t n = (size_t)V * C;
    float *m = take(n * 4), *v = take(n * 4), *w = take(n * 4);
    double seconds, squares;
    memset(m, 0, n * 4), memset(v, 0, n * 4), memcpy(w, x, n * 4);
    lisa_typed bf16 = halves(be, x, n);
    int16_t *low = take(n * 2);
    memset(low, 0, n * 2);
    const lisa_control control = {.scale = 1};
    lisa_adamw op = {.n = n,
                     .weight = bf16,
                     .low = low,
                     .gradient = x,
                     .m = m,
                     .v = v,
                     .moments = LISA_MOMENTS_F32,
                     .lr = 1e-4,
                     .beta1 = 0.9,
                     .beta2 = 0.999,
                     .eps = 1e-8,
                     .control = &control,
                     .correction1 = 0.1,
                     .correction2 = 1e-3};
    BEST(seconds, be->ops->adamw(be, &op));
    printf("adamw bf16 + low: %.2f ms, %.1f GB/s;", 1e3 * seconds, 28e-9 * (double)n / seconds);
    op.weight = (lisa_typed){w, LISA_DTYPE_F32};
    BEST(seconds, be->ops->adamw(be, &op));
    printf(" f32: %.2f ms, %.1f GB/s;", 1e3 * seconds, 28e-9 * (double)n / seconds);
    BEST(seconds, be->ops->copy(be, w, x, n * 4));
    printf(" copy (1 thread) %.1f GB/s\n", 8e-9 * (double)n / seconds);
    BEST(seconds,
         be->ops->sum_squares(be, (lisa_typed){(void *)(uintptr_t)x, LISA_DTYPE_F32}, n, &squares));
    printf("sum_squares: %.1f GB/s;", 4e-9 * (double)n / seconds);
    lisa_master close = {.what = LISA_MASTER_CLOSE, .n = n, .weight = bf16, .low = low, .seed = 1};
    BEST(seconds, be->ops->master(be, &close));
    printf(" stochastic rounding: %.2f ns an element\n", 1e9 * seconds / (double)n);
    free(m), free(v), free(w), free(low), free(bf16.data);
}

static void bench_generate(const float *x) {
    float y[F];
    const size_t n = (size_t)V * C;
    lisa_typed bf16 = halves(be, x, n);
    float *logits = take(V * 4);
    double seconds;
    lisa_gemm head = {1, V, C, 0, 1, f32(x), C, bf16, C, f32(logits), V, 1, 0};
    BEST(seconds, be->ops->gemm(be, &head));
    printf("one row: head bf16 %.2f ms, %.1f GB/s;", 1e3 * seconds, 2e-9 * (double)n / seconds);
    lisa_gemm up = {1, F, C, 0, 1, f32(x), C, bf16, C, f32(y), F, 1, 0};
    BEST(seconds, be->ops->gemm(be, &up));
    printf(" mlp up %.1f us\n", 1e6 * seconds);
    free(bf16.data), free(logits);
}

int main(int argc, char **argv) {
    lisa_context_options options;
    lisa_context *context;
    lisa_context_options_init(&options, sizeof options);
    options.n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    if (lisa_context_create(&context, &options) != LISA_OK)
        return fprintf(stderr, "%s\n", lisa_error_last()), 1;
    be = context->be;
    float *x = noise((size_t)V * C);
    printf("%u threads, vectors: %s, products: %s, largest tile on every thread: %.1f GFLOP/s\n",
           lisa_context_n_threads(context), lisa__cpu_of(be)->vector->name, lisa__blas_kernels(),
           ceiling(x));
    bench_linear("q, o", TOKENS, C, C, x);
    bench_linear("k, v", TOKENS, KV * D, C, x);
    bench_linear("gate, up", TOKENS, F, C, x);
    bench_linear("down", TOKENS, C, F, x);
    bench_linear("head", HEAD_ROWS, V, C, x);
    bench_linear("gate, up", 256, F, C, x);
    bench_attention(x);
    bench_rows(x);
    bench_loss(x);
    bench_update(x);
    bench_generate(x);
    free(x);
    lisa_context_destroy(context);
    return 0;
}

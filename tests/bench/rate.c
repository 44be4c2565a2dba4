/* rate.c - what this machine gives the library: its own private BLAS on a list of products, the
 * bandwidth of a copy, AdamW and a swap of slots, each on all threads. usage: rate [THREADS]
 *
 * Each line of input is answered by one line of JSON:
 *   list N            reads N lines "COUNT M N K TRANS_A TRANS_B", the products of a step
 *   run               the rate on the list: FLOPs over the sum of COUNT x the time of one product
 *   copy BYTES        seconds of a copy
 *   adamw f32|bf16 MOMENTS N   seconds of an update of N parameters, and the bytes it must touch;
 *                     MOMENTS as LISA_MOMENTS_* */
#include "backend/cpu/ops.h"
#include "core/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_PRODUCTS = 128, REPEATS = 5 };
#define BUFFER ((size_t)128 << 20)

struct product {
    double count;
    uint32_t m, n, k, trans_a, trans_b;
    uint32_t tile_m, tile_n, n_rows; /* of tiles, n_rows of them below each other */
};

static lisa_backend *be;
static uint32_t n_threads;
static struct product products[MAX_PRODUCTS];
static uint32_t n_products;
static char *buffers;      /* [n_threads] of BUFFER, what OpenBLAS would map for any product */
static float *operands[3]; /* A, B and C of the largest product of each */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t bytes) {
    void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (p == NULL) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(EXIT_FAILURE);
    }
    memset(p, 0, bytes);
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

static uint32_t pieces_of(uint32_t n, uint32_t most) {
    return (uint32_t)lisa__ceil_div(n, most);
}

/* One slice for every thread, of the longer side: what a BLAS with threads of its own would do. */
static void cut(struct product *p) {
    const uint32_t longer = p->m > p->n ? p->m : p->n;
    const uint32_t slice = pieces_of(pieces_of(longer, n_threads), 16) * 16;
    p->tile_m = p->m > p->n ? slice : p->m;
    p->tile_n = p->m > p->n ? p->n : slice;
    p->n_rows = pieces_of(p->m, p->tile_m);
}

static void tile_task(void *arg, uint32_t i, uint32_t thread) {
    const struct product *p = arg;
    const uint32_t i0 = i % p->n_rows * p->tile_m, j0 = i / p->n_rows * p->tile_n;
    const size_t lda = p->trans_a ? p->m : p->k, ldb = p->trans_b ? p->k : p->n;
    lisa__sgemm(buffers + thread * BUFFER, &(struct lisa__sgemm){
                                               .m = (uint32_t)lisa__min(p->tile_m, p->m - i0),
                                               .n = (uint32_t)lisa__min(p->tile_n, p->n - j0),
                                               .k = p->k,
                                               .trans_a = p->trans_a,
                                               .trans_b = p->trans_b,
                                               .alpha = 1,
                                               .a = operands[0] + (p->trans_a ? i0 : i0 * lda),
                                               .lda = lda,
                                               .b = operands[1] + (p->trans_b ? j0 * ldb : j0),
                                               .ldb = ldb,
                                               .c = operands[2] + (size_t)i0 * p->n + j0,
                                               .ldc = p->n,
                                           });
}

static double multiply(struct product *p) {
    const uint32_t n_tiles = p->n_rows * pieces_of(p->n, p->tile_n);
    const double begin = now();
    be->host->parallel(be->host->self, n_tiles, tile_task, p);
    return now() - begin;
}

static void read_list(uint32_t n) {
    size_t most[3] = {1, 1, 1};
    n_products = n < MAX_PRODUCTS ? n : MAX_PRODUCTS;
    for (uint32_t i = 0; i < n_products; i++) {
        struct product *p = &products[i];
        if (scanf("%lf %u %u %u %u %u", &p->count, &p->m, &p->n, &p->k, &p->trans_a, &p->trans_b) !=
            6)
            exit(EXIT_FAILURE);
        const size_t sizes[3] = {(size_t)p->m * p->k, (size_t)p->k * p->n, (size_t)p->m * p->n};
        for (int k = 0; k < 3; k++)
            most[k] = sizes[k] > most[k] ? sizes[k] : most[k];
        cut(p);
    }
    for (int k = 0; k < 3; k++) {
        free(operands[k]);
        operands[k] = noise(most[k]);
    }
    printf("{\"products\": %u}\n", n_products);
}

/* The median of each product's times, as the median of the steps is taken; one untimed call first,
 * for the operands come from memory that another product used. */
static double typical(struct product *p) {
    double times[REPEATS];
    multiply(p);
    for (int r = 0; r < REPEATS; r++) {
        double t = multiply(p);
        int at = r;
        for (; at > 0 && times[at - 1] > t; at--)
            times[at] = times[at - 1];
        times[at] = t;
    }
    return times[REPEATS / 2];
}

static void run_list(void) {
    double flops = 0, seconds = 0;
    for (uint32_t i = 0; i < n_products; i++) {
        struct product *p = &products[i];
        flops += 2.0 * p->count * p->m * p->n * p->k;
        seconds += p->count * typical(p);
    }
    printf("{\"flops\": %.0f, \"seconds\": %.6f}\n", flops, seconds);
}

struct copying {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_task(void *arg, uint32_t i, uint32_t thread) {
    const struct copying *c = arg;
    const size_t begin = c->bytes / n_threads * i;
    const size_t end = i + 1 < n_threads ? c->bytes / n_threads * (i + 1) : c->bytes;
    (void)thread;
    memcpy(c->to + begin, c->from + begin, end - begin);
}

static void copy(size_t bytes) {
    struct copying c = {take(bytes), NULL, bytes};
    char *from = take(bytes);
    memset(from, 1, bytes);
    c.from = from;
    double best = 1e9;
    for (int r = 0; r < REPEATS; r++) {
        const double begin = now();
        be->host->parallel(be->host->self, n_threads, copy_task, &c);
        const double took = now() - begin;
        best = took < best ? took : best;
    }
    printf("{\"bytes\": %zu, \"seconds\": %.6f}\n", bytes, best);
    free(c.to), free(from);
}

/* Bytes of m and v together for a parameter. */
static double moment_bytes(uint32_t moments) {
    if (moments == LISA_MOMENTS_8BIT)
        return 2 + 8.0 / LISA_MOMENTS_BLOCK;
    return moments == LISA_MOMENTS_BF16 ? 4 : 8;
}

static void adamw(const char *dtype, uint32_t moments, size_t n) {
    const int half = strcmp(dtype, "bf16") == 0;
    const size_t blocks = n / LISA_MOMENTS_BLOCK + 1;
    float *gradient = noise(n);
    const lisa_control control = {.scale = 1};
    lisa_adamw op = {.n = n,
                     .weight = {take(n * 4), half ? LISA_DTYPE_BF16 : LISA_DTYPE_F32},
                     .low = half ? take(n * 2) : NULL,
                     .gradient = gradient,
                     .m = take(n * 4),
                     .v = take(n * 4),
                     .moments = moments,
                     .m_scale = take(blocks * sizeof(float)),
                     .v_scale = take(blocks * sizeof(float)),
                     .lr = 1e-4,
                     .beta1 = 0.9,
                     .beta2 = 0.999,
                     .eps = 1e-8,
                     .control = &control,
                     .correction1 = 0.1,
                     .correction2 = 1e-3};
    double best = 1e9;
    for (int r = 0; r < REPEATS; r++) {
        const double begin = now();
        be->ops->adamw(be, &op);
        const double took = now() - begin;
        best = took < best ? took : best;
    }
    /* The gradient is read; moments and master (weight and low bits) are read and written. */
    printf("{\"bytes\": %.0f, \"seconds\": %.6f}\n",
           (double)n * (4 + 2 * (moment_bytes(moments) + 4)), best);
    free(gradient), free(op.weight.data), free(op.low), free(op.m), free(op.v);
    free(op.m_scale), free(op.v_scale);
}

static void obey(const char *word) {
    char dtype[8];
    unsigned moments;
    size_t n;
    if (strcmp(word, "list") == 0 && scanf("%zu", &n) == 1)
        read_list((uint32_t)n);
    else if (strcmp(word, "run") == 0)
        run_list();
    else if (strcmp(word, "copy") == 0 && scanf("%zu", &n) == 1)
        copy(n);
    else if (strcmp(word, "adamw") == 0 && scanf("%7s %u %zu", dtype, &moments, &n) == 3)
        adamw(dtype, moments, n);
    else
        printf("{\"error\": \"no such word\"}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    lisa_context_options options;
    lisa_context *context;
    char word[32];
    lisa_context_options_init(&options, sizeof options);
    options.n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 2;
    if (lisa_context_create(&context, &options) != LISA_OK)
        return fprintf(stderr, "%s\n", lisa_error_last()), 1;
    be = context->be;
    n_threads = lisa_context_n_threads(context);
    buffers = aligned_alloc(4096, n_threads * BUFFER);
    if (buffers == NULL)
        return fprintf(stderr, "no memory for the BLAS\n"), 1;
    while (scanf("%31s", word) == 1)
        obey(word);
    for (int k = 0; k < 3; k++)
        free(operands[k]);
    free(buffers);
    lisa_context_destroy(context);
    return 0;
}

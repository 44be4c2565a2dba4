/* rate_device.c - what a device reaches through its backend's table. usage: rate_device BACKEND
 * Ends with 77 and a line that says why where the backend does not start.
 *
 * Each line of input is answered by one line of JSON:
 *   who          whether the device is the tests' host device, a processor that stands for a GPU
 *   gemm N       seconds of a product of two N x N matrices of bf16 into a third, and its FLOPs
 *   copy BYTES   seconds of a copy, and the bytes that it reads and writes */
#include "core/context.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static lisa_backend *be;

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of one call among as many as take a while: they are queued, and the last is waited for. */
static double seconds_of(lisa_status (*call)(const void *op), const void *op) {
    must(call(op));
    must(be->ops->sync(be));
    for (uint32_t n = 1;; n *= 2) {
        const double begin = now();
        for (uint32_t i = 0; i < n; i++)
            must(call(op));
        must(be->ops->sync(be));
        if (now() - begin > 0.2)
            return (now() - begin) / n;
    }
}

/* Numbers of either sign from 0.5 to 1: a device takes less power, and less time, for zeros. */
static void *noise(size_t n) {
    uint16_t *host = malloc(n * sizeof *host);
    void *device;
    uint32_t state = 1;
    if (host == NULL)
        exit(EXIT_FAILURE);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        host[i] = (uint16_t)(0x3f00 | (state >> 16 & 0x807f));
    }
    must(be->ops->alloc(be, &device, LISA_MEM_WORKSPACE, n * sizeof *host));
    must(be->ops->upload(be, device, host, n * sizeof *host));
    free(host);
    return device;
}

static lisa_status multiply(const void *op) {
    return be->ops->gemm(be, op);
}

static void gemm(uint32_t n) {
    const size_t elements = (size_t)n * n;
    lisa_typed operands[3];
    for (int i = 0; i < 3; i++)
        operands[i] = (lisa_typed){noise(elements), LISA_DTYPE_BF16};
    const lisa_gemm op = {.m = n,
                          .n = n,
                          .k = n,
                          .trans_b = 1,
                          .a = operands[0],
                          .lda = n,
                          .b = operands[1],
                          .ldb = n,
                          .c = operands[2],
                          .ldc = n,
                          .alpha = 1};
    printf("{\"flops\": %.0f, \"seconds\": %.9f}\n", 2.0 * n * n * n, seconds_of(multiply, &op));
    for (int i = 0; i < 3; i++)
        be->ops->release(be, operands[i].data, LISA_MEM_WORKSPACE, elements * sizeof(uint16_t));
}

struct copying {
    void *to, *from;
    size_t bytes;
};

static lisa_status copy_once(const void *op) {
    const struct copying *c = op;
    return be->ops->copy(be, c->to, c->from, c->bytes);
}

static void copy(size_t bytes) {
    const struct copying c = {noise(bytes / 2), noise(bytes / 2), bytes / 2 * 2};
    printf("{\"bytes\": %.0f, \"seconds\": %.9f}\n", 2.0 * (double)c.bytes,
           seconds_of(copy_once, &c));
    be->ops->release(be, c.to, LISA_MEM_WORKSPACE, c.bytes);
    be->ops->release(be, c.from, LISA_MEM_WORKSPACE, c.bytes);
}

static void obey(const char *word) {
    size_t n;
    if (strcmp(word, "who") == 0)
        printf("{\"host_device\": %d}\n",
               dlopen("libhostdevice.so", RTLD_NOLOAD | RTLD_LAZY) != NULL);
    else if (strcmp(word, "gemm") == 0 && scanf("%zu", &n) == 1)
        gemm((uint32_t)n);
    else if (strcmp(word, "copy") == 0 && scanf("%zu", &n) == 1)
        copy(n);
    else
        printf("{\"error\": \"no such word\"}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    lisa_context_options options;
    lisa_context *context;
    char word[32];
    lisa_context_options_init(&options, sizeof options);
    options.backend = argc > 1 ? argv[1] : "cuda";
    if (lisa_context_create(&context, &options) != LISA_OK)
        return fprintf(stderr, "%s\n", lisa_error_last()), 77;
    be = context->be;
    while (scanf("%31s", word) == 1)
        obey(word);
    lisa_context_destroy(context);
    return 0;
}

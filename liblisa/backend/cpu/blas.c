#include "backend/cpu/blas.h"

#include "backend/cpu/vector.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The C interface of every BLAS; declared here because where its header lies is a matter of the
 * system's alternatives. */
#define ROW_MAJOR 101
#define NO_TRANS 111
#define TRANS 112
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

/* Some implementations want a leading dimension of 1 even where there are no elements. */
static int leading(size_t ld) {
    return ld > 0 ? (int)ld : 1;
}

static void call_sgemm(const struct lisa__sgemm *op) {
    cblas_sgemm(ROW_MAJOR, op->trans_a ? TRANS : NO_TRANS, op->trans_b ? TRANS : NO_TRANS,
                (int)op->m, (int)op->n, (int)op->k, op->alpha, op->a, leading(op->lda), op->b,
                leading(op->ldb), op->beta, op->c, leading(op->ldc));
}

#ifdef LISA_SYSTEM_BLAS

const char *lisa__blas_kernels(void) {
    return "the system's";
}

size_t lisa__blas_buffer_bytes(void) {
    return 4096; /* its memory is its own affair */
}

void lisa__sgemm(void *buffer, const struct lisa__sgemm *op) {
    (void)buffer;
    call_sgemm(op);
}

#else

char *openblas_get_corename(void);

const char *lisa__blas_kernels(void) {
    return openblas_get_corename();
}

/* The buffer of the product that the calling thread is in. */
static _Thread_local void *lent;

void lisa__sgemm(void *buffer, const struct lisa__sgemm *op) {
    lent = buffer;
    call_sgemm(op);
    lent = NULL;
}

/* How much of its buffer OpenBLAS uses depends on the block sizes P, Q and R of the processor's
 * kernels, which no interface tells. Its driver packs at most P x Q of one operand to the front of
 * the buffer and, at a place fixed by P and Q, at most Q rows of the other: of all columns of the
 * product's other dimension, or of a few. So the buffer's used part grows with m and n, is the same
 * for all four pairs of transpositions, and is greatest in k from 2 Q on. One product of the
 * largest m and n and of k = 2048 (Q is at most 1024 on x86-64 and arm64, in most kernels 320) in a
 * fresh mapping therefore shows the size for all products: the kernel says which pages were
 * touched. Other machines have to be looked at first. */
#if !defined(__x86_64__) && !defined(__aarch64__)
/* cppcheck-suppress preprocessorErrorDirective */
#error "the private BLAS is not known to be safe here: build with BLAS=system"
#endif
#define PAGE ((size_t)4096)
#define FULL_BUFFER ((size_t)128 << 20) /* what OpenBLAS itself would map */
#define PROBE_K 2048
#define SPARE_PAGES 1 /* for kernels that load a little ahead of what they use */

#define OPERAND_FLOATS ((size_t)PROBE_K * LISA_BLAS_MAX_N) /* the wider one's */
#define PRODUCT_FLOATS ((size_t)LISA_BLAS_MAX_M * LISA_BLAS_MAX_N)
#define PROBE_BYTES (FULL_BUFFER + (OPERAND_FLOATS + PRODUCT_FLOATS) * sizeof(float))

/* Bytes up to the last touched page of a buffer. The whole of it if the kernel does not say. */
static size_t touched_bytes(char *buffer) {
    static const size_t step = 256;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char resident[256];
    size_t last = 0;
    for (size_t from = 0; from < FULL_BUFFER; from += step * page) {
        if (mincore(buffer + from, step * page, resident) != 0)
            return FULL_BUFFER;
        for (size_t i = 0; i < step; i++)
            if (resident[i] & 1)
                last = from + (i + 1) * page;
    }
    return last > 0 ? last : FULL_BUFFER;
}

static void touch(char *buffer) {
    const float *operand = (const float *)(buffer + FULL_BUFFER);
    struct lisa__sgemm op = {
        .m = LISA_BLAS_MAX_M,
        .n = LISA_BLAS_MAX_N,
        .k = PROBE_K,
        .alpha = 1.0f,
        .a = operand,
        .b = operand,
        .c = (float *)(buffer + FULL_BUFFER) + OPERAND_FLOATS,
        .lda = PROBE_K,
        .ldb = LISA_BLAS_MAX_N,
        .ldc = LISA_BLAS_MAX_N,
    };
    lisa__sgemm(buffer, &op);
}

static size_t probe_bytes(void) {
    char *probe = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (probe == MAP_FAILED)
        return 0;
    /* A huge page would make 2 MiB of every touched byte. Kernels without them refuse. */
    (void)madvise(probe, PROBE_BYTES, MADV_NOHUGEPAGE);
    touch(probe);
    size_t bytes = touched_bytes(probe) + SPARE_PAGES * PAGE;
    munmap(probe, PROBE_BYTES);
    return bytes < FULL_BUFFER ? bytes : FULL_BUFFER;
}

size_t lisa__blas_buffer_bytes(void) {
    /* A constant of the processor, remembered: whoever measures it finds the same. */
    static _Atomic size_t known;
    size_t bytes = known;
    if (bytes == 0)
        known = bytes = probe_bytes();
    return bytes;
}

/* What OpenBLAS calls, as the linker redirects it (blas.mk): a guest takes no orders from the
 * environment, prints nothing and ends nothing. The names are the linker's. */
/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
void *__wrap_blas_memory_alloc(int unused);
void __wrap_blas_memory_free(void *buffer);
char *__wrap_getenv(const char *name);
int __wrap_xerbla_(const char *name, const int *info, int length);
int __wrap_printf(const char *format, ...);
int __wrap_fprintf(FILE *stream, const char *format, ...);
int __wrap_vfprintf(FILE *stream, const char *format, va_list args);
int __wrap_puts(const char *text);
int __wrap_putchar(int c);
int __wrap_fputs(const char *text, FILE *stream);
int __wrap_fputc(int c, FILE *stream);
size_t __wrap_fwrite(const void *data, size_t size, size_t n, FILE *stream);
void __wrap_perror(const char *text);
int __wrap___printf_chk(int flag, const char *format, ...);
int __wrap___fprintf_chk(FILE *stream, int flag, const char *format, ...);
int __wrap___vfprintf_chk(FILE *stream, int flag, const char *format, va_list args);
_Noreturn void __wrap_exit(int status);
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

void *__wrap_blas_memory_alloc(int unused) {
    (void)unused;
    return lent;
}

void __wrap_blas_memory_free(void *buffer) {
    (void)buffer;
}

/* OpenBLAS knows processors by their model numbers, and for one that is newer than itself it takes
 * its oldest kernels, an eighth as fast as those with AVX-512. So it is told which to take, by what
 * the processor can; NULL leaves it to itself. */
static char *kernels_to_take(void) {
#ifdef __x86_64__
    const struct lisa__vector *vector = lisa__vector_choose();
    if (vector == &lisa__vector_avx512)
        return "SkylakeX";
    if (vector == &lisa__vector_avx2)
        return "Haswell";
#endif
    return NULL;
}

char *__wrap_getenv(const char *name) {
    return strcmp(name, "OPENBLAS_CORETYPE") == 0 ? kernels_to_take() : NULL;
}

/* The complaint about a wrong argument; gemm.c passes none. */
int __wrap_xerbla_(const char *name, const int *info, int length) {
    (void)name;
    (void)info;
    (void)length;
    return 0;
}

/* OpenBLAS exits only where its table of kernels lacks an entry, which Debian's does not. */
_Noreturn void __wrap_exit(int status) {
    (void)status;
    for (;;)
        pause();
}

int __wrap_printf(const char *format, ...) {
    (void)format;
    return 0;
}

int __wrap_fprintf(FILE *stream, const char *format, ...) {
    (void)stream;
    (void)format;
    return 0;
}

int __wrap_vfprintf(FILE *stream, const char *format, va_list args) {
    (void)stream;
    (void)format;
    (void)args;
    return 0;
}

int __wrap_puts(const char *text) {
    (void)text;
    return 0;
}

int __wrap_putchar(int c) {
    return c;
}

int __wrap_fputs(const char *text, FILE *stream) {
    (void)text;
    (void)stream;
    return 0;
}

int __wrap_fputc(int c, FILE *stream) {
    (void)stream;
    return c;
}

size_t __wrap_fwrite(const void *data, size_t size, size_t n, FILE *stream) {
    (void)data;
    (void)size;
    (void)stream;
    return n;
}

void __wrap_perror(const char *text) {
    (void)text;
}

int __wrap___printf_chk(int flag, const char *format, ...) {
    (void)flag;
    (void)format;
    return 0;
}

int __wrap___fprintf_chk(FILE *stream, int flag, const char *format, ...) {
    (void)stream;
    (void)flag;
    (void)format;
    return 0;
}

int __wrap___vfprintf_chk(FILE *stream, int flag, const char *format, va_list args) {
    (void)stream;
    (void)flag;
    (void)format;
    (void)args;
    return 0;
}

#endif

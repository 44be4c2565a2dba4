/* The private BLAS: right products, no byte outside its buffer, any number of threads at a time,
 * and no orders from the environment. */
#include "backend/cpu/blas.h"
#include "backend/cpu/ops.h"
#include "core/context.h"
#include "core/pool.h"
#include "lisa/lisa.h"

#include <check.h>
#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

static uint32_t state = 1;

static uint32_t below(uint32_t n) {
    state = state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)state * n) >> 32);
}

static float *noise(size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    if (x == NULL)
        abort(); /* no assertion: the guest is no test */
    for (size_t i = 0; i < n; i++)
        x[i] = (float)below(1u << 24) / (1 << 24) - 0.5f;
    return x;
}

/* A buffer of exactly the size that is asked for, behind and before which lies no memory. */
static char *guarded_buffer(size_t bytes) {
    char *all = mmap(NULL, bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(all, MAP_FAILED);
    ck_assert_int_eq(mprotect(all + PAGE, bytes, PROT_READ | PROT_WRITE), 0);
    return all + PAGE;
}

struct operands {
    struct lisa__sgemm op;
    float *a, *b, *c, *before;
};

static struct operands make(uint32_t m, uint32_t n, uint32_t k, uint32_t trans, float beta) {
    struct operands x = {
        .op = {.m = m, .n = n, .k = k, .trans_a = trans & 1, .trans_b = trans / 2}};
    struct lisa__sgemm *op = &x.op;
    op->lda = (op->trans_a ? m : k) + below(3);
    op->ldb = (op->trans_b ? k : n) + below(3);
    op->ldc = n + below(3);
    op->alpha = below(2) ? 1.0f : 0.75f;
    op->beta = beta;
    op->a = x.a = noise(op->lda * (op->trans_a ? k : m));
    op->b = x.b = noise(op->ldb * (op->trans_b ? n : k));
    op->c = x.c = noise(op->ldc * m);
    x.before = malloc(op->ldc * m * sizeof *x.before + 1);
    for (size_t i = 0; beta == 0.0f && i < m; i++)
        for (size_t j = 0; j < n; j++)
            x.c[i * op->ldc + j] = NAN;
    memcpy(x.before, x.c, op->ldc * m * sizeof *x.c);
    return x;
}

static void discard(struct operands *x) {
    free(x->a);
    free(x->b);
    free(x->c);
    free(x->before);
}

static void check_element(const struct operands *x, size_t i, size_t j) {
    const struct lisa__sgemm *op = &x->op;
    double sum = 0.0, magnitude = 1.0;
    for (size_t l = 0; l < op->k; l++) {
        double term = (double)op->a[op->trans_a ? l * op->lda + i : i * op->lda + l] *
                      op->b[op->trans_b ? j * op->ldb + l : l * op->ldb + j];
        sum += term;
        magnitude += fabs(term);
    }
    sum *= op->alpha;
    if (op->beta != 0.0f)
        sum += (double)op->beta * x->before[i * op->ldc + j];
    double error = fabs(op->c[i * op->ldc + j] - sum);
    ck_assert_msg(error <= 1e-6 * magnitude, "%u x %u x %u, transposed %u %u: [%zu,%zu] off by %g",
                  op->m, op->n, op->k, op->trans_a, op->trans_b, i, j, error);
}

/* Every element of small products, some of large ones; and the padding of rows. */
static void check_product(const struct operands *x) {
    const struct lisa__sgemm *op = &x->op;
    const size_t step = (size_t)op->m * op->n * op->k > 200000 ? 37 : 1;
    for (size_t e = 0; e < (size_t)op->m * op->n; e += step)
        check_element(x, e / op->n, e % op->n);
    for (size_t i = 0; i < op->m; i++)
        for (size_t j = op->n; j < op->ldc; j++)
            ck_assert(memcmp(&x->before[i * op->ldc + j], &op->c[i * op->ldc + j], 4) == 0);
}

static void run_and_check(void *buffer, uint32_t m, uint32_t n, uint32_t k, uint32_t trans) {
    static const float betas[] = {0.0f, 1.0f, 0.3f};
    struct operands x = make(m, n, k, trans, betas[below(3)]);
    lisa__sgemm(buffer, &x.op);
    check_product(&x);
    discard(&x);
}

START_TEST(test_products_in_a_guarded_buffer) {
    static const uint32_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 48, 63, 64, 65, 127, 130, 257};
    size_t bytes = lisa__blas_buffer_bytes();
    ck_assert_uint_gt(bytes, 0);
    ck_assert_uint_eq(bytes % PAGE, 0);
    ck_assert_uint_eq(bytes, lisa__blas_buffer_bytes());
    char *buffer = guarded_buffer(bytes);
    for (int round = 0; round < 300; round++)
        run_and_check(buffer, sizes[below(16)], sizes[below(16)], sizes[below(16)], below(4));
    for (uint32_t trans = 0; trans < 4; trans++)
        for (uint32_t k = 0; k < 1500; k = k * 3 / 2 + 1)
            run_and_check(buffer, LISA_BLAS_MAX_M - below(2), LISA_BLAS_MAX_N - below(2), k, trans);
    run_and_check(buffer, LISA_BLAS_MAX_M, LISA_BLAS_MAX_N, 5000, 2);
    munmap(buffer - PAGE, bytes + 2 * PAGE);
}
END_TEST

enum { KINDS = 6, PRODUCTS = 4000 };

struct crowd {
    struct operands kinds[KINDS];
    float *right[KINDS];
    char *buffers;
    size_t bytes;
    atomic_uint wrong;
};

static void crowd_task(void *arg, uint32_t i, uint32_t thread) {
    struct crowd *crowd = arg;
    const struct operands *x = &crowd->kinds[i % KINDS];
    size_t elements = x->op.ldc * x->op.m;
    float c[40 * 50];
    struct lisa__sgemm op = x->op;
    memcpy(c, x->before, elements * sizeof *c);
    op.c = c;
    lisa__sgemm(crowd->buffers + thread * crowd->bytes, &op);
    if (memcmp(c, crowd->right[i % KINDS], elements * sizeof *c) != 0)
        atomic_fetch_add(&crowd->wrong, 1);
}

static void *plain_alloc(void *user, size_t size, size_t align) {
    (void)user;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void plain_release(void *user, void *ptr, size_t size, size_t align) {
    (void)user;
    (void)size;
    (void)align;
    free(ptr);
}

START_TEST(test_many_threads_at_a_time) {
    static const uint32_t shapes[KINDS][3] = {{33, 47, 129}, {40, 45, 700}, {7, 40, 300},
                                              {16, 16, 900}, {39, 3, 1000}, {40, 48, 2000}};
    enum { THREADS = 8 };
    struct crowd crowd = {.bytes = lisa__blas_buffer_bytes()};
    crowd.buffers = plain_alloc(NULL, THREADS * crowd.bytes, PAGE);
    for (uint32_t i = 0; i < KINDS; i++) {
        crowd.kinds[i] = make(shapes[i][0], shapes[i][1], shapes[i][2], i % 4, 1.0f);
        lisa__sgemm(crowd.buffers, &crowd.kinds[i].op);
        crowd.right[i] = crowd.kinds[i].c;
    }
    struct lisa__pool *pool;
    ck_assert_int_eq(lisa__pool_create(&pool, THREADS, plain_alloc, plain_release, NULL), LISA_OK);
    lisa__pool_run(pool, PRODUCTS, crowd_task, &crowd);
    ck_assert_uint_eq(atomic_load(&crowd.wrong), 0);
    lisa__pool_destroy(pool);
    for (uint32_t i = 0; i < KINDS; i++)
        discard(&crowd.kinds[i]);
    free(crowd.buffers);
}
END_TEST

/* C = A B^T with B as floats and as the same values in 16 bits: same bits, whatever the shape. */
static void check_same_bits(lisa_backend *be, uint32_t m, uint32_t n, uint32_t k, uint32_t dtype) {
    float *a = noise((size_t)m * k), *b = noise((size_t)n * k);
    float *c[2] = {noise((size_t)m * n), noise((size_t)m * n)};
    lisa_typed wide = {b, LISA_DTYPE_F32}, half = {malloc((size_t)n * k * 2 + 1), dtype};
    ck_assert_int_eq(be->ops->convert(be, half, wide, (size_t)n * k), LISA_OK);
    ck_assert_int_eq(be->ops->convert(be, wide, half, (size_t)n * k), LISA_OK);
    lisa_gemm op = {.m = m,
                    .n = n,
                    .k = k,
                    .trans_b = 1,
                    .a = {a, LISA_DTYPE_F32},
                    .lda = k,
                    .b = wide,
                    .ldb = k,
                    .c = {c[0], LISA_DTYPE_F32},
                    .ldc = n,
                    .alpha = 1.0};
    ck_assert_int_eq(be->ops->gemm(be, &op), LISA_OK);
    op.b = half;
    op.c.data = c[1];
    ck_assert_int_eq(be->ops->gemm(be, &op), LISA_OK);
    ck_assert_msg(memcmp(c[0], c[1], (size_t)m * n * sizeof(float)) == 0, "%u x %u x %u", m, n, k);
    free(a), free(b), free(c[0]), free(c[1]), free(half.data);
}

START_TEST(test_halves_give_the_bits_of_floats) {
    lisa_context *context;
    ck_assert_int_eq(lisa_context_create(&context, NULL), LISA_OK);
    static const uint32_t shapes[][3] = {{1, 100, 77},    {4, 33, 600},   {5, 70, 1000},
                                         {300, 700, 900}, {70, 20, 3000}, {30, 700, 8300},
                                         {20, 11000, 500}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_same_bits(context->be, shapes[i][0], shapes[i][1], shapes[i][2], LISA_DTYPE_BF16);
        check_same_bits(context->be, shapes[i][0], shapes[i][1], shapes[i][2], LISA_DTYPE_F16);
    }
    lisa_context_destroy(context);
}
END_TEST

/* C = A B^T of noise, which the caller frees. */
static float *product_of_noise(lisa_backend *be, uint32_t m, uint32_t n, uint32_t k) {
    float *a = noise((size_t)m * k), *b = noise((size_t)n * k), *c = noise((size_t)m * n);
    const lisa_gemm op = {.m = m,
                          .n = n,
                          .k = k,
                          .trans_b = 1,
                          .a = {a, LISA_DTYPE_F32},
                          .lda = k,
                          .b = {b, LISA_DTYPE_F32},
                          .ldb = k,
                          .c = {c, LISA_DTYPE_F32},
                          .ldc = n,
                          .alpha = 1.0};
    ck_assert_int_eq(be->ops->gemm(be, &op), LISA_OK);
    free(a), free(b);
    return c;
}

/* A product by each of the four kinds of tasks (dots, tiles, a split sum, one tile) on some numbers
 * of threads: the same bits. */
START_TEST(test_threads_do_not_change_a_bit) {
    static const uint32_t shapes[][3] = {{30, 700, 8300}, {300, 700, 900}, {16, 16, 9000},
                                         {1, 1000, 3000}, {513, 60, 4100}, {20, 30, 40}};
    static const uint32_t threads[] = {1, 2, 3, 16};
    enum { SHAPES = sizeof shapes / sizeof *shapes, COUNTS = sizeof threads / sizeof *threads };
    float *first[SHAPES];
    for (size_t t = 0; t < COUNTS; t++) {
        lisa_context_options options;
        ck_assert_int_eq(lisa_context_options_init(&options, sizeof options), LISA_OK);
        options.n_threads = threads[t];
        lisa_context *context;
        ck_assert_int_eq(lisa_context_create(&context, &options), LISA_OK);
        for (size_t s = 0; s < SHAPES; s++) {
            const uint32_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            state = (uint32_t)s + 1; /* the same operands each time */
            float *c = product_of_noise(context->be, m, n, k);
            if (t == 0)
                first[s] = c;
            ck_assert_msg(memcmp(first[s], c, (size_t)m * n * sizeof *c) == 0,
                          "%u x %u x %u differs on %u threads from 1", m, n, k, threads[t]);
            if (t > 0)
                free(c);
        }
        lisa_context_destroy(context);
    }
    for (size_t s = 0; s < SHAPES; s++)
        free(first[s]);
}
END_TEST

/* The guest: what a process with this library in it does before and after its first product.
 * Written to descriptor 3: threads before the first context, and a checksum of a product. */
static unsigned count_threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    unsigned n = 0;
    for (struct dirent *entry; tasks != NULL && (entry = readdir(tasks)) != NULL;)
        n += entry->d_name[0] != '.';
    if (tasks != NULL)
        closedir(tasks);
    return n;
}

static int be_guest(void) {
    unsigned threads = count_threads();
    lisa_context *context;
    if (lisa_context_create(&context, NULL) != LISA_OK)
        return 1;
    struct operands x = make(200, 300, 400, 0, 0.0f);
    lisa_gemm op = {.m = 200,
                    .n = 300,
                    .k = 400,
                    .a = {x.a, LISA_DTYPE_F32},
                    .lda = x.op.lda,
                    .b = {x.b, LISA_DTYPE_F32},
                    .ldb = x.op.ldb,
                    .c = {x.c, LISA_DTYPE_F32},
                    .ldc = x.op.ldc,
                    .alpha = 1.0};
    if (context->be->ops->gemm(context->be, &op) != LISA_OK)
        return 2;
    uint64_t checksum = 14695981039346656037u;
    for (size_t i = 0; i < x.op.ldc * 200; i++)
        checksum = (checksum ^ lisa__bits_of(x.c[i])) * 1099511628211u;
    discard(&x);
    lisa_context_destroy(context);
    char line[64];
    int n = snprintf(line, sizeof line, "%u %016llx", threads, (unsigned long long)checksum);
    return write(3, line, (size_t)n) == n ? 0 : 3;
}

/* Starts the guest with one variable set; what it wrote to 1 and 2 goes to `said`, to 3 `result`.
 */
static void run_guest(const char *name, const char *value, char said[256], char result[64]) {
    int out[2], line[2], status;
    ck_assert_int_eq(pipe(out), 0);
    ck_assert_int_eq(pipe(line), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        dup2(line[1], 3);
        if (name != NULL)
            setenv(name, value, 1);
        execl("/proc/self/exe", "guest", "guest", (char *)NULL);
        _exit(99);
    }
    close(out[1]);
    close(line[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ssize_t n = read(out[0], said, 255);
    said[n > 0 ? n : 0] = '\0';
    n = read(line[0], result, 63);
    result[n > 0 ? n : 0] = '\0';
    close(out[0]);
    close(line[0]);
    ck_assert_msg(status == 0, "%s=%s: the guest ended with status %d", name, value, status);
}

START_TEST(test_environment_is_the_hosts) {
    static const char *const settings[][2] = {
        {"OPENBLAS_VERBOSE", "2"},        {"OPENBLAS_CORETYPE", "SkylakeX"},
        {"OPENBLAS_CORETYPE", "Nehalem"}, {"OPENBLAS_CORETYPE", "none"},
        {"OPENBLAS_NUM_THREADS", "7"},    {"OMP_NUM_THREADS", "7"},
    };
    char said[256], result[64], plain[64];
    run_guest(NULL, NULL, said, plain);
    ck_assert_str_eq(said, "");
    ck_assert_msg(strncmp(plain, "1 ", 2) == 0, "threads and checksum: \"%s\"", plain);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        run_guest(settings[i][0], settings[i][1], said, result);
        ck_assert_str_eq(said, "");
        ck_assert_msg(strcmp(result, plain) == 0, "%s=%s: \"%s\", expected \"%s\"", settings[i][0],
                      settings[i][1], result, plain);
    }
}
END_TEST

/* Whatever the processor's model, which OpenBLAS may be too old to know. */
START_TEST(test_kernels_are_those_of_the_vectors) {
    static const struct {
        const struct lisa__vector *vector;
        const char *kernels;
    } expected[] = {
#ifdef __x86_64__
        {&lisa__vector_avx512, "SkylakeX"},
        {&lisa__vector_avx2, "Haswell"},
#endif
        {&lisa__vector_base, NULL},
    };
    size_t i = 0;
    while (expected[i].vector != lisa__vector_choose())
        i++;
    if (expected[i].kernels != NULL)
        ck_assert_str_eq(lisa__blas_kernels(), expected[i].kernels);
}
END_TEST

/* A program that has an OpenBLAS of its own keeps its setting and its products. */
START_TEST(test_hosts_own_blas_is_left_alone) {
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL)
        return;
    int (*get_threads)(void);
    void (*set_threads)(int);
    *(void **)&get_threads = dlsym(library, "openblas_get_num_threads");
    *(void **)&set_threads = dlsym(library, "openblas_set_num_threads");
    ck_assert(get_threads != NULL && set_threads != NULL);
    set_threads(2);
    const int before = get_threads();
    lisa_context *context;
    ck_assert_int_eq(lisa_context_create(&context, NULL), LISA_OK);
    check_same_bits(context->be, 300, 700, 900, LISA_DTYPE_BF16);
    lisa_context_destroy(context);
    ck_assert_int_eq(get_threads(), before);
}
END_TEST

static Suite *blas_suite(void) {
    Suite *suite = suite_create("private blas");
    TCase *tcase = tcase_create("private blas");
    tcase_set_timeout(tcase, 120);
    TCase *native = tcase_create("environment");
    tcase_set_tags(native, "native"); /* not under an emulator */
    tcase_set_timeout(native, 120);
    tcase_add_test(tcase, test_products_in_a_guarded_buffer);
    tcase_add_test(tcase, test_many_threads_at_a_time);
    tcase_add_test(tcase, test_halves_give_the_bits_of_floats);
    tcase_add_test(tcase, test_threads_do_not_change_a_bit);
    tcase_add_test(tcase, test_hosts_own_blas_is_left_alone);
    /* With BLAS=system, which needs no buffer of ours, the environment speaks to the system's. */
    if (lisa__blas_buffer_bytes() > PAGE) {
        tcase_add_test(native, test_kernels_are_those_of_the_vectors);
        tcase_add_test(native, test_environment_is_the_hosts);
    }
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, native);
    return suite;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "guest") == 0)
        return be_guest();
    SRunner *runner = srunner_create(blas_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

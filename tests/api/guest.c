/* guest.c - a host that loads liblisa as a guest; test_guest.sh looks at what happens to the host.
 *   guest quiet LIBLISA         prints only what is printed here
 *   guest threads LIBLISA       the number of threads after loading, with a context, and after it
 *   guest blas LIBLISA LIBBLAS  whether the host's own BLAS keeps its threads and its results */
#include "lisa/lisa.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every function is looked up at run time: the program itself is not linked with the library. */
#define FUNCTIONS(X)                                                                               \
    X(lisa_error_last)                                                                             \
    X(lisa_context_options_init)                                                                   \
    X(lisa_context_create)                                                                         \
    X(lisa_context_destroy)                                                                        \
    X(lisa_model_config_init)                                                                      \
    X(lisa_model_create)                                                                           \
    X(lisa_model_destroy)                                                                          \
    X(lisa_batch_create)                                                                           \
    X(lisa_batch_set)                                                                              \
    X(lisa_batch_destroy)                                                                          \
    X(lisa_optimizer_create)                                                                       \
    X(lisa_optimizer_destroy)                                                                      \
    X(lisa_train_step)

static struct {
#define MEMBER(name) __typeof__(&name) name;
    FUNCTIONS(MEMBER)
} api;

static void *load(const char *path, int flags) {
    void *library = dlopen(path, flags);
    if (library == NULL) {
        printf("%s\n", dlerror());
        exit(EXIT_FAILURE);
    }
    return library;
}

/* memcpy, because ISO C converts no void * to a function. */
static void find(void *library, const char *name, void *function) {
    void *address = dlsym(library, name);
    if (address == NULL) {
        printf("missing %s\n", name);
        exit(EXIT_FAILURE);
    }
    memcpy(function, &address, sizeof address);
}

static void load_lisa(const char *path) {
    void *library = load(path, RTLD_NOW | RTLD_LOCAL);
#define FIND(name) find(library, #name, &api.name);
    FUNCTIONS(FIND)
}

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    printf("status %d: %s\n", (int)status, api.lisa_error_last());
    exit(EXIT_FAILURE);
}

static int n_threads(void) {
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    if (directory != NULL)
        closedir(directory);
    return count;
}

static lisa_context *make_context(uint32_t n) {
    lisa_context_options options;
    must(api.lisa_context_options_init(&options, sizeof options));
    options.n_threads = n;
    lisa_context *context;
    must(api.lisa_context_create(&context, &options));
    return context;
}

static lisa_model *make_model(lisa_context *context) {
    lisa_model_config config;
    must(api.lisa_model_config_init(&config, sizeof config));
    config.n_layers = 2;
    config.d_model = 128;
    config.n_heads = 4;
    config.d_ff = 256;
    config.vocab_size = 512;
    config.max_positions = 64;
    lisa_model *model;
    must(api.lisa_model_create(&model, context, &config, NULL));
    return model;
}

/* The loss of one step, after all kinds of matrix products went through the BLAS. */
static double one_step(lisa_context *context) {
    lisa_model *model = make_model(context);
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    must(api.lisa_batch_create(&batch, model, 2, 64, NULL));
    must(api.lisa_optimizer_create(&optimizer, model, NULL));
    int32_t tokens[2 * 64];
    for (int32_t i = 0; i < 2 * 64; i++)
        tokens[i] = i * 37 % 512;
    must(api.lisa_batch_set(batch, tokens, NULL, 2, 64));
    lisa_step_stats stats = {.struct_size = sizeof stats};
    must(api.lisa_train_step(model, NULL, optimizer, batch, 0, &stats));
    api.lisa_optimizer_destroy(optimizer);
    api.lisa_batch_destroy(batch);
    api.lisa_model_destroy(model);
    return stats.loss;
}

static void quiet(void) {
    lisa_context *context = make_context(2);
    const double loss = one_step(context);
    api.lisa_context_destroy(context);
    printf("%s\n", loss > 0 ? "trained" : "no loss");
}

static void threads(void) {
    printf("loaded %d\n", n_threads());
    lisa_context *context = make_context(3);
    one_step(context);
    printf("context %d\n", n_threads());
    api.lisa_context_destroy(context);
    printf("destroyed %d\n", n_threads());
}

#define N 96
typedef int (*get_threads_fn)(void);
typedef void (*set_threads_fn)(int);
typedef void (*sgemm_fn)(int, int, int, int, int, int, float, const float *, int, const float *,
                         int, float, float *, int);

static void host_product(sgemm_fn sgemm, float *c) {
    static float a[N * N], b[N * N];
    for (int i = 0; i < N * N; i++) {
        a[i] = (float)(i % 17) - 8;
        b[i] = (float)(i % 23) - 11;
    }
    sgemm(101, 111, 111, N, N, N, 1, a, N, b, N, 0, c, N);
}

/* The BLAS is loaded for everybody to see, as in a host that was linked with -lopenblas. */
static void host_blas(const char *liblisa, const char *libblas) {
    void *blas = load(libblas, RTLD_NOW | RTLD_GLOBAL);
    get_threads_fn get;
    set_threads_fn set;
    sgemm_fn sgemm;
    find(blas, "openblas_get_num_threads", &get);
    find(blas, "openblas_set_num_threads", &set);
    find(blas, "cblas_sgemm", &sgemm);

    static float before[N * N], after[N * N];
    set(2);
    const int n_before = get();
    host_product(sgemm, before);
    load_lisa(liblisa);
    const int n_loaded = get();
    lisa_context *context = make_context(2);
    one_step(context);
    const int n_trained = get();
    host_product(sgemm, after);
    api.lisa_context_destroy(context);
    const int kept = n_before == n_loaded && n_before == n_trained && n_before == get();
    printf("threads %s\n", kept ? "kept" : "changed");
    printf("product %s\n", memcmp(before, after, sizeof before) == 0 ? "equal" : "different");
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "blas") == 0) {
        host_blas(argv[2], argv[3]);
        return EXIT_SUCCESS;
    }
    if (argc != 3)
        return EXIT_FAILURE;
    load_lisa(argv[2]);
    if (strcmp(argv[1], "quiet") == 0)
        quiet();
    else
        threads();
    return EXIT_SUCCESS;
}

/* guest.c - a host that loads liblisa as a guest; test_guest.sh looks at what happens to the host.
 *   guest quiet LIBLISA         prints only what is printed here: what training came to, to the bit
 *   guest threads LIBLISA       the number of threads after loading, with a context, and after it
 *   guest fork LIBLISA TIMES    whether children train, forked while another thread does
 *   guest reload LIBLISA TIMES  what is left of loading, using and unloading it so often
 *   guest blas LIBLISA LIBBLAS  whether the host's own BLAS keeps its threads and its results */
#include "lisa/lisa.h"

#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

static void *load_lisa(const char *path) {
    void *library = load(path, RTLD_NOW | RTLD_LOCAL);
#define FIND(name) find(library, #name, &api.name);
    FUNCTIONS(FIND)
    return library;
}

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    printf("status %d: %s\n", (int)status, api.lisa_error_last());
    exit(EXIT_FAILURE);
}

static int n_entries(const char *path) {
    DIR *directory = opendir(path);
    int count = 0;
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    if (directory != NULL)
        closedir(directory);
    return count;
}

static int n_threads(void) {
    return n_entries("/proc/self/task");
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

#define N_STEPS 3

/* Steps in which all kinds of matrix products go through the BLAS, each from the last one's
 * weights: their losses and norms tell the bits of all products. */
static void train(lisa_context *context, double figures[2 * N_STEPS]) {
    lisa_model *model = make_model(context);
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    must(api.lisa_batch_create(&batch, model, 2, 64, NULL));
    must(api.lisa_optimizer_create(&optimizer, model, NULL));
    int32_t tokens[2 * 64];
    for (int32_t i = 0; i < 2 * 64; i++)
        tokens[i] = i * 37 % 512;
    must(api.lisa_batch_set(batch, tokens, NULL, 2, 64));
    for (uint64_t step = 0; step < N_STEPS; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        must(api.lisa_train_step(model, NULL, optimizer, batch, step, &stats));
        figures[2 * step] = stats.loss;
        figures[2 * step + 1] = stats.grad_norm;
    }
    api.lisa_optimizer_destroy(optimizer);
    api.lisa_batch_destroy(batch);
    api.lisa_model_destroy(model);
}

/* In a context of its own. */
static void train_once(double figures[2 * N_STEPS]) {
    lisa_context *context = make_context(2);
    train(context, figures);
    api.lisa_context_destroy(context);
}

static void quiet(void) {
    double figures[2 * N_STEPS];
    train_once(figures);
    for (int i = 0; i < N_STEPS; i++)
        printf("loss %a, norm %a\n", figures[2 * i], figures[2 * i + 1]);
}

static void threads(void) {
    printf("loaded %d\n", n_threads());
    double figures[2 * N_STEPS];
    lisa_context *context = make_context(3);
    train(context, figures);
    printf("context %d\n", n_threads());
    api.lisa_context_destroy(context);
    printf("destroyed %d\n", n_threads());
}

static pthread_t start(void *(*function)(void *), void *arg) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, arg) != 0)
        exit(EXIT_FAILURE);
    return thread;
}

static void *keep_training(void *stop) {
    double figures[2 * N_STEPS];
    while (!atomic_load((atomic_int *)stop))
        train_once(figures);
    return NULL;
}

/* A child that hangs is ended by its alarm. */
static int child_trains(const double expected[2 * N_STEPS]) {
    double figures[2 * N_STEPS];
    int status;
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        train_once(figures);
        _exit(memcmp(figures, expected, sizeof figures) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void forks(int times) {
    double expected[2 * N_STEPS];
    static atomic_int stop;
    int n_trained = 0;
    train_once(expected);
    const pthread_t thread = start(keep_training, &stop);
    for (int i = 0; i < times; i++)
        n_trained += child_trains(expected);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("%d children trained\n", n_trained);
}

struct held {
    long heap, resident, threads, files;
};

static struct held measure(void) {
    struct held held = {0};
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*d %ld", &held.resident) != 1)
        printf("no statm\n");
    if (statm != NULL)
        fclose(statm);
#if __GLIBC_PREREQ(2, 33)
    held.heap = (long)mallinfo2().uordblks;
#endif
    held.threads = n_threads();
    held.files = n_entries("/proc/self/fd");
    return held;
}

static void load_use_unload(const char *path, int is_used) {
    void *library = load_lisa(path);
    double figures[2 * N_STEPS];
    if (is_used)
        train_once(figures);
    dlclose(library);
    library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL)
        return;
    printf("still loaded\n");
    exit(EXIT_FAILURE);
}

/* The first rounds fill what the C library keeps for itself. */
static void reload(const char *path, int times) {
    struct held before = {0};
    for (int i = 0; i < times; i++) {
        if (i == times / 4)
            before = measure();
        load_use_unload(path, i % 10 == 0);
    }
    const struct held after = measure();
    printf("heap %+ld bytes, resident %+ld pages, threads %+ld, files %+ld\n",
           after.heap - before.heap, after.resident - before.resident,
           after.threads - before.threads, after.files - before.files);
}

#define N 96
typedef int (*get_threads_fn)(void);
typedef void (*set_threads_fn)(int);
typedef void (*sgemm_fn)(int, int, int, int, int, int, float, const float *, int, const float *,
                         int, float, float *, int);

/* The host's products, over and over on a thread of its own. */
struct products {
    sgemm_fn sgemm;
    float a[N * N], b[N * N], expected[N * N];
    atomic_int n_made, n_different, stop;
};

static void multiply(const struct products *p, float *c) {
    p->sgemm(101, 111, 111, N, N, N, 1, p->a, N, p->b, N, 0, c, N);
}

static int is_as_before(const struct products *p) {
    float c[N * N];
    multiply(p, c);
    return memcmp(c, p->expected, sizeof c) == 0;
}

static void *keep_multiplying(void *arg) {
    struct products *p = arg;
    while (!atomic_load(&p->stop)) {
        if (!is_as_before(p))
            atomic_fetch_add(&p->n_different, 1);
        atomic_fetch_add(&p->n_made, 1);
    }
    return NULL;
}

static void begin_products(struct products *p, sgemm_fn sgemm) {
    p->sgemm = sgemm;
    for (int i = 0; i < N * N; i++) {
        p->a[i] = (float)(i % 17) / 7 - 1;
        p->b[i] = (float)(i % 23) / 9 - 1;
    }
    multiply(p, p->expected);
}

/* Trains while another thread multiplies. */
static void train_meanwhile(struct products *p, lisa_context *context) {
    double figures[2 * N_STEPS];
    const pthread_t thread = start(keep_multiplying, p);
    do
        train(context, figures);
    while (atomic_load(&p->n_made) < 2000);
    atomic_store(&p->stop, 1);
    pthread_join(thread, NULL);
}

/* The BLAS is loaded for everybody to see, as in a host that was linked with -lopenblas. */
static void host_blas(const char *liblisa, const char *libblas) {
    static struct products products;
    void *blas = load(libblas, RTLD_NOW | RTLD_GLOBAL);
    get_threads_fn get;
    set_threads_fn set;
    sgemm_fn sgemm;
    find(blas, "openblas_get_num_threads", &get);
    find(blas, "openblas_set_num_threads", &set);
    find(blas, "cblas_sgemm", &sgemm);

    set(2);
    const int n_before = get();
    begin_products(&products, sgemm);
    load_lisa(liblisa);
    const int n_loaded = get();
    lisa_context *context = make_context(2);
    train_meanwhile(&products, context);
    const int n_trained = get();
    const int is_after = is_as_before(&products);
    api.lisa_context_destroy(context);
    const int kept = n_before == n_loaded && n_before == n_trained && n_before == get();
    printf("threads %s\n", kept ? "kept" : "changed");
    printf("products %s\n", is_after && products.n_different == 0 ? "equal" : "different");
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[1] : "";
    if (strcmp(mode, "blas") == 0 && argc == 4)
        host_blas(argv[2], argv[3]);
    else if (strcmp(mode, "reload") == 0 && argc == 4)
        reload(argv[2], atoi(argv[3]));
    else if (strcmp(mode, "fork") == 0 && argc == 4)
        load_lisa(argv[2]), forks(atoi(argv[3]));
    else if (strcmp(mode, "quiet") == 0)
        load_lisa(argv[2]), quiet();
    else if (strcmp(mode, "threads") == 0)
        load_lisa(argv[2]), threads();
    else
        return EXIT_FAILURE;
    return EXIT_SUCCESS;
}

/* data_parallel.c - two workers train one model, each with its own batches: what several processes
 * do with MPI or NCCL, here as two threads with a context each, and nothing shared but a sum.
 * Needs no file and no download.
 *
 *   cc data_parallel.c $(pkg-config --cflags --libs lisa) -lpthread -o data_parallel
 *   ./data_parallel */
#define _POSIX_C_SOURCE 200809L
#include <lisa/lisa.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 2
#define BATCH 2 /* rows of each worker */
#define TOKENS 48
#define STEPS 160
#define LAYERS 6

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

struct worker {
    int rank;
    lisa_context *context;
    lisa_model *model;
    lisa_sampler *sampler;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
};

static pthread_barrier_t everybody;
static float *regions[WORKERS];

/* Leaves the sum of all workers' regions in every one of them. With processes this is one call:
 *   MPI_Allreduce(MPI_IN_PLACE, data, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
 *   ncclAllReduce(data, data, n, ncclFloat, ncclSum, comm, stream); */
static void all_reduce(const struct worker *w) {
    void *data;
    uint64_t n;
    uint32_t dtype;
    must(lisa_optimizer_gradients(w->optimizer, &data, &n, &dtype));
    regions[w->rank] = data;
    pthread_barrier_wait(&everybody);
    const uint64_t first = n * (uint64_t)w->rank / WORKERS;
    const uint64_t end = n * (uint64_t)(w->rank + 1) / WORKERS;
    for (uint64_t i = first; i < end; i++) {
        float sum = 0;
        for (int r = 0; r < WORKERS; r++)
            sum += regions[r][i];
        for (int r = 0; r < WORKERS; r++)
            regions[r][i] = sum;
    }
    pthread_barrier_wait(&everybody);
}

/* The same seeds everywhere: replicas start alike and sample the same layers. */
static void make(struct worker *w) {
    lisa_model_config config;
    must(lisa_model_config_init(&config, sizeof config));
    config.n_layers = LAYERS;
    config.d_model = 64;
    config.n_heads = 4;
    config.d_ff = 128;
    config.vocab_size = 128;
    config.max_positions = 128;
    lisa_sampler_options so;
    must(lisa_sampler_options_init(&so, sizeof so));
    so.n_layers = LAYERS;
    so.n_active = 2;
    so.interval_steps = 5;
    so.seed = 1;
    lisa_optimizer_options oo;
    must(lisa_optimizer_options_init(&oo, sizeof oo));
    oo.lr = 3e-3;
    oo.max_active_layers = 2;
    oo.max_grad_norm = 1;

    must(lisa_context_create(&w->context, NULL));
    must(lisa_model_create(&w->model, w->context, &config, NULL));
    must(lisa_sampler_create(&w->sampler, &so));
    must(lisa_optimizer_create(&w->optimizer, w->model, &oo));
    must(lisa_batch_create(&w->batch, w->model, BATCH, TOKENS, NULL));
}

/* Tokens are characters; each worker's rows begin at places of the sentence that are its own. */
static void fill(const struct worker *w) {
    const char *sentence = "the sampled layers learn while the frozen layers wait their turn; ";
    const size_t length = strlen(sentence);
    int32_t tokens[BATCH * TOKENS];
    for (size_t b = 0; b < BATCH; b++)
        for (size_t t = 0; t < TOKENS; t++)
            tokens[b * TOKENS + t] = sentence[(17 * (BATCH * (size_t)w->rank + b) + t) % length];
    must(lisa_batch_set(w->batch, tokens, NULL, BATCH, TOKENS));
}

/* lisa_train_step in its parts, with the all-reduce before the update. */
static void step(const struct worker *w, uint64_t number, lisa_step_stats *stats) {
    uint8_t mask[LAYERS + 2];
    must(lisa_sampler_mask(w->sampler, number, mask, sizeof mask));
    must(lisa_optimizer_apply_mask(w->optimizer, mask, sizeof mask));
    must(lisa_forward(w->model, w->batch, NULL));
    must(lisa_backward(w->model, w->batch));
    all_reduce(w);
    must(lisa_optimizer_step(w->optimizer, stats));
}

static void *work(void *worker) {
    const struct worker *w = worker;
    fill(w);
    for (uint64_t number = 0; number < STEPS; number++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        step(w, number, &stats);
        if (w->rank == 0 && (number % 40 == 0 || number + 1 == STEPS))
            printf("step %3d  loss %.4f  targets %g\n", (int)number, stats.loss, stats.weight_sum);
    }
    return NULL;
}

static void report_travel(const struct worker *w) {
    void *data;
    uint64_t n, all = 0;
    uint32_t dtype;
    must(lisa_optimizer_gradients(w->optimizer, &data, &n, &dtype));
    for (uint32_t i = 0; i < lisa_model_n_tensors(w->model); i++) {
        lisa_tensor_info info = {.struct_size = sizeof info};
        must(lisa_model_tensor_info(w->model, i, &info));
        all += info.n_elements;
    }
    printf("%llu of %llu gradients travel in a step\n", (unsigned long long)n,
           (unsigned long long)all);
}

static int same_weights(const struct worker *a, const struct worker *b) {
    int same = 1;
    for (uint32_t i = 0; i < lisa_model_n_tensors(a->model); i++) {
        lisa_tensor_info info = {.struct_size = sizeof info};
        must(lisa_model_tensor_info(a->model, i, &info));
        float *x = malloc(2 * info.n_elements * sizeof *x);
        if (x == NULL)
            exit(EXIT_FAILURE);
        float *y = x + info.n_elements;
        must(lisa_model_tensor_read(a->model, i, x, LISA_DTYPE_F32, info.n_elements));
        must(lisa_model_tensor_read(b->model, i, y, LISA_DTYPE_F32, info.n_elements));
        same &= memcmp(x, y, info.n_elements * sizeof *x) == 0;
        free(x);
    }
    return same;
}

int main(void) {
    struct worker workers[WORKERS] = {{0}};
    pthread_t threads[WORKERS];
    pthread_barrier_init(&everybody, NULL, WORKERS);
    for (int r = 0; r < WORKERS; r++) {
        workers[r].rank = r;
        make(&workers[r]);
    }
    for (int r = 0; r < WORKERS; r++)
        if (pthread_create(&threads[r], NULL, work, &workers[r]) != 0)
            return EXIT_FAILURE;
    for (int r = 0; r < WORKERS; r++)
        pthread_join(threads[r], NULL);
    report_travel(&workers[0]);
    const int same = same_weights(&workers[0], &workers[1]);
    printf("replicas are %s\n", same ? "equal to the bit" : "different");

    for (int r = 0; r < WORKERS; r++) {
        lisa_optimizer_destroy(workers[r].optimizer);
        lisa_batch_destroy(workers[r].batch);
        lisa_sampler_destroy(workers[r].sampler);
        lisa_model_destroy(workers[r].model);
        lisa_context_destroy(workers[r].context);
    }
    pthread_barrier_destroy(&everybody);
    return same ? EXIT_SUCCESS : EXIT_FAILURE;
}

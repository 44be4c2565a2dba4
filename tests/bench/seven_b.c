/* Training steps of a model that is larger than memory would hold: LISA on a LLaMA-2-7B shape
 * (make_llama.py) with the trained layers in a scratch file. One JSON object a line on stdout.
 *
 * usage: seven_b MODEL_DIR SCRATCH_DIR [NAME=NUMBER]...
 *   steps=4 tokens=256 gamma=2 period=1 in_backward=0 moments=1 (LISA_MOMENTS_*) rows=0
 * (embedding_rows) turns=0     1: layers in turn rather than drawn, so that all of them are soon
 * visited rate=1      0: the rate of the machine's sgemm is not measured check=0     1: fails
 * unless resident memory is as planned and stays where it is */
#include "lisa/lisa.h"

#include "backend/cpu/ops.h"
#include "core/context.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != LISA_OK) {                                                                   \
            fprintf(stderr, "%s: %s\n", #call, lisa_error_last());                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct settings {
    double steps, tokens, gamma, period, in_backward, moments, rows, turns, rate, check;
};

struct work {
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    lisa_sampler *sampler;
    lisa_model_config config;
    lisa_plan_report plan;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_setting(struct settings *s, const char *text) {
    const struct {
        const char *name;
        double *value;
    } known[] = {
        {"steps", &s->steps},
        {"tokens", &s->tokens},
        {"gamma", &s->gamma},
        {"period", &s->period},
        {"in_backward", &s->in_backward},
        {"rows", &s->rows},
        {"moments", &s->moments},
        {"turns", &s->turns},
        {"rate", &s->rate},
        {"check", &s->check},
    };
    const char *equals = strchr(text, '=');
    for (size_t i = 0; equals != NULL && i < sizeof known / sizeof *known; i++)
        if (strncmp(text, known[i].name, strlen(known[i].name)) == 0 &&
            strlen(known[i].name) == (size_t)(equals - text)) {
            *known[i].value = atof(equals + 1);
            return;
        }
    fprintf(stderr, "%s: no such setting\n", text);
    exit(2);
}

/* Bytes of a line of /proc/self/status. */
static double status_bytes(const char *name) {
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL)
        exit(1);
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kib = atof(line + strlen(name) + 1);
    fclose(file);
    return kib * 1024;
}

static double resident(void) {
    return status_bytes("RssAnon") + status_bytes("RssShmem");
}

static void make(struct work *w, const struct settings *s, char **argv) {
    lisa_model_options model;
    lisa_batch_options batch;
    lisa_optimizer_options optimizer;
    lisa_sampler_options sampler;
    lisa_plan_request request;
    const uint32_t tokens = (uint32_t)s->tokens, gamma = (uint32_t)s->gamma;
    w->config.struct_size = sizeof w->config;
    OK(lisa_model_config_read(&w->config, argv[1]));
    OK(lisa_model_options_init(&model, sizeof model));
    model.scratch_dir = argv[2];
    OK(lisa_batch_options_init(&batch, sizeof batch));
    batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    OK(lisa_optimizer_options_init(&optimizer, sizeof optimizer));
    optimizer.max_active_layers = gamma;
    optimizer.update_in_backward = (uint32_t)s->in_backward;
    optimizer.embedding_rows = (uint32_t)s->rows;
    optimizer.moments_layers = optimizer.moments_head = optimizer.moments_embedding =
        (uint32_t)s->moments;
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &w->config;
    request.model = &model;
    request.batch = &batch;
    request.optimizer = &optimizer;
    request.max_batch = 1;
    request.max_tokens = tokens;
    w->plan.struct_size = sizeof w->plan;
    OK(lisa_plan(&request, &w->plan));
    OK(lisa_model_open(&w->model, w->context, argv[1], &model));
    OK(lisa_optimizer_create(&w->optimizer, w->model, &optimizer));
    OK(lisa_batch_create(&w->batch, w->model, 1, tokens, &batch));
    OK(lisa_sampler_options_init(&sampler, sizeof sampler));
    sampler.n_layers = w->config.n_layers;
    sampler.n_active = gamma;
    sampler.interval_steps = (uint32_t)s->period;
    if (s->turns != 0)
        sampler.kind = LISA_SAMPLER_ROUND_ROBIN;
    sampler.seed = 1;
    OK(lisa_sampler_create(&w->sampler, &sampler));
}

static void set_tokens(const struct work *w, uint32_t n) {
    int32_t *tokens = malloc(n * sizeof *tokens);
    uint32_t state = 1;
    if (tokens == NULL)
        exit(1);
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((state >> 8) % w->config.vocab_size);
    }
    OK(lisa_batch_set(w->batch, tokens, NULL, 1, n));
    free(tokens);
}

static void make_plan_line(const struct work *w) {
    printf("{\"what\": \"plan\", \"total\": %.0f, \"parameters\": %.0f", (double)w->plan.total,
           (double)w->plan.n_parameters);
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        printf(", \"%s\": %.0f", lisa_memory_class_name(c), (double)w->plan.bytes[c]);
    printf("}\n");
    fflush(stdout);
}

/* ---- the rate: the step's own products, f32, back to back through the same BLAS ---------------
 */

struct rate {
    struct lisa__cpu *cpu;
    struct lisa__sgemm op;
    uint32_t n_tasks;
};

/* A share of the columns of the product. */
static void rate_task(void *arg, uint32_t i, uint32_t thread) {
    const struct rate *r = arg;
    struct lisa__sgemm op = r->op;
    const uint32_t from = (uint32_t)((uint64_t)r->op.n * i / r->n_tasks);
    op.n = (uint32_t)((uint64_t)r->op.n * (i + 1) / r->n_tasks) - from;
    op.b += op.trans_b ? from * op.ldb : from;
    op.c += from;
    lisa__sgemm(lisa__cpu_blas_buffer(r->cpu, thread), &op);
}

struct product {
    uint32_t out, in;
    double forwards, inputs, weights; /* how often in a step, without recomputation */
};

/* Seconds of one product in shares no larger than lisa__sgemm takes, best of two. */
static double product_seconds(lisa_backend *be, struct lisa__sgemm whole, uint32_t n_threads) {
    double best = INFINITY;
    for (int repeat = 0; repeat < 2; repeat++) {
        const double begin = now();
        for (uint32_t row = 0; row < whole.m; row += LISA_BLAS_MAX_M) {
            struct rate r = {.cpu = lisa__cpu_of(be), .op = whole};
            const uint32_t left = whole.m - row;
            r.op.m = left < LISA_BLAS_MAX_M ? left : LISA_BLAS_MAX_M;
            r.op.a += whole.trans_a ? row : row * whole.lda;
            r.op.c += (size_t)row * whole.ldc;
            r.n_tasks = (whole.n + LISA_BLAS_MAX_N - 1) / LISA_BLAS_MAX_N;
            r.n_tasks = (r.n_tasks + n_threads - 1) / n_threads * n_threads;
            be->host->parallel(be->host->self, r.n_tasks, rate_task, &r);
        }
        best = fmin(best, now() - begin);
    }
    return best;
}

/* Of a weight [out, in] and x [tokens, in]: y = x W', dx = dy W, dW = dy' x. */
static double linear_seconds(lisa_backend *be, const struct product *p, uint32_t tokens,
                             uint32_t n_threads, float *buffers[3]) {
    float *x = buffers[0], *w = buffers[1], *y = buffers[2];
    const struct lisa__sgemm forward = {.m = tokens,
                                        .n = p->out,
                                        .k = p->in,
                                        .trans_b = 1,
                                        .alpha = 1,
                                        .a = x,
                                        .lda = p->in,
                                        .b = w,
                                        .ldb = p->in,
                                        .c = y,
                                        .ldc = p->out};
    const struct lisa__sgemm input = {.m = tokens,
                                      .n = p->in,
                                      .k = p->out,
                                      .alpha = 1,
                                      .a = y,
                                      .lda = p->out,
                                      .b = w,
                                      .ldb = p->in,
                                      .c = x,
                                      .ldc = p->in};
    const struct lisa__sgemm weight = {.m = p->out,
                                       .n = p->in,
                                       .k = tokens,
                                       .trans_a = 1,
                                       .alpha = 1,
                                       .a = y,
                                       .lda = p->out,
                                       .b = x,
                                       .ldb = p->in,
                                       .c = w,
                                       .ldc = p->in};
    return p->forwards * product_seconds(be, forward, n_threads) +
           p->inputs * product_seconds(be, input, n_threads) +
           p->weights * product_seconds(be, weight, n_threads);
}

enum { N_PRODUCTS = 6 };

static void list_products(const struct work *w, const struct settings *s,
                          struct product list[N_PRODUCTS]) {
    const lisa_model_config *c = &w->config;
    const uint32_t heads = c->n_kv_heads != 0 ? c->n_kv_heads : c->n_heads;
    const uint32_t dim = c->head_dim != 0 ? c->head_dim : c->d_model / c->n_heads;
    const double l = c->n_layers, g = s->gamma;
    const struct product all[N_PRODUCTS] = {
        {c->n_heads * dim, c->d_model, l, l, g}, {heads * dim, c->d_model, 2 * l, 2 * l, 2 * g},
        {c->d_model, c->n_heads * dim, l, l, g}, {c->d_ff, c->d_model, 2 * l, 2 * l, 2 * g},
        {c->d_model, c->d_ff, l, l, g},          {c->vocab_size, c->d_model, 1, 1, 1},
    };
    memcpy(list, all, sizeof all);
}

static double product_flops(const struct product *p, double tokens) {
    return 2.0 * tokens * p->out * p->in * (p->forwards + p->inputs + p->weights);
}

static double list_flops(const struct product list[N_PRODUCTS], double tokens) {
    double flops = 0;
    for (uint32_t i = 0; i < N_PRODUCTS; i++)
        flops += product_flops(&list[i], tokens);
    return flops;
}

static float *zeros(size_t n) {
    float *x = calloc(n, sizeof *x);
    if (x == NULL)
        exit(1);
    return x;
}

/* FLOP/s of the list of products. */
static double sgemm_rate(const struct work *w, const struct settings *s) {
    struct product list[N_PRODUCTS];
    const uint32_t tokens = (uint32_t)s->tokens;
    size_t wide = 0, large = 0;
    list_products(w, s, list);
    for (uint32_t i = 0; i < N_PRODUCTS; i++) {
        const size_t out = list[i].out, in = list[i].in, widest = out > in ? out : in;
        wide = widest > wide ? widest : wide;
        large = out * in > large ? out * in : large;
    }
    float *buffers[3] = {zeros(wide * tokens), zeros(large), zeros(wide * tokens)};
    double seconds = 0;
    for (uint32_t i = 0; i < N_PRODUCTS; i++)
        seconds += linear_seconds(w->context->be, &list[i], tokens,
                                  lisa_context_n_threads(w->context), buffers);
    for (int i = 0; i < 3; i++)
        free(buffers[i]);
    return list_flops(list, tokens) / seconds;
}

/* A pass of attention, causal: each query sees half of the keys. */
static double attention_flops(const struct work *w, double tokens) {
    return 2 * tokens * (tokens + 1) * (double)w->config.d_model * w->config.n_layers;
}

/* Products of weights, and attention forward and, at twice the cost, backward. */
static double useful_flops(const struct work *w, const struct settings *s) {
    struct product list[N_PRODUCTS];
    list_products(w, s, list);
    return list_flops(list, s->tokens) + 3 * attention_flops(w, s->tokens);
}

/* With the layers' second forward pass. */
static double done_flops(const struct work *w, const struct settings *s) {
    struct product list[N_PRODUCTS];
    list_products(w, s, list);
    double flops = useful_flops(w, s) + attention_flops(w, s->tokens);
    for (uint32_t i = 0; i + 1 < N_PRODUCTS; i++)
        flops += 2.0 * s->tokens * list[i].out * list[i].in * list[i].forwards;
    return flops;
}

static void speed_line(const struct work *w, const struct settings *s, double seconds) {
    const double rate = s->rate != 0 ? sgemm_rate(w, s) : 0;
    const double useful = useful_flops(w, s) / seconds, done = done_flops(w, s) / seconds;
    printf("{\"what\": \"speed\", \"useful_flops\": %.4e, \"best_seconds\": %.3f, "
           "\"useful_gflops\": %.1f, \"gflops_with_recompute\": %.1f",
           useful_flops(w, s), seconds, 1e-9 * useful, 1e-9 * done);
    if (rate > 0)
        printf(", \"sgemm_gflops\": %.1f, \"share\": %.3f, \"share_with_recompute\": %.3f",
               1e-9 * rate, useful / rate, done / rate);
    printf("}\n");
}

/* ---- steps ------------------------------------------------------------------------------------
 */

static void swap(const struct work *w, uint64_t step) {
    uint8_t mask[LISA_SAMPLER_MAX_LAYERS + 2];
    const uint32_t n_groups = lisa_sampler_n_groups(w->sampler);
    OK(lisa_sampler_mask(w->sampler, step, mask, n_groups));
    OK(lisa_optimizer_apply_mask(w->optimizer, mask, n_groups));
}

static void step_line(uint64_t step, double swap_s, double step_s, const lisa_step_stats *stats,
                      const struct rusage *before) {
    struct rusage after;
    getrusage(RUSAGE_SELF, &after);
    printf("{\"what\": \"step\", \"step\": %llu, \"swap_seconds\": %.3f, \"seconds\": %.3f, "
           "\"loss\": %.5f, \"rss_anon_shmem\": %.0f, \"rss_file\": %.0f, "
           "\"major_faults\": %ld, \"minor_faults\": %ld}\n",
           (unsigned long long)step, swap_s, step_s, stats->loss, resident(),
           status_bytes("RssFile"), after.ru_majflt - before->ru_majflt,
           after.ru_minflt - before->ru_minflt);
    fflush(stdout);
}

/* Seconds of the step; resident memory after it in *held. */
static double one_step(const struct work *w, uint64_t step, double *held) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    struct rusage before;
    getrusage(RUSAGE_SELF, &before);
    const double begin = now();
    swap(w, step);
    const double swapped = now();
    OK(lisa_train_step(w->model, w->sampler, w->optimizer, w->batch, step, &stats));
    const double end = now();
    step_line(step, swapped - begin, end - swapped, &stats, &before);
    *held = resident();
    return end - begin;
}

/* Evaluation and staging are held during calls that are not made here. */
static int check(const struct work *w, double base, double first, double most) {
    const double planned = (double)(w->plan.total - w->plan.bytes[LISA_MEM_EVALUATION] -
                                    w->plan.bytes[LISA_MEM_STAGING]);
    uint64_t on_disk = 0, mapped = 0;
    OK(lisa_context_memory(w->context, LISA_MEM_DISK, &on_disk, NULL));
    OK(lisa_context_memory(w->context, LISA_MEM_WEIGHTS_MAPPED, &mapped, NULL));
    const double off = (most - base) / planned - 1;
    printf("{\"what\": \"memory\", \"planned\": %.0f, \"resident\": %.0f, \"off\": %.4f, "
           "\"growth\": %.0f, \"disk\": %.0f, \"still_mapped\": %.0f}\n",
           planned, most - base, off, most - first, (double)on_disk, (double)mapped);
    return fabs(off) <= 0.03 && most - first <= 0.01 * planned && on_disk != 0 &&
           on_disk == w->plan.bytes[LISA_MEM_DISK];
}

int main(int argc, char **argv) {
    struct settings s = {
        .steps = 4, .tokens = 256, .gamma = 2, .period = 1, .moments = 1, .rate = 1};
    struct work w = {.context = NULL};
    double best = INFINITY, first = 0, most = 0;
    if (argc < 3) {
        printf("seven_b: nothing to do without MODEL_DIR (see make_llama.py) and SCRATCH_DIR\n");
        return argc == 1 ? 0 : 2;
    }
    for (int i = 3; i < argc; i++)
        read_setting(&s, argv[i]);
    const double base = resident();
    OK(lisa_context_create(&w.context, NULL));
    make(&w, &s, argv);
    make_plan_line(&w);
    set_tokens(&w, (uint32_t)s.tokens);
    for (uint64_t step = 0; step < (uint64_t)s.steps; step++) {
        double held;
        best = fmin(best, one_step(&w, step, &held));
        first = step == 0 ? held : first;
        most = fmax(most, held);
    }
    const int right = check(&w, base, first, most);
    speed_line(&w, &s, best);
    lisa_sampler_destroy(w.sampler);
    lisa_optimizer_destroy(w.optimizer);
    lisa_batch_destroy(w.batch);
    lisa_model_destroy(w.model);
    lisa_context_destroy(w.context);
    return s.check == 0 || right ? 0 : 1;
}

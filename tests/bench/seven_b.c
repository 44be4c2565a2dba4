/* Training steps of a model that is larger than memory would hold: LISA on a LLaMA-2-7B shape
 * (make_llama.py) with the trained layers in a scratch file. One JSON object a line on stdout.
 *
 * usage: seven_b MODEL_DIR SCRATCH_DIR [NAME=NUMBER]...
 *   steps=4 tokens=256 gamma=2 period=1
 *   in_backward=0 moments=1   update_in_backward, and LISA_MOMENTS_* of all groups
 *   rows=0                    embedding_rows
 *   turns=0                   1: layers in turn rather than drawn, so that all are soon visited
 *   check=0                   1: fails unless resident memory is as planned and stays where it is
 */
#include "lisa/lisa.h"

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
    double steps, tokens, gamma, period, in_backward, moments, rows, turns, check;
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

/* Resident memory after it goes to *held. */
static void one_step(const struct work *w, uint64_t step, double *held) {
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
    struct settings s = {.steps = 4, .tokens = 256, .gamma = 2, .period = 1, .moments = 1};
    struct work w = {.context = NULL};
    double first = 0, most = 0;
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
        one_step(&w, step, &held);
        first = step == 0 ? held : first;
        most = fmax(most, held);
    }
    const int right = check(&w, base, first, most);
    lisa_sampler_destroy(w.sampler);
    lisa_optimizer_destroy(w.optimizer);
    lisa_batch_destroy(w.batch);
    lisa_model_destroy(w.model);
    lisa_context_destroy(w.context);
    return s.check == 0 || right ? 0 : 1;
}

/* workload.c - a model in training that is led through standard input, so that a driver can take
 * its steps in turn with another program's. usage: workload KEY=VALUE...
 *
 *   config=DIR | model=DIR   random weights of DIR/config.json, or the weights in DIR
 *   dtype=f32|bf16           of random weights              save=DIR  write them there and end
 *   method=lisa|full|lora    batch=B tokens=T gamma=N rank=R
 *   masked=K (first K labels of a sequence)   activations=store|recompute
 *   moments=f32|bf16|8bit    in_backward=0|1  embedding_rows=N
 *   embedding=0|1 head=0|1   threads=N        scratch=DIR
 *   backend=NAME             weights=auto|resident|streamed   states=drop|keep|offload
 *
 * Each line of input is a word: "step" (one step), "steps N" (N of them, the last waited for: what
 * a device needs), "swap" (the mask moves on), "visit" (every layer is active once), "report"
 * (memory). Each is answered by one line of JSON. */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static int n_settings;
static char **settings;

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

static const char *text_of(const char *key, const char *fallback) {
    const size_t length = strlen(key);
    for (int i = 0; i < n_settings; i++)
        if (strncmp(settings[i], key, length) == 0 && settings[i][length] == '=')
            return settings[i] + length + 1;
    return fallback;
}

static uint32_t number_of(const char *key, uint32_t fallback) {
    const char *text = text_of(key, NULL);
    return text == NULL ? fallback : (uint32_t)strtoul(text, NULL, 10);
}

/* The value's place in a list of words, counted from 1. */
static uint32_t choice_of(const char *key, const char *const *words) {
    const char *text = text_of(key, words[0]);
    for (uint32_t i = 0; words[i] != NULL; i++)
        if (strcmp(words[i], text) == 0)
            return i + 1;
    fprintf(stderr, "%s=%s: expected one of %s, %s...\n", key, text, words[0], words[1]);
    exit(EXIT_FAILURE);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What is trained, and how. */
struct run {
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_adapter *adapter;
    lisa_optimizer *optimizer;
    lisa_context_options context_options;
    lisa_model_options model_options;
    lisa_batch_options batch_options;
    lisa_adapter_options adapter_options;
    lisa_optimizer_options optimizer_options;
    lisa_model_config config;
    uint32_t method, n_batch, n_tokens, first_layer;
    uint8_t *mask; /* [n_layers + 2] */
};

enum { METHOD_LISA = 1, METHOD_FULL, METHOD_LORA };

static void read_config(lisa_model_config *config, const char *directory) {
    static const char *const dtypes[] = {"f32", "bf16", NULL};
    *config = (lisa_model_config){.struct_size = sizeof *config};
    must(lisa_model_config_read(config, directory));
    config->weights_dtype =
        choice_of("dtype", dtypes) == 1 ? (uint32_t)LISA_DTYPE_F32 : (uint32_t)LISA_DTYPE_BF16;
}

static void make_model(struct run *run) {
    static const char *const places[] = {"auto", "resident", "streamed", NULL};
    const char *directory = text_of("model", NULL);
    must(lisa_context_options_init(&run->context_options, sizeof run->context_options));
    run->context_options.backend = text_of("backend", NULL);
    run->context_options.n_threads = number_of("threads", 2);
    must(lisa_context_create(&run->context, &run->context_options));
    must(lisa_model_options_init(&run->model_options, sizeof run->model_options));
    run->model_options.scratch_dir = text_of("scratch", NULL);
    run->model_options.weights = choice_of("weights", places) - 1;
    if (directory != NULL) {
        must(lisa_model_open(&run->model, run->context, directory, &run->model_options));
    } else {
        read_config(&run->config, text_of("config", "."));
        must(lisa_model_create(&run->model, run->context, &run->config, &run->model_options));
    }
    run->config = (lisa_model_config){.struct_size = sizeof run->config};
    must(lisa_model_get_config(run->model, &run->config));
}

static void make_batch(struct run *run) {
    static const char *const kinds[] = {"store", "recompute", NULL};
    const uint32_t n_batch = number_of("batch", 1), n_tokens = number_of("tokens", 64);
    const uint32_t masked = number_of("masked", 0);
    const size_t n = (size_t)n_batch * n_tokens;
    int32_t *tokens = malloc(n * sizeof *tokens), *targets = malloc(n * sizeof *targets);
    if (tokens == NULL || targets == NULL)
        exit(EXIT_FAILURE);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((state >> 8) % run->config.vocab_size);
        targets[i] = i % n_tokens < masked ? LISA_IGNORE_LABEL : tokens[i];
    }
    must(lisa_batch_options_init(&run->batch_options, sizeof run->batch_options));
    run->batch_options.activations = choice_of("activations", kinds);
    must(lisa_batch_create(&run->batch, run->model, n_batch, n_tokens, &run->batch_options));
    must(lisa_batch_set(run->batch, tokens, targets, n_batch, n_tokens));
    run->n_batch = n_batch;
    run->n_tokens = n_tokens;
    free(tokens), free(targets);
}

static void make_adapter(struct run *run) {
    must(lisa_adapter_options_init(&run->adapter_options, sizeof run->adapter_options));
    run->adapter_options.rank = number_of("rank", 16);
    run->adapter_options.alpha = 16;
    run->adapter_options.targets = LISA_TARGET_ALL_LAYERS;
    must(lisa_adapter_create(&run->adapter, run->model, &run->adapter_options));
    must(lisa_model_set_adapter(run->model, run->adapter));
}

static void make_optimizer(struct run *run) {
    static const char *const moments[] = {"f32", "bf16", "8bit", NULL};
    static const char *const states[] = {"drop", "keep", "offload", NULL};
    lisa_optimizer_options *options = &run->optimizer_options;
    must(lisa_optimizer_options_init(options, sizeof *options));
    if (run->method == METHOD_LISA) {
        options->max_active_layers = number_of("gamma", 2);
        options->train_embedding = number_of("embedding", 1);
        options->train_head = number_of("head", 1);
    }
    options->moments_embedding = options->moments_layers = options->moments_head =
        choice_of("moments", moments);
    options->state_policy = choice_of("states", states);
    options->update_in_backward = number_of("in_backward", 0);
    options->embedding_rows = number_of("embedding_rows", 0);
    must(lisa_optimizer_create(&run->optimizer, run->model, options));
}

/* gamma layers, spread evenly from `first_layer` on, with embedding and head. */
static void apply_mask(struct run *run) {
    const uint32_t n_layers = run->config.n_layers, gamma = number_of("gamma", 2);
    if (run->method != METHOD_LISA)
        return;
    memset(run->mask, 0, n_layers + 2);
    run->mask[0] = (uint8_t)number_of("embedding", 1);
    run->mask[n_layers + 1] = (uint8_t)number_of("head", 1);
    for (uint32_t i = 0; i < gamma; i++)
        run->mask[1 + (run->first_layer + i * n_layers / gamma) % n_layers] = 1;
    must(lisa_optimizer_apply_mask(run->optimizer, run->mask, n_layers + 2));
}

static void step(struct run *run) {
    struct rusage before, after;
    double time[4];
    getrusage(RUSAGE_SELF, &before);
    time[0] = now();
    must(lisa_forward(run->model, run->batch, NULL));
    time[1] = now();
    must(lisa_backward(run->model, run->batch));
    time[2] = now();
    must(lisa_optimizer_step(run->optimizer, NULL));
    time[3] = now();
    getrusage(RUSAGE_SELF, &after);
    printf("{\"seconds\": %.6f, \"forward\": %.6f, \"backward\": %.6f, \"update\": %.6f, "
           "\"minor\": %ld, \"major\": %ld}\n",
           time[3] - time[0], time[1] - time[0], time[2] - time[1], time[3] - time[2],
           after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
}

static void steps(struct run *run, uint32_t n) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    const double begin = now();
    for (uint32_t i = 0; i < n; i++) {
        must(lisa_forward(run->model, run->batch, NULL));
        must(lisa_backward(run->model, run->batch));
        must(lisa_optimizer_step(run->optimizer, i + 1 < n ? NULL : &stats));
    }
    printf("{\"seconds\": %.9f, \"loss\": %.6f}\n", (now() - begin) / n, stats.loss);
}

static void swap(struct run *run) {
    const double begin = now();
    run->first_layer = (run->first_layer + 1) % run->config.n_layers;
    apply_mask(run);
    printf("{\"seconds\": %.6f}\n", now() - begin);
}

static void visit(struct run *run) {
    const double begin = now();
    for (uint32_t i = 0; i < run->config.n_layers; i++) {
        run->first_layer = i;
        apply_mask(run);
    }
    printf("{\"seconds\": %.6f}\n", now() - begin);
}

/* A line of /proc/self/status, in bytes; 0 where there is none. */
static unsigned long long status_bytes(const char *name) {
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kib = strtoull(line + strlen(name) + 1, NULL, 10);
    if (file != NULL)
        fclose(file);
    return kib * 1024;
}

static lisa_plan_report plan_of(const struct run *run, uint32_t max_active_layers) {
    lisa_plan_request request;
    lisa_optimizer_options optimizer = run->optimizer_options;
    lisa_plan_report report = {.struct_size = sizeof report};
    optimizer.max_active_layers = max_active_layers;
    must(lisa_plan_request_init(&request, sizeof request));
    request.config = &run->config;
    request.context = &run->context_options;
    request.model = &run->model_options;
    request.batch = &run->batch_options;
    request.optimizer = &optimizer;
    request.adapter = run->adapter != NULL ? &run->adapter_options : NULL;
    request.max_batch = run->n_batch;
    request.max_tokens = run->n_tokens;
    must(lisa_plan(&request, &report));
    return report;
}

static uint64_t state_bytes(const lisa_plan_report *plan) {
    return plan->bytes[LISA_MEM_GRADIENTS] + plan->bytes[LISA_MEM_MOMENTS] +
           plan->bytes[LISA_MEM_LOW_BITS];
}

/* The most that was held of all that a memory_limit counts. */
static unsigned long long held_bytes(const lisa_context *context) {
    unsigned long long sum = 0;
    for (uint32_t i = 0; i < LISA_MEM_CLASSES; i++) {
        uint64_t peak = 0;
        must(lisa_context_memory(context, i, NULL, &peak));
        if (i != LISA_MEM_WEIGHTS_MAPPED && i != LISA_MEM_DISK && i != LISA_MEM_DRIVER &&
            i != LISA_MEM_HOST)
            sum += peak;
    }
    return sum;
}

static void report(const struct run *run) {
    const lisa_plan_report plan = plan_of(run, run->optimizer_options.max_active_layers);
    unsigned long long slots = 0;
    uint64_t driver = 0;
    must(lisa_context_memory(run->context, LISA_MEM_DRIVER, NULL, &driver));
    if (run->method == METHOD_LISA) {
        const lisa_plan_report none = plan_of(run, LISA_NO_LAYERS);
        slots = state_bytes(&plan) - state_bytes(&none);
    }
    printf("{\"peak\": %llu, \"anon\": %llu, \"shmem\": %llu, \"plan\": %llu, \"trained\": %llu, "
           "\"slots\": %llu, \"head_rows\": %u, \"threads\": %u, \"held\": %llu, "
           "\"driver held\": %llu",
           status_bytes("VmHWM"), status_bytes("RssAnon"), status_bytes("RssShmem"),
           (unsigned long long)plan.total, (unsigned long long)plan.n_trained, slots,
           plan.head_rows, lisa_context_n_threads(run->context), held_bytes(run->context),
           (unsigned long long)driver);
    for (uint32_t i = 0; i < LISA_MEM_CLASSES; i++)
        printf(", \"%s\": %llu", lisa_memory_class_name(i), (unsigned long long)plan.bytes[i]);
    printf("}\n");
}

static void obey(struct run *run, const char *word) {
    uint32_t n;
    if (strcmp(word, "step") == 0)
        step(run);
    else if (strcmp(word, "steps") == 0 && scanf("%u", &n) == 1 && n > 0)
        steps(run, n);
    else if (strcmp(word, "swap") == 0)
        swap(run);
    else if (strcmp(word, "visit") == 0)
        visit(run);
    else if (strcmp(word, "report") == 0)
        report(run);
    else
        printf("{\"error\": \"no such word\"}\n");
    fflush(stdout);
}

static void make(struct run *run) {
    static const char *const methods[] = {"lisa", "full", "lora", NULL};
    run->method = choice_of("method", methods);
    run->mask = malloc(run->config.n_layers + 2);
    if (run->mask == NULL)
        exit(EXIT_FAILURE);
    make_batch(run);
    if (run->method == METHOD_LORA)
        make_adapter(run);
    make_optimizer(run);
    run->first_layer = run->config.n_layers / 4;
    apply_mask(run);
}

static void destroy(struct run *run) {
    lisa_optimizer_destroy(run->optimizer);
    lisa_adapter_destroy(run->adapter);
    lisa_batch_destroy(run->batch);
    lisa_model_destroy(run->model);
    lisa_context_destroy(run->context);
    free(run->mask);
}

int main(int argc, char **argv) {
    struct run run = {0};
    char word[32];
    n_settings = argc - 1;
    settings = argv + 1;
    make_model(&run);
    if (text_of("save", NULL) != NULL) {
        must(lisa_model_save(run.model, text_of("save", NULL), NULL));
    } else {
        make(&run);
        while (scanf("%31s", word) == 1)
            obey(&run, word);
    }
    destroy(&run);
    return 0;
}

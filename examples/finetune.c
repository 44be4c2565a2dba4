/* finetune.c - fine-tunes a Hugging Face directory on a file of tokens and writes a directory: the
 * model's, or with --method lora PEFT's of an adapter.
 *
 *   finetune [options] MODEL_DIRECTORY TOKENS.bin OUTPUT_DIRECTORY
 *
 * TOKENS.bin holds token ids as 32-bit little-endian integers, one text after the other; rows of
 * --tokens of them are trained on in file order, from the start again when the file ends. */
#include <lisa/lisa.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum method { METHOD_LISA, METHOD_LORA, METHOD_FULL };

struct settings {
    const char *model, *tokens_file, *output;
    const char *backend;
    uint64_t steps, seed, memory_limit;
    uint32_t batch, tokens, active, interval, rank, threads;
    double lr;
    enum method method;
};

struct tokens {
    int32_t *data;
    size_t count;
    size_t next;
};

/* Everything that the loop holds. */
struct run {
    lisa_context *context;
    lisa_model *model;
    lisa_adapter *adapter; /* of LoRA alone */
    lisa_sampler *sampler; /* of LISA alone */
    lisa_batch *batch;
    lisa_optimizer *optimizer;
};

static const char usage[] =
    "usage: finetune [options] MODEL_DIRECTORY TOKENS.bin OUTPUT_DIRECTORY\n"
    "  -n, --steps N       training steps (100)\n"
    "  -b, --batch N       rows of a step (1)\n"
    "  -t, --tokens N      tokens of a row (256)\n"
    "  -a, --active N      layers that train at once (2)\n"
    "  -k, --interval N    steps between draws of layers (20)\n"
    "  -l, --lr X          peak learning rate (1e-5), warmed up over 3 % and decayed to 0\n"
    "  -s, --seed N        of the draws (0)\n"
    "  -M, --method NAME   lisa, lora (on all linear maps of the layers) or full (lisa)\n"
    "  -r, --rank N        of LoRA (8)\n"
    "  -m, --memory N      limit in MiB (none)\n"
    "  -j, --threads N     (as many as there are)\n"
    "  -B, --backend NAME  cpu, cuda, auto or reference (cpu)\n"
    "  -h, --help\n";

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "finetune: %s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

static void fail(const char *what, const char *which) {
    fprintf(stderr, "finetune: %s: %s\n", which, what);
    exit(EXIT_FAILURE);
}

static uint64_t number(const char *text, uint64_t most) {
    char *end;
    const unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end != '\0' || *text == '-' || value > most)
        fail("expected a number", text);
    return value;
}

static double real(const char *text) {
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0')
        fail("expected a number", text);
    return value;
}

static enum method method_of(const char *name) {
    static const char *const names[] = {"lisa", "lora", "full"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum method)i;
    fail("expected lisa, lora or full", name);
    return METHOD_LISA;
}

static void set_option(struct settings *s, int option, const char *value) {
    switch (option) {
    case 'n':
        s->steps = number(value, UINT32_MAX);
        break;
    case 'b':
        s->batch = (uint32_t)number(value, UINT32_MAX);
        break;
    case 't':
        s->tokens = (uint32_t)number(value, UINT32_MAX);
        break;
    case 'a':
        s->active = (uint32_t)number(value, UINT32_MAX);
        break;
    case 'k':
        s->interval = (uint32_t)number(value, UINT32_MAX);
        break;
    case 'l':
        s->lr = real(value);
        break;
    case 's':
        s->seed = number(value, UINT64_MAX);
        break;
    case 'M':
        s->method = method_of(value);
        break;
    case 'r':
        s->rank = (uint32_t)number(value, UINT32_MAX);
        break;
    case 'm':
        s->memory_limit = number(value, UINT32_MAX) << 20;
        break;
    case 'j':
        s->threads = (uint32_t)number(value, 4096);
        break;
    case 'B':
        s->backend = value;
        break;
    default:
        fputs(usage, option == 'h' ? stdout : stderr);
        exit(option == 'h' ? EXIT_SUCCESS : EXIT_FAILURE);
    }
}

static struct settings parse(int argc, char **argv) {
    static const struct option options[] = {
        {"steps", required_argument, NULL, 'n'},    {"batch", required_argument, NULL, 'b'},
        {"tokens", required_argument, NULL, 't'},   {"active", required_argument, NULL, 'a'},
        {"interval", required_argument, NULL, 'k'}, {"lr", required_argument, NULL, 'l'},
        {"seed", required_argument, NULL, 's'},     {"method", required_argument, NULL, 'M'},
        {"rank", required_argument, NULL, 'r'},     {"memory", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 'j'},  {"backend", required_argument, NULL, 'B'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0},
    };
    struct settings s = {.steps = 100,
                         .batch = 1,
                         .tokens = 256,
                         .active = 2,
                         .interval = 20,
                         .rank = 8,
                         .lr = 1e-5};
    int option;
    while ((option = getopt_long(argc, argv, "n:b:t:a:k:l:s:M:r:m:j:B:h", options, NULL)) != -1)
        set_option(&s, option, optarg);
    if (argc - optind != 3)
        set_option(&s, '?', NULL);
    s.model = argv[optind];
    s.tokens_file = argv[optind + 1];
    s.output = argv[optind + 2];
    return s;
}

static int32_t little_endian(const unsigned char *b) {
    const uint32_t bits =
        (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return (int32_t)bits;
}

static struct tokens read_tokens(const char *path, size_t at_least) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        fail("cannot be read", path);
    const long bytes = ftell(file);
    struct tokens tokens = {.count = bytes > 0 ? (size_t)bytes / 4 : 0};
    if (tokens.count < at_least)
        fail("has fewer tokens than one batch", path);
    rewind(file);
    tokens.data = malloc(tokens.count * sizeof *tokens.data);
    if (tokens.data == NULL)
        fail("no memory", path);
    unsigned char word[4];
    for (size_t i = 0; i < tokens.count; i++) {
        if (fread(word, sizeof word, 1, file) != 1)
            fail("cannot be read", path);
        tokens.data[i] = little_endian(word);
    }
    fclose(file);
    return tokens;
}

static const int32_t *next_rows(struct tokens *tokens, size_t count) {
    if (tokens->count - tokens->next < count)
        tokens->next = 0;
    const int32_t *rows = tokens->data + tokens->next;
    tokens->next += count;
    return rows;
}

static lisa_sampler *make_sampler(const struct settings *s, const lisa_model *model) {
    lisa_model_config config = {.struct_size = sizeof config};
    must(lisa_model_get_config(model, &config));
    lisa_sampler_options options;
    must(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = config.n_layers;
    options.n_active = s->active;
    options.interval_steps = s->interval;
    options.seed = s->seed;
    lisa_sampler *sampler;
    must(lisa_sampler_create(&sampler, &options));
    return sampler;
}

/* Attached, so that the optimizer trains it. */
static lisa_adapter *make_adapter(const struct settings *s, lisa_model *model) {
    lisa_adapter_options options;
    must(lisa_adapter_options_init(&options, sizeof options));
    options.rank = s->rank;
    options.alpha = s->rank;
    options.targets = LISA_TARGET_ALL_LAYERS;
    options.seed = s->seed;
    lisa_adapter *adapter;
    must(lisa_adapter_create(&adapter, model, &options));
    must(lisa_model_set_adapter(model, adapter));
    return adapter;
}

static struct run open_run(const struct settings *s) {
    struct run run = {0};
    lisa_context_options context;
    must(lisa_context_options_init(&context, sizeof context));
    context.backend = s->backend;
    context.memory_limit = s->memory_limit;
    context.n_threads = s->threads;
    must(lisa_context_create(&run.context, &context));
    must(lisa_model_open(&run.model, run.context, s->model, NULL));
    if (s->method == METHOD_LISA)
        run.sampler = make_sampler(s, run.model);
    if (s->method == METHOD_LORA)
        run.adapter = make_adapter(s, run.model);

    lisa_optimizer_options optimizer;
    must(lisa_optimizer_options_init(&optimizer, sizeof optimizer));
    optimizer.seed = s->seed;
    if (run.sampler != NULL)
        optimizer.max_active_layers = lisa_sampler_max_active(run.sampler);
    must(lisa_optimizer_create(&run.optimizer, run.model, &optimizer));
    must(lisa_batch_create(&run.batch, run.model, s->batch, s->tokens, NULL));
    return run;
}

static void close_run(struct run *run) {
    lisa_batch_destroy(run->batch);
    lisa_optimizer_destroy(run->optimizer);
    lisa_sampler_destroy(run->sampler);
    lisa_adapter_destroy(run->adapter);
    lisa_model_destroy(run->model);
    lisa_context_destroy(run->context);
}

static double rate_at(const struct settings *s, uint64_t step) {
    const double warm_up = 0.03 * (double)s->steps;
    const double done = (double)step + 1;
    if (done < warm_up)
        return s->lr * done / warm_up;
    return s->lr * ((double)s->steps - (double)step) / ((double)s->steps - warm_up + 1);
}

/* MiB of all classes that the process holds itself, at most so far. */
static double peak_memory(const lisa_context *context) {
    double sum = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t peak = 0;
        if (c == LISA_MEM_WEIGHTS_MAPPED || c == LISA_MEM_DISK)
            continue;
        must(lisa_context_memory(context, c, NULL, &peak));
        sum += (double)peak / (1 << 20);
    }
    return sum;
}

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void train(const struct settings *s, struct run *run, struct tokens *tokens) {
    const size_t count = (size_t)s->batch * s->tokens;
    const double start = now();
    for (uint64_t step = 0; step < s->steps; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        must(lisa_batch_set(run->batch, next_rows(tokens, count), NULL, s->batch, s->tokens));
        must(lisa_optimizer_set_lr(run->optimizer, rate_at(s, step)));
        must(lisa_train_step(run->model, run->sampler, run->optimizer, run->batch, step, &stats));
        if ((step + 1) % 10 == 0 || step == 0 || step + 1 == s->steps)
            printf("step %llu/%llu  loss %.4f  lr %.2e  layers %u  %.0f tokens/s  peak %.0f MiB\n",
                   (unsigned long long)step + 1, (unsigned long long)s->steps, stats.loss, stats.lr,
                   stats.n_active_layers, (double)(step + 1) * (double)count / (now() - start),
                   peak_memory(run->context));
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    const struct settings settings = parse(argc, argv);
    struct tokens tokens =
        read_tokens(settings.tokens_file, (size_t)settings.batch * settings.tokens);
    struct run run = open_run(&settings);
    train(&settings, &run, &tokens);
    must(run.adapter != NULL ? lisa_adapter_save(run.adapter, settings.output)
                             : lisa_model_save(run.model, settings.output, NULL));
    printf("saved %s\n", settings.output);
    close_run(&run);
    free(tokens.data);
    return EXIT_SUCCESS;
}

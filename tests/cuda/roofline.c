/* roofline.c - what a LISA step asks of a GPU, counted by the host device (race lane), and the time
 * below which no GPU of some kinds could do it. No time of a GPU is measured: there is none.
 *
 * Kernels run but for the products, whose FLOPs and operands are known when they are launched, and
 * attention's. The latter run apart, for one group of heads that share keys, and count for every
 * group. A step of a model of one layer, of two, and of one that trains tell what a layer costs;
 * that this is linear in the layers is looked at on the small model, and in groups on both. */
#include "cuda/host/hostdevice.h"
#include "lisa/lisa.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s\n", lisa_error_last());
    exit(EXIT_FAILURE);
}

/* ---- devices, by their makers' data sheets: bf16 with sums in f32, dense, and memory ---- */

static const struct {
    const char *name;
    double flops, bandwidth; /* a second */
} devices[] = {
    {"A100 80GB SXM", 312e12, 2039e9}, {"RTX 4090", 165e12, 1008e9}, {"H100 SXM", 989e12, 3350e9}};
enum { N_DEVICES = 3 };

#define SECONDS_OF_LAUNCH 2.5e-6 /* assumed */

/* ---- what is counted ---- */

enum {
    LAUNCHES,
    WAITS,
    TO_DEVICE,
    TO_HOST,
    PRODUCT_FLOPS,
    PRODUCT_BYTES, /* each operand once */
    ATTENTION_FLOPS,
    ATTENTION_ASKED, /* by requests, which an L2 serves in part */
    ATTENTION_ONCE,  /* each kernel's sectors once */
    OTHER_ASKED,
    OTHER_ONCE,
    SECONDS, /* of each device, without launches */
    N_COUNTS = SECONDS + N_DEVICES
};

typedef struct counts {
    double of[N_COUNTS];
} counts;

/* x a + y b */
static counts combined(double x, counts a, double y, counts b) {
    for (int i = 0; i < N_COUNTS; i++)
        a.of[i] = x * a.of[i] + y * b.of[i];
    return a;
}

static void add_work(counts *to, double flops, double bytes) {
    for (int i = 0; i < N_DEVICES; i++)
        to->of[SECONDS + i] += fmax(flops / devices[i].flops, bytes / devices[i].bandwidth);
}

static int begins(const char *name, const char *with) {
    return strncmp(name, with, strlen(with)) == 0;
}

static int is_product(const char *kernel) {
    return begins(kernel, "cublas");
}
static int is_attention(const char *kernel) {
    return begins(kernel, "attention");
}
static int runs_none(const char *kernel) {
    return kernel == NULL;
}
static int runs_attention(const char *kernel) {
    return is_attention(kernel);
}
static int runs_others(const char *kernel) {
    return !is_product(kernel) && !is_attention(kernel);
}

/* Attention's kernels by themselves, of one group. */
static struct {
    char name[64];
    double flops, asked, once;
} attention[8];
static int n_attention;

static double groups;  /* of the step that is counted */
static counts counted; /* so far */

static void keep_attention(const hostdevice_kernel *launch) {
    if (!is_attention(launch->name) || n_attention == 8)
        return;
    snprintf(attention[n_attention].name, sizeof attention[0].name, "%s", launch->name);
    attention[n_attention].flops = (double)launch->flops;
    attention[n_attention].asked = 32.0 * (double)launch->sectors;
    attention[n_attention++].once = 32.0 * (double)launch->sectors_once;
}

static void count_attention(const char *name) {
    for (int i = 0; i < n_attention; i++) {
        if (strcmp(attention[i].name, name) != 0)
            continue;
        const double flops = groups * attention[i].flops, once = groups * attention[i].once;
        counted.of[ATTENTION_FLOPS] += flops;
        counted.of[ATTENTION_ASKED] += groups * attention[i].asked;
        counted.of[ATTENTION_ONCE] += once;
        add_work(&counted, flops, once);
        return;
    }
    fprintf(stderr, "%s was not counted by itself\n", name);
    exit(EXIT_FAILURE);
}

static void count_launch(const hostdevice_kernel *launch) {
    const double asked = 32.0 * (double)launch->sectors, flops = (double)launch->flops;
    if (is_attention(launch->name)) {
        count_attention(launch->name);
    } else if (is_product(launch->name)) {
        const double bytes = (double)(launch->read_bytes + launch->written_bytes);
        counted.of[PRODUCT_FLOPS] += flops;
        counted.of[PRODUCT_BYTES] += bytes;
        add_work(&counted, flops, bytes);
    } else {
        counted.of[OTHER_ASKED] += asked;
        counted.of[OTHER_ONCE] += 32.0 * (double)launch->sectors_once;
        add_work(&counted, flops, asked);
    }
}

/* ---- a model in training ---- */

typedef struct shape {
    const char *name;
    uint32_t n_layers, d_model, d_ff, vocab, n_heads, n_kv_heads, head_dim, tied;
    uint32_t n_batch, n_tokens;
} shape;

typedef struct training {
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
} training;

static void make_model(training *t, const shape *s) {
    lisa_context_options context;
    lisa_model_options options;
    lisa_model_config config;
    must(lisa_context_options_init(&context, sizeof context));
    context.backend = "cuda";
    must(lisa_context_create(&t->context, &context));
    must(lisa_model_config_init(&config, sizeof config));
    config.n_layers = s->n_layers;
    config.d_model = s->d_model;
    config.d_ff = s->d_ff;
    config.vocab_size = s->vocab;
    config.n_heads = s->n_heads;
    config.n_kv_heads = s->n_kv_heads;
    config.head_dim = s->head_dim;
    config.tied_head = s->tied;
    config.max_positions = s->n_tokens;
    config.weights_dtype = LISA_DTYPE_BF16;
    must(lisa_model_options_init(&options, sizeof options));
    must(lisa_model_create(&t->model, t->context, &config, &options));
}

static void make_batch(training *t, const shape *s) {
    lisa_batch_options options;
    const uint32_t n = s->n_batch * s->n_tokens;
    int32_t *tokens = malloc(n * sizeof *tokens);
    if (tokens == NULL)
        exit(EXIT_FAILURE);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 97u % s->vocab);
    must(lisa_batch_options_init(&options, sizeof options));
    options.activations = LISA_ACTIVATIONS_STORE;
    must(lisa_batch_create(&t->batch, t->model, s->n_batch, s->n_tokens, &options));
    must(lisa_batch_set(t->batch, tokens, tokens, s->n_batch, s->n_tokens));
    free(tokens);
}

/* The first `active` layers train, with embedding and head. */
static void make_optimizer(training *t, const shape *s, uint32_t active) {
    lisa_optimizer_options options;
    uint8_t mask[8] = {0};
    mask[0] = mask[s->n_layers + 1] = 1;
    for (uint32_t i = 0; i < active; i++)
        mask[1 + i] = 1;
    must(lisa_optimizer_options_init(&options, sizeof options));
    options.max_active_layers = 1;
    must(lisa_optimizer_create(&t->optimizer, t->model, &options));
    must(lisa_optimizer_apply_mask(t->optimizer, mask, s->n_layers + 2));
}

static void end(training *t) {
    lisa_optimizer_destroy(t->optimizer);
    lisa_batch_destroy(t->batch);
    lisa_model_destroy(t->model);
    lisa_context_destroy(t->context);
}

/* The second step, for the first one may take memory. In the first no kernel runs: what they would
 * have written decides nothing but the verdict, which is OK as long as products are zeros. */
static counts step_of(shape s, uint32_t n_layers, uint32_t active, int (*runs)(const char *kernel),
                      void (*seen)(const hostdevice_kernel *launch)) {
    training t = {0};
    hostdevice_counts before, after;
    s.n_layers = n_layers;
    hostdevice_set_filter(runs_none);
    make_model(&t, &s);
    make_batch(&t, &s);
    make_optimizer(&t, &s, active);
    must(lisa_train_step(t.model, NULL, t.optimizer, t.batch, 0, NULL));
    hostdevice_set_filter(runs);
    hostdevice_measure_traffic(1);
    hostdevice_watch(seen);
    counted = (counts){{0}};
    hostdevice_get_counts(&before);
    must(lisa_train_step(t.model, NULL, t.optimizer, t.batch, 1, NULL));
    hostdevice_get_counts(&after);
    hostdevice_watch(NULL);
    hostdevice_measure_traffic(0);
    hostdevice_set_filter(runs_none);
    /* Would fail if the update had been refused. */
    must(lisa_train_step(t.model, NULL, t.optimizer, t.batch, 2, NULL));
    end(&t);
    const double plain = (double)(after.set_bytes - before.set_bytes) +
                         2.0 * (double)(after.on_device_bytes - before.on_device_bytes);
    counted.of[OTHER_ASKED] += plain;
    counted.of[OTHER_ONCE] += plain;
    add_work(&counted, 0.0, plain);
    counted.of[LAUNCHES] = (double)(after.launches - before.launches);
    counted.of[WAITS] = (double)(after.synchronisations - before.synchronisations);
    counted.of[TO_DEVICE] = (double)(after.to_device_bytes - before.to_device_bytes);
    counted.of[TO_HOST] = (double)(after.to_host_bytes - before.to_host_bytes);
    return counted;
}

/* ---- attention by itself ---- */

static void run_groups(const shape *s, uint32_t n) {
    shape few = *s;
    few.n_kv_heads = n;
    few.n_heads = n * (s->n_heads / s->n_kv_heads);
    few.d_model = few.n_heads * s->head_dim;
    few.d_ff = few.vocab = 64;
    few.n_batch = 1;
    n_attention = 0;
    step_of(few, 1, 0, runs_attention, keep_attention);
}

static double attention_sum(void) {
    double sum = 0.0;
    for (int i = 0; i < n_attention; i++)
        sum += attention[i].flops + attention[i].asked + attention[i].once;
    return sum;
}

static void check(const char *what, double got, double want) {
    if (fabs(got - want) <= 1e-3 * fabs(want))
        return;
    fprintf(stderr, "%s: %g where a sum of parts is %g\n", what, got, want);
    exit(EXIT_FAILURE);
}

static void count_group(const shape *s) {
    shape fewer = *s;
    fewer.n_tokens = 192;
    run_groups(&fewer, 1);
    const double one = attention_sum();
    run_groups(&fewer, 2);
    check("two groups of heads", attention_sum(), 2.0 * one);
    run_groups(s, 1);
    groups = (double)s->n_kv_heads * s->n_batch;
}

/* ---- a whole model ---- */

static counts step_of_model(const shape *s, uint32_t active, int is_small) {
    count_group(s);
    const counts one = step_of(*s, 1, 0, runs_others, count_launch);
    const counts two = step_of(*s, 2, 0, runs_others, count_launch);
    const counts trained = step_of(*s, 1, 1, runs_others, count_launch);
    const counts frozen = combined(1.0, two, -1.0, one);
    const counts more = combined(1.0, trained, -1.0, one); /* of a layer that trains */
    if (is_small) {
        const counts three = step_of(*s, 3, 1, runs_others, count_launch);
        const counts sum = combined(1.0, trained, 2.0, frozen);
        for (int i = 0; i < N_COUNTS; i++)
            check("three layers", three.of[i], sum.of[i]);
    }
    return combined(1.0, combined(1.0, one, s->n_layers - 1.0, frozen), active, more);
}

/* Of attention what a causal mask leaves: two products forward and four backward. */
static double useful_flops(const shape *s, const counts *c) {
    const double keys = (s->n_tokens + 1.0) / 2.0 * s->n_tokens * s->n_batch;
    return c->of[PRODUCT_FLOPS] + 6.0 * 2.0 * s->n_layers * s->n_heads * s->head_dim * keys;
}

static void print_counts(const counts *c) {
    printf("| launches, waits | %.0f, %.0f |\n", c->of[LAUNCHES], c->of[WAITS]);
    printf("| to the device, to the host | %.0f B, %.0f B |\n", c->of[TO_DEVICE], c->of[TO_HOST]);
    printf("| products | %.2f TFLOP, %.1f GB |\n", 1e-12 * c->of[PRODUCT_FLOPS],
           1e-9 * c->of[PRODUCT_BYTES]);
    printf("| attention | %.2f TFLOP, %.1f GB asked, %.1f GB once |\n",
           1e-12 * c->of[ATTENTION_FLOPS], 1e-9 * c->of[ATTENTION_ASKED],
           1e-9 * c->of[ATTENTION_ONCE]);
    printf("| other kernels | %.1f GB asked, %.1f GB once |\n", 1e-9 * c->of[OTHER_ASKED],
           1e-9 * c->of[OTHER_ONCE]);
}

static void print_times(const shape *s, const counts *c) {
    const double least = c->of[PRODUCT_BYTES] + c->of[ATTENTION_ONCE] + c->of[OTHER_ONCE];
    const double useful = useful_flops(s, c), launches = SECONDS_OF_LAUNCH * c->of[LAUNCHES];
    printf("\n| device | kernels | launches | sum | limit |\n|---|---|---|---|---|\n");
    for (int i = 0; i < N_DEVICES; i++) {
        const double kernels = c->of[SECONDS + i];
        const double limit = fmax(useful / devices[i].flops, least / devices[i].bandwidth);
        printf("| %s | %.2f ms | %.2f ms | %.2f ms | %.2f ms |\n", devices[i].name, 1e3 * kernels,
               1e3 * launches, 1e3 * (kernels + launches), 1e3 * limit);
    }
    printf("\nuseful: %.2f TFLOP, least: %.1f GB\n", 1e-12 * useful, 1e-9 * least);
}

int main(void) {
    static const shape shapes[] = {
        {"SmolLM2-135M, 2 x 512", 30, 576, 1536, 49152, 9, 3, 64, 1, 2, 512},
        {"LLaMA-2-7B, 1 x 1024", 32, 4096, 11008, 32000, 32, 32, 128, 0, 1, 1024}};
    hostdevice_search_races(0);
    hostdevice_set_capacity((size_t)15 << 30);
    for (int i = 0; i < 2; i++) {
        const counts c = step_of_model(&shapes[i], 2, i == 0);
        printf("\n%s, gamma 2\n\n", shapes[i].name);
        print_counts(&c);
        print_times(&shapes[i], &c);
        fflush(stdout);
    }
    return 0;
}

/* The plan's promises: planned bytes are the bytes that are held, class by class; a page less
 * fails; nothing grows. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "model/pass.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t EXACT[] = {
    LISA_MEM_WEIGHTS_MAPPED, LISA_MEM_WEIGHTS_PRIVATE, LISA_MEM_GRADIENTS,
    LISA_MEM_MOMENTS,        LISA_MEM_LOW_BITS,        LISA_MEM_ACTIVATIONS,
    LISA_MEM_RECOMPUTE,      LISA_MEM_LOGITS,          LISA_MEM_WORKSPACE,
    LISA_MEM_DISK,
};
/* Sanitizers keep freed memory and shadows resident. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LISA_TEST_SANITIZED 1
#else
#define LISA_TEST_SANITIZED 0
#endif

enum { N_EXACT = sizeof EXACT / sizeof *EXACT };

/* The runs that are planned: name and what differs from the rig's defaults. */
static const struct run {
    const char *name;
    uint32_t dtype, tied, max_active, policy, train_embedding, train_head, activations, load;
    int scratch;
    uint32_t lora_rank; /* 0: no adapter */
    double dropout;
    uint32_t embedding_rows;
} RUNS[] = {
    {"full f32", LISA_DTYPE_F32, 0, 0, LISA_STATE_DROP, 1, 1, LISA_ACTIVATIONS_STORE,
     LISA_LOAD_COPY, 0, 0, 0, 0},
    {"gamma 2 bf16", LISA_DTYPE_BF16, 0, 2, LISA_STATE_DROP, 1, 1, LISA_ACTIVATIONS_STORE,
     LISA_LOAD_MAP, 0, 0, 0, 0},
    {"gamma 1 f16 tied, recompute", LISA_DTYPE_F16, 1, 1, LISA_STATE_DROP, 1, 1,
     LISA_ACTIVATIONS_RECOMPUTE, LISA_LOAD_MAP, 0, 0, 0, 0},
    {"keep", LISA_DTYPE_BF16, 0, 1, LISA_STATE_KEEP, 1, 1, LISA_ACTIVATIONS_STORE, LISA_LOAD_MAP, 0,
     0, 0, 0},
    {"offload", LISA_DTYPE_BF16, 0, 1, LISA_STATE_OFFLOAD, 1, 1, LISA_ACTIVATIONS_RECOMPUTE,
     LISA_LOAD_MAP, 0, 0, 0, 0},
    {"scratch file", LISA_DTYPE_BF16, 0, 1, LISA_STATE_DROP, 1, 1, LISA_ACTIVATIONS_STORE,
     LISA_LOAD_MAP, 1, 0, 0, 0},
    {"embedding and head off", LISA_DTYPE_BF16, 0, 1, LISA_STATE_DROP, 0, 0, LISA_ACTIVATIONS_STORE,
     LISA_LOAD_MAP, 0, 0, 0, 0},
    {"embedding and head alone", LISA_DTYPE_F32, 0, LISA_NO_LAYERS, LISA_STATE_DROP, 1, 1,
     LISA_ACTIVATIONS_STORE, LISA_LOAD_MAP, 0, 0, 0, 0},
    {"rows of the embedding", LISA_DTYPE_F16, 0, 1, LISA_STATE_DROP, 1, 1,
     LISA_ACTIVATIONS_RECOMPUTE, LISA_LOAD_MAP, 0, 0, 0, 60},
    {"lora", LISA_DTYPE_BF16, 0, 0, LISA_STATE_DROP, 1, 1, LISA_ACTIVATIONS_STORE, LISA_LOAD_MAP, 0,
     3, 0, 0},
    {"lora by masks, dropout", LISA_DTYPE_F16, 1, 1, LISA_STATE_DROP, 1, 1,
     LISA_ACTIVATIONS_RECOMPUTE, LISA_LOAD_MAP, 0, 5, 0.25, 0},
    {"lora on the head, offload", LISA_DTYPE_F32, 0, 1, LISA_STATE_OFFLOAD, 1, 1,
     LISA_ACTIVATIONS_STORE, LISA_LOAD_COPY, 0, 4, 0, 0},
};
/* The last runs are of adapters. */
enum { N_RUNS = sizeof RUNS / sizeof *RUNS, N_BASE_RUNS = N_RUNS - 3 };

static char directory[] = "/var/tmp/lisa-memory-XXXXXX";

static void remove_directory(void) {
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

/* A saved model of the run's dtype, so that weights can lie in a mapping. */
static void save_config(const struct run *run, const rig_spec *given) {
    rig_spec spec = *given;
    rig r;
    spec.config.weights_dtype = run->dtype;
    spec.config.tied_head = run->tied;
    spec.no_optimizer = 1;
    rig_make(&r, &spec);
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    OK(lisa_model_save(r.model, directory, NULL));
    rig_destroy(&r);
}

static void save_model(const struct run *run) {
    rig_spec spec;
    rig_spec_init(&spec, "cpu");
    save_config(run, &spec);
}

static void spec_of(rig_spec *spec, const struct run *run) {
    rig_spec_init(spec, "cpu");
    spec->context.n_threads = 2;
    spec->directory = directory;
    spec->model.load = run->load;
    spec->model.scratch_dir = run->scratch ? "/var/tmp" : NULL;
    spec->batch.activations = run->activations;
    spec->optimizer.max_active_layers = run->max_active;
    spec->optimizer.state_policy = run->policy;
    spec->optimizer.train_embedding = run->train_embedding;
    spec->optimizer.train_head = run->train_head;
    spec->optimizer.scratch_dir = "/var/tmp";
    spec->optimizer.embedding_rows = run->embedding_rows;
    spec->adapted = run->lora_rank != 0;
    spec->adapter.rank = run->lora_rank;
    spec->adapter.dropout = run->dropout;
    spec->adapter.targets =
        LISA_TARGET_ALL_LAYERS | (run->lora_rank != 0 && !run->tied ? LISA_TARGET_HEAD : 0);
}

/* Another kind of moments for each class, all kinds in turn, the last without gradients that are
 * kept; 0: as spec_of. */
enum { N_MOMENTS = 4 };

static void mix_moments(rig_spec *spec, uint32_t turn) {
    if (turn == 0)
        return;
    spec->optimizer.moments_embedding = 1 + turn % 3;
    spec->optimizer.moments_layers = 1 + (turn + 1) % 3;
    spec->optimizer.moments_head = 1 + (turn + 2) % 3;
    spec->optimizer.update_in_backward = turn == 3 && !spec->adapted;
}

static void plan_of(const rig_spec *spec, lisa_plan_report *report) {
    lisa_model_config config = {.struct_size = sizeof config};
    lisa_plan_request request;
    OK(lisa_model_config_read(&config, directory));
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &config;
    request.context = &spec->context;
    request.model = &spec->model;
    request.batch = &spec->batch;
    request.optimizer = &spec->optimizer;
    request.adapter = spec->adapted ? &spec->adapter : NULL;
    request.max_batch = spec->max_batch;
    request.max_tokens = spec->max_tokens;
    memset(report, 0, sizeof *report);
    report->struct_size = sizeof *report;
    OK(lisa_plan(&request, report));
}

static void apply_turn(rig *r, const struct run *run, uint64_t step) {
    uint8_t mask[RIG_MAX_GROUPS] = {0};
    mask[0] = mask[r->n_groups - 1] = 1;
    if (run->max_active == 0)
        memset(mask, 1, r->n_groups);
    else if (run->max_active != LISA_NO_LAYERS)
        for (uint32_t i = 0; i < run->max_active; i++)
            mask[1 + (step + i) % r->config.n_layers] = 1;
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
}

/* Every layer in turn, as long as layers train at all; then an evaluation. */
static void use(rig *r, const struct run *run) {
    for (uint64_t step = 0; step < 2 * r->config.n_layers; step++) {
        apply_turn(r, run, step);
        rig_random_batch(r, 2, 11, step);
        rig_step(r);
    }
    OK(lisa_model_evaluate(r->model, r->batch, NULL, NULL, NULL));
}

static void assert_as_planned(const rig *r, const lisa_plan_report *plan, const char *name) {
    for (int i = 0; i < N_EXACT; i++) {
        uint64_t peak = 0;
        OK(lisa_context_memory(r->context, EXACT[i], NULL, &peak));
        ck_assert_msg(peak == plan->bytes[EXACT[i]], "%s: %s planned %llu, held %llu", name,
                      lisa_memory_class_name(EXACT[i]), (unsigned long long)plan->bytes[EXACT[i]],
                      (unsigned long long)peak);
    }
    uint64_t evaluation = 0, staging = 0;
    OK(lisa_context_memory(r->context, LISA_MEM_EVALUATION, NULL, &evaluation));
    OK(lisa_context_memory(r->context, LISA_MEM_STAGING, NULL, &staging));
    ck_assert_uint_eq(evaluation, plan->bytes[LISA_MEM_EVALUATION]);
    ck_assert_uint_le(staging, plan->bytes[LISA_MEM_STAGING]);
}

START_TEST(test_held_is_planned) {
    const struct run *run = &RUNS[_i / N_MOMENTS];
    rig_spec spec;
    rig r;
    lisa_plan_report plan;
    save_model(run);
    spec_of(&spec, run);
    mix_moments(&spec, (uint32_t)_i % N_MOMENTS);
    plan_of(&spec, &plan);
    rig_make(&r, &spec);
    use(&r, run);
    assert_as_planned(&r, &plan, run->name);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

static void like_qwen3(lisa_model_config *c) {
    strcpy(c->family, "qwen3");
    c->qk_norm = 1;
    c->d_ff = 5; /* the workspace is attention's */
}

static void like_gpt2(lisa_model_config *c) {
    strcpy(c->family, "gpt2");
    c->n_kv_heads = c->n_heads;
    c->norm = LISA_NORM_LAYER;
    c->rope = LISA_ROPE_NONE;
    c->learned_positions = c->attention_bias = c->attention_output_bias = c->mlp_bias = 1;
    c->gated_mlp = 0;
    c->activation = LISA_ACT_GELU_TANH;
}

static void like_phi(lisa_model_config *c) {
    strcpy(c->family, "phi");
    c->norm = LISA_NORM_LAYER;
    c->parallel_residual = c->head_bias = 1;
    c->attention_bias = c->attention_output_bias = c->mlp_bias = 1;
    c->gated_mlp = 0;
    c->activation = LISA_ACT_GELU_ERF;
}

/* What layers of other families keep besides: statistics and second copies of queries and keys,
 * positions, biases; or less. */
static void (*const FAMILIES[])(lisa_model_config *) = {like_qwen3, like_gpt2, like_phi};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

START_TEST(test_held_is_planned_in_every_family) {
    const struct run *run = &RUNS[1 + _i % 2]; /* stored, recomputed */
    rig_spec spec;
    rig r;
    lisa_plan_report plan;
    rig_spec_init(&spec, "cpu");
    FAMILIES[_i / 2](&spec.config);
    save_config(run, &spec);
    spec_of(&spec, run);
    spec.optimizer.update_in_backward = (uint32_t)_i % 2;
    plan_of(&spec, &plan);
    rig_make(&r, &spec);
    use(&r, run);
    assert_as_planned(&r, &plan, r.config.family);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

/* Under a limit the run fits at the planned total, beside the small handles, and not below it. */
static lisa_status run_under(const rig_spec *given, uint64_t limit) {
    rig_spec spec = *given;
    rig r;
    memset(&r, 0, sizeof r);
    spec.context.memory_limit = limit;
    lisa_status status = lisa_context_create(&r.context, &spec.context);
    if (status == LISA_OK)
        status = lisa_model_open(&r.model, r.context, directory, &spec.model);
    if (status == LISA_OK && spec.adapted)
        status = lisa_adapter_create(&r.adapter, r.model, &spec.adapter);
    if (status == LISA_OK && spec.adapted)
        status = lisa_model_set_adapter(r.model, r.adapter);
    if (status == LISA_OK)
        status = lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer);
    if (status == LISA_OK)
        status = lisa_batch_create(&r.batch, r.model, spec.max_batch, spec.max_tokens, &spec.batch);
    rig_destroy(&r);
    return status;
}

static uint64_t handles_of(const rig_spec *spec, uint64_t *total) {
    rig r;
    uint64_t handles = 0, now = 0;
    rig_make(&r, spec);
    *total = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        OK(lisa_context_memory(r.context, c, &now, NULL));
        *total += c == LISA_MEM_WEIGHTS_MAPPED || c == LISA_MEM_DISK ? 0 : now;
    }
    OK(lisa_context_memory(r.context, LISA_MEM_HANDLES, NULL, &handles));
    rig_destroy(&r);
    return handles;
}

START_TEST(test_a_page_less_fails) {
    const struct run *run = &RUNS[_i / N_MOMENTS];
    rig_spec spec;
    uint64_t total = 0;
    save_model(run);
    spec_of(&spec, run);
    mix_moments(&spec, (uint32_t)_i % N_MOMENTS);
    const uint64_t handles = handles_of(&spec, &total);
    /* Handles come and go while creating: their peak is allowed on top. Staging is only held while
     * opening, when nothing else is. */
    ck_assert_int_eq(run_under(&spec, total + handles + (4u << 20)), LISA_OK);
    const lisa_status status = run_under(&spec, total - 4096);
    ck_assert_msg(status == LISA_E_BUDGET, "%s: %s: %s", run->name, lisa_status_name(status),
                  lisa_error_last());
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "class"));
    remove_directory();
}
END_TEST

/* AUTO stores what the limit allows and recomputes the rest, as the plan says. */
START_TEST(test_auto_fits_the_limit) {
    const struct run *run = &RUNS[1];
    rig_spec spec;
    lisa_plan_report all, none, some;
    save_model(run);
    spec_of(&spec, run);
    plan_of(&spec, &all);
    spec.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    plan_of(&spec, &none);
    ck_assert_uint_eq(all.stored_layers, 3);
    ck_assert_uint_eq(none.stored_layers, 0);
    spec.batch.activations = LISA_ACTIVATIONS_AUTO;
    spec.context.memory_limit = all.total - 1;
    plan_of(&spec, &some);
    ck_assert_uint_lt(some.stored_layers, 3);
    ck_assert_uint_eq(some.fits, 1);
    ck_assert_uint_le(some.total, spec.context.memory_limit);
    remove_directory();
}
END_TEST

/* The optimizer first, so that AUTO knows what is left. */
static void make_optimizer_first(rig *r, const rig_spec *given) {
    rig_spec spec = *given;
    spec.no_optimizer = 1;
    spec.batch.inference_only = 1;
    rig_make(r, &spec);
    lisa_batch_destroy(r->batch);
    OK(lisa_optimizer_create(&r->optimizer, r->model, &given->optimizer));
    OK(lisa_batch_create(&r->batch, r->model, given->max_batch, given->max_tokens, &given->batch));
}

START_TEST(test_mixed_is_stored) {
    const struct run *run = &RUNS[1];
    rig_spec spec;
    rig stored, mixed;
    lisa_plan_report plan;
    uint64_t handles = 0;
    save_model(run);
    spec_of(&spec, run);
    plan_of(&spec, &plan);
    make_optimizer_first(&stored, &spec);
    OK(lisa_context_memory(stored.context, LISA_MEM_HANDLES, &handles, NULL));
    spec.batch.activations = LISA_ACTIVATIONS_AUTO;
    spec.context.memory_limit = plan.total + handles - 4096;
    make_optimizer_first(&mixed, &spec);
    const uint32_t n_stored = mixed.batch->activations.shape.stored_layers;
    ck_assert_msg(n_stored > 0 && n_stored < 3, "%u layers stored", n_stored);
    for (uint64_t step = 0; step < 2; step++) {
        apply_turn(&stored, run, step);
        rig_random_batch(&stored, 2, 11, step);
        apply_turn(&mixed, run, step);
        rig_random_batch(&mixed, 2, 11, step);
        const double a = rig_step(&stored), b = rig_step(&mixed);
        ck_assert_mem_eq(&a, &b, sizeof a);
        rig_assert_same_weights(&stored, &mixed, "some layers recomputed");
    }
    rig_destroy(&stored);
    rig_destroy(&mixed);
    remove_directory();
}
END_TEST

static uint64_t limited_bytes(const lisa_context *context) {
    uint64_t total = 0, now = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        OK(lisa_context_memory(context, c, &now, NULL));
        total += c == LISA_MEM_WEIGHTS_MAPPED || c == LISA_MEM_DISK ? 0 : now;
    }
    return total;
}

static void open_under(rig *r, rig_spec *spec, uint64_t limit) {
    memset(r, 0, sizeof *r);
    spec->context.memory_limit = limit;
    OK(lisa_context_create(&r->context, &spec->context));
    OK(lisa_model_open(&r->model, r->context, directory, &spec->model));
    if (!spec->adapted)
        return;
    OK(lisa_adapter_create(&r->adapter, r->model, &spec->adapter));
    OK(lisa_model_set_adapter(r->model, r->adapter));
}

/* Whichever of its parts an optimizer has no room for, its attempt leaves the model's memory alone,
 * so that a smaller one may be tried. */
START_TEST(test_a_failed_optimizer_holds_nothing) {
    enum { N_LIMITS = 60 };
    const struct run *run = &RUNS[_i];
    rig_spec spec;
    rig r;
    save_model(run);
    spec_of(&spec, run);
    open_under(&r, &spec, 0);
    const uint64_t low = limited_bytes(r.context);
    OK(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer));
    const uint64_t high = limited_bytes(r.context);
    rig_destroy(&r);
    for (uint64_t i = 1; i <= N_LIMITS; i++) {
        /* Opening wants a little more than it keeps. */
        open_under(&r, &spec,
                   low + 8192 > high ? high - i : high - (high - low - 8192) * i / N_LIMITS);
        const uint64_t before = limited_bytes(r.context);
        ck_assert_int_eq(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer),
                         LISA_E_BUDGET);
        const uint64_t after = limited_bytes(r.context);
        ck_assert_msg(after == before, "%s, attempt %llu: %llu bytes held", run->name,
                      (unsigned long long)i, (unsigned long long)(after - before));
        rig_destroy(&r);
    }
    remove_directory();
}
END_TEST

START_TEST(test_destroying_gives_everything_back) {
    const struct run *run = &RUNS[_i];
    rig_spec spec;
    rig r;
    save_model(run);
    spec_of(&spec, run);
    rig_make(&r, &spec);
    use(&r, run);
    lisa_optimizer_destroy(r.optimizer);
    lisa_adapter_destroy(r.adapter);
    lisa_batch_destroy(r.batch);
    lisa_model_destroy(r.model);
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t now = 0;
        OK(lisa_context_memory(r.context, c, &now, NULL));
        if (c != LISA_MEM_WORKSPACE && c != LISA_MEM_HANDLES) /* the context's own */
            ck_assert_msg(now == 0, "%s: %s: %llu bytes left", run->name, lisa_memory_class_name(c),
                          (unsigned long long)now);
    }
    lisa_context_destroy(r.context);
    remove_directory();
}
END_TEST

/* Anonymous resident memory of this process in bytes. */
static uint64_t resident(void) {
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib * 1024;
}

/* The system's own count, in a process that has done nothing else. The bounds on what the plan does
 * not know (handles, the C library's) are 3 % of some 100 MB. */
START_TEST(test_resident_is_planned) {
    const struct run *run = &RUNS[_i];
    rig_spec spec;
    rig r;
    lisa_plan_report plan;
    const uint64_t before = resident();
    rig_spec_init(&spec, "cpu");
    spec.config.d_model = 256;
    spec.config.n_heads = 4;
    spec.config.n_kv_heads = 2;
    spec.config.d_ff = 700;
    spec.config.n_layers = 6;
    spec.config.vocab_size = 5000;
    spec.config.max_positions = 512;
    save_config(run, &spec);
    spec_of(&spec, run);
    spec.max_batch = 8;
    spec.max_tokens = 128;
    plan_of(&spec, &plan);
    rig_make(&r, &spec);
    /* Every row is scored: what a chunk of logits may hold is held. */
    static int32_t tokens[8 * 128];
    rig_random_tokens(tokens, 8 * 128, spec.config.vocab_size, 1);
    OK(lisa_batch_set(r.batch, tokens, NULL, 8, 128));
    for (uint64_t step = 0; step < r.config.n_layers; step++) {
        apply_turn(&r, run, step);
        rig_step(&r);
    }
    const uint64_t held = resident() - before;
    const uint64_t planned =
        plan.total - plan.bytes[LISA_MEM_EVALUATION] - plan.bytes[LISA_MEM_STAGING];
    ck_assert_msg(fabs((double)held - (double)planned) <= 0.03 * (double)planned,
                  "%s: planned %.1f MB, resident %.1f MB", run->name, (double)planned / 1e6,
                  (double)held / 1e6);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("memory");
    TCase *tcase = tcase_create("plan");
    tcase_set_timeout(tcase, 60);
    TCase *native = tcase_create("resident");
    tcase_set_tags(native, "native"); /* not under an emulator */
    tcase_set_timeout(native, 60);
    tcase_add_loop_test(tcase, test_held_is_planned, 0, N_MOMENTS * N_RUNS);
    tcase_add_loop_test(tcase, test_held_is_planned_in_every_family, 0, 2 * N_FAMILIES);
    tcase_add_loop_test(tcase, test_a_page_less_fails, 0, N_MOMENTS * N_RUNS);
    tcase_add_test(tcase, test_auto_fits_the_limit);
    tcase_add_test(tcase, test_mixed_is_stored);
    /* Not where opening needs more than the limits here: copied weights, a small adapter. */
    tcase_add_loop_test(tcase, test_a_failed_optimizer_holds_nothing, 1, N_BASE_RUNS);
    tcase_add_loop_test(tcase, test_destroying_gives_everything_back, 0, N_RUNS);
#if !LISA_TEST_SANITIZED
    tcase_add_loop_test(native, test_resident_is_planned, 0, 3);
    tcase_add_loop_test(native, test_resident_is_planned, N_BASE_RUNS, N_RUNS - 1);
#endif
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, native);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

/* rig.h - a context, model, batch and optimizer in one hand, for tests of whole steps. Every
 * failure ends the test with the library's own text. */
#ifndef LISA_TEST_RIG_H
#define LISA_TEST_RIG_H

#include "lisa/lisa.h"
#include <check.h>

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, lisa_error_last())

#define RIG_MAX_GROUPS 16

/* What to build. rig_spec_init gives defaults; the model comes from `directory` if that is set. */
typedef struct rig_spec {
    lisa_context_options context;
    lisa_model_config config;
    const char *directory;
    lisa_model_options model;
    lisa_batch_options batch;
    uint32_t max_batch, max_tokens;
    lisa_optimizer_options optimizer;
    int no_optimizer;
    int adapted; /* 1: an adapter of these options is attached, and trains */
    lisa_adapter_options adapter;
} rig_spec;

typedef struct rig {
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    lisa_adapter *adapter;
    lisa_model_config config;
    uint32_t n_groups, n_tensors;
} rig;

/* A LLaMA of 3 layers with odd sizes, seeded random weights of dtype f64 on "reference64" and f32
 * on other backends, batch 2 x 11. */
void rig_spec_init(rig_spec *spec, const char *backend);

void rig_make(rig *r, const rig_spec *spec);
void rig_destroy(rig *r);

/* A new model of the same config and weights in dtype f64, whatever the source's. */
void rig_make_f64_copy(rig *r, const rig_spec *spec, const rig *source);

/* n tokens in [0, vocab), the same for the same seed everywhere. */
void rig_random_tokens(int32_t *tokens, size_t n, uint32_t vocab, uint64_t seed);

/* Sets the batch to B x T random tokens, some labels ignored. */
void rig_random_batch(rig *r, uint32_t n_batch, uint32_t n_tokens, uint64_t seed);

lisa_tensor_info rig_tensor(const rig *r, uint32_t index);

/* A tensor's values as double, or its un-normalised gradient; free() them. */
double *rig_read(const rig *r, uint32_t index);
double *rig_read_gradient(const rig *r, uint32_t index);

/* All weights, one tensor after the other, and their number; free() them. */
double *rig_snapshot(const rig *r, size_t *n);

/* Fails unless all weights are those of a snapshot. */
void rig_assert_unchanged(const rig *r, const double *before, size_t n);

/* Fails unless every weight of both models has the same bits. */
void rig_assert_same_weights(const rig *a, const rig *b, const char *what);

/* Forward, backward, step; returns the loss. */
double rig_step(rig *r);

/* max |a - b| / max |b|. */
double rig_error(const double *a, const double *b, size_t n);

#endif

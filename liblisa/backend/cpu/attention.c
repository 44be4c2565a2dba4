/* Attention forward, and what backward shares with it. */
#include "backend/cpu/attention.h"

#include "core/error.h"

#include <math.h>

#define BLOCK LISA_ATTENTION_BLOCK

size_t lisa__query_place(const struct lisa__queries *at, size_t ld) {
    return ((size_t)at->sequence * at->op->n_queries + at->q0) * ld +
           (size_t)at->head * at->op->head_dim;
}

size_t lisa__key_place(const struct lisa__queries *at, uint32_t key, size_t ld) {
    const lisa_attention *op = at->op;
    uint32_t kv_head = at->head / (op->heads / op->kv_heads);
    return ((size_t)at->sequence * op->key_stride + key) * ld + (size_t)kv_head * op->head_dim;
}

size_t lisa__lse_place(const struct lisa__queries *at) {
    const lisa_attention *op = at->op;
    return ((size_t)at->sequence * op->heads + at->head) * op->n_queries + at->q0;
}

/* Where the block's i-th query stands among the keys. */
static uint32_t stand(const struct lisa__queries *at, uint32_t i) {
    return at->op->n_keys - at->op->n_queries + at->q0 + i;
}

/* The first key within the window of a query that stands at `place`. */
static uint32_t window_start(const lisa_attention *op, uint32_t place) {
    return op->window > 0 && place >= op->window ? place - op->window + 1 : 0;
}

void lisa__visible_keys(const struct lisa__queries *at, uint32_t *from, uint32_t *to) {
    *from = window_start(at->op, stand(at, 0));
    *to = stand(at, at->n_q - 1) + 1;
}

/* The row of the query that stands at `place`. */
static void mask_row(const lisa_attention *op, uint32_t sequence, uint32_t place, uint32_t k0,
                     uint32_t n_k, float *row) {
    uint32_t first = window_start(op, place);
    for (uint32_t j = 0; j < n_k && k0 + j < first; j++)
        row[j] = -INFINITY;
    for (uint32_t j = n_k; j > 0 && k0 + j - 1 > place; j--)
        row[j - 1] = -INFINITY;
    if (op->documents == NULL)
        return;
    const int32_t *documents = op->documents + (size_t)sequence * op->n_keys;
    for (uint32_t j = 0; j < n_k; j++)
        if (documents[k0 + j] != documents[place])
            row[j] = -INFINITY;
}

void lisa__block_product(const struct lisa__queries *at, const struct lisa__sgemm *product) {
    void *buffer = lisa__cpu_blas_buffer(at->cpu, at->thread);
    for (uint32_t j = 0; j < product->n; j += LISA_BLAS_MAX_N) {
        struct lisa__sgemm part = *product;
        part.n = (uint32_t)lisa__min(LISA_BLAS_MAX_N, product->n - j);
        part.b += part.trans_b ? j * part.ldb : j;
        part.c += j;
        lisa__sgemm(buffer, &part);
    }
}

void lisa__scores(const struct lisa__queries *at, uint32_t k0, uint32_t n_k, float *scores) {
    const lisa_attention *op = at->op;
    lisa__block_product(at, &(struct lisa__sgemm){
                                .m = at->n_q,
                                .n = n_k,
                                .k = op->head_dim,
                                .trans_b = 1,
                                .alpha = (float)op->scale,
                                .a = (const float *)op->q + lisa__query_place(at, op->ldq),
                                .lda = op->ldq,
                                .b = (const float *)op->k + lisa__key_place(at, k0, op->ldk),
                                .ldb = op->ldk,
                                .c = scores,
                                .ldc = BLOCK,
                            });
    for (uint32_t i = 0; i < at->n_q; i++)
        mask_row(op, at->sequence, stand(at, i), k0, n_k, scores + (size_t)i * BLOCK);
}

/* The scratch of a task: the scores of a block, and of each of its queries the largest score so far
 * and the sum of exp(score - largest). */
struct softmax {
    float *scores, *largest, *sum;
};

/* Turns the i-th query's scores of a block into weights relative to the largest so far, to which
 * what was summed up before is brought as well. */
static void advance(const struct lisa__queries *at, const struct softmax *s, uint32_t i,
                    uint32_t n_k) {
    const struct lisa__vector *vector = at->cpu->vector;
    const lisa_attention *op = at->op;
    float *row = s->scores + (size_t)i * BLOCK;
    float largest = vector->maximum(row, n_k);
    if (largest > s->largest[i]) {
        float factor = expf(s->largest[i] - largest);
        float *out = (float *)op->out + lisa__query_place(at, op->ldout) + i * op->ldout;
        vector->scale(out, factor, op->head_dim);
        s->sum[i] *= factor;
        s->largest[i] = largest;
    }
    /* Nothing seen so far: exp(-Inf - 0) is the 0 that is wanted. */
    float shift = s->largest[i] == -INFINITY ? 0.0f : s->largest[i];
    s->sum[i] += vector->exponentiate(row, shift, 1.0f, n_k);
}

static void attend_block(const struct lisa__queries *at, const struct softmax *s, uint32_t k0,
                         uint32_t n_k) {
    const lisa_attention *op = at->op;
    lisa__scores(at, k0, n_k, s->scores);
    for (uint32_t i = 0; i < at->n_q; i++)
        advance(at, s, i, n_k);
    lisa__block_product(at, &(struct lisa__sgemm){
                                .m = at->n_q,
                                .n = op->head_dim,
                                .k = n_k,
                                .alpha = 1.0f,
                                .beta = 1.0f,
                                .a = s->scores,
                                .lda = BLOCK,
                                .b = (const float *)op->v + lisa__key_place(at, k0, op->ldv),
                                .ldb = op->ldv,
                                .c = (float *)op->out + lisa__query_place(at, op->ldout),
                                .ldc = op->ldout,
                            });
}

static void begin(const struct lisa__queries *at, const struct softmax *s) {
    float *out = (float *)at->op->out + lisa__query_place(at, at->op->ldout);
    for (uint32_t i = 0; i < at->n_q; i++) {
        s->largest[i] = -INFINITY;
        s->sum[i] = 0.0f;
        for (uint32_t j = 0; j < at->op->head_dim; j++)
            out[i * at->op->ldout + j] = 0.0f;
    }
}

static void finish(const struct lisa__queries *at, const struct softmax *s) {
    const lisa_attention *op = at->op;
    float *out = (float *)op->out + lisa__query_place(at, op->ldout);
    float *lse = op->lse;
    for (uint32_t i = 0; i < at->n_q; i++) {
        at->cpu->vector->scale(out + i * op->ldout, 1.0f / s->sum[i], op->head_dim);
        if (lse != NULL)
            lse[lisa__lse_place(at) + i] = s->largest[i] + logf(s->sum[i]);
    }
}

struct job {
    const struct lisa__cpu *cpu;
    const lisa_attention *op;
    uint32_t n_blocks; /* of queries */
};

/* The last blocks of queries, which see the most keys, come first. */
static void forward_task(void *arg, uint32_t i, uint32_t thread) {
    const struct job *job = arg;
    const lisa_attention *op = job->op;
    const uint32_t n_heads = op->batch * op->heads, q0 = (job->n_blocks - 1 - i / n_heads) * BLOCK;
    const struct lisa__queries at = {
        .cpu = job->cpu,
        .op = op,
        .sequence = i % n_heads / op->heads,
        .head = i % op->heads,
        .q0 = q0,
        .n_q = (uint32_t)lisa__min(BLOCK, op->n_queries - q0),
        .thread = thread,
    };
    float *scratch = lisa__cpu_scratch(job->cpu, thread);
    const struct softmax s = {scratch, scratch + (size_t)BLOCK * BLOCK,
                              scratch + (size_t)BLOCK * BLOCK + BLOCK};
    uint32_t from, to;
    lisa__visible_keys(&at, &from, &to);
    begin(&at, &s);
    for (uint32_t k0 = from / BLOCK * BLOCK; k0 < to; k0 += BLOCK)
        attend_block(&at, &s, k0, (uint32_t)lisa__min(BLOCK, to - k0));
    finish(&at, &s);
}

lisa_status lisa__check_attention(lisa_backend *be, const lisa_attention *op) {
    if (op->kv_heads == 0 || op->heads % op->kv_heads != 0)
        return lisa__cpu_refuse(be, "cpu: attention's kv_heads must divide heads");
    if (op->n_queries > op->n_keys || op->n_keys > op->key_stride)
        return lisa__cpu_refuse(be, "cpu: attention needs n_queries <= n_keys <= key_stride");
    if (op->documents != NULL && op->n_queries != op->n_keys)
        return lisa__cpu_refuse(be, "cpu: attention with documents needs n_queries = n_keys");
    return LISA_OK;
}

lisa_status lisa__cpu_attention_forward(lisa_backend *be, const lisa_attention *op) {
    LISA_TRY(lisa__check_attention(be, op));
    struct job job = {lisa__cpu_of(be), op, (uint32_t)lisa__ceil_div(op->n_queries, BLOCK)};
    be->host->parallel(be->host->self, job.n_blocks * op->batch * op->heads, forward_task, &job);
    return LISA_OK;
}

/* Attention forward, and what backward shares with it. */
#include "backend/cpu/attention.h"

#include "core/error.h"

#include <math.h>
#include <string.h>

#define BLOCK LISA_ATTENTION_BLOCK

/* Backward holds two blocks of scores, and queries and gradients transposed. */
#define MOST_HEAD_DIM 1024
_Static_assert((2 * BLOCK + 2 * MOST_HEAD_DIM + 4) * BLOCK <= LISA_CPU_SCRATCH,
               "a task's blocks fit its scratch");

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

/* Lanes of a vector; pieces begin at multiples of it. */
#define LANES 16

struct lisa__piece lisa__piece_at(const struct lisa__queries *at, uint32_t k0, uint32_t end) {
    const uint32_t begin = stand(at, 0);
    const uint32_t most = k0 + BLOCK <= begin + 1 ? BLOCK : LANES;
    struct lisa__piece piece = {.k0 = k0, .n_k = (uint32_t)lisa__min(most, end - k0)};
    piece.first = k0 > begin ? (k0 - begin) / LANES * LANES : 0;
    piece.n_lanes = (uint32_t)lisa__ceil_div(at->n_q - piece.first, LANES) * LANES;
    return piece;
}

/* Four rows at a time: a store for every four loads. */
static void transpose_four(const float *from, size_t ld, uint32_t n, float factor, float *to) {
    for (uint32_t j = 0; j < n; j++) {
        const float column[4] = {from[j] * factor, from[ld + j] * factor, from[2 * ld + j] * factor,
                                 from[3 * ld + j] * factor};
        memcpy(to + (size_t)j * BLOCK, column, sizeof column);
    }
}

void lisa__transpose_rows(const struct lisa__queries *at, const void *rows, size_t ld, float factor,
                          float *to) {
    const float *from = (const float *)rows + lisa__query_place(at, ld);
    const uint32_t n = at->op->head_dim;
    uint32_t i = 0;
    for (; i + 4 <= at->n_q; i += 4)
        transpose_four(from + i * ld, ld, n, factor, to + i);
    for (; i < BLOCK; i++)
        for (uint32_t j = 0; j < n; j++)
            to[j * BLOCK + i] = i < at->n_q ? from[i * ld + j] * factor : 0.0f;
}

void lisa__times_columns(const struct lisa__queries *at, const struct lisa__piece *piece,
                         const void *keys, size_t ld, const float *columns, float *to) {
    at->cpu->vector->product(&(struct lisa__product){
        .m = piece->n_k,
        .n = piece->n_lanes,
        .k = at->op->head_dim,
        .a = (const float *)keys + lisa__key_place(at, piece->k0, ld),
        .a_row = ld,
        .a_column = 1,
        .b = columns + piece->first,
        .ldb = BLOCK,
        .c = to + piece->first,
        .ldc = BLOCK,
    });
}

/* Queries [from, to) of a key's row, cut to those of the piece. */
static void hide(const struct lisa__queries *at, const struct lisa__piece *piece, uint64_t from,
                 uint64_t to, float *row) {
    const uint64_t begin = from > piece->first ? from : piece->first;
    for (uint64_t i = begin; i < lisa__min(to, at->n_q); i++)
        row[i] = -INFINITY;
}

static void hide_documents(const struct lisa__queries *at, const struct lisa__piece *piece,
                           uint32_t key, float *row) {
    const int32_t *documents = at->op->documents + (size_t)at->sequence * at->op->n_keys;
    for (uint32_t i = piece->first; i < at->n_q; i++)
        if (documents[key] != documents[stand(at, i)])
            row[i] = -INFINITY;
}

void lisa__mask(const struct lisa__queries *at, const struct lisa__piece *piece, float *scores) {
    const uint64_t begin = stand(at, 0), window = at->op->window;
    for (uint32_t key = piece->k0; key < piece->k0 + piece->n_k; key++) {
        float *row = scores + (size_t)(key - piece->k0) * BLOCK;
        if (key > begin)
            hide(at, piece, 0, key - begin, row);
        if (window > 0)
            hide(at, piece, key + window > begin ? key + window - begin : 0, at->n_q, row);
        if (at->op->documents != NULL)
            hide_documents(at, piece, key, row);
    }
}

/* The scratch of a task: the queries transposed, the scores of a piece, and of each query the
 * largest score so far and the sum of exp(score - largest). */
struct softmax {
    float *queries, *scores, *largest, *sum;
};

/* Brings what was summed up before to the largest scores that the piece adds to. */
static void raise(const struct lisa__queries *at, const struct softmax *s,
                  const struct lisa__piece *piece, float shifts[BLOCK]) {
    const struct lisa__vector *vector = at->cpu->vector;
    const lisa_attention *op = at->op;
    float *out = (float *)op->out + lisa__query_place(at, op->ldout);
    float factors[BLOCK], unused[BLOCK] = {0.0f};
    const size_t bytes = piece->n_lanes * sizeof *factors;
    memcpy(factors + piece->first, s->largest + piece->first, bytes);
    vector->lane_maximum(s->largest + piece->first, s->scores + piece->first, BLOCK, piece->n_k,
                         piece->n_lanes);
    /* Nothing seen so far: exp(-Inf - 0) is the 0 that is wanted. */
    for (uint32_t i = piece->first; i < piece->first + piece->n_lanes; i++)
        shifts[i] = s->largest[i] == -INFINITY ? 0.0f : s->largest[i];
    vector->lane_exp(unused, factors + piece->first, BLOCK, shifts + piece->first, 1,
                     piece->n_lanes);
    for (uint32_t i = piece->first; i < at->n_q; i++)
        if (factors[i] != 1.0f) {
            vector->scale(out + i * op->ldout, factors[i], op->head_dim);
            s->sum[i] *= factors[i];
        }
}

static void attend_piece(const struct lisa__queries *at, const struct softmax *s,
                         const struct lisa__piece *piece) {
    const lisa_attention *op = at->op;
    const struct lisa__vector *vector = at->cpu->vector;
    float shifts[BLOCK];
    lisa__times_columns(at, piece, op->k, op->ldk, s->queries, s->scores);
    lisa__mask(at, piece, s->scores);
    raise(at, s, piece, shifts);
    vector->lane_exp(s->sum + piece->first, s->scores + piece->first, BLOCK, shifts + piece->first,
                     piece->n_k, piece->n_lanes);
    vector->product(&(struct lisa__product){
        .m = at->n_q - piece->first,
        .n = op->head_dim,
        .k = piece->n_k,
        .accumulate = 1,
        .a = s->scores + piece->first,
        .a_row = 1,
        .a_column = BLOCK,
        .b = (const float *)op->v + lisa__key_place(at, piece->k0, op->ldv),
        .ldb = op->ldv,
        .c = (float *)op->out + lisa__query_place(at, op->ldout) + piece->first * op->ldout,
        .ldc = op->ldout,
    });
}

static void begin(const struct lisa__queries *at, const struct softmax *s) {
    float *out = (float *)at->op->out + lisa__query_place(at, at->op->ldout);
    lisa__transpose_rows(at, at->op->q, at->op->ldq, (float)at->op->scale, s->queries);
    for (uint32_t i = 0; i < BLOCK; i++) {
        s->largest[i] = -INFINITY;
        s->sum[i] = 0.0f;
    }
    for (uint32_t i = 0; i < at->n_q; i++)
        memset(out + i * at->op->ldout, 0, at->op->head_dim * sizeof *out);
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
    const size_t block = (size_t)BLOCK * BLOCK;
    const struct softmax s = {scratch + block + 2 * BLOCK, scratch, scratch + block,
                              scratch + block + BLOCK};
    uint32_t k0, end;
    lisa__visible_keys(&at, &k0, &end);
    begin(&at, &s);
    for (k0 = k0 / LANES * LANES; k0 < end;) {
        const struct lisa__piece piece = lisa__piece_at(&at, k0, end);
        attend_piece(&at, &s, &piece);
        k0 += piece.n_k;
    }
    finish(&at, &s);
}

lisa_status lisa__check_attention(lisa_backend *be, const lisa_attention *op) {
    if (op->kv_heads == 0 || op->heads % op->kv_heads != 0)
        return lisa__cpu_refuse(be, "cpu: attention's kv_heads must divide heads");
    if (op->n_queries > op->n_keys || op->n_keys > op->key_stride)
        return lisa__cpu_refuse(be, "cpu: attention needs n_queries <= n_keys <= key_stride");
    if (op->head_dim > MOST_HEAD_DIM)
        return lisa__cpu_refuse(be, "cpu: attention takes a head_dim of 1024 at most");
    if (op->documents != NULL && op->n_queries != op->n_keys)
        return lisa__cpu_refuse(be, "cpu: attention with documents needs n_queries = n_keys");
    return lisa__cpu_check_real(be, op->dtype);
}

lisa_status lisa__cpu_attention_forward(lisa_backend *be, const lisa_attention *op) {
    LISA_TRY(lisa__check_attention(be, op));
    struct job job = {lisa__cpu_of(be), op, (uint32_t)lisa__ceil_div(op->n_queries, BLOCK)};
    be->host->parallel(be->host->self, job.n_blocks * op->batch * op->heads, forward_task, &job);
    return LISA_OK;
}

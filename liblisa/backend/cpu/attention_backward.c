#include "backend/cpu/attention.h"
#include "core/error.h"

#include <string.h>

#define BLOCK LISA_ATTENTION_BLOCK

/* A task owns the keys of one key head of one sequence, or every n-th block of them, and goes
 * through the blocks of queries. What it adds to dk and dv is its own; dq is shared with the tasks
 * that own the group's other blocks of keys. So in each round they are at different blocks of
 * queries, and between rounds all wait: every dq is summed in one order. */
struct job {
    const struct lisa__cpu *cpu;
    const lisa_attention *op;
    uint32_t n_blocks; /* of queries, and of keys */
    uint32_t n_parts;  /* tasks of a group, at most n_blocks */
    uint32_t round;
};

/* Fewer groups than this are divided into parts. */
#define ENOUGH_TASKS 16

/* The scratch of a task: queries and dout transposed, two blocks of scores, and of each query the
 * log of its sum and dout . out. */
struct slopes {
    float *queries, *douts, *p, *ds, *lse, *delta, *unused;
};

/* A piece's part of a gradient of keys: c[n_k, head_dim] += scores times the queries' rows of b. */
static void add_to_keys(const struct lisa__queries *at, const struct lisa__piece *piece,
                        const float *scores, const void *b, size_t ldb, void *c, size_t ldc) {
    at->cpu->vector->product(&(struct lisa__product){
        .m = piece->n_k,
        .n = at->op->head_dim,
        .k = at->n_q - piece->first,
        .accumulate = 1,
        .a = scores + piece->first,
        .a_row = BLOCK,
        .a_column = 1,
        .b = (const float *)b + lisa__query_place(at, ldb) + piece->first * ldb,
        .ldb = ldb,
        .c = (float *)c + lisa__key_place(at, piece->k0, ldc),
        .ldc = ldc,
    });
}

/* dq += the slopes, transposed, times the piece's keys. */
static void add_to_queries(const struct lisa__queries *at, const struct lisa__piece *piece,
                           const float *ds) {
    const lisa_attention *op = at->op;
    at->cpu->vector->product(&(struct lisa__product){
        .m = at->n_q - piece->first,
        .n = op->head_dim,
        .k = piece->n_k,
        .accumulate = 1,
        .a = ds + piece->first,
        .a_row = 1,
        .a_column = BLOCK,
        .b = (const float *)op->k + lisa__key_place(at, piece->k0, op->ldk),
        .ldb = op->ldk,
        .c = (float *)op->dq + lisa__query_place(at, op->lddq) + piece->first * op->lddq,
        .ldc = op->lddq,
    });
}

/* With p = softmax's weights: dv += p^T dout; ds = p (dout v^T - dout . out) scale; dq += ds k and
 * dk += ds^T q. */
static void piece_backward(const struct lisa__queries *at, const struct slopes *s,
                           const struct lisa__piece *piece) {
    const lisa_attention *op = at->op;
    const struct lisa__vector *vector = at->cpu->vector;
    const uint32_t first = piece->first;
    lisa__times_columns(at, piece, op->k, op->ldk, s->queries, s->p);
    lisa__mask(at, piece, s->p);
    vector->lane_exp(s->unused, s->p + first, BLOCK, s->lse + first, piece->n_k, piece->n_lanes);
    lisa__times_columns(at, piece, op->v, op->ldv, s->douts, s->ds);
    vector->lane_slope(s->ds + first, s->p + first, BLOCK, s->delta + first, (float)op->scale,
                       piece->n_k, piece->n_lanes);
    add_to_keys(at, piece, s->p, op->dout, op->lddout, op->dv, op->lddv);
    add_to_keys(at, piece, s->ds, op->q, op->ldq, op->dk, op->lddk);
    add_to_queries(at, piece, s->ds);
}

static struct slopes scratch_of(const struct lisa__queries *at) {
    const size_t block = (size_t)BLOCK * BLOCK;
    float *base = lisa__cpu_scratch(at->cpu, at->thread), *rest = base + 2 * block;
    return (struct slopes){
        .p = base,
        .ds = base + block,
        .lse = rest,
        .delta = rest + BLOCK,
        .unused = rest + 2 * BLOCK,
        .queries = rest + 3 * BLOCK,
        .douts = rest + 3 * BLOCK + (size_t)at->op->head_dim * BLOCK,
    };
}

static void begin(const struct lisa__queries *at, const struct slopes *s) {
    const lisa_attention *op = at->op;
    const float *out = (const float *)op->out + lisa__query_place(at, op->ldout);
    const float *dout = (const float *)op->dout + lisa__query_place(at, op->lddout);
    const float *lse = (const float *)op->lse + lisa__lse_place(at);
    lisa__transpose_rows(at, op->q, op->ldq, (float)op->scale, s->queries);
    lisa__transpose_rows(at, op->dout, op->lddout, 1.0f, s->douts);
    memset(s->lse, 0, 3 * BLOCK * sizeof *s->lse);
    for (uint32_t i = 0; i < at->n_q; i++) {
        s->lse[i] = lse[i];
        s->delta[i] = at->cpu->vector->dot(dout + i * op->lddout, out + i * op->ldout,
                                           LISA_DTYPE_F32, op->head_dim);
    }
}

/* A block of queries of one head against the blocks of keys of one part. */
static void queries_backward(const struct lisa__queries *at, uint32_t part, uint32_t n_parts) {
    const struct slopes s = scratch_of(at);
    uint32_t from, to;
    lisa__visible_keys(at, &from, &to);
    begin(at, &s);
    for (uint32_t block = part; block * BLOCK < to; block += n_parts) {
        const uint32_t end = (uint32_t)lisa__min((block + 1) * (size_t)BLOCK, to);
        for (uint32_t k0 = block * BLOCK; end > from && k0 < end;) {
            const struct lisa__piece piece = lisa__piece_at(at, k0, end);
            piece_backward(at, &s, &piece);
            k0 += piece.n_k;
        }
    }
}

static void backward_task(void *arg, uint32_t i, uint32_t thread) {
    const struct job *job = arg;
    const lisa_attention *op = job->op;
    const uint32_t part = i % job->n_parts, group = i / job->n_parts;
    const uint32_t heads_each = op->heads / op->kv_heads;
    /* One part alone has no one to wait for: all rounds at once. */
    const uint32_t n_rounds = job->n_parts == 1 ? job->n_blocks : 1;
    for (uint32_t round = job->round; round < job->round + n_rounds; round++) {
        const uint32_t q0 = (part + round) % job->n_blocks * BLOCK;
        struct lisa__queries at = {
            .cpu = job->cpu,
            .op = op,
            .sequence = group / op->kv_heads,
            .head = group % op->kv_heads * heads_each,
            .q0 = q0,
            .n_q = (uint32_t)lisa__min(BLOCK, op->n_queries - q0),
            .thread = thread,
        };
        for (uint32_t h = 0; h < heads_each; h++, at.head++)
            queries_backward(&at, part, job->n_parts);
    }
}

static void zero_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_attention *op = all->op;
    const size_t q_bytes = (size_t)op->heads * op->head_dim * sizeof(float);
    const size_t k_bytes = (size_t)op->kv_heads * op->head_dim * sizeof(float);
    for (size_t i = from; i < to; i++) {
        memset((float *)op->dq + i * op->lddq, 0, q_bytes);
        memset((float *)op->dk + i * op->lddk, 0, k_bytes);
        memset((float *)op->dv + i * op->lddv, 0, k_bytes);
    }
}

lisa_status lisa__cpu_attention_backward(lisa_backend *be, const lisa_attention *op) {
    LISA_TRY(lisa__check_attention(be, op));
    if (op->n_queries != op->n_keys || op->n_keys != op->key_stride)
        return lisa__cpu_refuse(be,
                                "cpu: attention backward needs n_queries = n_keys = key_stride");
    struct lisa__cpu *cpu = lisa__cpu_of(be);
    lisa__cpu_in_pieces(cpu, op, (size_t)op->batch * op->n_queries,
                        lisa__cpu_rows((size_t)op->heads * op->head_dim), zero_piece);
    const uint32_t n_groups = op->batch * op->kv_heads;
    if (n_groups == 0 || op->n_queries == 0)
        return LISA_OK;
    struct job job = {.cpu = cpu, .op = op};
    job.n_blocks = (uint32_t)lisa__ceil_div(op->n_queries, BLOCK);
    job.n_parts = (uint32_t)lisa__min(job.n_blocks, lisa__ceil_div(ENOUGH_TASKS, n_groups));
    const uint32_t n_rounds = job.n_parts == 1 ? 1 : job.n_blocks;
    for (job.round = 0; job.round < n_rounds; job.round++)
        be->host->parallel(be->host->self, n_groups * job.n_parts, backward_task, &job);
    return LISA_OK;
}

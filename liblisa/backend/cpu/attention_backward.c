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

/* The scratch of a task: two blocks of scores, and dout . out of each query. */
struct slopes {
    float *p, *ds, *delta;
};

/* c[m, head_dim] += op(a) b, where b and c are a head's part of `ldb` and `ldc` wide rows. */
static void add_product(const struct lisa__queries *at, const float *scores, uint32_t trans,
                        uint32_t m, uint32_t k, const float *b, size_t ldb, float *c, size_t ldc) {
    lisa__block_product(at, &(struct lisa__sgemm){
                                .m = m,
                                .n = at->op->head_dim,
                                .k = k,
                                .trans_a = trans,
                                .alpha = 1.0f,
                                .beta = 1.0f,
                                .a = scores,
                                .lda = BLOCK,
                                .b = b,
                                .ldb = ldb,
                                .c = c,
                                .ldc = ldc,
                            });
}

/* ds = dout v^T, the slope of the loss in the weights. */
static void weight_slopes(const struct lisa__queries *at, uint32_t k0, uint32_t n_k, float *ds) {
    const lisa_attention *op = at->op;
    lisa__block_product(at, &(struct lisa__sgemm){
                                .m = at->n_q,
                                .n = n_k,
                                .k = op->head_dim,
                                .trans_b = 1,
                                .alpha = 1.0f,
                                .a = (const float *)op->dout + lisa__query_place(at, op->lddout),
                                .lda = op->lddout,
                                .b = (const float *)op->v + lisa__key_place(at, k0, op->ldv),
                                .ldb = op->ldv,
                                .c = ds,
                                .ldc = BLOCK,
                            });
}

/* With p = softmax's weights: dv += p^T dout; ds = p (dout v^T - dout . out) scale; dq += ds k and
 * dk += ds^T q. */
static void block_backward(const struct lisa__queries *at, const struct slopes *s, uint32_t k0,
                           uint32_t n_k) {
    const lisa_attention *op = at->op;
    const struct lisa__vector *vector = at->cpu->vector;
    const float *lse = (const float *)op->lse + lisa__lse_place(at);
    lisa__scores(at, k0, n_k, s->p);
    weight_slopes(at, k0, n_k, s->ds);
    for (uint32_t i = 0; i < at->n_q; i++) {
        float *p = s->p + (size_t)i * BLOCK, *ds = s->ds + (size_t)i * BLOCK;
        vector->exponentiate(p, lse[i], 1.0f, n_k);
        vector->score_slope(ds, p, s->delta[i], (float)op->scale, n_k);
    }
    const float *q = (const float *)op->q + lisa__query_place(at, op->ldq);
    const float *dout = (const float *)op->dout + lisa__query_place(at, op->lddout);
    const float *k = (const float *)op->k + lisa__key_place(at, k0, op->ldk);
    float *dq = (float *)op->dq + lisa__query_place(at, op->lddq);
    float *dk = (float *)op->dk + lisa__key_place(at, k0, op->lddk);
    float *dv = (float *)op->dv + lisa__key_place(at, k0, op->lddv);
    add_product(at, s->p, 1, n_k, at->n_q, dout, op->lddout, dv, op->lddv);
    add_product(at, s->ds, 1, n_k, at->n_q, q, op->ldq, dk, op->lddk);
    add_product(at, s->ds, 0, at->n_q, n_k, k, op->ldk, dq, op->lddq);
}

static void find_deltas(const struct lisa__queries *at, float *delta) {
    const lisa_attention *op = at->op;
    const float *out = (const float *)op->out + lisa__query_place(at, op->ldout);
    const float *dout = (const float *)op->dout + lisa__query_place(at, op->lddout);
    for (uint32_t i = 0; i < at->n_q; i++)
        delta[i] = at->cpu->vector->dot(dout + i * op->lddout, out + i * op->ldout, LISA_DTYPE_F32,
                                        op->head_dim);
}

/* A block of queries of one head against the blocks of keys of one part. */
static void queries_backward(const struct lisa__queries *at, uint32_t part, uint32_t n_parts) {
    float *scratch = lisa__cpu_scratch(at->cpu, at->thread);
    const struct slopes s = {scratch, scratch + (size_t)BLOCK * BLOCK,
                             scratch + 2 * (size_t)BLOCK * BLOCK};
    uint32_t from, to;
    lisa__visible_keys(at, &from, &to);
    find_deltas(at, s.delta);
    for (uint32_t block = part; block * BLOCK < to; block += n_parts)
        if ((block + 1) * BLOCK > from)
            block_backward(at, &s, block * BLOCK, (uint32_t)lisa__min(BLOCK, to - block * BLOCK));
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

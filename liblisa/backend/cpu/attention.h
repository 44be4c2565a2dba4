/* attention.h - blocks of scores, for attention forward and backward. */
#ifndef LISA_BACKEND_CPU_ATTENTION_H
#define LISA_BACKEND_CPU_ATTENTION_H

#include "backend/cpu/ops.h"

/* Queries and keys of a block. Scores exist one block at a time. */
#define LISA_ATTENTION_BLOCK 64

/* Queries [q0, q0 + n_q) of one head of one sequence, on one thread. */
struct lisa__queries {
    const struct lisa__cpu *cpu;
    const lisa_attention *op;
    uint32_t sequence, head, q0, n_q;
    uint32_t thread;
};

/* A head's part of a row of queries (q, out, dout, dq): element offset for the block's first. */
size_t lisa__query_place(const struct lisa__queries *at, size_t ld);
/* The same for key `key` in k, v, dk, dv. */
size_t lisa__key_place(const struct lisa__queries *at, uint32_t key, size_t ld);
/* The block's first in lse. */
size_t lisa__lse_place(const struct lisa__queries *at);

/* The keys [*from, *to) that some query of the block may see. */
void lisa__visible_keys(const struct lisa__queries *at, uint32_t *from, uint32_t *to);

/* scores[n_q, LISA_ATTENTION_BLOCK] = scale q k^T for keys [k0, k0 + n_k), -Inf where a query does
 * not see the key. */
void lisa__scores(const struct lisa__queries *at, uint32_t k0, uint32_t n_k, float *scores);

/* A product on the task's thread, of at most LISA_BLAS_MAX_M rows. */
void lisa__block_product(const struct lisa__queries *at, const struct lisa__sgemm *product);

lisa_status lisa__check_attention(lisa_backend *be, const lisa_attention *op);

#endif

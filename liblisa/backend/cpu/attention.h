/* attention.h - blocks of scores, for attention forward and backward.
 *
 * A block of scores is held transposed, a row for each key and a column for each query: what
 * belongs to a query (its largest score, its sum) is then a lane of a vector, and the softmax needs
 * nothing across lanes. */
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

/* Keys [k0, k0 + n_k), against the block's queries from `first` on: those before see none of them.
 * Columns are `n_lanes` from `first` on, those past n_q being padding. */
struct lisa__piece {
    uint32_t k0, n_k, first, n_lanes;
};

/* A head's part of a row of queries (q, out, dout, dq): element offset for the block's first. */
size_t lisa__query_place(const struct lisa__queries *at, size_t ld);
/* The same for key `key` in k, v, dk, dv. */
size_t lisa__key_place(const struct lisa__queries *at, uint32_t key, size_t ld);
/* The block's first in lse. */
size_t lisa__lse_place(const struct lisa__queries *at);

/* The keys [*from, *to) that some query of the block may see. */
void lisa__visible_keys(const struct lisa__queries *at, uint32_t *from, uint32_t *to);

/* The piece that begins at key k0, of those below `end`. Near the diagonal pieces are short, so
 * that little is computed of what is masked. */
struct lisa__piece lisa__piece_at(const struct lisa__queries *at, uint32_t k0, uint32_t end);

/* to[head_dim, BLOCK] = factor times the block's rows of a matrix (q, dout), transposed, padded by
 * zeros. */
void lisa__transpose_rows(const struct lisa__queries *at, const void *rows, size_t ld, float factor,
                          float *to);

/* The piece's columns of to[BLOCK, BLOCK] = the piece's rows of k or v times `columns`, which
 * lisa__transpose_rows made. */
void lisa__times_columns(const struct lisa__queries *at, const struct lisa__piece *piece,
                         const void *keys, size_t ld, const float *columns, float *to);

/* Makes scores -Inf where a query does not see the key. */
void lisa__mask(const struct lisa__queries *at, const struct lisa__piece *piece, float *scores);

lisa_status lisa__check_attention(lisa_backend *be, const lisa_attention *op);

#endif

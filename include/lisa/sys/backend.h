/* backend.h - the table of operations that a compute backend fills in.
 *
 * For people who write a backend. Versioned by equality (LISA_BACKEND_API_VERSION), outside the
 * stable ABI. The reference backend (liblisa/backend/reference) defines what each operation means;
 * tests/conformance holds every other backend to it.
 *
 * Conventions
 * - Pointers named in an operation's struct are memory of the backend ("device memory") unless said
 *   otherwise; where a backend has LISA_BACKEND_HOST_MEMORY they are ordinary pointers.
 * - `real` is the backend's type of the residual stream, of statistics and of weight gradients:
 *   float, or double where real_dtype is LISA_DTYPE_F64. Accumulations are in real or wider;
 *   scalars come as double.
 * - `lisa_typed` weights may be F32, BF16, F16 or F64. What a comment calls an operand (activations
 *   that enter or leave products) is real, but on a backend with LISA_BACKEND_TYPED_OPERANDS has
 * the weights' type: it is rounded to nearest even when it is stored, by the operation that makes
 * it.
 * - Matrices are row-major, ld* are row strides in elements. N = rows (tokens).
 * - "+=" operations add to their output. In-place use is allowed only where a field says so.
 * - Every operation returns a lisa_status and on failure sets a text through host->fail.
 * - Operations take effect in the order of the calls. A backend with memory of its own may carry
 *   them out later: download and sync wait, upload has read its source when it returns, and an
 *   operation's struct and what it names in host memory are read before the call returns.
 * - Results do not depend on the number of threads.
 * - No operation takes memory: what it needs beside its operands, start has taken.
 * - A NaN shows in every output that depends on it, an Inf at least as Inf or NaN where arithmetic
 *   keeps it: that is how a broken step is told before weights change.
 * - A count of 0 is allowed; columns of a norm and of cross_entropy, and head_dim, are at least 1.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_SYS_BACKEND_H
#define LISA_SYS_BACKEND_H

#include "../model.h" /* LISA_MEM_*, LISA_MOMENTS_*, LISA_NORM_*, LISA_ACT_* */

#ifdef __cplusplus
extern "C" {
#endif

#define LISA_BACKEND_API_VERSION 4

/* Flags of a backend. */
#define LISA_BACKEND_HOST_MEMORY 1u    /* its memory is the host's: weights may be used in place */
#define LISA_BACKEND_TYPED_OPERANDS 2u /* operands have the weights' type */

/* What liblisa lends to a backend for its lifetime. */
typedef struct lisa_backend_host {
    void *self;
    /* Memory of a class (LISA_MEM_*), counted and limited; 64-byte aligned. On failure *out is NULL
     * and the error text is set. */
    lisa_status (*alloc)(void *self, void **out, uint32_t memory_class, size_t bytes);
    void (*release)(void *self, uint32_t memory_class, void *ptr, size_t bytes);
    /* Counts memory that the backend takes itself, as its own device's: asked before it is taken,
     * and given back. On failure, a limit, the error text is set. */
    lisa_status (*account)(void *self, uint32_t memory_class, size_t bytes);
    void (*unaccount)(void *self, uint32_t memory_class, size_t bytes);
    /* Sets the calling thread's error text and returns `status`. */
    lisa_status (*fail)(void *self, lisa_status status, const char *text);
    /* Calls task(arg, i) for every i in [0, n), on the context's threads. A task must not fail.
     * `thread` is in [0, n_threads). */
    void (*parallel)(void *self, uint32_t n, void (*task)(void *arg, uint32_t i, uint32_t thread),
                     void *arg);
    uint32_t n_threads;
} lisa_backend_host;

typedef struct lisa_typed {
    void *data;
    uint32_t dtype; /* LISA_DTYPE_* */
} lisa_typed;

/* C[m,n] = beta C + alpha op(A)[m,k] op(B)[k,n]. beta = 0 does not read C. A is an operand, B an
 * operand or a weight (of any type where operands are real), C an operand or real. */
typedef struct lisa_gemm {
    uint32_t m, n, k;
    uint32_t trans_a, trans_b; /* 1: it is stored transposed, [k,m] or [n,k] */
    lisa_typed a;
    size_t lda;
    lisa_typed b;
    size_t ldb;
    lisa_typed c;
    size_t ldc;
    double alpha, beta;
} lisa_gemm;

/* y[N,cols] += bias[cols] forward; dbias[cols] += sum over rows of dy backward. */
typedef struct lisa_bias {
    uint32_t rows, cols;
    lisa_typed y; /* operand or real; forward: in and out; backward: dy, read */
    size_t ldy;
    lisa_typed bias; /* forward */
    void *dbias;     /* backward: real */
} lisa_bias;

/* out[i,:] = table[index[i],:] (or +=, when accumulate) forward;
 * dtable[index[i],:] += dout[i,:] backward, in ascending i for each row of the table. */
typedef struct lisa_embed {
    uint32_t rows, cols, table_rows;
    const int32_t *index; /* [rows], each in [0, table_rows) */
    lisa_typed table;     /* forward */
    void *out;            /* forward: real [rows, cols] */
    uint32_t accumulate;  /* forward */
    const void *dout;     /* backward: real [rows, cols] */
    void *dtable;         /* backward: real [table_rows, cols] */
} lisa_embed;

/* dst[i,:] = src[index[i],:] (gather) or dst[index[i],:] = src[i,:] (scatter; indices distinct), of
 * real. `operand`, where its data is not NULL: scatter writes the rows there too, likewise. */
typedef struct lisa_rows {
    uint32_t rows, cols;
    const int32_t *index; /* [rows] */
    const void *src;
    void *dst;
    lisa_typed operand;
} lisa_rows;

/* RMSNorm: y = x / sqrt(mean(x^2) + eps) * w. LayerNorm: y = (x - mean) / sqrt(var + eps) * w + b,
 * var the biased variance. Each of `rows` rows holds `segments` vectors of `cols`, one after the
 * other, normalised apart (segments = 1 but for qk-norm). stats: real [rows, segments] of
 * 1/sqrt(...) for RMS, [rows, segments, 2] of mean, 1/sqrt(...) for LAYER. Backward reads x and
 * stats: dx = (or +=, when accumulate) ..., dweight += ..., dbias += .... x, y, dy and dx are real
 * or operands. `copy`: forward writes x there too. `operand`: backward writes the new dx there too.
 */
typedef struct lisa_norm {
    uint32_t kind; /* 1 RMS, 2 LAYER (LISA_NORM_*) */
    uint32_t rows, segments, cols;
    double eps;
    lisa_typed x;
    size_t ldx;
    lisa_typed weight;
    lisa_typed bias; /* data NULL: none */
    lisa_typed y;    /* forward; may be x, with ldy == ldx */
    size_t ldy;
    void *copy; /* forward: real, rows ldx apart, or NULL; x is real then */
    void *stats;
    lisa_typed dy; /* backward */
    size_t lddy;
    lisa_typed dx; /* backward; may be dy, of its type then */
    size_t lddx;
    lisa_typed operand; /* backward: rows lddx apart; data NULL: none */
    uint32_t accumulate;
    uint32_t reserved;
    void *dweight; /* backward: real [cols] or NULL */
    void *dbias;   /* backward: real [cols] or NULL */
} lisa_norm;

/* Rotates the first rotary_dim dims of each head of the operand x [rows, heads * head_dim] in
 * place, pairs (i, i + rotary_dim/2): x_i' = x_i cos - x_j sin, x_j' = x_j cos + x_i sin. cos, sin:
 * real [positions, rotary_dim/2]. inverse: the transposed rotation, which is the backward. `also`
 * (NULL: none) is another operand of x's type and rows, rotated likewise. */
typedef struct lisa_rope {
    uint32_t rows, heads, head_dim, rotary_dim;
    lisa_typed x;
    size_t ldx;
    void *also;
    size_t ldalso;
    uint32_t also_heads;
    uint32_t inverse;
    const void *cos, *sin;
    const int32_t *position; /* [rows] */
} lisa_rope;

/* Causal attention. For sequence b, query t (its absolute place s = n_keys - n_queries + t) sees
 * keys j with j <= s, j > s - window (window > 0), documents equal. GQA: query head h uses key head
 * h / (heads / kv_heads). out = softmax(scale q k^T) v; lse: real [batch, heads, n_queries], the
 * log of the sum of exp(scale q.k). Rows of q, out, dq, dout: [batch * n_queries]; of k, v, dk, dv:
 * key_stride rows apart per sequence, so a KV cache longer than n_keys may be passed. Backward
 * needs n_queries == n_keys == key_stride, writes dq, dk, dv (no +=). q, k, v, out and their
 * gradients are operands of one type. */
typedef struct lisa_attention {
    uint32_t batch, n_queries, n_keys, key_stride;
    uint32_t heads, kv_heads, head_dim;
    uint32_t window; /* 0: none */
    uint32_t dtype;  /* of the operands */
    double scale;
    const int32_t *documents; /* [batch * n_keys] or NULL: all one; n_queries == n_keys if set */
    const void *q, *k, *v;
    size_t ldq, ldk, ldv;
    void *out; /* forward: out; backward: read */
    size_t ldout;
    void *lse; /* forward: out, may be NULL; backward: read */
    const void *dout;
    size_t lddout;
    void *dq, *dk, *dv;
    size_t lddq, lddk, lddv;
} lisa_attention;

/* y = act(gate) * up (gated) or act(gate) (up = NULL) over n elements, all operands of one type.
 * Backward writes dgate and dup from dy; dgate may be gate, dup may be up. y may be gate or up. */
typedef struct lisa_activation {
    uint32_t kind;  /* LISA_ACT_* */
    uint32_t dtype; /* of the operands */
    size_t n;
    const void *gate, *up;
    void *y;
    const void *dy;
    void *dgate, *dup;
} lisa_activation;

/* y[i] = x[i] / (1 - p) (or +=, when accumulate) where element i is kept, 0 where it is not. It is
 * kept when word j % 4 of Philox4x32-10 with key `seed` and counter (j / 4, stream), j = first + i,
 * is at least p 2^32. x and y are operands or real; y may be x. */
typedef struct lisa_dropout {
    size_t n;
    lisa_typed x;
    lisa_typed y;
    uint32_t accumulate;
    uint32_t reserved;
    double p; /* 0 to below 1 */
    uint64_t seed, stream, first;
} lisa_dropout;

/* Per row of logits [rows, cols]: nll[i] = weights[i] * (logsumexp - logit[target]), log_probs and
 * greedy as lisa_model_evaluate gives them (the first of equal maxima is the most likely). The
 * operand dlogits[i,:] = gradient_scale * weights[i] * (softmax - onehot(target)); it may begin
 * where logits do, its rows as many bytes apart. */
typedef struct lisa_cross_entropy {
    uint32_t rows, cols;
    void *logits; /* real; not kept where dlogits lies on them */
    size_t ldlogits;
    lisa_typed dlogits; /* data NULL: no gradient */
    size_t lddlogits;
    double gradient_scale;
    const int32_t *targets; /* [rows], each in [0, cols) */
    const float *weights;   /* [rows] */
    double *nll;            /* [rows] */
    float *log_probs;       /* [rows] or NULL, unweighted */
    uint8_t *greedy;        /* [rows] or NULL */
} lisa_cross_entropy;

/* What is known of an update, in the backend's memory: judge writes it, adamw obeys it. */
#define LISA_VERDICT_OK 0
#define LISA_VERDICT_EMPTY 1    /* the sum of target weights is 0 */
#define LISA_VERDICT_WEIGHT 2   /* it is no number that gradients can be divided by */
#define LISA_VERDICT_LOSS 3     /* the loss is not finite */
#define LISA_VERDICT_GRADIENT 4 /* of a tensor, has NaN or Inf */
#define LISA_VERDICT_NORM 5     /* its square, as a moment in real, is not finite */
typedef struct lisa_control {
    uint64_t updates; /* counted so far */
    double weight_sum;
    double norm;      /* of the gradient divided by weight_sum, before clipping */
    double scale;     /* by which adamw multiplies gradients */
    uint32_t verdict; /* unless OK, adamw changes nothing */
    uint32_t tensor;  /* with GRADIENT: the first index whose squares are not finite */
} lisa_control;

/* With s = sum of squares[first + i] in ascending i: norm = sqrt(s) / weight_sum, scale = 1 /
 * weight_sum, times max_norm / (norm + 1e-6) where max_norm > 0 and that is below 1 (torch's
 * clip_grad_norm_); the verdict is the first of the list above that holds, where weight_sum is
 * good if it is finite, not negative, and 1 / weight_sum is finite in real. A verdict above EMPTY
 * that stands there already stays, with all of *control: what follows a failed update is not made
 * before its host has been told. With `counts`, OK adds 1 to control->updates. */
typedef struct lisa_judge {
    const double *squares;
    uint32_t first, n;
    uint32_t counts;
    uint32_t reserved;
    const void *weight_sum; /* real [1] */
    const double *loss;     /* [1], or NULL: not looked at */
    double max_norm;        /* 0: no clipping */
    lisa_control *control;  /* in and out */
} lisa_judge;

/* AdamW on n elements, in the order of torch.optim.AdamW, each line from left to right:
 *   g' = g * control->scale;  w = w * (1 - lr * weight_decay)
 *   m = beta1 * m + (1 - beta1) * g';  v = beta2 * v + (1 - beta2) * g' * g'
 *   w -= (lr / correction1) * m / (sqrt(v) / sqrt(correction2) + eps)
 * correction_i = 1 - beta_i^t. What depends on scalars alone is computed in double and then rounded
 * to real; the elements' arithmetic is in real without contraction, so that every bit is defined.
 * `low` completes a 16-bit weight to its fp32 master: int16_t[n] for BF16 (bits32 = (bf16 << 16) +
 * low, modulo 2^32, where bf16 is the master rounded to nearest, ties away from zero; a finite
 * master of magnitude 0x7F7F8000 or more becomes 0x7F7F7FFF with its sign), float[n], the master
 * itself, for F16 (the weight is it rounded to nearest even, finite where it is finite); NULL for
 * F32, F64.
 *
 * `moments` says how m and v are kept. The update reads them as real, and uses the new ones in real
 * before they are put away again as
 * - F32: real[n].
 * - BF16: uint16_t[n].
 * - 8BIT: uint8_t[n], and a float for every block of LISA_MOMENTS_BLOCK elements, the last block
 *   being what is left. A code is 3 bits of mantissa f below 4 (m) or 5 (v) bits of exponent e,
 *   below m's sign in the highest bit. Its magnitude in units of the block's scale is
 *   f 2^-(R+3) for e = 0 and (8 + f) 2^(e-R-4) for e > 0, with R = 14 (m) or 30 (v). The scale is
 *   the power of two from 2^-96 to 2^127 that is the least of those for which the block's largest
 *   magnitude is at most 1.875 scale (2^127 if none is). A block that has an Inf or NaN keeps it
 *   as its scale: elements that were not 0 then read as that.
 * Real becomes bf16 or a code by way of float (double: lisa__f64_to_f32_odd) and stochastic
 * rounding between its two neighbours, with 16 bits d of the word that lisa_master's rounding of
 * element i would draw from `seed` and `stream`: the low ones for m, the high ones for v. bf16:
 * (bits + d) >> 16 of the magnitude. A code: for e = 0, floor(d + 2^16 x) >> 16 with x in units of
 * the code; for e > 0, (bits + 16 d + 8) >> 20 of the magnitude. Nothing finite becomes Inf, the
 * largest code stands for what is larger, and v > 0 never becomes 0 but the least value above.
 *
 * Elements from `first` on (a multiple of LISA_MOMENTS_BLOCK) of more: the pointers are to those,
 * and the draws of element i are those of first + i. */
#define LISA_MOMENTS_BLOCK 256
typedef struct lisa_adamw {
    size_t n, first;
    lisa_typed weight; /* in and out */
    void *low;
    const void *gradient; /* real */
    void *m, *v;
    uint32_t moments; /* LISA_MOMENTS_* */
    uint32_t reserved;
    float *m_scale, *v_scale; /* 8BIT */
    uint64_t seed, stream;    /* BF16, 8BIT: Philox key, and a number no other update shares */
    double lr, beta1, beta2, eps, weight_decay;
    double correction1, correction2;
    const lisa_control *control;
} lisa_adamw;

/* Masters of 16-bit weights. open: low from the weights alone (0 for BF16, the value for F16).
 * close: the weight becomes its master rounded stochastically, low is spent. read: values[i] = the
 * fp32 master. write: weight and low from values[i], rounded as adamw rounds them.
 *
 * Stochastic rounding of element i takes the 32-bit draw r = word i % 4 of Philox4x32-10 with key
 * `seed` and counter (i / 4, stream), and works on the magnitude's bits, so that a value between
 * two neighbours becomes the larger one with a probability of its distance from the smaller:
 * - BF16: (bits + (r >> 16)) >> 16
 * - F16: (bits - 0x38000000 + (r >> 19)) >> 13; below 2^-14, with x 2^24 = whole + rest: whole + 1
 *   when r < rest 2^32, else whole
 *
 * A finite master never becomes Inf: the largest finite 16-bit value stands for it. `first` as in
 * lisa_adamw. */
#define LISA_MASTER_OPEN 1
#define LISA_MASTER_CLOSE 2
#define LISA_MASTER_READ 3
#define LISA_MASTER_WRITE 4
typedef struct lisa_master {
    uint32_t what; /* LISA_MASTER_* */
    uint32_t reserved;
    size_t n, first;
    lisa_typed weight;
    void *low;
    uint64_t seed, stream; /* close: Philox key, and a number no other call shares */
    float *values;         /* read: out; write: in */
} lisa_master;

/* A copy between memory of class LISA_MEM_HOST and the backend's, beside the operations: it begins
 * when the operations before the slot's last `transfer_free` are done, and is done before those
 * after a `transfer_wait`. Transfers of a slot follow each other. */
#define LISA_TRANSFER_SLOTS 8
typedef struct lisa_transfer {
    uint32_t slot; /* below LISA_TRANSFER_SLOTS */
    uint32_t to_host;
    void *dst;
    const void *src;
    size_t bytes;
} lisa_transfer;

typedef struct lisa_backend_ops lisa_backend_ops;

/* A started backend: the first member of every backend's own struct. */
typedef struct lisa_backend {
    const lisa_backend_ops *ops;
    const lisa_backend_host *host;
} lisa_backend;

struct lisa_backend_ops {
    uint32_t api_version; /* LISA_BACKEND_API_VERSION */
    uint32_t flags;
    uint32_t real_dtype;
    uint32_t reserved;
    const char *name;

    lisa_status (*start)(lisa_backend **out, const lisa_backend_host *host);
    void (*stop)(lisa_backend *be);
    /* Bytes of LISA_MEM_WORKSPACE that start takes for n_threads: for the plan. */
    uint64_t (*workspace_bytes)(uint32_t n_threads);

    lisa_status (*alloc)(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes);
    void (*release)(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes);
    lisa_status (*upload)(lisa_backend *be, void *device, const void *host, size_t bytes);
    lisa_status (*download)(lisa_backend *be, void *host, const void *device, size_t bytes);
    lisa_status (*copy)(lisa_backend *be, void *dst, const void *src, size_t bytes);
    lisa_status (*zero)(lisa_backend *be, void *dst, size_t bytes);
    lisa_status (*sync)(lisa_backend *be);
    /* Copies to memory of class LISA_MEM_HOST without waiting; *ticket names the moment after it,
     * and *passed becomes whether it has come. */
    lisa_status (*post)(lisa_backend *be, void *host, const void *device, size_t bytes,
                        uint64_t *ticket);
    lisa_status (*passed)(lisa_backend *be, uint64_t ticket, uint32_t *passed);
    lisa_status (*transfer)(lisa_backend *be, const lisa_transfer *op);
    lisa_status (*transfer_wait)(lisa_backend *be, uint32_t slot);
    lisa_status (*transfer_free)(lisa_backend *be, uint32_t slot);

    /* dst[i] = src[i] in another type, rounded to nearest even. */
    lisa_status (*convert)(lisa_backend *be, lisa_typed dst, lisa_typed src, size_t n);
    lisa_status (*gemm)(lisa_backend *be, const lisa_gemm *op);
    lisa_status (*bias_forward)(lisa_backend *be, const lisa_bias *op);
    lisa_status (*bias_backward)(lisa_backend *be, const lisa_bias *op);
    lisa_status (*embed_forward)(lisa_backend *be, const lisa_embed *op);
    lisa_status (*embed_backward)(lisa_backend *be, const lisa_embed *op);
    lisa_status (*gather)(lisa_backend *be, const lisa_rows *op);
    lisa_status (*scatter)(lisa_backend *be, const lisa_rows *op);
    lisa_status (*norm_forward)(lisa_backend *be, const lisa_norm *op);
    lisa_status (*norm_backward)(lisa_backend *be, const lisa_norm *op);
    lisa_status (*rope)(lisa_backend *be, const lisa_rope *op);
    lisa_status (*attention_forward)(lisa_backend *be, const lisa_attention *op);
    lisa_status (*attention_backward)(lisa_backend *be, const lisa_attention *op);
    lisa_status (*activation_forward)(lisa_backend *be, const lisa_activation *op);
    lisa_status (*activation_backward)(lisa_backend *be, const lisa_activation *op);
    lisa_status (*dropout)(lisa_backend *be, const lisa_dropout *op);
    lisa_status (*cross_entropy)(lisa_backend *be, const lisa_cross_entropy *op);
    lisa_status (*judge)(lisa_backend *be, const lisa_judge *op);
    lisa_status (*adamw)(lisa_backend *be, const lisa_adamw *op);
    lisa_status (*master)(lisa_backend *be, const lisa_master *op);
    /* *result = sum of x[i]^2 in double over n elements of any type; it is not finite exactly when
     * an element is not (or the sum overflows). */
    lisa_status (*sum_squares)(lisa_backend *be, lisa_typed x, size_t n, double *result);
    /* *result += the sum of x[i] in ascending i. */
    lisa_status (*sum)(lisa_backend *be, const double *x, size_t n, double *result);
};

/* A backend in a module of its own (liblisa-NAME.so) exports this one function. NULL where the
 * library's version of the interface is not the module's. */
#define LISA_BACKEND_ENTRY "lisa_backend_get"
typedef const lisa_backend_ops *(*lisa_backend_get_fn)(uint32_t api_version);

#ifdef __cplusplus
}
#endif

#endif

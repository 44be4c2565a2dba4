/* cases_block.c - what lies between a block's products: norms, positions, attention, activations.
 */
#include "conformance/harness.h"

CONF_CALL(norm_forward, lisa_norm)
CONF_CALL(norm_backward, lisa_norm)
CONF_CALL(rope, lisa_rope)
CONF_CALL(attention_forward, lisa_attention)
CONF_CALL(attention_backward, lisa_attention)
CONF_CALL(activation_forward, lisa_activation)
CONF_CALL(activation_backward, lisa_activation)

/* ---- norms ---- */

typedef struct norm_shape {
    uint32_t kind, rows, segments, cols, pad;
    uint32_t dtype;
    int has_bias;
    double offset, spread; /* x = offset + spread * noise */
} norm_shape;

static float *norm_input(const norm_shape *s, size_t n) {
    float *x = conf_noise(n, s->spread);
    for (size_t i = 0; i < n; i++)
        x[i] += (float)s->offset;
    return x;
}

/* How many standard deviations the mean is away from 0: LayerNorm subtracts it. */
static double norm_condition(const norm_shape *s) {
    return s->kind == LISA_NORM_LAYER ? fabs(s->offset) / s->spread : 0.0;
}

static void describe_norm(conf_case *c, conf_call call, const lisa_norm *op, const norm_shape *s,
                          const char *name) {
    conf_begin(c, call, op, sizeof *op, "%s kind %u %ux%ux%u pad %u dtype %u bias %d x %g+-%g +%u",
               name, s->kind, s->rows, s->segments, s->cols, s->pad, s->dtype, s->has_bias,
               s->offset, s->spread, op->accumulate);
}

static lisa_norm norm_op(const norm_shape *s) {
    size_t width = (size_t)s->segments * s->cols;
    lisa_norm op = {.kind = s->kind,
                    .rows = s->rows,
                    .segments = s->segments,
                    .cols = s->cols,
                    .eps = 1e-5 * fmin(s->spread, 1.0),
                    .ldx = width + s->pad,
                    .ldy = width + 2 * (size_t)s->pad,
                    .lddy = width + 3 * (size_t)s->pad,
                    .lddx = width + 4 * (size_t)s->pad,
                    .weight.dtype = s->dtype,
                    .bias.dtype = s->dtype};
    return op;
}

/* stats: floats to be filled; returned for the backward. */
static float *check_norm_forward(const norm_shape *s, const float *x, lisa_typed weight,
                                 int in_place) {
    lisa_norm op = norm_op(s);
    if (in_place)
        op.ldy = op.ldx;
    size_t width = (size_t)s->segments * s->cols, vectors = (size_t)s->rows * s->segments;
    size_t per_vector = s->kind == LISA_NORM_LAYER ? 2 : 1;
    double bound = BOUND_CONDITIONED(s->cols, norm_condition(s));
    float *stats = conf_nans(vectors * per_vector);
    const void *bias = s->has_bias ? conf_typed_noise(s->dtype, s->cols, 1.0).data : NULL;
    conf_case c;
    describe_norm(&c, call_norm_forward, &op, s,
                  in_place ? "norm_forward in place" : "norm_forward");
    if (!in_place)
        conf_in(&c, "x", offsetof(lisa_norm, x), CONF_TYPED_REAL, x, s->rows * op.ldx);
    conf_in(&c, "weight", offsetof(lisa_norm, weight.data), s->dtype, weight.data, s->cols);
    conf_in(&c, "bias", offsetof(lisa_norm, bias.data), s->dtype, bias, s->cols);
    conf_arg *y =
        conf_out(&c, "y", offsetof(lisa_norm, y), CONF_TYPED_OPERAND,
                 in_place ? x : conf_nans(s->rows * op.ldy), s->rows, width, op.ldy, bound);
    y->by_row = 1;
    y->second = in_place ? offsetof(lisa_norm, x) : 0;
    conf_out(&c, "stats", offsetof(lisa_norm, stats), CONF_REAL, stats, vectors, per_vector,
             per_vector, bound)
        ->by_row = 1;
    const int copies = !in_place && s->segments == 1 && s->rows % 2 == 1;
    conf_out(&c, "copy", offsetof(lisa_norm, copy), CONF_REAL,
             copies ? conf_nans(s->rows * op.ldx) : NULL, s->rows, width, op.ldx, 1e-30);
    conf_run(&c);

    /* The backward's stats, rounded to float once from the meaning. */
    double *exact = conf_take(vectors * per_vector * sizeof *exact);
    double *wide = conf_take((s->rows * op.ldx + s->rows * op.ldy) * sizeof *wide);
    for (size_t i = 0; i < s->rows * op.ldx; i++)
        wide[i] = x[i];
    op.x = (lisa_typed){wide, LISA_DTYPE_F64};
    op.y = (lisa_typed){wide + s->rows * op.ldx, LISA_DTYPE_F64};
    op.weight = weight;
    op.stats = exact;
    ck_assert_int_eq(conf.reference64->ops->norm_forward(conf.reference64, &op), LISA_OK);
    for (size_t i = 0; i < vectors * per_vector; i++)
        stats[i] = (float)exact[i];
    return stats;
}

/* where: 0 dx apart, 1 dx += , 2 dx is dy. */
static void check_norm_backward(const norm_shape *s, const float *x, lisa_typed weight,
                                const float *stats, int where, int frozen) {
    lisa_norm op = norm_op(s);
    size_t width = (size_t)s->segments * s->cols, vectors = (size_t)s->rows * s->segments;
    size_t per_vector = s->kind == LISA_NORM_LAYER ? 2 : 1;
    double condition = norm_condition(s);
    op.accumulate = where == 1;
    if (where == 2)
        op.lddx = op.lddy;
    conf_case c;
    describe_norm(&c, call_norm_backward, &op, s,
                  frozen ? "norm_backward frozen" : "norm_backward");
    conf_in(&c, "x", offsetof(lisa_norm, x), CONF_TYPED_REAL, x, s->rows * op.ldx);
    conf_in(&c, "weight", offsetof(lisa_norm, weight.data), s->dtype, weight.data, s->cols);
    conf_in(&c, "stats", offsetof(lisa_norm, stats), CONF_REAL, stats, vectors * per_vector);
    size_t n_dx = s->rows * op.lddx;
    const float *dy = conf_noise(s->rows * op.lddy, 1.0);
    if (where != 2)
        conf_in(&c, "dy", offsetof(lisa_norm, dy), CONF_TYPED_REAL, dy, s->rows * op.lddy);
    conf_arg *dx = conf_out(&c, "dx", offsetof(lisa_norm, dx),
                            where == 2 ? CONF_TYPED_OPERAND : CONF_TYPED_REAL,
                            where == 0   ? conf_nans(n_dx)
                            : where == 1 ? conf_noise(n_dx, 1.0)
                                         : dy,
                            s->rows, width, op.lddx, 2.0 * BOUND_CONDITIONED(s->cols, condition));
    dx->second = where == 2 ? offsetof(lisa_norm, dy) : 0;
    dx->floor = 1.0 / s->spread; /* a vector of one or two elements has dx = 0 */
    conf_out(&c, "operand", offsetof(lisa_norm, operand), CONF_TYPED_OPERAND,
             where == 1 ? conf_nans(n_dx) : NULL, s->rows, width, op.lddx, dx->bound)
        ->floor = dx->floor;
    double bound = BOUND_CONDITIONED((double)s->rows * s->segments, condition);
    conf_out(&c, "dweight", offsetof(lisa_norm, dweight), CONF_REAL,
             frozen ? NULL : conf_noise(s->cols, 1.0), 1, s->cols, s->cols, bound);
    conf_out(&c, "dbias", offsetof(lisa_norm, dbias), CONF_REAL,
             frozen || !s->has_bias ? NULL : conf_noise(s->cols, 1.0), 1, s->cols, s->cols, bound);
    conf_run(&c);
}

static void check_norm(norm_shape s) {
    size_t n = (size_t)s.rows * ((size_t)s.segments * s.cols + s.pad);
    const float *x = norm_input(&s, n);
    lisa_typed weight = conf_typed_noise(s.dtype, s.cols, 1.0);
    const float *stats = check_norm_forward(&s, x, weight, 0);
    check_norm_forward(&s, x, weight, 1);
    for (int where = 0; where < 3; where++)
        check_norm_backward(&s, x, weight, stats, where, 0);
    check_norm_backward(&s, x, weight, stats, 0, 1);
}

START_TEST(norm) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    for (uint32_t kind = LISA_NORM_RMS; kind <= LISA_NORM_LAYER; kind++) {
        int bias = kind == LISA_NORM_LAYER;
        check_norm((norm_shape){kind, 0, 1, 5, 0, dtype, bias, 0.0, 1.0});
        check_norm((norm_shape){kind, 1, 1, 3, 0, dtype, 0, 0.0, 1.0});
        check_norm((norm_shape){kind, 7, 1, 67, 5, dtype, bias, 0.3, 1.0});
        check_norm((norm_shape){kind, 130, 1, 576, 0, dtype, bias, 0.0, 2.0});
        check_norm((norm_shape){kind, 5, 9, 64, 3, dtype, 0, 0.0, 1.0});
        check_norm((norm_shape){kind, 33, 2, 129, 1, dtype, bias, 0.0, 1.0});
    }
}
END_TEST

/* A mean far from zero, values whose squares are near the ends of float's range. */
START_TEST(norm_of_hard_rows) {
    for (uint32_t kind = LISA_NORM_RMS; kind <= LISA_NORM_LAYER; kind++) {
        check_norm((norm_shape){kind, 4, 1, 257, 0, LISA_DTYPE_F32, 0, 300.0, 1.0});
        check_norm((norm_shape){kind, 4, 1, 257, 0, LISA_DTYPE_F32, 0, 0.0, 1e15});
        check_norm((norm_shape){kind, 4, 1, 257, 0, LISA_DTYPE_F32, 0, 0.0, 1e-6});
    }
}
END_TEST

/* So many that a backend may take several by one thread. */
START_TEST(norm_of_many_rows) {
    const norm_shape s = {LISA_NORM_LAYER, 140000, 1, 8, 0, LISA_DTYPE_F32, 1, 0.0, 1.0};
    const float *x = norm_input(&s, (size_t)s.rows * s.cols);
    const lisa_typed weight = conf_typed_noise(s.dtype, s.cols, 1.0);
    const float *stats = check_norm_forward(&s, x, weight, 0);
    check_norm_backward(&s, x, weight, stats, 1, 1);
}
END_TEST

/* ---- positions ---- */

static void check_rope(uint32_t rows, uint32_t heads, uint32_t head_dim, uint32_t rotary_dim,
                       uint32_t pad, uint32_t also_heads) {
    enum { POSITIONS = 40 };
    size_t width = (size_t)heads * head_dim, ld = width + pad, half = rotary_dim / 2;
    size_t also_width = (size_t)also_heads * head_dim, also_ld = also_width + 2 * (size_t)pad;
    float *cosines = conf_take(POSITIONS * half * sizeof *cosines);
    float *sines = conf_take(POSITIONS * half * sizeof *sines);
    int32_t *position = conf_take(rows * sizeof *position);
    for (size_t i = 0; i < POSITIONS * half; i++) {
        cosines[i] = (float)cos((double)i);
        sines[i] = (float)sin((double)i);
    }
    for (uint32_t i = 0; i < rows; i++)
        position[i] = (int32_t)conf_below(POSITIONS);
    for (uint32_t inverse = 0; inverse < 2; inverse++) {
        lisa_rope op = {.rows = rows,
                        .heads = heads,
                        .head_dim = head_dim,
                        .rotary_dim = rotary_dim,
                        .ldx = ld,
                        .ldalso = also_ld,
                        .also_heads = also_heads,
                        .inverse = inverse};
        conf_case c;
        conf_begin(&c, call_rope, &op, sizeof op, "rope %ux%ux%u of %u pad %u inverse %u", rows,
                   heads, rotary_dim, head_dim, pad, inverse);
        conf_in(&c, "cos", offsetof(lisa_rope, cos), CONF_REAL, cosines, POSITIONS * half);
        conf_in(&c, "sin", offsetof(lisa_rope, sin), CONF_REAL, sines, POSITIONS * half);
        conf_in(&c, "position", offsetof(lisa_rope, position), CONF_I32, position, rows);
        conf_out(&c, "also", offsetof(lisa_rope, also), CONF_OPERAND,
                 also_heads > 0 ? conf_noise(rows * also_ld, 1.0) : NULL, rows, also_width, also_ld,
                 BOUND_ROUNDING)
            ->by_row = 1;
        conf_out(&c, "x", offsetof(lisa_rope, x), CONF_TYPED_OPERAND, conf_noise(rows * ld, 1.0),
                 rows, width, ld, BOUND_ROUNDING)
            ->by_row = 1;
        conf_run(&c);
    }
}

START_TEST(rope) {
    if (conf_use_dtype(_i) == 0)
        return;
    check_rope(0, 1, 2, 2, 0, 1);
    check_rope(1, 1, 2, 2, 0, 0);
    check_rope(33, 9, 64, 64, 0, 3);
    check_rope(130, 3, 80, 32, 7, 2);
    check_rope(5, 2, 7, 6, 1, 0);
    check_rope(17, 2, 16, 16, 8, 1);
}
END_TEST

/* ---- attention ---- */

typedef struct attention_shape {
    uint32_t batch, queries, keys, stride, heads, kv_heads, head_dim, window, pad;
    double reach; /* q and k are reach * noise */
    int documents;
    int no_lse;
} attention_shape;

static lisa_attention attention_op(const attention_shape *s) {
    size_t width = (size_t)s->heads * s->head_dim, kv_width = (size_t)s->kv_heads * s->head_dim;
    lisa_attention op = {.batch = s->batch,
                         .n_queries = s->queries,
                         .n_keys = s->keys,
                         .key_stride = s->stride,
                         .heads = s->heads,
                         .kv_heads = s->kv_heads,
                         .head_dim = s->head_dim,
                         .window = s->window,
                         .scale = 1.0 / sqrt(s->head_dim),
                         .ldq = width + s->pad,
                         .ldk = kv_width + 2 * (size_t)s->pad,
                         .ldv = kv_width + s->pad,
                         .ldout = width + 2 * (size_t)s->pad,
                         .lddout = width + s->pad,
                         .lddq = width + 3 * (size_t)s->pad,
                         .lddk = kv_width + s->pad,
                         .lddv = kv_width + 3 * (size_t)s->pad};
    return op;
}

/* Runs of random length, numbered without order. */
static int32_t *random_documents(const attention_shape *s) {
    size_t n = (size_t)s->batch * s->keys;
    int32_t *documents = conf_take(n * sizeof *documents);
    for (size_t i = 0; i < n; i++)
        documents[i] =
            i % s->keys == 0 || conf_below(5) == 0 ? (int32_t)conf_below(1000) : documents[i - 1];
    return documents;
}

/* About max |scale q.k|: uniform noise makes a sum of head_dim terms of deviation 1/3, here
 * times 6. The rounding of scores shows in the exponential. */
static double score_size(const attention_shape *s) {
    return 2.0 * s->reach * s->reach;
}

typedef struct attention_data {
    lisa_attention op;
    size_t rows, key_rows;
    const float *q, *k, *v;
    const int32_t *documents;
} attention_data;

static attention_data attention_data_of(const attention_shape *s) {
    attention_data d = {.op = attention_op(s),
                        .rows = (size_t)s->batch * s->queries,
                        .key_rows = (size_t)s->batch * s->stride};
    d.q = conf_noise(d.rows * d.op.ldq, s->reach);
    d.k = conf_noise(d.key_rows * d.op.ldk, s->reach);
    d.v = conf_noise(d.key_rows * d.op.ldv, 1.0);
    d.documents = s->documents ? random_documents(s) : NULL;
    return d;
}

static void begin_attention(conf_case *c, conf_call call, const attention_shape *s,
                            const attention_data *d, const char *name) {
    conf_begin(c, call, &d->op, sizeof d->op,
               "%s batch %u queries %u keys %u of %u heads %u/%u dim %u window %u pad %u reach %g "
               "documents %d",
               name, s->batch, s->queries, s->keys, s->stride, s->heads, s->kv_heads, s->head_dim,
               s->window, s->pad, s->reach, s->documents);
    c->dtype_offset = offsetof(lisa_attention, dtype);
    conf_in(c, "q", offsetof(lisa_attention, q), CONF_OPERAND, d->q, d->rows * d->op.ldq);
    conf_in(c, "k", offsetof(lisa_attention, k), CONF_OPERAND, d->k, d->key_rows * d->op.ldk);
    conf_in(c, "v", offsetof(lisa_attention, v), CONF_OPERAND, d->v, d->key_rows * d->op.ldv);
    conf_in(c, "documents", offsetof(lisa_attention, documents), CONF_I32, d->documents,
            (size_t)s->batch * s->keys);
}

static void check_attention_forward(const attention_shape *s, const attention_data *d) {
    size_t width = (size_t)s->heads * s->head_dim, n_lse = d->rows * s->heads;
    double bound = BOUND_CONDITIONED(s->keys + s->head_dim, score_size(s));
    conf_case c;
    begin_attention(&c, call_attention_forward, s, d, "attention_forward");
    conf_out(&c, "out", offsetof(lisa_attention, out), CONF_OPERAND,
             conf_nans(d->rows * d->op.ldout), d->rows, width, d->op.ldout, bound)
        ->by_row = 1;
    conf_out(&c, "lse", offsetof(lisa_attention, lse), CONF_REAL,
             s->no_lse ? NULL : conf_nans(n_lse), n_lse, 1, 1, bound)
        ->floor = 1.0;
    conf_run(&c);
}

/* The meaning of out and lse, rounded to float. */
static void exact_attention(const attention_data *d, float *out, float *lse, size_t n_lse) {
    const size_t sizes[3] = {d->rows * d->op.ldq, d->key_rows * d->op.ldk, d->key_rows * d->op.ldv};
    const float *inputs[3] = {d->q, d->k, d->v};
    double *wide[3];
    for (int m = 0; m < 3; m++) {
        wide[m] = conf_take(sizes[m] * sizeof(double));
        for (size_t i = 0; i < sizes[m]; i++)
            wide[m][i] = inputs[m][i];
    }
    lisa_attention op = d->op;
    op.dtype = LISA_DTYPE_F64;
    size_t n_out = d->rows * d->op.ldout;
    double *wide_out = conf_take(n_out * sizeof(double));
    double *wide_lse = conf_take(n_lse * sizeof(double));
    op.q = wide[0];
    op.k = wide[1];
    op.v = wide[2];
    op.documents = d->documents;
    op.out = wide_out;
    op.lse = wide_lse;
    ck_assert_int_eq(conf.reference64->ops->attention_forward(conf.reference64, &op), LISA_OK);
    for (size_t i = 0; i < n_out; i++)
        out[i] = (float)wide_out[i];
    for (size_t i = 0; i < n_lse; i++)
        lse[i] = (float)wide_lse[i];
}

static void check_attention_backward(const attention_shape *s, const attention_data *d) {
    size_t width = (size_t)s->heads * s->head_dim, kv_width = (size_t)s->kv_heads * s->head_dim;
    size_t n_out = d->rows * d->op.ldout, n_lse = d->rows * s->heads;
    float *out = conf_take(n_out * sizeof *out), *lse = conf_take(n_lse * sizeof *lse);
    exact_attention(d, out, lse, n_lse);
    double bound = 2.0 * BOUND_CONDITIONED(s->keys + s->head_dim, score_size(s));
    conf_case c;
    begin_attention(&c, call_attention_backward, s, d, "attention_backward");
    conf_in(&c, "out", offsetof(lisa_attention, out), CONF_OPERAND, out, n_out);
    conf_in(&c, "lse", offsetof(lisa_attention, lse), CONF_REAL, lse, n_lse);
    conf_in(&c, "dout", offsetof(lisa_attention, dout), CONF_OPERAND,
            conf_noise(d->rows * d->op.lddout, 1.0), d->rows * d->op.lddout);
    conf_out(&c, "dq", offsetof(lisa_attention, dq), CONF_OPERAND, conf_nans(d->rows * d->op.lddq),
             d->rows, width, d->op.lddq, bound)
        ->floor = s->reach;
    conf_out(&c, "dk", offsetof(lisa_attention, dk), CONF_OPERAND, conf_nans(d->rows * d->op.lddk),
             d->rows, kv_width, d->op.lddk, bound)
        ->floor = s->reach;
    conf_out(&c, "dv", offsetof(lisa_attention, dv), CONF_OPERAND, conf_nans(d->rows * d->op.lddv),
             d->rows, kv_width, d->op.lddv, bound);
    conf_run(&c);
}

static void check_attention(attention_shape s) {
    const int n_types = conf.operand != 0 ? CONF_DTYPES : 1;
    for (int i = 0; i < n_types; i++) {
        if (conf_use_dtype(i) == 0)
            continue;
        attention_data d = attention_data_of(&s);
        check_attention_forward(&s, &d);
        if (s.queries == s.keys && s.keys == s.stride)
            check_attention_backward(&s, &d);
    }
}

START_TEST(attention) {
    static const attention_shape shapes[] = {
        {0, 3, 3, 3, 2, 1, 4, 0, 0, 1.0, 0, 0},
        {1, 1, 1, 1, 1, 1, 1, 0, 0, 1.0, 0, 0},
        {2, 17, 17, 17, 3, 3, 5, 0, 2, 1.0, 0, 0},
        {2, 33, 33, 33, 6, 2, 64, 0, 0, 1.0, 0, 1},
        {1, 70, 70, 70, 9, 3, 64, 0, 3, 1.0, 1, 0},
        {3, 40, 40, 40, 4, 1, 24, 7, 1, 1.0, 0, 0},
        {2, 40, 40, 40, 4, 2, 80, 7, 0, 1.0, 1, 0},
        {1, 12, 12, 12, 2, 2, 128, 1, 0, 1.0, 0, 0},
        {1, 300, 300, 300, 2, 1, 33, 70, 0, 1.0, 0, 0},
        {1, 270, 270, 270, 2, 2, 16, 0, 1, 1.0, 1, 0},
        {1, 130, 130, 130, 6, 2, 96, 0, 1, 1.0, 0, 0},
        {1, 100, 100, 100, 2, 1, 80, 0, 0, 1.0, 0, 0},
        {2, 90, 90, 90, 2, 2, 128, 30, 0, 1.0, 1, 0},
        {1, 150, 150, 150, 3, 1, 8, 40, 2, 1.0, 1, 0},
        {1, 64, 64, 64, 2, 1, 64, 16, 0, 1.0, 0, 0},
        {2, 65, 65, 65, 6, 2, 64, 0, 0, 1.0, 1, 0},
    };
    check_attention(shapes[_i]);
}
END_TEST

/* A cache longer than what it holds, and queries at its end. */
START_TEST(attention_to_a_cache) {
    static const attention_shape shapes[] = {
        {1, 1, 1, 9, 4, 2, 8, 0, 0, 1.0, 0, 1},        {1, 1, 37, 64, 9, 3, 64, 0, 0, 1.0, 0, 1},
        {2, 1, 37, 40, 6, 6, 16, 5, 2, 1.0, 0, 0},     {2, 5, 37, 41, 6, 2, 33, 0, 1, 1.0, 0, 0},
        {3, 16, 130, 130, 4, 1, 80, 20, 0, 1.0, 0, 0}, {1, 140, 400, 512, 2, 1, 8, 0, 0, 1.0, 0, 0},
    };
    check_attention(shapes[_i]);
}
END_TEST

/* Scores in the thousands: all the weight on one key, exp underflows elsewhere. */
START_TEST(attention_of_large_scores) {
    check_attention((attention_shape){2, 20, 20, 20, 4, 2, 16, 0, 0, 5.0, 0, 0});
    check_attention((attention_shape){2, 20, 20, 20, 4, 2, 16, 0, 0, 30.0, 1, 0});
}
END_TEST

START_TEST(attention_of_random_shapes) {
    for (int i = 0; i < 10; i++) {
        uint32_t kv_heads = 1 + conf_below(3), keys = 1 + conf_below(50);
        attention_shape s = {1 + conf_below(3),
                             keys,
                             keys,
                             keys,
                             kv_heads * (1 + conf_below(3)),
                             kv_heads,
                             1 + conf_below(70),
                             conf_below(keys + 3),
                             conf_below(4),
                             1.0,
                             (int)conf_below(2),
                             0};
        check_attention(s);
    }
}
END_TEST

/* ---- activations ---- */

/* Most values where the functions bend, some where an exp over- or underflows. */
static float *activation_input(size_t n) {
    static const float ends[] = {0.0f, -0.0f, 1e-30f, 20.0f,  -20.0f, 88.0f,  -88.0f, 95.0f, -95.0f,
                                 1e4f, -1e4f, 1e13f,  -1e13f, 1e25f,  -1e25f, 1e-5f,  -1e-5f};
    const size_t n_ends = sizeof ends / sizeof *ends;
    float *x = conf_noise(n, 6.0);
    const float largest = conf.operand == LISA_DTYPE_F16 ? 6e4f : INFINITY;
    for (size_t i = 0; i < n_ends && i < n; i++)
        if (fabsf(ends[i]) < largest)
            x[n < n_ends ? i : i * (n / n_ends)] = ends[i];
    return x;
}

/* in_place: y is gate; dgate is gate and dup is up. */
static void check_activation(uint32_t kind, size_t n, int gated, int in_place) {
    const float *gate = activation_input(n), *up = gated ? conf_noise(n, 1.0) : NULL;
    lisa_activation op = {.kind = kind, .n = n};
    conf_case c;
    conf_arg *out;
    conf_begin(&c, call_activation_forward, &op, sizeof op, "activation_forward %u n %zu %s%s",
               kind, n, gated ? "gated" : "", in_place ? " in place" : "");
    c.dtype_offset = offsetof(lisa_activation, dtype);
    if (!in_place)
        conf_in(&c, "gate", offsetof(lisa_activation, gate), CONF_OPERAND, gate, n);
    conf_in(&c, "up", offsetof(lisa_activation, up), CONF_OPERAND, up, n);
    out = conf_out(&c, "y", offsetof(lisa_activation, y), CONF_OPERAND,
                   in_place ? gate : conf_nans(n), n, 1, 1, BOUND_ELEMENT);
    out->second = in_place ? offsetof(lisa_activation, gate) : 0;
    out->by_row = 1;
    out->floor = 1.0;
    conf_run(&c);

    conf_begin(&c, call_activation_backward, &op, sizeof op, "activation_backward %u n %zu %s%s",
               kind, n, gated ? "gated" : "", in_place ? " in place" : "");
    c.dtype_offset = offsetof(lisa_activation, dtype);
    conf_in(&c, "dy", offsetof(lisa_activation, dy), CONF_OPERAND, conf_noise(n, 1.0), n);
    if (!in_place) {
        conf_in(&c, "gate", offsetof(lisa_activation, gate), CONF_OPERAND, gate, n);
        conf_in(&c, "up", offsetof(lisa_activation, up), CONF_OPERAND, up, n);
    }
    out = conf_out(&c, "dgate", offsetof(lisa_activation, dgate), CONF_OPERAND,
                   in_place ? gate : conf_nans(n), n, 1, 1, BOUND_ELEMENT);
    out->second = in_place ? offsetof(lisa_activation, gate) : 0;
    out->by_row = 1;
    out->floor = 1.0;
    if (gated) {
        out = conf_out(&c, "dup", offsetof(lisa_activation, dup), CONF_OPERAND,
                       in_place ? up : conf_nans(n), n, 1, 1, BOUND_ELEMENT);
        out->second = in_place ? offsetof(lisa_activation, up) : 0;
        out->by_row = 1;
        out->floor = 1.0;
    }
    conf_run(&c);
}

START_TEST(activation) {
    static const size_t sizes[] = {0, 1, 15, 1031, 20011};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int flags = 0; flags < 4; flags++)
            for (int type = 0; type < (conf.operand != 0 ? CONF_DTYPES : 1); type++)
                if (conf_use_dtype(type) != 0)
                    check_activation((uint32_t)_i, sizes[i], flags & 1, flags >> 1);
}
END_TEST

TCase *conformance_block(void) {
    TCase *tcase = tcase_create("block");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, norm, 0, CONF_DTYPES);
    tcase_add_test(tcase, norm_of_hard_rows);
    tcase_add_test(tcase, norm_of_many_rows);
    tcase_add_loop_test(tcase, rope, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, attention, 0, 16);
    tcase_add_loop_test(tcase, attention_to_a_cache, 0, 6);
    tcase_add_test(tcase, attention_of_large_scores);
    tcase_add_test(tcase, attention_of_random_shapes);
    tcase_add_loop_test(tcase, activation, LISA_ACT_SILU, LISA_ACT_RELU + 1);
    return tcase;
}

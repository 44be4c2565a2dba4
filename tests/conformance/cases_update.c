/* cases_update.c - conversions, AdamW, and the masters of 16-bit weights. */
#include "backend/elementwise.h"
#include "conformance/harness.h"

CONF_CALL(adamw, lisa_adamw)
CONF_CALL(judge, lisa_judge)
CONF_CALL(master, lisa_master)

/* ---- conversions ---- */

typedef struct conversion {
    lisa_typed dst, src;
    size_t n;
} conversion;

static lisa_status call_convert(lisa_backend *be, const void *arg) {
    const conversion *op = arg;
    return be->ops->convert(be, op->dst, op->src, op->n);
}

static const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16, LISA_DTYPE_F64};

/* Patterns of the type itself, all kinds of values among them, but no NaN with a payload. */
static lisa_typed random_bits(uint32_t dtype, size_t n) {
    size_t size = lisa__dtype_size(dtype);
    lisa_typed x = {conf_take(n * size), dtype};
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = noise_bits(&conf.seed);
        memcpy((char *)x.data + i * size, &bits, size);
    }
    return x;
}

/* Doubles and floats on and beside the ties between neighbours of 16-bit types. */
static lisa_typed ties(uint32_t dtype, size_t n) {
    lisa_typed x = {conf_take(n * lisa__dtype_size(dtype)), dtype};
    for (size_t i = 0; i < n; i++) {
        uint16_t bits = (uint16_t)noise_bits(&conf.seed);
        double low = lisa__f16_to_f32(bits & 0x7BFEu),
               high = lisa__f16_to_f32((bits & 0x7BFEu) + 1);
        if (i & 1) {
            low = lisa__bf16_to_f32(bits & 0x7F7Eu);
            high = lisa__bf16_to_f32((bits & 0x7F7Eu) + 1);
        }
        double nudge = (double)(int)(i / 2 % 3) - 1.0;
        lisa__store(x.data, dtype, i, (low + high) / 2.0 * (1.0 + nudge * 0x1p-40));
    }
    return x;
}

static void check_convert(lisa_typed src, uint32_t dtype, size_t n) {
    conversion op = {.dst.dtype = dtype, .src.dtype = src.dtype, .n = n};
    void *nines = conf_take(n * lisa__dtype_size(dtype));
    memset(nines, 0x99, n * lisa__dtype_size(dtype));
    conf_case c;
    conf_begin(&c, call_convert, &op, sizeof op, "convert dtype %u to %u, n %zu", src.dtype, dtype,
               n);
    conf_in(&c, "src", offsetof(conversion, src.data), src.dtype, src.data, n);
    conf_out(&c, "dst", offsetof(conversion, dst.data), dtype, nines, 1, n, n, 0.0);
    c.exact = 1;
    conf_run(&c);
}

START_TEST(convert) {
    static const size_t sizes[] = {0, 1, 9, 40003};
    for (size_t d = 0; d < 4; d++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            check_convert(random_bits(dtypes[_i], sizes[s]), dtypes[d], sizes[s]);
            check_convert(conf_typed_noise(dtypes[_i], sizes[s], 2.0), dtypes[d], sizes[s]);
            check_convert(ties(dtypes[_i], sizes[s]), dtypes[d], sizes[s]);
        }
}
END_TEST

/* ---- AdamW ---- */

static const uint32_t trained[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16};

static const double GRAD_SCALE = 1.0 / 37.0;

/* A control with which adamw works, as bytes. */
static const lisa_control *control_of(double scale) {
    lisa_control *control = conf_take(sizeof *control);
    control->scale = scale;
    return control;
}

static void conf_control(conf_case *c) {
    conf_in(c, "control", offsetof(lisa_adamw, control), CONF_U8, control_of(GRAD_SCALE),
            sizeof(lisa_control));
}

static lisa_adamw adamw_op(size_t n, double weight_decay, uint32_t step) {
    lisa_adamw op = {.n = n,
                     .moments = LISA_MOMENTS_F32,
                     .lr = 3e-3,
                     .beta1 = 0.9,
                     .beta2 = 0.999,
                     .eps = 1e-8,
                     .weight_decay = weight_decay};
    op.correction1 = 1.0 - pow(op.beta1, step);
    op.correction2 = 1.0 - pow(op.beta2, step);
    return op;
}

static uint32_t low_element(uint32_t dtype) {
    return dtype == LISA_DTYPE_BF16 ? CONF_I16 : LISA_DTYPE_F32;
}

/* Low parts that fit the weights: any for BF16, the weight and a little for F16. */
static void *random_low(lisa_typed weight, size_t n) {
    if (weight.dtype == LISA_DTYPE_F32)
        return NULL;
    int16_t *bits = conf_take(n * sizeof *bits);
    float *masters = conf_take(n * sizeof *masters);
    for (size_t i = 0; i < n; i++) {
        bits[i] = (int16_t)noise_bits(&conf.seed);
        masters[i] = (float)(lisa__load(weight.data, weight.dtype, i) *
                             (1.0 + 1e-4 * noise_uniform(&conf.seed)));
    }
    return weight.dtype == LISA_DTYPE_BF16 ? (void *)bits : (void *)masters;
}

static void check_adamw(lisa_typed weight, size_t n, double gradient, double weight_decay,
                        uint32_t step) {
    lisa_adamw op = adamw_op(n, weight_decay, step);
    op.weight.dtype = weight.dtype;
    float *v = conf_noise(n, 1e-4);
    for (size_t i = 0; i < n; i++)
        v[i] = step == 1 ? 0.0f : v[i] * v[i];
    conf_case c;
    conf_begin(&c, call_adamw, &op, sizeof op, "adamw dtype %u n %zu gradient %g decay %g step %u",
               weight.dtype, n, gradient, weight_decay, step);
    c.exact = 1;
    conf_control(&c);
    conf_in(&c, "gradient", offsetof(lisa_adamw, gradient), CONF_REAL, conf_noise(n, gradient), n);
    conf_out(&c, "m", offsetof(lisa_adamw, m), CONF_REAL, conf_noise(n, step == 1 ? 0.0 : 1e-3), 1,
             n, n, 0.0);
    conf_out(&c, "v", offsetof(lisa_adamw, v), CONF_REAL, v, 1, n, n, 0.0);
    conf_out(&c, "weight", offsetof(lisa_adamw, weight.data), weight.dtype, weight.data, 1, n, n,
             0.0);
    conf_out(&c, "low", offsetof(lisa_adamw, low), low_element(weight.dtype), random_low(weight, n),
             1, n, n, 0.0);
    conf_run(&c);
}

START_TEST(adamw_is_the_reference_bit_for_bit) {
    static const size_t sizes[] = {0, 1, 7, 1025, 40003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        check_adamw(conf_typed_noise(trained[_i], sizes[s], 0.1), sizes[s], 1.0, 0.0, 1);
        check_adamw(conf_typed_noise(trained[_i], sizes[s], 0.1), sizes[s], 0.0, 0.1, 2);
        check_adamw(conf_typed_noise(trained[_i], sizes[s], 0.1), sizes[s], 1.0, 0.1, 1000);
        check_adamw(conf_typed_noise(trained[_i], sizes[s], 0.1), sizes[s], 1e4, 0.0, 3);
    }
}
END_TEST

/* ---- AdamW with moments in fewer bits ---- */

static const char *const gradient_kinds[] = {"noise", "zeros", "all scales", "subnormal",
                                             "huge",  "Inf",   "NaN"};

static float *kept_gradient(size_t n, size_t kind) {
    float *x = conf_noise(n, 1.0);
    for (size_t i = 0; i < n; i++) {
        if (kind == 1 || (kind == 2 && i % 5 == 0))
            x[i] = 0.0f;
        else if (kind == 2)
            x[i] *= powf(10.0f, -(float)(i % 13));
        else if (kind == 3)
            x[i] *= 1e-38f;
        else if (kind == 4)
            x[i] *= i % 3 == 0 ? 3e38f : 1e18f; /* some of v beyond the largest float */
        else if (kind > 4 && i == n / 2)
            x[i] = kind == 5 ? INFINITY : NAN;
    }
    return x;
}

static uint32_t kept_element(uint32_t moments) {
    return moments == LISA_MOMENTS_BF16 ? LISA_DTYPE_BF16 : CONF_U8;
}

/* What could be there: bf16 of noise, or all codes below scales of every size. */
static void *kept_before(uint32_t moments, size_t n, int is_v, int first) {
    uint16_t *bf16 = conf_take(n * 2);
    uint8_t *codes = conf_take(n);
    for (size_t i = 0; i < n && !first; i++) {
        const double x = 1e-3 * noise_uniform(&conf.seed);
        bf16[i] = lisa__f32_to_bf16((float)(is_v ? x * x : x));
        codes[i] = (uint8_t)noise_bits(&conf.seed);
    }
    return moments == LISA_MOMENTS_BF16 ? (void *)bf16 : (void *)codes;
}

static float *scales_before(uint32_t moments, size_t n_blocks, int first) {
    float *scales = conf_take(n_blocks * sizeof *scales);
    for (size_t i = 0; i < n_blocks && !first; i++)
        scales[i] = ldexpf(1.0f, (int)conf_below(60) - 50);
    return moments == LISA_MOMENTS_8BIT ? scales : NULL;
}

static void check_kept(uint32_t dtype, uint32_t moments, size_t n, size_t kind, int first) {
    const size_t n_blocks = (n + LISA_MOMENTS_BLOCK - 1) / LISA_MOMENTS_BLOCK;
    const lisa_typed weight = conf_typed_noise(dtype, n, 0.1);
    const uint32_t element = kept_element(moments);
    lisa_adamw op = adamw_op(n, 0.1, first ? 1 : 7);
    op.weight.dtype = dtype;
    op.moments = moments;
    op.seed = 0x123456789ABCDEFu;
    op.stream = 0xFEDCBA9876543210u + n;
    op.first = n % 3 * LISA_MOMENTS_BLOCK;
    conf_case c;
    conf_begin(&c, call_adamw, &op, sizeof op, "adamw dtype %u moments %u n %zu %s first %d", dtype,
               moments, n, gradient_kinds[kind], first);
    c.exact = 1;
    conf_control(&c);
    conf_in(&c, "gradient", offsetof(lisa_adamw, gradient), CONF_REAL, kept_gradient(n, kind), n);
    conf_out(&c, "m", offsetof(lisa_adamw, m), element, kept_before(moments, n, 0, first), 1, n, n,
             0.0);
    conf_out(&c, "v", offsetof(lisa_adamw, v), element, kept_before(moments, n, 1, first), 1, n, n,
             0.0);
    conf_out(&c, "m_scale", offsetof(lisa_adamw, m_scale), LISA_DTYPE_F32,
             scales_before(moments, n_blocks, first), 1, n_blocks, n_blocks, 0.0);
    conf_out(&c, "v_scale", offsetof(lisa_adamw, v_scale), LISA_DTYPE_F32,
             scales_before(moments, n_blocks, first), 1, n_blocks, n_blocks, 0.0);
    conf_out(&c, "weight", offsetof(lisa_adamw, weight.data), dtype, weight.data, 1, n, n, 0.0);
    conf_out(&c, "low", offsetof(lisa_adamw, low), low_element(dtype), random_low(weight, n), 1, n,
             n, 0.0);
    conf_run(&c);
    c.exact = 0; /* what is not finite shows, in the scale or the weight at least */
    c.spoilt = kind > 4 && n > 0;
    if (c.spoilt)
        conf_run(&c);
}

/* A verdict leaves everything as it is. */
START_TEST(adamw_obeys_a_verdict) {
    enum { N = 700 };
    for (uint32_t verdict = LISA_VERDICT_EMPTY; verdict <= LISA_VERDICT_NORM; verdict++) {
        lisa_control *control = conf_take(sizeof *control);
        lisa_adamw op = adamw_op(N, 0.1, 2);
        const lisa_typed weight = conf_typed_noise(trained[_i], N, 0.1);
        conf_case c;
        *control = (lisa_control){.scale = 1.0, .verdict = verdict};
        op.weight.dtype = weight.dtype;
        conf_begin(&c, call_adamw, &op, sizeof op, "adamw with verdict %u", verdict);
        conf_in(&c, "control", offsetof(lisa_adamw, control), CONF_U8, control, sizeof *control);
        conf_in(&c, "gradient", offsetof(lisa_adamw, gradient), CONF_REAL, conf_noise(N, 1.0), N);
        conf_in(&c, "m", offsetof(lisa_adamw, m), CONF_REAL, conf_noise(N, 1e-3), N);
        conf_in(&c, "v", offsetof(lisa_adamw, v), CONF_REAL, conf_noise(N, 1e-3), N);
        conf_in(&c, "weight", offsetof(lisa_adamw, weight.data), weight.dtype, weight.data, N);
        conf_in(&c, "low", offsetof(lisa_adamw, low), low_element(weight.dtype),
                random_low(weight, N), N);
        conf_run(&c);
    }
}
END_TEST

START_TEST(adamw_kept_is_the_reference_bit_for_bit) {
    if (conf_use_dtype(_i) == 0)
        return;
    static const size_t sizes[] = {0, 1, 255, 256, 257, 1000, 40003};
    for (uint32_t moments = LISA_MOMENTS_BF16; moments <= LISA_MOMENTS_8BIT; moments++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t kind = 0; kind < sizeof gradient_kinds / sizeof *gradient_kinds; kind++) {
                check_kept(dtypes[_i], moments, sizes[s], kind, 0);
                check_kept(dtypes[_i], moments, sizes[s], kind, 1);
            }
}
END_TEST

/* A state of 8 bits under an operation that the subject runs on. */
typedef struct kept_rig {
    lisa_backend *be;
    lisa_adamw op;
    size_t n, n_blocks;
    void *control;
} kept_rig;

static void *kept_zeros(lisa_backend *be, size_t bytes) {
    void *out;
    ck_assert_int_eq(be->ops->alloc(be, &out, LISA_MEM_MOMENTS, bytes), LISA_OK);
    ck_assert_int_eq(be->ops->zero(be, out, bytes), LISA_OK);
    return out;
}

/* A pointer to the device's control, which is made at the first call. */
static void set_scale(kept_rig *r, double scale) {
    lisa_backend *be = r->be;
    if (r->control == NULL)
        r->control = kept_zeros(be, sizeof(lisa_control));
    ck_assert_int_eq(be->ops->upload(be, r->control, control_of(scale), sizeof(lisa_control)),
                     LISA_OK);
    r->op.control = r->control;
}

static kept_rig kept_begin(uint32_t moments, const float *gradient, size_t n) {
    kept_rig r = {.be = conf.backends[1], .op = adamw_op(n, 0.0, 1), .n = n};
    lisa_backend *be = r.be;
    r.n_blocks = (n + LISA_MOMENTS_BLOCK - 1) / LISA_MOMENTS_BLOCK;
    r.op.moments = moments;
    set_scale(&r, 1.0);
    r.op.seed = 5;
    r.op.weight = (lisa_typed){kept_zeros(be, n * 4), LISA_DTYPE_F32};
    void *g = kept_zeros(be, n * 4);
    ck_assert_int_eq(be->ops->upload(be, g, gradient, n * 4), LISA_OK);
    r.op.gradient = g;
    r.op.m = kept_zeros(be, n * 2);
    r.op.v = kept_zeros(be, n * 2);
    r.op.m_scale = kept_zeros(be, r.n_blocks * 4);
    r.op.v_scale = kept_zeros(be, r.n_blocks * 4);
    return r;
}

static void kept_end(kept_rig *r) {
    const lisa_backend_ops *ops = r->be->ops;
    ops->release(r->be, r->op.weight.data, LISA_MEM_MOMENTS, r->n * 4);
    ops->release(r->be, (void *)(uintptr_t)r->op.gradient, LISA_MEM_MOMENTS, r->n * 4);
    ops->release(r->be, r->control, LISA_MEM_MOMENTS, sizeof(lisa_control));
    ops->release(r->be, r->op.m, LISA_MEM_MOMENTS, r->n * 2);
    ops->release(r->be, r->op.v, LISA_MEM_MOMENTS, r->n * 2);
    ops->release(r->be, r->op.m_scale, LISA_MEM_MOMENTS, r->n_blocks * 4);
    ops->release(r->be, r->op.v_scale, LISA_MEM_MOMENTS, r->n_blocks * 4);
}

/* A code's magnitude in units of the scale, as lisa_adamw's comment has it. */
static double code_value(uint32_t code, int range) {
    const uint32_t e = code >> 3, f = code & 7;
    return e == 0 ? ldexp(f, -(range + 3)) : ldexp(8 + f, (int)e - range - 4);
}

/* values[i] = what m (or v) reads as. */
static void kept_values(const kept_rig *r, int is_v, double *values) {
    uint8_t *bytes = conf_take(r->n * 2);
    float *scales = conf_take(r->n_blocks * 4);
    lisa_backend *be = r->be;
    ck_assert_int_eq(be->ops->download(be, bytes, is_v ? r->op.v : r->op.m, r->n * 2), LISA_OK);
    ck_assert_int_eq(
        be->ops->download(be, scales, is_v ? r->op.v_scale : r->op.m_scale, r->n_blocks * 4),
        LISA_OK);
    for (size_t i = 0; i < r->n; i++) {
        const uint32_t code = bytes[i];
        if (r->op.moments == LISA_MOMENTS_BF16)
            values[i] = lisa__load(bytes, LISA_DTYPE_BF16, i);
        else
            values[i] =
                scales[i / LISA_MOMENTS_BLOCK] * (is_v          ? code_value(code, 30)
                                                  : code & 0x80 ? -code_value(code & 0x7F, 14)
                                                                : code_value(code, 14));
    }
}

/* What the codes read as is what the update used, but for a rounding between neighbours that is
 * right in the mean, over all of a block's range. */
START_TEST(kept_moments_are_unbiased) {
    enum { OCTAVES = 14, EACH = 40 * LISA_MOMENTS_BLOCK, N = EACH };
    const double gap = _i == LISA_MOMENTS_BF16 ? 0x1p-7 : 0x1p-3;
    float *gradient = conf_take(N * sizeof *gradient);
    double *m = conf_take(N * sizeof *m), *v = conf_take(N * sizeof *v);
    for (size_t i = 0; i < N; i++)
        gradient[i] = (i & 1 ? -1.3f : 1.3f) * ldexpf(1.0f, -(int)(i % OCTAVES));
    kept_rig r = kept_begin((uint32_t)_i, gradient, N);
    ck_assert_int_eq(r.be->ops->adamw(r.be, &r.op), LISA_OK);
    kept_values(&r, 0, m);
    kept_values(&r, 1, v);
    for (size_t octave = 0; octave < OCTAVES; octave++) {
        double sum_m = 0, sum_v = 0, count = 0;
        for (size_t i = octave; i < N; i += OCTAVES) {
            const double g = gradient[i], right_m = (1 - r.op.beta1) * g;
            const double right_v = (1 - r.op.beta2) * g * g;
            ck_assert_double_le(fabs(m[i] / right_m - 1), gap);
            ck_assert_double_le(fabs(v[i] / right_v - 1), gap);
            sum_m += m[i] / right_m - 1;
            sum_v += v[i] / right_v - 1;
            count++;
        }
        ck_assert_double_le(fabs(sum_m / count), 5 * gap / 2 / sqrt(count));
        ck_assert_double_le(fabs(sum_v / count), 5 * gap / 2 / sqrt(count));
    }
    kept_end(&r);
}
END_TEST

/* Without gradients v decays by beta2 a step in the mean. To nearest it would stay. */
START_TEST(kept_v_decays) {
    enum { N = 16 * LISA_MOMENTS_BLOCK, STEPS = 1000 };
    float *gradient = conf_noise(N, 1.0);
    double *before = conf_take(N * sizeof *before), *after = conf_take(N * sizeof *after);
    double sum_before = 0, sum_after = 0;
    for (size_t i = 0; i < N; i++)
        gradient[i] = gradient[i] < 0 ? gradient[i] - 0.1f : gradient[i] + 0.1f;
    kept_rig r = kept_begin((uint32_t)_i, gradient, N);
    ck_assert_int_eq(r.be->ops->adamw(r.be, &r.op), LISA_OK);
    kept_values(&r, 1, before);
    set_scale(&r, 0.0);
    for (uint64_t step = 1; step <= STEPS; step++) {
        r.op.stream = step;
        ck_assert_int_eq(r.be->ops->adamw(r.be, &r.op), LISA_OK);
    }
    kept_values(&r, 1, after);
    for (size_t i = 0; i < N; i++) {
        ck_assert_double_gt(after[i], 0.0);
        sum_before += before[i];
        sum_after += after[i];
    }
    ck_assert_double_eq_tol(sum_after / sum_before / pow(r.op.beta2, STEPS), 1.0, 0.03);
    kept_end(&r);
}
END_TEST

/* m and v draw apart, and so do streams. */
START_TEST(kept_draws) {
    enum { N = 64 * LISA_MOMENTS_BLOCK };
    float *gradient = conf_take(N * sizeof *gradient);
    double *m = conf_take(N * sizeof *m), *v = conf_take(N * sizeof *v),
           *other = conf_take(N * sizeof *other);
    for (size_t i = 0; i < N; i++)
        gradient[i] = 1.03125f; /* m and v between neighbours of either kind */
    kept_rig r = kept_begin((uint32_t)_i, gradient, N);
    ck_assert_int_eq(r.be->ops->adamw(r.be, &r.op), LISA_OK);
    kept_values(&r, 0, m);
    kept_values(&r, 1, v);
    kept_end(&r);
    r = kept_begin((uint32_t)_i, gradient, N);
    r.op.stream = 1;
    ck_assert_int_eq(r.be->ops->adamw(r.be, &r.op), LISA_OK);
    kept_values(&r, 1, other);
    kept_end(&r);
    size_t up_m = 0, up_v = 0, both = 0, again = 0;
    for (size_t i = 0; i < N; i++) {
        const int m_up = m[i] > (1 - r.op.beta1) * 1.03125;
        const int v_up = v[i] > (1 - r.op.beta2) * 1.03125 * 1.03125;
        up_m += m_up;
        up_v += v_up;
        both += m_up && v_up;
        again += v_up && other[i] > (1 - r.op.beta2) * 1.03125 * 1.03125;
    }
    const double p = (double)up_m / N, q = (double)up_v / N;
    ck_assert(p > 0.02 && p < 0.98 && q > 0.02 && q < 0.98);
    ck_assert_double_eq_tol((double)both / N, p * q, 0.02);
    ck_assert_double_eq_tol((double)again / N, q * q, 0.02);
}
END_TEST

/* Elements [from, to) of the update that r is about. */
static void update_kept_piece(kept_rig *r, size_t from, size_t to) {
    const size_t block = from / LISA_MOMENTS_BLOCK;
    const size_t size = r->op.moments == LISA_MOMENTS_BF16 ? 2 : 1;
    lisa_adamw op = r->op;
    op.first = from;
    op.n = to - from;
    op.weight.data = (float *)op.weight.data + from;
    op.gradient = (const float *)op.gradient + from;
    op.m = (char *)op.m + from * size;
    op.v = (char *)op.v + from * size;
    op.m_scale += block;
    op.v_scale += block;
    ck_assert_int_eq(r->be->ops->adamw(r->be, &op), LISA_OK);
}

/* An update of pieces is the update of the whole. */
START_TEST(kept_pieces) {
    enum { N = 11 * LISA_MOMENTS_BLOCK + 7, CUT = 4 * LISA_MOMENTS_BLOCK };
    float *gradient = conf_noise(N, 1.0);
    double *values[2][2];
    for (int in_pieces = 0; in_pieces < 2; in_pieces++) {
        kept_rig r = kept_begin((uint32_t)_i, gradient, N);
        if (in_pieces) {
            update_kept_piece(&r, CUT, N);
            update_kept_piece(&r, 0, CUT);
        } else {
            update_kept_piece(&r, 0, N);
        }
        for (int is_v = 0; is_v < 2; is_v++) {
            values[in_pieces][is_v] = conf_take(N * sizeof(double));
            kept_values(&r, is_v, values[in_pieces][is_v]);
        }
        kept_end(&r);
    }
    ck_assert_mem_eq(values[0][0], values[1][0], N * sizeof(double));
    ck_assert_mem_eq(values[0][1], values[1][1], N * sizeof(double));
}
END_TEST

/* Weights that an update would carry over the largest finite value stay finite. */
START_TEST(adamw_near_the_largest_value) {
    enum { N = 513 };
    lisa_typed weight = {conf_take(N * 2), trained[_i]};
    for (size_t i = 0; i < N; i++)
        ((uint16_t *)weight.data)[i] =
            (uint16_t)((trained[_i] == LISA_DTYPE_BF16 ? LISA_BF16_MAX : LISA_F16_MAX) | i << 15);
    check_adamw(weight, N, 1.0, -1.0, 1); /* a negative decay lets weights grow */
}
END_TEST

/* Torch's formula in double, on weights, moments and a constant gradient in float. */
START_TEST(adamw_is_the_formula) {
    enum { N = 301, STEPS = 25 };
    float *weight = conf_noise(N, 0.1), *gradient = conf_noise(N, 1.0);
    float *m = conf_noise(N, 0.0), *v = conf_noise(N, 0.0);
    double w[N], dm[N] = {0}, dv[N] = {0};
    for (size_t i = 0; i < N; i++) {
        gradient[i] *= powf(10.0f, -(float)(i % 9)); /* down to where eps decides */
        w[i] = weight[i];
    }
    double moved = 0.0;
    for (uint32_t step = 1; step <= STEPS; step++) {
        lisa_adamw op = adamw_op(N, 0.05, step);
        for (size_t i = 0; i < N; i++) {
            double g = gradient[i] * GRAD_SCALE;
            dm[i] += (1 - op.beta1) * (g - dm[i]);
            dv[i] += (1 - op.beta2) * (g * g - dv[i]);
            double update = dm[i] / op.correction1 / (sqrt(dv[i] / op.correction2) + op.eps);
            double next = w[i] - op.lr * (update + op.weight_decay * w[i]);
            moved = fmax(moved, fabs(next - weight[i]));
            w[i] = next;
        }
    }
    /* The same on the subject, in its own memory. */
    lisa_backend *be = conf.backends[0];
    float *host[4] = {weight, gradient, m, v};
    void *device[4];
    for (int a = 0; a < 4; a++) {
        ck_assert_int_eq(be->ops->alloc(be, &device[a], LISA_MEM_MOMENTS, N * 4), LISA_OK);
        ck_assert_int_eq(be->ops->upload(be, device[a], host[a], N * 4), LISA_OK);
    }
    void *control = kept_zeros(be, sizeof(lisa_control));
    ck_assert_int_eq(be->ops->upload(be, control, control_of(GRAD_SCALE), sizeof(lisa_control)),
                     LISA_OK);
    for (uint32_t step = 1; step <= STEPS; step++) {
        lisa_adamw op = adamw_op(N, 0.05, step);
        op.control = control;
        op.weight = (lisa_typed){device[0], LISA_DTYPE_F32};
        op.gradient = device[1];
        op.m = device[2];
        op.v = device[3];
        ck_assert_int_eq(be->ops->adamw(be, &op), LISA_OK);
    }
    ck_assert_int_eq(be->ops->download(be, weight, device[0], N * 4), LISA_OK);
    be->ops->release(be, control, LISA_MEM_MOMENTS, sizeof(lisa_control));
    for (int a = 0; a < 4; a++)
        be->ops->release(be, device[a], LISA_MEM_MOMENTS, N * 4);
    ck_assert_double_gt(moved, 1e-2);
    for (size_t i = 0; i < N; i++)
        ck_assert_double_eq_tol(weight[i], w[i], STEPS * 2.0 * UNIT * (fabs(w[i]) + moved));
}
END_TEST

/* ---- masters ---- */

/* Every kind of pattern: random ones, and all neighbours of saturation, zero, Inf. */
static float *master_patterns(size_t n) {
    static const uint32_t edges[] = {
        0x00000000u, 0x00007FFFu, 0x00008000u, 0x007F8000u, 0x3F7F8000u, 0x3F808000u, 0x38800000u,
        0x387FFFFFu, 0x33000000u, 0x33000001u, 0x477FE000u, 0x477FF000u, 0x477FEFFFu, 0x47800000u,
        0x7F7F7FFFu, 0x7F7F8000u, 0x7F7FFFFFu, 0x7F000000u, 0x7F800000u, 0x7FC00000u};
    const size_t n_edges = sizeof edges / sizeof *edges;
    float *x = conf_take(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint64_t random = noise_bits(&conf.seed);
        uint32_t bits = (uint32_t)random;
        if (i % 3 == 0) /* the range of weights */
            bits = (bits & 0x80FFFFFFu) | (0x30u + (random >> 40) % 24u) << 24;
        if (i < 2 * n_edges)
            bits = edges[i / 2] | (uint32_t)(i & 1) << 31;
        x[i] = lisa__float_of(bits);
    }
    return x;
}

static void begin_master(conf_case *c, uint32_t what, lisa_typed weight, const void *low, size_t n,
                         int writes_low) {
    lisa_master op = {.what = what,
                      .n = n,
                      .weight.dtype = weight.dtype,
                      .first = n % 3 * LISA_MOMENTS_BLOCK,
                      .seed = 0x123456789ABCDEFu,
                      .stream = 0xFEDCBA9876543210u};
    conf_begin(c, call_master, &op, sizeof op, "master %u dtype %u n %zu", what, weight.dtype, n);
    c->exact = 1;
    if (what == LISA_MASTER_OPEN || what == LISA_MASTER_READ)
        conf_in(c, "weight", offsetof(lisa_master, weight.data), weight.dtype, weight.data, n);
    else
        conf_out(c, "weight", offsetof(lisa_master, weight.data), weight.dtype, weight.data, 1, n,
                 n, 0.0);
    uint32_t element = low_element(weight.dtype);
    if (writes_low)
        conf_out(c, "low", offsetof(lisa_master, low), element, low, 1, n, n, 0.0);
    else
        conf_in(c, "low", offsetof(lisa_master, low), element, low, n);
}

static void check_masters(uint32_t dtype, size_t n) {
    const float *patterns = master_patterns(n);
    lisa_typed weight = random_bits(dtype, n);
    const void *low =
        dtype == LISA_DTYPE_BF16 ? random_bits(LISA_DTYPE_F16, n).data : (const void *)patterns;
    conf_case c;
    begin_master(&c, LISA_MASTER_OPEN, weight, low, n, 1);
    conf_run(&c);
    begin_master(&c, LISA_MASTER_READ, weight, low, n, 0);
    conf_out(&c, "values", offsetof(lisa_master, values), LISA_DTYPE_F32, conf_nans(n), 1, n, n,
             0.0);
    conf_run(&c);
    begin_master(&c, LISA_MASTER_CLOSE, weight, low, n, 0);
    conf_run(&c);
    begin_master(&c, LISA_MASTER_WRITE, weight, low, n, 1);
    conf_in(&c, "values", offsetof(lisa_master, values), LISA_DTYPE_F32, patterns, n);
    conf_run(&c);
}

START_TEST(masters) {
    static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 1023, 40003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        check_masters(trained[_i], sizes[s]);
}
END_TEST

/* A master on its way through the subject: host values in, 16-bit weights and masters out. */
typedef struct trip {
    lisa_backend *be;
    lisa_master op;
    size_t n, low_bytes;
    void *values;
} trip;

static trip trip_begin(uint32_t dtype, const float *values, size_t n) {
    trip t = {.be = conf.backends[1], .n = n, .low_bytes = n * (dtype == LISA_DTYPE_BF16 ? 2 : 4)};
    const lisa_backend_ops *ops = t.be->ops;
    t.op = (lisa_master){.what = LISA_MASTER_WRITE, .n = n, .weight.dtype = dtype};
    ck_assert_int_eq(ops->alloc(t.be, &t.op.weight.data, LISA_MEM_WEIGHTS_PRIVATE, n * 2), LISA_OK);
    ck_assert_int_eq(ops->alloc(t.be, &t.op.low, LISA_MEM_LOW_BITS, t.low_bytes), LISA_OK);
    ck_assert_int_eq(ops->alloc(t.be, &t.values, LISA_MEM_STAGING, n * 4), LISA_OK);
    ck_assert_int_eq(ops->upload(t.be, t.values, values, n * 4), LISA_OK);
    t.op.values = t.values;
    ck_assert_int_eq(ops->master(t.be, &t.op), LISA_OK);
    return t;
}

static void trip_end(trip *t) {
    const lisa_backend_ops *ops = t->be->ops;
    ops->release(t->be, t->op.weight.data, LISA_MEM_WEIGHTS_PRIVATE, t->n * 2);
    ops->release(t->be, t->op.low, LISA_MEM_LOW_BITS, t->low_bytes);
    ops->release(t->be, t->values, LISA_MEM_STAGING, t->n * 4);
}

/* Closes with this stream and returns the mean of the 16-bit weights. */
static double mean_after_close(trip *t, uint64_t stream, uint16_t *weights) {
    t->op.what = LISA_MASTER_CLOSE;
    t->op.seed = 99;
    t->op.stream = stream;
    ck_assert_int_eq(t->be->ops->master(t->be, &t->op), LISA_OK);
    ck_assert_int_eq(t->be->ops->download(t->be, weights, t->op.weight.data, t->n * 2), LISA_OK);
    double sum = 0.0;
    for (size_t i = 0; i < t->n; i++)
        sum += lisa__load(weights, t->op.weight.dtype, i) / (double)t->n;
    return sum;
}

/* The mean of n draws between neighbours `gap` apart is off by gap / (2 sqrt(n)) in the standard
 * deviation at most: 5 of those. Both neighbours and nothing else occur. */
static void check_unbiased(uint32_t dtype, float value, double gap) {
    enum { N = 1 << 16 };
    float *values = conf_take(N * sizeof *values);
    uint16_t *weights = conf_take(N * sizeof *weights), first = 0;
    for (size_t i = 0; i < N; i++)
        values[i] = value;
    trip t = trip_begin(dtype, values, N);
    double mean = mean_after_close(&t, 3, weights);
    trip_end(&t);
    ck_assert_msg(fabs(mean - value) <= 5.0 * gap / 2.0 / sqrt(N),
                  "dtype %u: the mean of %.9g is off by %.3g of a gap", dtype, value,
                  (mean - value) / gap);
    size_t others = 0;
    for (size_t i = 0; i < N; i++) {
        double w = lisa__load(weights, dtype, i);
        first = weights[0];
        others += weights[i] != first;
        if (!(fabs(w - value) < gap))
            ck_abort_msg("dtype %u: %.9g became %.9g", dtype, value, w);
    }
    ck_assert_msg(others > 0, "dtype %u: %.9g is always rounded to the same", dtype, value);
}

START_TEST(closing_is_unbiased) {
    check_unbiased(LISA_DTYPE_BF16, 1.0f + 0x1p-9f, 0x1p-7);
    check_unbiased(LISA_DTYPE_BF16, -1.0f - 0x1p-10f, 0x1p-7);
    check_unbiased(LISA_DTYPE_BF16, 0.01234567f, 0x1p-14);
    check_unbiased(LISA_DTYPE_BF16, 1.998f, 0x1p-7); /* the upper neighbour is a power of two */
    check_unbiased(LISA_DTYPE_BF16, 3.3e-39f, 0x1p-133);
    check_unbiased(LISA_DTYPE_F16, 1.0f + 0x1p-12f, 0x1p-10);
    check_unbiased(LISA_DTYPE_F16, -0.012345678f, 0x1p-17);
    check_unbiased(LISA_DTYPE_F16, 3.21e-6f, 0x1p-24);
    check_unbiased(LISA_DTYPE_F16, 2.0e-8f, 0x1p-24);
    check_unbiased(LISA_DTYPE_F16, 6.1e-5f, 0x1p-24); /* below the smallest normal */
}
END_TEST

/* Streams and elements draw apart; the same seed and stream draw the same. */
START_TEST(closing_draws) {
    enum { N = 4099 };
    float *values = conf_take(N * sizeof *values);
    uint16_t *a = conf_take(N * 2), *b = conf_take(N * 2), *again = conf_take(N * 2);
    for (size_t i = 0; i < N; i++)
        values[i] =
            trained[_i] == LISA_DTYPE_BF16 ? 1.0f + 0x1p-8f : 1.0f + 0x1p-11f; /* half way */
    trip t = trip_begin(trained[_i], values, N);
    mean_after_close(&t, 1, a);
    trip_end(&t);
    t = trip_begin(trained[_i], values, N);
    mean_after_close(&t, 1, again);
    trip_end(&t);
    t = trip_begin(trained[_i], values, N);
    mean_after_close(&t, 2, b);
    trip_end(&t);
    ck_assert_mem_eq(a, again, N * 2);
    size_t equal = 0, repeats = 0;
    for (size_t i = 0; i < N; i++)
        equal += a[i] == b[i];
    for (size_t i = 4; i < N; i++)
        repeats += a[i] == a[i - 4];
    ck_assert_double_eq_tol((double)equal / N, 0.5, 0.05);
    ck_assert_double_eq_tol((double)repeats / N, 0.5, 0.05);
}
END_TEST

/* What is representable stays, and nothing finite becomes Inf. */
START_TEST(closing_at_the_ends) {
    static const float bf16[] = {0.0f, -0.0f, 1.0f, -0x1.FEp127f, 0x1p-133f, INFINITY};
    static const float f16[] = {0.0f, -0.0f, 1.0f, -65504.0f, 0x1p-24f, INFINITY};
    const float *exact = trained[_i] == LISA_DTYPE_BF16 ? bf16 : f16;
    uint16_t weights[6];
    trip t = trip_begin(trained[_i], exact, 6);
    mean_after_close(&t, 0, weights);
    trip_end(&t);
    for (size_t i = 0; i < 6; i++) {
        float got = (float)lisa__load(weights, trained[_i], i);
        ck_assert_mem_eq(&got, &exact[i], sizeof got);
    }
    enum { N = 512 };
    float large[N];
    uint16_t closed[N];
    double largest = trained[_i] == LISA_DTYPE_BF16 ? 0x1.FEp127 : 65504.0;
    for (size_t i = 0; i < N; i++) {
        large[i] = trained[_i] == LISA_DTYPE_BF16 ? 3.4028e38f : 65519.0f;
        if (i % 4 == 0)
            large[i] = 3.4028235e38f;
        large[i] = i & 1 ? -large[i] : large[i];
    }
    t = trip_begin(trained[_i], large, N);
    mean_after_close(&t, 0, closed);
    trip_end(&t);
    for (size_t i = 0; i < N; i++)
        ck_assert_double_eq(lisa__load(closed, trained[_i], i), i & 1 ? -largest : largest);
}
END_TEST

/* ---- verdicts ---- */

typedef struct trial {
    const char *what;
    double squares[4], loss, weight_sum, max_norm;
    uint32_t before; /* the verdict that stands */
    uint32_t first, n, counts;
    lisa_control want;
} trial;

static void check_trial(const trial *t) {
    lisa_judge op = {.first = t->first, .n = t->n, .counts = t->counts, .max_norm = t->max_norm};
    const float weight_sum = (float)t->weight_sum;
    const lisa_control before = {.updates = 3, .norm = 9, .verdict = t->before};
    conf_case c;
    conf_begin(&c, call_judge, &op, sizeof op, "judge: %s", t->what);
    conf_in(&c, "squares", offsetof(lisa_judge, squares), LISA_DTYPE_F64, t->squares, 4);
    conf_in(&c, "weight_sum", offsetof(lisa_judge, weight_sum), CONF_REAL, &weight_sum, 1);
    conf_in(&c, "loss", offsetof(lisa_judge, loss), LISA_DTYPE_F64, &t->loss, 1);
    conf_out(&c, "control", offsetof(lisa_judge, control), CONF_U8, &before, 1, sizeof before,
             sizeof before, 0.0);
    lisa_control got;
    c.exact = conf.ops->real_dtype == LISA_DTYPE_F32; /* what is finite in real decides */
    conf_result(&c, 3, &got);
    ck_assert_msg(got.verdict == t->want.verdict && got.tensor == t->want.tensor &&
                      got.updates == t->want.updates,
                  "%s: verdict %u of tensor %u, %llu updates", t->what, got.verdict, got.tensor,
                  (unsigned long long)got.updates);
    ck_assert_double_eq_tol(got.norm, t->want.norm, 1e-14);
    ck_assert_double_eq_tol(got.scale, t->want.scale, 1e-14);
}

START_TEST(judge) {
    static const trial trials[] = {
        {"a good one", {4, 5, 0, 7}, 1, 2, 0, 0, 0, 4, 1, {4, 2, 2, 0.5, LISA_VERDICT_OK, 0}},
        {"a part", {4, NAN, 5, 7}, 1, 2, 0, 1, 2, 1, 0, {3, 2, 1.118033988749895, 0.5, 0, 0}},
        {"clipped", {9, 0, 0, 0}, 1, 1, 0.6, 0, 0, 4, 1, {4, 1, 3, 0.6 / (3 + 1e-6), 0, 0}},
        {"not clipped", {9, 0, 0, 0}, 1, 1, 5, 0, 0, 4, 1, {4, 1, 3, 1, 0, 0}},
        {"empty", {9, 0, 0, 0}, 1, 0, 0, 0, 0, 4, 1, {3, 0, 0, 0, LISA_VERDICT_EMPTY, 0}},
        {"a weight below 0", {9}, 1, -1, 0, 0, 0, 4, 1, {3, -1, 0, 0, LISA_VERDICT_WEIGHT, 0}},
        {"a weight too small", {9}, 1, 1e-45, 0, 0, 0, 4, 1, {3, 0, 0, 0, LISA_VERDICT_WEIGHT, 0}},
        {"no weight", {9}, 1, NAN, 0, 0, 0, 4, 1, {3, 0, 0, 0, LISA_VERDICT_WEIGHT, 0}},
        {"a loss", {9}, INFINITY, 1, 0, 0, 0, 4, 1, {3, 1, 0, 0, LISA_VERDICT_LOSS, 0}},
        {"NaN", {9, 1, NAN, NAN}, 1, 1, 0, 0, 0, 4, 1, {3, 1, 0, 0, LISA_VERDICT_GRADIENT, 2}},
        {"what stood",
         {9},
         1,
         1,
         0,
         LISA_VERDICT_LOSS,
         0,
         4,
         1,
         {3, 0, 9, 0, LISA_VERDICT_LOSS, 0}},
        {"empty stands not", {9}, 1, 1, 0, LISA_VERDICT_EMPTY, 0, 4, 1, {4, 1, 3, 1, 0, 0}},
    };
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        if (conf.ops->real_dtype == LISA_DTYPE_F32 || trials[i].weight_sum != 1e-45)
            check_trial(&trials[i]);
}
END_TEST

/* The square of a norm that is no float. */
START_TEST(judge_a_norm) {
    const trial t = {"a norm", {1e40, 0, 0, 0}, 1, 1, 0, 0, 0, 4, 1, {3, 1, 1e20, 1, 5, 0}};
    if (conf.ops->real_dtype == LISA_DTYPE_F32)
        check_trial(&t);
}
END_TEST

TCase *conformance_update(void) {
    TCase *tcase = tcase_create("update");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, convert, 0, 4);
    tcase_add_loop_test(tcase, adamw_is_the_reference_bit_for_bit, 0, 3);
    tcase_add_loop_test(tcase, adamw_obeys_a_verdict, 0, 3);
    tcase_add_loop_test(tcase, adamw_kept_is_the_reference_bit_for_bit, 0, 4);
    tcase_add_loop_test(tcase, kept_moments_are_unbiased, LISA_MOMENTS_BF16, LISA_MOMENTS_8BIT + 1);
    tcase_add_loop_test(tcase, kept_v_decays, LISA_MOMENTS_BF16, LISA_MOMENTS_8BIT + 1);
    tcase_add_loop_test(tcase, kept_draws, LISA_MOMENTS_BF16, LISA_MOMENTS_8BIT + 1);
    tcase_add_loop_test(tcase, kept_pieces, LISA_MOMENTS_BF16, LISA_MOMENTS_8BIT + 1);
    tcase_add_loop_test(tcase, adamw_near_the_largest_value, 1, 3);
    tcase_add_test(tcase, adamw_is_the_formula);
    tcase_add_loop_test(tcase, masters, 1, 3);
    tcase_add_test(tcase, closing_is_unbiased);
    tcase_add_loop_test(tcase, closing_draws, 1, 3);
    tcase_add_loop_test(tcase, closing_at_the_ends, 1, 3);
    tcase_add_test(tcase, judge);
    tcase_add_test(tcase, judge_a_norm);
    return tcase;
}

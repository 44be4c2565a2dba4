#include "conformance/harness.h"

#include "backend/reference/reference.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

conformance conf;

static int has_typed_operands(void) {
    return (conf.ops->flags & LISA_BACKEND_TYPED_OPERANDS) != 0;
}

void conf_setup(void) {
    for (uint32_t i = 0; i < CONF_THREADS; i++) {
        test_host_init(&conf.hosts[i], i + 1);
        conf.backends[i] = test_host_start(&conf.hosts[i], conf.ops);
    }
    test_host_init(&conf.right_host, 1);
    conf.reference = test_host_start(&conf.right_host, &lisa__backend_reference);
    conf.reference64 = test_host_start(&conf.right_host, &lisa__backend_reference64);
    conf.seed = 7;
    conf.operand = has_typed_operands() ? LISA_DTYPE_F32 : 0;
}

uint32_t conf_use_dtype(int i) {
    static const uint32_t dtypes[CONF_DTYPES] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16,
                                                 LISA_DTYPE_F64};
    if (!has_typed_operands())
        return dtypes[i];
    if (dtypes[i] == LISA_DTYPE_F64)
        return 0;
    conf.operand = dtypes[i];
    return dtypes[i];
}

void conf_teardown(void) {
    for (uint32_t i = 0; i < CONF_THREADS; i++) {
        conf.ops->stop(conf.backends[i]);
        test_host_finish(&conf.hosts[i]);
    }
    conf.reference->ops->stop(conf.reference);
    conf.reference64->ops->stop(conf.reference64);
    test_host_finish(&conf.right_host);
}

void *conf_take(size_t bytes) {
    return test_host_take(&conf.right_host, bytes);
}

float *conf_noise(size_t n, double scale) {
    float *x = conf_take(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * noise_uniform(&conf.seed));
    return x;
}

float *conf_nans(size_t n) {
    float *x = conf_take(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

lisa_typed conf_typed_noise(uint32_t dtype, size_t n, double scale) {
    lisa_typed x = {conf_take(n * lisa__dtype_size(dtype)), dtype};
    for (size_t i = 0; i < n; i++)
        lisa__store(x.data, dtype, i, scale * noise_uniform(&conf.seed));
    return x;
}

uint32_t conf_below(uint32_t n) {
    return noise_below(&conf.seed, n);
}

void conf_begin(conf_case *c, conf_call call, const void *op, size_t op_bytes, const char *format,
                ...) {
    ck_assert_uint_le(op_bytes, CONF_MAX_OP);
    memset(c, 0, sizeof *c);
    va_list args;
    va_start(args, format);
    vsnprintf(c->what, sizeof c->what, format, args);
    va_end(args);
    c->call = call;
    memcpy(c->op, op, op_bytes);
    c->op_bytes = op_bytes;
}

conf_arg *conf_out(conf_case *c, const char *name, size_t offset, uint32_t element,
                   const void *data, size_t rows, size_t cols, size_t ld, double bound) {
    ck_assert_uint_lt(c->n_args, CONF_MAX_ARGS);
    conf_arg *a = &c->args[c->n_args++];
    *a = (conf_arg){.name = name,
                    .offset = offset,
                    .element = element,
                    .data = data,
                    .rows = rows,
                    .cols = cols,
                    .ld = ld,
                    .out = 1,
                    .bound = bound};
    return a;
}

conf_arg *conf_in(conf_case *c, const char *name, size_t offset, uint32_t element, const void *data,
                  size_t n) {
    conf_arg *a = conf_out(c, name, offset, element, data, 1, n, n, 0.0);
    a->out = 0;
    return a;
}

/* ---- one run on one backend ---- */

static uint32_t held_as(const lisa_backend *be, uint32_t element) {
    element &= ~CONF_TYPED;
    if (element == CONF_OPERAND)
        element = conf.operand;
    return element == CONF_REAL ? be->ops->real_dtype : element;
}

static int is_given_as_float(uint32_t element) {
    element &= ~CONF_TYPED;
    return element == CONF_REAL || element == CONF_OPERAND;
}

static size_t size_of(uint32_t held) {
    switch (held) {
    case CONF_I32:
        return 4;
    case CONF_I16:
        return 2;
    case CONF_U8:
        return 1;
    default:
        return lisa__dtype_size(held);
    }
}

static size_t bytes_of(const lisa_backend *be, const conf_arg *a) {
    return a->rows * a->ld * size_of(held_as(be, a->element));
}

/* The operand as this backend holds it. */
static void *image_of(const lisa_backend *be, const conf_arg *a) {
    size_t n = a->rows * a->ld, bytes = bytes_of(be, a);
    void *image = conf_take(bytes);
    if (!is_given_as_float(a->element))
        memcpy(image, a->data, bytes);
    else
        for (size_t i = 0; i < n; i++)
            lisa__store(image, held_as(be, a->element), i, ((const float *)a->data)[i]);
    return image;
}

static void set_place(unsigned char *op, size_t offset, const conf_arg *a, lisa_typed x) {
    if (a->element & CONF_TYPED)
        memcpy(op + offset, &x, sizeof x);
    else
        memcpy(op + offset, &x.data, sizeof x.data);
}

static void set_pointer(const lisa_backend *be, unsigned char *op, const conf_arg *a,
                        void *pointer) {
    const lisa_typed x = {pointer, held_as(be, a->element)};
    set_place(op, a->offset, a, x);
    if (a->second != 0)
        set_place(op, a->second, a, x);
}

/* Names the operands' type where the operation has a field for it. */
static void set_dtype(const lisa_backend *be, unsigned char *op, const conf_case *c) {
    const uint32_t dtype = held_as(be, CONF_OPERAND);
    if (c->dtype_offset != 0)
        memcpy(op + c->dtype_offset, &dtype, sizeof dtype);
}

static test_host *host_of(const lisa_backend *be) {
    return be->host->self;
}

/* results[i]: operand i afterwards, as the backend holds it. */
static void run_on(lisa_backend *be, const conf_case *c, void *results[CONF_MAX_ARGS]) {
    const lisa_backend_ops *ops = be->ops;
    test_host *host = host_of(be);
    void *device[CONF_MAX_ARGS] = {0};
    unsigned char op[CONF_MAX_OP];
    memcpy(op, c->op, c->op_bytes);
    set_dtype(be, op, c);
    for (uint32_t i = 0; i < c->n_args; i++) {
        const conf_arg *a = &c->args[i];
        results[i] = NULL;
        if (a->data != NULL) {
            size_t bytes = bytes_of(be, a);
            results[i] = image_of(be, a);
            ck_assert_int_eq(ops->alloc(be, &device[i], LISA_MEM_WORKSPACE, bytes), LISA_OK);
            ck_assert_int_eq(ops->upload(be, device[i], results[i], bytes), LISA_OK);
        }
        set_pointer(be, op, a, device[i]);
    }
    uint64_t n_allocs = host->n_allocs;
    lisa_status status = c->call(be, op);
    ck_assert_msg(status == LISA_OK, "%s: %s: %s", ops->name, c->what, host->text);
    ck_assert_int_eq(ops->sync(be), LISA_OK);
    ck_assert_msg(host->n_allocs == n_allocs, "%s: %s takes memory", ops->name, c->what);
    for (uint32_t i = 0; i < c->n_args; i++) {
        if (device[i] == NULL)
            continue;
        size_t bytes = bytes_of(be, &c->args[i]);
        ck_assert_int_eq(ops->download(be, results[i], device[i], bytes), LISA_OK);
        ops->release(be, device[i], LISA_MEM_WORKSPACE, bytes);
    }
}

/* ---- comparisons ---- */

static double value_of(const void *data, uint32_t held, size_t i) {
    switch (held) {
    case CONF_I32:
        return ((const int32_t *)data)[i];
    case CONF_I16:
        return ((const int16_t *)data)[i];
    case CONF_U8:
        return ((const uint8_t *)data)[i];
    default:
        return lisa__load(data, held, i);
    }
}

/* Inputs, and the padding behind an output's rows, are what they were. */
static void check_untouched(const lisa_backend *be, const conf_case *c, const conf_arg *a,
                            const void *result) {
    const unsigned char *before = image_of(be, a), *after = result;
    size_t size = size_of(held_as(be, a->element)), used = a->out ? a->cols * size : 0;
    for (size_t i = 0; i < a->rows; i++) {
        size_t from = i * a->ld * size + used, bytes = a->ld * size - used;
        if (memcmp(before + from, after + from, bytes) != 0)
            ck_abort_msg("%s: %s: row %zu of %s was written where it was to be left alone",
                         be->ops->name, c->what, i, a->name);
    }
}

/* Equal bits, or both NaN, whose payload is nobody's promise. */
static void check_exact(const conf_case *c, const conf_arg *a, const void *got, const void *want,
                        uint32_t held) {
    size_t size = size_of(held);
    for (size_t i = 0; i < a->rows; i++)
        for (size_t j = 0; j < a->cols; j++) {
            size_t at = i * a->ld + j;
            double x = value_of(got, held, at), y = value_of(want, held, at);
            int same =
                memcmp((const char *)got + at * size, (const char *)want + at * size, size) == 0;
            if (!same && !(isnan(x) && isnan(y)))
                ck_abort_msg("%s: %s[%zu,%zu] is %.9g in other bits than the reference's %.9g",
                             c->what, a->name, i, j, x, y);
        }
}

typedef struct difference {
    double error, largest; /* max|got - want|, max|want| */
    size_t i, j;           /* where the error is */
} difference;

static difference row_difference(const conf_case *c, const conf_arg *a, size_t i, const void *got,
                                 uint32_t got_held, const void *want, uint32_t want_held) {
    difference d = {0.0, 0.0, i, 0};
    for (size_t j = 0; j < a->cols; j++) {
        size_t at = i * a->ld + j;
        double x = value_of(got, got_held, at), y = value_of(want, want_held, at);
        if (!isfinite(y))
            ck_abort_msg("%s: the reference's %s[%zu,%zu] is %g", c->what, a->name, i, j, y);
        d.largest = fmax(d.largest, fabs(y));
        if (!(fabs(x - y) <= d.error)) {
            d.error = isnan(x) ? INFINITY : fabs(x - y);
            d.j = j;
        }
    }
    return d;
}

/* A result in few bits may be the neighbour of the one it should be. */
static double bound_of(const conf_arg *a, uint32_t held) {
    const double gap = held == LISA_DTYPE_BF16  ? 0.0078125
                       : held == LISA_DTYPE_F16 ? 0.0009765625
                                                : 0.0;
    return a->bound + gap * (a->roundings > 0 ? a->roundings : 1);
}

static void judge(const conf_case *c, const conf_arg *a, difference d, double bound) {
    double scale = fmax(d.largest, a->floor);
    double share = d.error == 0.0 ? 0.0 : d.error / (scale * bound);
    if (getenv("CONFORMANCE_REPORT") != NULL)
        fprintf(stderr, "%8.4f %s: %s\n", share, a->name, c->what);
    if (!(share <= 1.0))
        ck_abort_msg(
            "%s: %s[%zu,%zu] is off by %.3g where values reach %.3g: error %.3g, bound %.3g",
            c->what, a->name, d.i, d.j, d.error, scale, d.error / scale, bound);
}

/* Neighbours above and below come as often: truncation, which the bound would let pass, does not
 * round to nearest. */
static void check_unbiased(const conf_case *c, const conf_arg *a, const void *got, const void *want,
                           uint32_t got_held, uint32_t want_held) {
    const size_t n = a->rows * a->cols;
    double drift = 0.0, size = 0.0;
    for (size_t i = 0; i < a->rows; i++)
        for (size_t j = 0; j < a->cols; j++) {
            const double y = value_of(want, want_held, i * a->ld + j);
            const double d = value_of(got, got_held, i * a->ld + j) - y;
            drift += y < 0 ? -d : d;
            size += fabs(y);
        }
    const double gap = bound_of(a, got_held) - a->bound;
    const double most = size * gap * (0.05 + 1.0 / sqrt((double)n)) + size * a->bound;
    if (gap > 0 && size > 0 && fabs(drift) > most)
        ck_abort_msg("%s: %s is biased: by %.3g of its size, at most %.3g", c->what, a->name,
                     drift / size, most / size);
}

static void check_close(const conf_case *c, const conf_arg *a, const void *got, uint32_t got_held,
                        const void *want, uint32_t want_held) {
    difference worst = {0.0, 0.0, 0, 0};
    const double bound = bound_of(a, got_held);
    for (size_t i = 0; i < a->rows; i++) {
        difference d = row_difference(c, a, i, got, got_held, want, want_held);
        if (a->by_row) {
            judge(c, a, d, bound);
            continue;
        }
        d.largest = fmax(d.largest, worst.largest);
        if (d.error < worst.error) {
            worst.largest = d.largest;
            continue;
        }
        worst = d;
    }
    judge(c, a, worst, bound);
    check_unbiased(c, a, got, want, got_held, want_held);
}

/* Returns how many of the reference's values are not finite. */
static size_t check_spoilt(const conf_case *c, const conf_arg *a, const void *got,
                           uint32_t got_held, const void *want, uint32_t want_held) {
    size_t n = 0;
    for (size_t i = 0; i < a->rows * a->ld; i++) {
        if (isfinite(value_of(want, want_held, i)))
            continue;
        n++;
        if (isfinite(value_of(got, got_held, i)))
            ck_abort_msg("%s: %s[%zu] is %g and hides what the reference shows as %g", c->what,
                         a->name, i, value_of(got, got_held, i), value_of(want, want_held, i));
    }
    return n;
}

void conf_result(const conf_case *c, uint32_t arg, void *out) {
    void *results[CONF_MAX_ARGS];
    conf_run(c);
    run_on(conf.backends[0], c, results);
    memcpy(out, results[arg], bytes_of(conf.backends[0], &c->args[arg]));
}

void conf_run(const conf_case *c) {
    void *got[CONF_THREADS][CONF_MAX_ARGS], *want[CONF_MAX_ARGS];
    for (uint32_t t = 0; t < CONF_THREADS; t++)
        run_on(conf.backends[t], c, got[t]);
    lisa_backend *right = c->exact ? conf.reference : conf.reference64;
    run_on(right, c, want);
    const lisa_backend *be = conf.backends[0];
    size_t n_spoilt = 0;
    for (uint32_t i = 0; i < c->n_args; i++) {
        const conf_arg *a = &c->args[i];
        if (a->data == NULL)
            continue;
        for (uint32_t t = 1; t < CONF_THREADS; t++)
            ck_assert_msg(memcmp(got[0][i], got[t][i], bytes_of(be, a)) == 0,
                          "%s: %s differs between 1 and %u threads", c->what, a->name, t + 1);
        check_untouched(be, c, a, got[0][i]);
        uint32_t held = held_as(be, a->element), right_held = held_as(right, a->element);
        if (a->out && c->spoilt)
            n_spoilt += check_spoilt(c, a, got[0][i], held, want[i], right_held);
        else if (a->out && (c->exact || a->bound == 0.0))
            check_exact(c, a, got[0][i], want[i], held);
        else if (a->out)
            check_close(c, a, got[0][i], held, want[i], right_held);
    }
    ck_assert_msg(!c->spoilt || n_spoilt > 0, "%s: the reference shows nothing", c->what);
}

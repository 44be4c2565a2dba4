/* harness.h - runs one operation on the subject and on the reference, and compares.
 *
 * Inputs are made as floats, so that backends in float and in double read the same numbers. */
#ifndef LISA_CONFORMANCE_HARNESS_H
#define LISA_CONFORMANCE_HARNESS_H

#include "core/dtype.h"
#include "lisa/model.h"
#include "noise.h"
#include "test_host.h"

#include <check.h>
#include <math.h>

/* Half the distance from 1 to the next float. */
#define UNIT 5.9604644775390625e-8

/* The bounds on max|got - want| / max|want|, in one place. A backend may add up in float, in any
 * order, and may take an exp or tanh that is off by a few units.
 *
 * n roundings of a sum behave like a walk at random: sqrt(n) units, not n; a term that grows
 * with n linearly would mean a bias and is an error. The constant 8 covers the roundings that do
 * not depend on n. `condition` is by how much an input's rounding is magnified before it shows:
 * scores and logits of size s move an exp by s units, a mean of m standard deviations moves the
 * difference from it by m units. */
#define BOUND_SUM(n) (UNIT * (8.0 + 2.0 * sqrt((double)(n))))
#define BOUND_CONDITIONED(n, condition) (BOUND_SUM(n) * (1.0 + (condition)))
/* Operations on single elements: a few roundings, and a transcendental function. */
#define BOUND_ELEMENT (UNIT * 16.0)
/* One or two roundings. */
#define BOUND_ROUNDING (UNIT * 4.0)
/* sum_squares adds in double. */
#define BOUND_DOUBLE_SUM 1e-12

/* Element types beyond LISA_DTYPE_*. */
#define CONF_REAL 0u     /* given as float, held as the backend's real */
#define CONF_OPERAND 15u /* given as float, held as conf.operand, or as real where that is 0 */
#define CONF_I32 16u
#define CONF_I16 17u
#define CONF_U8 18u
/* Added to an element type: the operand is a lisa_typed, whose dtype is set too. */
#define CONF_TYPED 32u
#define CONF_TYPED_REAL (CONF_TYPED | CONF_REAL)
#define CONF_TYPED_OPERAND (CONF_TYPED | CONF_OPERAND)

enum { CONF_THREADS = 3, CONF_MAX_ARGS = 16, CONF_MAX_OP = 256 };

/* What is under test, and what is right. Made anew for every test. */
typedef struct conformance {
    const lisa_backend_ops *ops;
    test_host hosts[CONF_THREADS]; /* hosts[i] lends i + 1 threads */
    lisa_backend *backends[CONF_THREADS];
    test_host right_host; /* also of the data made below */
    lisa_backend *reference, *reference64;
    uint64_t seed;
    uint32_t large_products;
    uint32_t operand; /* type of operands in this test; 0: real */
} conformance;

extern conformance conf;

/* Of the types of weights below, number i: operands take it too where the subject's are typed. 0:
 * the subject has no such weights. */
enum { CONF_DTYPES = 4 };
uint32_t conf_use_dtype(int i);

void conf_setup(void);
void conf_teardown(void);

/* Data until the end of the test. */
void *conf_take(size_t bytes);
float *conf_noise(size_t n, double scale);
float *conf_nans(size_t n); /* for outputs that must be written and not read */
lisa_typed conf_typed_noise(uint32_t dtype, size_t n, double scale);
uint32_t conf_below(uint32_t n);

typedef lisa_status (*conf_call)(lisa_backend *be, const void *op);

/* An operand: `rows` rows of `cols` elements, ld apart. */
typedef struct conf_arg {
    const char *name;
    size_t offset, second; /* of its pointer in the operation's struct; second: 0 or another */
    uint32_t element;
    const void *data; /* before the operation; NULL: a NULL operand */
    size_t rows, cols, ld;
    int out;
    double bound;
    int by_row;    /* each row is compared apart */
    int roundings; /* to an operand's type, on the way to it; 0: one */
    double floor;  /* errors are relative to max(max|want|, floor) */
} conf_arg;

typedef struct conf_case {
    char what[200];
    conf_call call;
    unsigned char op[CONF_MAX_OP];
    size_t op_bytes;
    size_t dtype_offset; /* of a field that names the operands' type, or 0 */
    conf_arg args[CONF_MAX_ARGS];
    uint32_t n_args;
    int exact;  /* outputs equal those of the float reference, bit for bit */
    int spoilt; /* where the reference's outputs are not finite, neither are the subject's */
} conf_case;

void conf_begin(conf_case *c, conf_call call, const void *op, size_t op_bytes, const char *format,
                ...) __attribute__((format(printf, 5, 6)));

conf_arg *conf_in(conf_case *c, const char *name, size_t offset, uint32_t element, const void *data,
                  size_t n);
conf_arg *conf_out(conf_case *c, const char *name, size_t offset, uint32_t element,
                   const void *data, size_t rows, size_t cols, size_t ld, double bound);

void conf_run(const conf_case *c);

/* The same, and operand `arg` as the subject leaves it. */
void conf_result(const conf_case *c, uint32_t arg, void *out);

/* Calls an operation of the table by name: CONF_CALL(gemm, lisa_gemm) defines call_gemm. */
#define CONF_CALL(op, type)                                                                        \
    static lisa_status call_##op(lisa_backend *be, const void *arg) {                              \
        return be->ops->op(be, (const type *)arg);                                                 \
    }

/* The groups of cases. */
TCase *conformance_start(void);
TCase *conformance_linear(void);
TCase *conformance_block(void);
TCase *conformance_loss(void);
TCase *conformance_dropout(void);
TCase *conformance_update(void);
TCase *conformance_spoilt(void);

#endif

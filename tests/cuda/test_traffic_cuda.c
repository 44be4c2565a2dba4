/* What the kernels of each operation ask of memory, in the sectors that their warps touch, against
 * the least: each array once where the operation's meaning (sys/backend.h) has it read, and once
 * where it has it written. The counts are the host device's (race lane); no cache is modelled, so
 * what an L2 would serve counts in full. Skipped on everything else.
 *
 * Left out are products, attention's too, whose operands are read as often as their tiling says
 * (roofline.c tells how often), and judge, which looks at one number of a tensor. */
#include "backend/registry.h"
#include "core/dtype.h"
#include "host_device.h"
#include "test_host.h"

#include <stdio.h>
#include <stdlib.h>

#define TARGET 1.25  /* times the least */
#define LOWEST 0.999 /* the least or the count would be wrong */

static test_host host;
static lisa_backend *be;
static uint64_t least; /* of the operands taken so far */

typedef struct shape {
    const char *name;
    uint32_t d, ff, vocab, heads, kv_heads, head_dim;
} shape;

static const shape shapes[] = {{"SmolLM2-135M", 576, 1536, 49152, 9, 3, 64},
                               {"LLaMA-2-7B", 4096, 11008, 32000, 32, 32, 128}};
enum { N_SHAPES = 2 };
static const uint32_t dtypes[] = {LISA_DTYPE_BF16, LISA_DTYPE_F32};
enum { N_DTYPES = 2 };

/* Of a test: number _i of a shape and a type of weights and operands. */
typedef struct setting {
    const shape *of;
    uint32_t dtype, rows;
} setting;

static setting setting_of(int i, uint32_t rows) {
    return (setting){&shapes[i / N_DTYPES], dtypes[i % N_DTYPES], rows};
}

/* ---- operands ---- */

static struct {
    void *memory;
    size_t bytes;
} taken[16];
static uint32_t n_taken;

/* Zeros, of which `moved` bytes have to move so many times. */
static void *take(size_t bytes, size_t moved, uint32_t times) {
    void *memory;
    ck_assert_uint_lt(n_taken, 16);
    ck_assert_int_eq(be->ops->alloc(be, &memory, LISA_MEM_WORKSPACE, bytes), LISA_OK);
    ck_assert_int_eq(be->ops->zero(be, memory, bytes), LISA_OK);
    taken[n_taken].memory = memory;
    taken[n_taken++].bytes = bytes;
    least += times * moved;
    return memory;
}

static void *in(size_t bytes) {
    return take(bytes, bytes, 1);
}
static void *out(size_t bytes) {
    return take(bytes, bytes, 1);
}
static void *in_out(size_t bytes) {
    return take(bytes, bytes, 2);
}

static lisa_typed typed_in(size_t n, uint32_t dtype) {
    return (lisa_typed){in(n * lisa__dtype_size(dtype)), dtype};
}
static lisa_typed typed_out(size_t n, uint32_t dtype) {
    return (lisa_typed){out(n * lisa__dtype_size(dtype)), dtype};
}
static lisa_typed typed_in_out(size_t n, uint32_t dtype) {
    return (lisa_typed){in_out(n * lisa__dtype_size(dtype)), dtype};
}

/* first, first + step, ... below `below`. */
static int32_t *numbers(uint32_t n, uint32_t step, uint32_t below) {
    int32_t *device = in(n * sizeof *device), *here = calloc(n, sizeof *here);
    for (uint32_t i = 0; i < n; i++)
        here[i] = (int32_t)((uint64_t)i * step % below);
    ck_assert_int_eq(be->ops->upload(be, device, here, n * sizeof *here), LISA_OK);
    free(here);
    return device;
}

/* ---- counts ---- */

typedef struct traffic {
    uint64_t asked, once; /* by requests; of a kernel's sectors, each once */
} traffic;

static traffic moved(void) {
    hostdevice_kernel kernel;
    hostdevice_counts counts;
    ck_assert_int_eq(be->ops->sync(be), LISA_OK);
    ON_HOST_DEVICE(hostdevice_get_counts)(&counts);
    const uint64_t plain = counts.set_bytes + 2 * counts.on_device_bytes;
    traffic sum = {plain, plain};
    for (size_t i = 0; ON_HOST_DEVICE(hostdevice_get_kernel)(i, &kernel); i++) {
        sum.asked += 32 * kernel.sectors;
        sum.once += 32 * kernel.sectors_once;
    }
    return sum;
}

static traffic before;
static void begin(void) {
    before = moved();
}

/* Holds an operation to `most` times the least and gives its operands back. What a cache that holds
 * everything would leave is held to the target always. */
static void hold(const char *what, const setting *s, double most, lisa_status status) {
    ck_assert_msg(status == LISA_OK, "%s: %s", what, host.text);
    const traffic after = moved();
    const double asked = (double)(after.asked - before.asked) / (double)least;
    const double once = (double)(after.once - before.once) / (double)least;
    char line[200];
    snprintf(line, sizeof line, "%s, %s, %s, %u rows: %.2f MB, %.3f of the least, once %.3f", what,
             s->of->name, lisa_dtype_name(s->dtype), s->rows, 1e-6 * (double)least, asked, once);
    puts(line);
    ck_assert_msg(asked <= most && once <= TARGET, "%s; at most %.3f", line, most);
    ck_assert_msg(once >= LOWEST, "%s, which is not the least", line);
    while (n_taken > 0) {
        n_taken--;
        be->ops->release(be, taken[n_taken].memory, LISA_MEM_WORKSPACE, taken[n_taken].bytes);
    }
    least = 0;
}

#define HOLD(what, setting, most, call) (begin(), hold(what, setting, most, be->ops->call))

/* ---- rows ---- */

START_TEST(rows) {
    const setting s = setting_of(_i, 1024);
    const uint32_t d = s.of->d, vocab = s.of->vocab, n = s.rows;
    const size_t size = lisa__dtype_size(s.dtype), row = d * sizeof(float);
    lisa_embed look_up = {n, d, vocab, numbers(n, 97, vocab), {NULL, s.dtype}, out(n * row),
                          0, 0, 0};
    look_up.table.data = take(vocab * d * size, n * d * size, 1);
    HOLD("embed_forward", &s, TARGET, embed_forward(be, &look_up));

    /* Every token comes twice. */
    lisa_embed back = {.rows = n, .cols = d, .table_rows = n / 2, .index = numbers(n, 1, n / 2)};
    back.dout = in(n * row);
    back.dtable = in_out(n / 2 * row);
    HOLD("embed_backward", &s, TARGET, embed_backward(be, &back));

    lisa_rows some = {n, d, numbers(n, 2, 2 * n), NULL, NULL, {NULL, s.dtype}};
    some.src = take(2 * n * row, n * row, 1);
    some.dst = out(n * row);
    HOLD("gather", &s, TARGET, gather(be, &some));
    some.index = numbers(n, 2, 2 * n);
    some.src = in(n * row);
    some.dst = take(2 * n * row, n * row, 1);
    some.operand.data = take(2 * n * d * size, n * d * size, 1);
    HOLD("scatter", &s, TARGET, scatter(be, &some));

    lisa_bias add = {n, d, typed_in_out(n * d, s.dtype), d, typed_in(d, s.dtype), NULL};
    HOLD("bias_forward", &s, TARGET, bias_forward(be, &add));
    lisa_bias sum = {n, d, typed_in(n * d, s.dtype), d, {NULL, 0}, in_out(row)};
    HOLD("bias_backward", &s, TARGET, bias_backward(be, &sum));
}
END_TEST

/* ---- norms ---- */

/* How often weights move depends on how many vectors a team takes, which depends on the rows: so
 * many are a batch of 8 x 512 for the small model, of 1 x 1024 for the large one. */
static setting norm_setting_of(int i) {
    const setting s = setting_of(i, 0);
    return (setting){s.of, s.dtype, s.of->d < 1024 ? 4096 : 1024};
}

static lisa_norm norm_of(const setting *s, uint32_t kind) {
    return (lisa_norm){.kind = kind,
                       .rows = s->rows,
                       .segments = 1,
                       .cols = s->of->d,
                       .eps = 1e-5,
                       .ldx = s->of->d,
                       .ldy = s->of->d,
                       .lddy = s->of->d,
                       .lddx = s->of->d};
}

static void hold_norm_forward(const setting *s, uint32_t kind, int copies, double most) {
    lisa_norm op = norm_of(s, kind);
    const size_t n = (size_t)op.rows * op.cols;
    op.x = typed_in(n, LISA_DTYPE_F32);
    op.weight = typed_in(op.cols, s->dtype);
    if (kind == LISA_NORM_LAYER)
        op.bias = typed_in(op.cols, s->dtype);
    op.y = typed_out(n, s->dtype);
    op.copy = copies ? out(n * sizeof(float)) : NULL;
    op.stats = out(op.rows * kind * sizeof(float));
    char what[64];
    snprintf(what, sizeof what, "norm_forward%s%s", kind == LISA_NORM_LAYER ? ", layer" : "",
             copies ? ", with a copy" : "");
    HOLD(what, s, most, norm_forward(be, &op));
}

/* As a block's: dx is added to, and written as an operand too. */
static void hold_norm_backward(const setting *s, uint32_t kind, int trains, double most) {
    lisa_norm op = norm_of(s, kind);
    const size_t n = (size_t)op.rows * op.cols;
    op.x = typed_in(n, LISA_DTYPE_F32);
    op.weight = typed_in(op.cols, s->dtype);
    op.stats = in(op.rows * kind * sizeof(float));
    op.dy = typed_in(n, LISA_DTYPE_F32);
    op.dx = typed_in_out(n, LISA_DTYPE_F32);
    op.accumulate = 1;
    if (s->dtype != LISA_DTYPE_F32)
        op.operand = typed_out(n, s->dtype);
    if (trains)
        op.dweight = in_out(op.cols * sizeof(float));
    if (trains && kind == LISA_NORM_LAYER)
        op.dbias = in_out(op.cols * sizeof(float));
    char what[64];
    snprintf(what, sizeof what, "norm_backward%s%s", kind == LISA_NORM_LAYER ? ", layer" : "",
             trains ? ", with dweight" : "");
    HOLD(what, s, most, norm_backward(be, &op));
}

START_TEST(rms_norms) {
    const setting s = norm_setting_of(_i);
    for (int more = 0; more < 2; more++) {
        hold_norm_forward(&s, LISA_NORM_RMS, more, TARGET);
        hold_norm_backward(&s, LISA_NORM_RMS, more, TARGET);
    }
}
END_TEST

/* Biases come with the weights, and dbias with dweight. */
#define LAYER_FORWARD 1.27 /* f32: 4 vectors of 8 bytes an element to weights and biases of 8 */

START_TEST(layer_norms) {
    const setting s = norm_setting_of(_i);
    for (int more = 0; more < 2; more++) {
        hold_norm_forward(&s, LISA_NORM_LAYER, more, LAYER_FORWARD);
        hold_norm_backward(&s, LISA_NORM_LAYER, more, TARGET);
    }
}
END_TEST

/* Of 1024 short vectors each has a team of its own, for a device would have too little to do if
 * teams took several: weights are read again for every vector, from a cache. */
#define FEW_FORWARD_BF16 1.35 /* 4 + 2 bytes an element, and a weight of 2 */
#define FEW_FORWARD_F32 1.51  /* 4 + 4, and 4 */
#define FEW_COPY_F32 1.34     /* 4 + 4 + 4, and 4 */
#define FEW_BACKWARD_F32 1.26 /* 4 + 4 + 8, and 4 */

START_TEST(few_short_norms) {
    const setting s = setting_of(_i, 1024);
    const int is_f32 = s.dtype == LISA_DTYPE_F32;
    hold_norm_forward(&s, LISA_NORM_RMS, 0, is_f32 ? FEW_FORWARD_F32 : FEW_FORWARD_BF16);
    hold_norm_forward(&s, LISA_NORM_RMS, 1, is_f32 ? FEW_COPY_F32 : TARGET);
    hold_norm_backward(&s, LISA_NORM_RMS, 0, is_f32 ? FEW_BACKWARD_F32 : TARGET);
    hold_norm_backward(&s, LISA_NORM_RMS, 1, TARGET);
}
END_TEST

/* ---- elements ---- */

START_TEST(elements) {
    const setting s = setting_of(_i, 128);
    const size_t n = (size_t)s.rows * s.of->ff, bytes = n * lisa__dtype_size(s.dtype);
    const uint32_t half = s.of->head_dim / 2, width = s.of->heads * s.of->head_dim;
    const uint32_t also_width = s.of->kv_heads * s.of->head_dim;
    const size_t angles = s.rows * half * sizeof(float);
    lisa_rope turn = {.rows = s.rows,
                      .heads = s.of->heads,
                      .head_dim = s.of->head_dim,
                      .rotary_dim = s.of->head_dim,
                      .x = typed_in_out((size_t)s.rows * width, s.dtype),
                      .ldx = width,
                      .ldalso = also_width,
                      .also_heads = s.of->kv_heads,
                      .cos = in(angles),
                      .sin = in(angles),
                      .position = numbers(s.rows, 1, s.rows)};
    turn.also = typed_in_out((size_t)s.rows * also_width, s.dtype).data;
    HOLD("rope", &s, TARGET, rope(be, &turn));

    lisa_activation act = {.kind = LISA_ACT_SILU, .dtype = s.dtype, .n = n};
    act.gate = in(bytes);
    act.up = in(bytes);
    act.y = out(bytes);
    HOLD("activation_forward", &s, TARGET, activation_forward(be, &act));
    act.gate = in(bytes);
    act.up = in(bytes);
    act.dy = in(bytes);
    act.dgate = out(bytes);
    act.dup = out(bytes);
    HOLD("activation_backward", &s, TARGET, activation_backward(be, &act));

    lisa_dropout drop = {.n = n, .p = 0.1, .seed = 1};
    drop.x = typed_in(n, s.dtype);
    drop.y = typed_out(n, s.dtype);
    HOLD("dropout", &s, TARGET, dropout(be, &drop));
    drop.x = typed_in(n, LISA_DTYPE_F32);
    drop.y = typed_in_out(n, s.dtype);
    drop.accumulate = 1;
    HOLD("dropout, accumulating", &s, TARGET, dropout(be, &drop));

    const lisa_typed from = typed_in(n, LISA_DTYPE_F32), to = typed_out(n, s.dtype);
    HOLD("convert", &s, TARGET, convert(be, to, from, n));
    const lisa_typed x = typed_in(n, s.dtype);
    double *result = out(sizeof *result);
    HOLD("sum_squares", &s, TARGET, sum_squares(be, x, n, result));
    const double *losses = in(1024 * sizeof *losses);
    result = in_out(sizeof *result);
    HOLD("sum", &s, TARGET, sum(be, losses, 1024, result));
}
END_TEST

/* ---- loss ---- */

/* With a gradient a row is read twice: all of it decides the first element of its gradient, and
 * rows of these vocabularies (128 KB, 192 KB) are longer than the shared memory of the smallest
 * devices (99 KB), and take all of a multiprocessor's registers. The second reading follows the
 * first and is left to the cache. */
#define GRADIENT_BF16 1.68 /* 4 + 4 + 2 bytes an element, the least is 4 + 2 */
#define GRADIENT_F32 1.51  /* 4 + 4 + 4, the least is 4 + 4 */

START_TEST(loss) {
    const setting s = setting_of(_i, 32);
    const size_t n = (size_t)s.rows * s.of->vocab;
    for (int gradient = 0; gradient < 2; gradient++) {
        lisa_cross_entropy op = {.rows = s.rows,
                                 .cols = s.of->vocab,
                                 .logits = in(n * sizeof(float)),
                                 .ldlogits = s.of->vocab,
                                 .lddlogits = s.of->vocab,
                                 .gradient_scale = 1.0,
                                 .targets = numbers(s.rows, 97, s.of->vocab),
                                 .weights = in(s.rows * sizeof(float)),
                                 .nll = out(s.rows * sizeof(double))};
        if (gradient)
            op.dlogits = typed_out(n, s.dtype);
        HOLD(gradient ? "cross_entropy, with a gradient" : "cross_entropy", &s,
             !gradient                   ? TARGET
             : s.dtype == LISA_DTYPE_F32 ? GRADIENT_F32
                                         : GRADIENT_BF16,
             cross_entropy(be, &op));
    }
}
END_TEST

/* ---- updates ---- */

static const char *const moment_names[] = {"", "f32", "bf16", "8bit"};
static const uint32_t weights[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16};
enum { N_WEIGHTS = 3 };

static size_t low_bytes(uint32_t dtype) {
    return dtype == LISA_DTYPE_BF16 ? 2 : dtype == LISA_DTYPE_F16 ? 4 : 0;
}

/* A weight of f16 is its master rounded, so it need not be read. */
static lisa_typed weight_of(size_t n, uint32_t dtype) {
    return dtype == LISA_DTYPE_F16 ? typed_out(n, dtype) : typed_in_out(n, dtype);
}

START_TEST(updates) {
    const setting s = {&shapes[_i / N_WEIGHTS], weights[_i % N_WEIGHTS], 64};
    const size_t n = (size_t)s.rows * s.of->d;
    static const size_t moment_bytes[] = {0, 4, 2, 1};
    for (uint32_t kind = LISA_MOMENTS_F32; kind <= LISA_MOMENTS_8BIT; kind++) {
        lisa_adamw op = {.n = n,
                         .weight = weight_of(n, s.dtype),
                         .gradient = in(n * sizeof(float)),
                         .m = in_out(n * moment_bytes[kind]),
                         .v = in_out(n * moment_bytes[kind]),
                         .moments = kind,
                         .lr = 1e-3,
                         .beta1 = 0.9,
                         .beta2 = 0.999,
                         .eps = 1e-8,
                         .correction1 = 0.1,
                         .correction2 = 0.001,
                         .control = in(sizeof(lisa_control))};
        if (low_bytes(s.dtype) != 0)
            op.low = in_out(n * low_bytes(s.dtype));
        if (kind == LISA_MOMENTS_8BIT) {
            op.m_scale = in_out(n / LISA_MOMENTS_BLOCK * sizeof(float));
            op.v_scale = in_out(n / LISA_MOMENTS_BLOCK * sizeof(float));
        }
        char what[64];
        snprintf(what, sizeof what, "adamw, moments %s", moment_names[kind]);
        HOLD(what, &s, TARGET, adamw(be, &op));
    }
}
END_TEST

/* open makes low: of bf16 from nothing, of f16 from the weight. */
START_TEST(masters) {
    const setting s = {&shapes[_i / 2], weights[1 + _i % 2], 64};
    const size_t n = (size_t)s.rows * s.of->d, low = n * low_bytes(s.dtype);
    const int is_f16 = s.dtype == LISA_DTYPE_F16;
    lisa_master op = {.what = LISA_MASTER_OPEN, .n = n};
    op.weight = is_f16 ? typed_in(n, s.dtype) : (lisa_typed){take(2 * n, 0, 0), s.dtype};
    op.low = out(low);
    HOLD("master, open", &s, TARGET, master(be, &op));
    op.what = LISA_MASTER_CLOSE;
    op.weight = weight_of(n, s.dtype);
    op.low = in(low);
    HOLD("master, close", &s, TARGET, master(be, &op));
    op.what = LISA_MASTER_READ;
    op.weight = is_f16 ? (lisa_typed){take(2 * n, 0, 0), s.dtype} : typed_in(n, s.dtype);
    op.low = in(low);
    op.values = out(n * sizeof(float));
    HOLD("master, read", &s, TARGET, master(be, &op));
    op.what = LISA_MASTER_WRITE;
    op.weight = typed_out(n, s.dtype);
    op.low = out(low);
    op.values = in(n * sizeof(float));
    HOLD("master, write", &s, TARGET, master(be, &op));
}
END_TEST

/* ---- suite ---- */

static void set_up(void) {
    const lisa_backend_ops *ops;
    ck_assert_int_eq(lisa__backend_find(&ops, "cuda"), LISA_OK);
    test_host_init(&host, 1);
    be = test_host_start(&host, ops);
    ON_HOST_DEVICE(hostdevice_search_races)(0);
    ON_HOST_DEVICE(hostdevice_measure_traffic)(1);
}

static void tear_down(void) {
    be->ops->stop(be);
    test_host_finish(&host);
}

static Suite *make_suite(void) {
    Suite *suite = suite_create("traffic on cuda");
    TCase *tcase = tcase_create("operations");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, rows, 0, N_SHAPES * N_DTYPES);
    tcase_add_loop_test(tcase, rms_norms, 0, N_SHAPES * N_DTYPES);
    tcase_add_loop_test(tcase, layer_norms, 0, N_SHAPES * N_DTYPES);
    tcase_add_loop_test(tcase, few_short_norms, 0, N_DTYPES);
    tcase_add_loop_test(tcase, elements, 0, N_SHAPES * N_DTYPES);
    tcase_add_loop_test(tcase, loss, 0, N_SHAPES * N_DTYPES);
    tcase_add_loop_test(tcase, updates, 0, N_SHAPES * N_WEIGHTS);
    tcase_add_loop_test(tcase, masters, 0, N_SHAPES * 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    if (lisa_host_device() != NULL && ON_HOST_DEVICE(hostdevice_has_race_lane)())
        return lisa_cuda_missing() ? 77 : lisa_check_run(make_suite());
    printf("the host device that counts is not in LISA_BACKEND_PATH\n");
    return 77;
}

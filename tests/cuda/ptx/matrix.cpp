/* matrix.cpp - mma.sync.m16n8k16 and ldmatrix.
 *
 * A product follows what has been measured of the hardware's arithmetic (Fasi, Higham, Mikaitis,
 * Pranesh: "Numerical behavior of NVIDIA tensor cores"): 8 products at a time are exact, they and
 * the sum so far are cut off at one place, set by the largest of them, and the new sum is cut off
 * to f32, not rounded. */
#include "decoder.h"

#include <cmath>

namespace ptx {
namespace {

constexpr unsigned ROWS = 16, COLUMNS = 8, DEPTH = 16, STEP = 8;

/* Bits below the largest addend's first that are kept. */
constexpr int KEPT_BITS = 24;

bool all_there(Warp &w, const Inst &in, uint32_t lanes) {
    if (lanes == ALL_LANES)
        return true;
    if (w.exited)
        w.stop(in, lanes, "needs 32 lanes, some have exited");
    w.blocked |= lanes;
    return false;
}

double cut_to_float(double x) {
    /* 29 bits of a double's mantissa are beyond a float's. */
    const auto bits = bits_of<uint64_t>(x) & ~((UINT64_C(1) << 29) - 1);
    return bits_of<double>(bits);
}

float plain_sum(const double *addends, unsigned n) {
    float sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += static_cast<float>(addends[i]);
    return sum;
}

float sum_of(const double *addends, unsigned n) {
    double largest = 0;
    bool finite = true;
    for (unsigned i = 0; i < n; i++) {
        largest = std::max(largest, std::fabs(addends[i]));
        finite &= std::isfinite(addends[i]);
    }
    if (!finite)
        return plain_sum(addends, n);
    if (largest == 0)
        return 0;
    const auto exponent = static_cast<int>(bits_of<uint64_t>(largest) >> 52) - 1023;
    const double unit = std::ldexp(1.0, exponent - KEPT_BITS);
    const double per_unit = std::ldexp(1.0, KEPT_BITS - exponent);
    int64_t sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += static_cast<int64_t>(addends[i] * per_unit);
    const double total = cut_to_float(static_cast<double>(sum) * unit);
    return static_cast<float>(total);
}

struct Tiles {
    double a[ROWS][DEPTH], b[COLUMNS][DEPTH]; /* b by columns */
    float c[ROWS][COLUMNS];
};

/* The places of a lane's fragments: see "Matrix Fragments for mma.m16n8k16" of the PTX ISA. */
unsigned row_of(unsigned lane, unsigned i) {
    return lane / 4 + (i & 1 ? 8 : 0);
}

template <class H> void gather(Warp &w, const Inst &in, Tiles &t) {
    const auto half = [](uint32_t pair, unsigned which) {
        return static_cast<double>(to_float(H{static_cast<uint16_t>(pair >> 16 * which)}));
    };
    for (unsigned lane = 0; lane < WARP; lane++) {
        const unsigned pair = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++)
            for (unsigned h = 0; h < 2; h++)
                t.a[row_of(lane, i)][pair + h + (i & 2 ? 8 : 0)] =
                    half(w.cells<uint32_t>(in.s[i])[lane], h);
        for (unsigned i = 0; i < 2; i++)
            for (unsigned h = 0; h < 2; h++)
                t.b[lane / 4][pair + h + 8 * i] = half(w.cells<uint32_t>(in.s[4 + i])[lane], h);
        for (unsigned i = 0; i < 4; i++)
            t.c[row_of(lane, i >> 1)][pair + (i & 1)] =
                from_cell<float>(w.cells<uint32_t>(in.s[6 + i])[lane]);
    }
}

void multiply(Tiles &t) {
    for (unsigned row = 0; row < ROWS; row++)
        for (unsigned column = 0; column < COLUMNS; column++)
            for (unsigned k = 0; k < DEPTH; k += STEP) {
                double addends[STEP + 1];
                for (unsigned j = 0; j < STEP; j++)
                    addends[j] = t.a[row][k + j] * t.b[column][k + j];
                addends[STEP] = t.c[row][column];
                t.c[row][column] = sum_of(addends, STEP + 1);
            }
}

template <class H> void multiply_tiles(Warp &w, const Inst &in, uint32_t lanes) {
    if (!all_there(w, in, lanes))
        return;
    Tiles t;
    gather<H>(w, in, t);
    multiply(t);
    for (unsigned lane = 0; lane < WARP; lane++)
        for (unsigned i = 0; i < 4; i++)
            w.cells<uint32_t>(in.d[i])[lane] =
                bits_of<uint32_t>(t.c[row_of(lane, i >> 1)][lane % 4 * 2 + (i & 1)]);
}

void expect_modifiers(Decoder &d, Opcode &op, std::initializer_list<const char *> modifiers) {
    for (const char *m : modifiers)
        if (!op.take(m))
            d.refuse(std::string("without ") + m);
}

void vector_items(Decoder &d, const Operand &o, size_t count) {
    if (o.kind != Operand::Vector || o.items.size() != count)
        d.refuse("expected " + std::to_string(count) + " registers");
}

void decode_product(Decoder &d, Opcode &op, Inst &in) {
    expect_modifiers(d, op, {"sync", "aligned", "m16n8k16", "row", "col"});
    const Type result = op.take_type(), a = op.take_type(), b = op.take_type();
    const Type c = op.take_type();
    if (result != Type::F32 || c != Type::F32 || a != b || (a != Type::F16 && a != Type::BF16))
        d.refuse("types that are not known");
    in.flow = Flow::Sync;
    in.run = a == Type::F16 ? multiply_tiles<F16> : multiply_tiles<BF16>;
    const size_t counts[] = {4, 4, 2, 4};
    size_t at = 0;
    for (size_t o = 0; o < 4; o++) {
        vector_items(d, d.operand(o), counts[o]);
        for (size_t i = 0; i < counts[o]; i++) {
            const Operand &item = d.operand(o).items[i];
            if (o == 0)
                in.d[i] = d.dest(item, Type::F32);
            else
                in.s[at++] = d.source(item, o == 3 ? Type::F32 : Type::B32);
        }
    }
}

/* ---- ldmatrix ------------------------------------------------------------------------------- */

/* Lane 8 m + r names row r of matrix m; a lane gets element pairs of the matrices, or of their
 * transposes (mode). */
void load_matrices(Warp &w, const Inst &in, uint32_t lanes) {
    if (!all_there(w, in, lanes))
        return;
    constexpr unsigned SIDE = 8;
    uint16_t elements[4][SIDE][SIDE];
    for (unsigned lane = 0; lane < SIDE * in.count; lane++)
        memcpy(elements[lane / SIDE][lane % SIDE],
               w.reach(in, lane, w.address_of(in, lane), 16, Access::Read), 16);
    for (unsigned m = 0; m < in.count; m++)
        for (unsigned lane = 0; lane < WARP; lane++) {
            const unsigned row = lane / 4, pair = lane % 4 * 2;
            const uint16_t *e = elements[m][row];
            const uint32_t low = in.mode ? elements[m][pair][row] : e[pair];
            const uint32_t high = in.mode ? elements[m][pair + 1][row] : e[pair + 1];
            w.cells<uint32_t>(in.d[m])[lane] = high << 16 | low;
        }
}

void decode_load(Decoder &d, Opcode &op, Inst &in) {
    expect_modifiers(d, op, {"sync", "aligned", "m8n8"});
    const int count = op.take_one({"x1", "x2", "x4"});
    if (count < 0)
        d.refuse("a number of matrices that is not known");
    in.mode = op.take("trans");
    in.space = take_access_space(op);
    if (in.space != Space::Shared || op.take_type() != Type::B16)
        d.refuse("memory or elements that are not known");
    in.flow = Flow::Sync;
    in.run = load_matrices;
    in.count = static_cast<uint8_t>(1 << count);
    vector_items(d, d.operand(0), in.count);
    for (size_t i = 0; i < in.count; i++)
        in.d[i] = d.dest(d.operand(0).items[i], Type::B32);
    d.address(d.operand(1), in);
}

} // namespace

bool decode_matrix(Decoder &d, Opcode &op, Inst &in) {
    if (op.is("mma"))
        decode_product(d, op, in);
    else if (op.is("ldmatrix"))
        decode_load(d, op, in);
    else
        return false;
    return true;
}

} // namespace ptx

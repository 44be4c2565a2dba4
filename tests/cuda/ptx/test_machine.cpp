/* test_machine.cpp - memory, control flow, and what lanes and warps do together. */
#include "half.h"
#include "test.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace ptx {
namespace {

/* Runs "t" on `threads` threads with one array of words and checks them all. */
template <class F>
void words(const std::string &what, const std::string &body, unsigned threads, F expected,
           const std::string &before = "", Order order = Order::Forward) {
    Bench bench(kernel(
        1, "mad.wide.u32 %rd9, %r0, 4, %rd0;\n" + body + "\nst.global.u32 [%rd9], %r9;", before));
    bench.library.surroundings.order = order;
    uint32_t *out = bench.array<uint32_t>(threads);
    const std::string report = bench.report({}, {threads}, 0, out);
    bool good = report.empty();
    unsigned bad = 0;
    for (unsigned i = 0; good && i < threads; i++)
        if (out[i] != static_cast<uint32_t>(expected(i))) {
            good = false;
            bad = i;
        }
    check(good, what + (report.empty() ? ": thread " + std::to_string(bad) + " has " +
                                             std::to_string(out[bad]) + ", expected " +
                                             std::to_string(expected(bad))
                                       : ": " + report));
}

} // namespace

/* ---- memory --------------------------------------------------------------------------------- */

void test_memory() {
    {
        Bench bench(kernel(2, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0];\n"
                              "st.global.v2.u32 [%rd1+8], {%r4, %r1};\n"
                              "ld.global.nc.v2.f32 {%f1, _}, [%rd0+8];\n"
                              "st.global.f32 [%rd1], %f1;\n"
                              "ld.global.s8 %r5, [%rd0+3];\nst.global.u32 [%rd1+16], %r5;\n"
                              "ld.global.s16 %rd5, [%rd0+2];\nst.global.u64 [%rd1+24], %rd5;\n"
                              "st.global.u8 [%rd1+5], %r2;"));
        uint32_t *in = bench.array<uint32_t>(4), *out = bench.array<uint32_t>(8);
        const uint32_t values[] = {0xF1020304, 0x11121314, 0x21222324, 0x31323334};
        std::copy(values, values + 4, in);
        bench.run({}, {1}, 0, in, out);
        const uint32_t expected[] = {0x21222324, 0x1400, 0x31323334, 0xF1020304,
                                     0xFFFFFFF1, 0,      0xFFFFF102, 0xFFFFFFFF};
        check(std::equal(out, out + 8, expected), "loads and stores of vectors and narrow types");
    }
    words(
        "shared memory turned around",
        "mov.u32 %r1, s;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], %r0;\n"
        "bar.sync 0;\nsub.u32 %r3, 127, %r0;\nmad.lo.u32 %r4, %r3, 4, %r1;\n"
        "ld.shared.u32 %r9, [%r4];",
        128, [](unsigned i) { return 127 - i; }, ".shared .align 4 .b8 s[512];");
    words(
        "shared memory by generic addresses",
        "mov.u64 %rd1, s;\ncvta.shared.u64 %rd2, %rd1;\nmad.wide.u32 %rd3, %r0, 4, %rd2;\n"
        "st.u32 [%rd3], %r0;\nisspacep.shared %p1, %rd3;\nisspacep.local %p2, %rd3;\n"
        "cvta.to.shared.u64 %rd4, %rd3;\nld.shared.u32 %r9, [%rd4];\n"
        "@!%p1 mov.u32 %r9, 777;\n@%p2 mov.u32 %r9, 778;",
        32, [](unsigned i) { return i; }, ".shared .align 4 .b8 s[128];");
    words("local memory",
          ".local .align 8 .b8 mine[40];\nmov.u64 %rd1, mine;\ncvta.local.u64 %rd2, %rd1;\n"
          "st.local.u32 [%rd1+8], %r0;\nst.u32 [%rd2+12], 5;\nld.u32 %r1, [%rd2+8];\n"
          "ld.local.u32 %r2, [mine+12];\nadd.u32 %r9, %r1, %r2;",
          64, [](unsigned i) { return i + 5; });
    words(
        "variables of a module",
        "and.b32 %r1, %r0, 3;\nmov.u64 %rd1, table;\nmad.wide.u32 %rd2, %r1, 2, %rd1;\n"
        "ld.const.u16 %r9, [%rd2];",
        32, [](unsigned i) { return 10 * (i % 4 + 1); },
        ".const .align 2 .u16 table[4] = {10, 20, 30, 40};");
    words(
        "shared memory begins as ones", "ld.shared.u32 %r9, [s+4];", 32,
        [](unsigned) { return UINT32_MAX; }, ".shared .align 4 .b8 s[8];");
    {
        Bench bench(kernel(1,
                           "mov.u32 %r1, d;\nmad.lo.u32 %r2, %r0, 4, %r1;\n"
                           "st.shared.u32 [%r2], %r0;\nld.shared.u32 %r3, [d+8];\n"
                           "mov.u32 %r4, %dynamic_smem_size;\nadd.u32 %r3, %r3, %r4;\n"
                           "st.global.u32 [%rd0], %r3;",
                           ".shared .align 4 .b8 fixed[20];\n.extern .shared .align 16 .b8 d[];"));
        uint32_t *out = bench.array<uint32_t>(1);
        const std::string report = bench.report({}, {32}, 128, out);
        check(report.empty() && *out == 130, "dynamic shared memory " + report);
    }
}

void test_atomics() {
    {
        Bench bench(kernel(2, "atom.global.add.u32 %r1, [%rd0], 2;\n"
                              "mad.wide.u32 %rd2, %r0, 4, %rd1;\nst.global.u32 [%rd2], %r1;\n"
                              "red.global.add.f32 [%rd0+4], 0f3F000000;\n"
                              "red.global.max.s32 [%rd0+8], %r0;\n"
                              "atom.global.inc.u32 %r2, [%rd0+12], 9;\n"
                              "red.global.relaxed.gpu.add.f64 [%rd0+16], 0d3FF0000000000000;\n"
                              "atom.global.cas.b32 %r3, [%rd0+24], 0, 5;\n"
                              "atom.global.exch.b32 %r3, [%rd0+28], %r0;\n"
                              "red.global.or.b32 [%rd0+32], %r0;\n"
                              "red.global.min.u64 [%rd0+40], 3;"));
        uint32_t *cells = bench.array<uint32_t>(12), *olds = bench.array<uint32_t>(96);
        cells[10] = 9;
        bench.run({}, {96}, 0, cells, olds);
        float sum;
        double wide;
        memcpy(&sum, cells + 1, sizeof sum);
        memcpy(&wide, cells + 4, sizeof wide);
        bool good = cells[0] == 192 && sum == 48 && cells[2] == 95 && cells[3] == 6 && wide == 96;
        good = good && cells[6] == 5 && cells[7] == 95 && cells[8] == 127 && cells[10] == 3;
        for (unsigned i = 0; i < 96; i++)
            good = good && std::count(olds, olds + 96, 2 * i) == 1;
        check(good, "atomic operations");
    }
    words(
        "atomic operations on shared memory",
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [s], 0;\nbar.sync 0;\n"
        "atom.shared.add.u32 %r1, [s], 1;\nbar.sync 0;\nld.shared.u32 %r9, [s];",
        96, [](unsigned) { return 96; }, ".shared .align 4 .b8 s[4];");
}

void test_async() {
    const std::string copy = "mov.u32 %r1, s;\nmad.lo.u32 %r2, %r0, 16, %r1;\n"
                             "mad.wide.u32 %rd2, %r0, 16, %rd0;\nsetp.lt.u32 %p1, %r0, 16;\n"
                             "selp.b32 %r3, 16, 0, %p1;\n"
                             "st.shared.u32 [%r2+4], 99;\n"
                             "cp.async.cg.shared.global [%r2], [%rd2], 16, %r3;\n"
                             "cp.async.commit_group;\n"
                             "cp.async.ca.shared.global [%r2+512], [%rd0+4], 4;\n"
                             "cp.async.commit_group;\n";
    const std::string store = "mad.wide.u32 %rd3, %r0, 4, %rd1;\nst.global.u32 [%rd3], %r4;";
    const auto run = [&](const std::string &body, unsigned rows) {
        Bench bench(kernel(2, copy + body + store, ".shared .align 16 .b8 s[1024];"));
        uint32_t *in = bench.array<uint32_t>(4 * rows), *out = bench.array<uint32_t>(32);
        for (unsigned i = 0; i < 4 * rows; i++)
            in[i] = 1000 + i;
        const std::string report = bench.report({}, {32}, 0, in, out);
        check(report.empty(), "asynchronous copies " + report);
        return std::vector<uint32_t>(out, out + 32);
    };
    /* 16 rows are there; the others are neither read nor left as they were. */
    auto out = run("cp.async.wait_group 1;\nld.shared.u32 %r4, [%r2+4];\n", 16);
    check(out[3] == 1013 && out[15] == 1061 && out[16] == 0, "a copy that has been waited for");
    out = run("ld.shared.u32 %r4, [%r2+4];\ncp.async.wait_all;\n", 16);
    check(out[3] == 99 && out[16] == 99, "a copy that has not been waited for");
    out = run("cp.async.wait_group 1;\nld.shared.u32 %r4, [%r2+512];\n", 16);
    check(out[3] == UINT32_MAX, "the newest group is left under way");
    out = run("cp.async.wait_group 0;\nld.shared.u32 %r4, [%r2+512];\n", 16);
    check(out[3] == 1001, "no group is left under way");
}

/* ---- control flow --------------------------------------------------------------------------- */

void test_control() {
    words("loops of different lengths",
          "mov.u32 %r9, 0;\nand.b32 %r1, %r0, 7;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra done;\n"
          "again:\nadd.u32 %r9, %r9, %r1;\nsub.u32 %r1, %r1, 1;\nsetp.ne.u32 %p2, %r1, 0;\n"
          "@%p2 bra again;\ndone:\nadd.u32 %r9, %r9, 100;",
          64, [](unsigned i) { return 100 + (i % 8) * (i % 8 + 1) / 2; });
    words("paths that part and meet",
          "and.b32 %r1, %r0, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra even;\n"
          "mov.u32 %r9, 1;\nbra.uni meet;\neven:\nmov.u32 %r9, 2;\nmeet:\n"
          "activemask.b32 %r2;\nsetp.ne.u32 %p2, %r2, -1;\n@%p2 mov.u32 %r9, 99;",
          64, [](unsigned i) { return i % 2 ? 1 : 2; });
    words("a branch by a table",
          "and.b32 %r1, %r0, 3;\nbrx.idx %r1, targets;\n"
          "targets: .branchtargets a, b, c, b;\n"
          "a:\nmov.u32 %r9, 10;\nbra end;\nb:\nmov.u32 %r9, 11;\nbra end;\nc:\nmov.u32 %r9, 12;\n"
          "end:",
          64, [](unsigned i) { return i % 4 == 0   ? 10
                                      : i % 4 == 2 ? 12
                                                   : 11; });
    words(
        "calls",
        "{\n.param .b32 p0;\n.param .b32 r;\nst.param.b32 [p0+0], %r0;\n"
        "call.uni (r), twice, (p0);\nld.param.b32 %r9, [r+0];\n}\n"
        "{\n.param .b32 p0;\n.param .b32 r;\nst.param.b32 [p0], %r9;\n"
        "call (r), twice, (p0);\nld.param.b32 %r9, [r];\n}",
        64, [](unsigned i) { return i < 5 && 2 * i < 10 ? 4 * i : 10; },
        ".func (.param .b32 out) twice(.param .b32 in)\n{\n.reg .b32 %r<4>;\n.reg .pred %p<2>;\n"
        "ld.param.b32 %r1, [in];\nst.param.b32 [out], 10;\nsetp.ge.u32 %p1, %r1, 10;\n"
        "@%p1 ret;\nadd.u32 %r2, %r1, %r1;\nst.param.b32 [out], %r2;\nret;\n}\n");
    words("an early exit", "mov.u32 %r9, 5;\nsetp.gt.u32 %p1, %r0, 40;\n@%p1 ret;", 64,
          [](unsigned i) { return i > 40 ? 0 : 5; });
    {
        Bench bench(kernel(1, "mov.u32 %r1, %ctaid.y;\nmov.u32 %r2, %nctaid.x;\n"
                              "mov.u32 %r3, %ctaid.x;\nmad.lo.u32 %r4, %r1, %r2, %r3;\n"
                              "mov.u32 %r5, %tid.y;\nmov.u32 %r6, %ntid.x;\n"
                              "mad.lo.u32 %r7, %r5, %r6, %r0;\nmad.lo.u32 %r4, %r4, 40, %r7;\n"
                              "mad.wide.u32 %rd1, %r4, 4, %rd0;\nst.global.u32 [%rd1], %r4;"));
        uint32_t *out = bench.array<uint32_t>(240);
        bench.library.surroundings.order = Order::Shuffled;
        bench.run({3, 2}, {8, 5}, 0, out);
        bool good = true;
        for (unsigned i = 0; i < 240; i++)
            good = good && out[i] == i;
        check(good, "grids and blocks of two dimensions");
    }
}

/* ---- warps ---------------------------------------------------------------------------------- */

namespace {

/* As the CUDA guide tells shuffles of `width` lanes; a source outside leaves a lane its own. */
unsigned shuffled(char mode, unsigned lane, unsigned by, unsigned width) {
    const unsigned first = lane / width * width, in = lane - first;
    switch (mode) {
    case 'u':
        return in >= by ? lane - by : lane;
    case 'd':
        return in + by < width ? lane + by : lane;
    case 'b':
        return (in ^ by) < width ? first + (in ^ by) : lane;
    default:
        return first + by % width;
    }
}

void shuffles(const char *mode) {
    for (const unsigned width : {32u, 8u, 4u})
        for (const unsigned by : {0u, 1u, 2u, 3u, 7u}) {
            if (by >= width)
                continue;
            const unsigned c = (32 - width) << 8 | (mode[0] == 'u' ? 0 : 31);
            words(std::string("shfl.sync.") + mode + " by " + std::to_string(by) + " of " +
                      std::to_string(width),
                  std::string("shfl.sync.") + mode + ".b32 %r9|%p1, %r0, " + std::to_string(by) +
                      ", " + std::to_string(c) + ", -1;",
                  32, [=](unsigned i) { return shuffled(mode[0], i, by, width); });
        }
}

} // namespace

void test_warps() {
    for (const char *mode : {"up", "down", "bfly", "idx"})
        shuffles(mode);
    words("shfl's predicate", "shfl.sync.up.b32 %r1|%p1, %r0, 3, 0, -1;\nselp.b32 %r9, 1, 0, %p1;",
          32, [](unsigned i) { return i >= 3; });
    words("a shuffle of half a warp",
          "setp.lt.u32 %p1, %r0, 16;\nmov.u32 %r9, 0;\n@!%p1 bra skip;\n"
          "shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xFFFF;\nskip:",
          32, [](unsigned i) { return i < 16 ? i ^ 1 : 0; });
    words("a shuffle waits for lanes on another path",
          "setp.lt.u32 %p1, %r0, 16;\nmov.u32 %r1, %r0;\n@%p1 bra meet;\n"
          "add.u32 %r1, %r1, 100;\nmeet:\nshfl.sync.bfly.b32 %r9, %r1, 16, 31, -1;",
          32, [](unsigned i) { return i < 16 ? i + 116 : i - 16; });
    words("votes",
          "setp.lt.u32 %p1, %r0, 5;\nvote.sync.ballot.b32 %r1, %p1, -1;\n"
          "vote.sync.any.pred %p2, %p1, -1;\nvote.sync.all.pred %p3, %p1, -1;\n"
          "selp.b32 %r2, 256, 0, %p2;\nselp.b32 %r3, 512, 0, %p3;\n"
          "add.u32 %r9, %r1, %r2;\nadd.u32 %r9, %r9, %r3;",
          32, [](unsigned) { return 31 + 256; });
    words("redux",
          "redux.sync.add.u32 %r1, %r0, -1;\nredux.sync.max.s32 %r2, %r0, -1;\n"
          "mad.lo.u32 %r9, %r2, 1000, %r1;",
          32, [](unsigned) { return 31496; });
    words("barriers that count",
          "setp.lt.u32 %p1, %r0, 70;\nbar.red.popc.u32 %r1, 0, %p1;\n"
          "bar.red.or.pred %p2, 0, %p1;\nbar.red.and.pred %p3, 0, %p1;\n"
          "selp.b32 %r2, 1000, 0, %p2;\nselp.b32 %r3, 5000, 0, %p3;\n"
          "add.u32 %r9, %r1, %r2;\nadd.u32 %r9, %r9, %r3;",
          96, [](unsigned) { return 1070; });
    for (const Order order : {Order::Forward, Order::Reverse, Order::Shuffled})
        words(
            "warps in every order",
            "mov.u32 %r1, s;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], %r0;\n"
            "barrier.sync.aligned 0;\nxor.b32 %r3, %r0, 96;\nmad.lo.u32 %r4, %r3, 4, %r1;\n"
            "ld.shared.u32 %r9, [%r4];",
            128, [](unsigned i) { return i ^ 96; }, ".shared .align 4 .b8 s[512];", order);
}

/* ---- matrices ------------------------------------------------------------------------------- */

namespace {

/* A and B through ldmatrix from shared memory, C in fragments to global memory: [16][16] by rows,
 * [8][16] by columns of B, [16][8]. */
std::string product_kernel(const std::string &type) {
    return kernel(3,
                  "mov.u32 %r1, s;\nmad.wide.u32 %rd3, %r0, 16, %rd0;\n"
                  "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd3];\n"
                  "mad.lo.u32 %r6, %r0, 16, %r1;\nst.shared.v4.u32 [%r6], {%r2, %r3, %r4, %r5};\n"
                  "mad.wide.u32 %rd4, %r0, 8, %rd1;\nld.global.v2.u32 {%r2, %r3}, [%rd4];\n"
                  "mad.lo.u32 %r6, %r0, 8, %r1;\nst.shared.v2.u32 [%r6+512], {%r2, %r3};\n"
                  "bar.warp.sync -1;\n"
                  /* row lane % 16, columns from 8 (lane / 16) */
                  "and.b32 %r7, %r0, 15;\nshr.u32 %r8, %r0, 4;\nmad.lo.u32 %r9, %r7, 32, %r1;\n"
                  "mad.lo.u32 %r9, %r8, 16, %r9;\n"
                  "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r9];\n"
                  /* column lane % 8, rows from 8 (lane / 8) */
                  "and.b32 %r7, %r0, 7;\nshr.u32 %r8, %r0, 3;\nand.b32 %r8, %r8, 1;\n"
                  "mad.lo.u32 %r9, %r7, 32, %r1;\nmad.lo.u32 %r9, %r8, 16, %r9;\n"
                  "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r14, %r15}, [%r9+512];\n"
                  "mov.f32 %f1, 0f3F800000;\nmov.f32 %f2, %f1;\nmov.f32 %f3, %f1;\n"
                  "mov.f32 %f4, %f1;\n"
                  "mma.sync.aligned.m16n8k16.row.col.f32." +
                      type + "." + type +
                      ".f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, "
                      "{%f1, %f2, %f3, %f4};\n"
                      "mad.wide.u32 %rd5, %r0, 8, %rd2;\nst.global.v2.f32 [%rd5], {%f1, %f2};\n"
                      "st.global.v2.f32 [%rd5+256], {%f3, %f4};",
                  ".shared .align 16 .b8 s[1024];");
}

template <class H> void products(const char *type, H (*narrow)(float), bool whole) {
    Bench bench(product_kernel(type));
    uint16_t *a = bench.array<uint16_t>(256), *b = bench.array<uint16_t>(128);
    float *c = bench.array<float>(128);
    const auto value = [&] {
        const int n = static_cast<int>(random_bits()() % 15) - 7;
        return whole ? static_cast<float>(n) : some_moderate() * 0x1p-20f;
    };
    for (unsigned i = 0; i < 256; i++)
        a[i] = narrow(value()).bits;
    for (unsigned i = 0; i < 128; i++)
        b[i] = narrow(value()).bits;
    const std::string report = bench.report({}, {32}, 0, a, b, c);
    bool good = report.empty();
    for (unsigned row = 0; row < 16; row++)
        for (unsigned column = 0; column < 8; column++) {
            double sum = 1, size = 1;
            for (unsigned k = 0; k < 16; k++) {
                const double p = static_cast<double>(to_float(H{a[16 * row + k]})) *
                                 to_float(H{b[16 * column + k]});
                sum += p;
                size += std::fabs(p);
            }
            const double error = std::fabs(sum - c[8 * row + column]);
            good = good && (whole ? error == 0 : error <= size * 0x1p-21);
        }
    check(good, std::string("mma of ") + type + (whole ? " whole" : "") + " numbers " + report);
}

void transposed_load() {
    Bench bench(kernel(1,
                       "mov.u32 %r1, s;\nmad.lo.u32 %r2, %r0, 16, %r1;\n"
                       "mul.lo.u32 %r3, %r0, 0x80008;\nadd.u32 %r4, %r3, 0x10000;\n"
                       "add.u32 %r5, %r3, 0x30002;\nadd.u32 %r6, %r3, 0x50004;\n"
                       "add.u32 %r7, %r3, 0x70006;\n"
                       "st.shared.v4.u32 [%r2], {%r4, %r5, %r6, %r7};\nbar.warp.sync -1;\n"
                       "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                       "{%r10, %r11, %r12, %r13}, [%r2];\n"
                       "mad.wide.u32 %rd1, %r0, 16, %rd0;\n"
                       "st.global.v4.u32 [%rd1], {%r10, %r11, %r12, %r13};",
                       ".shared .align 16 .b8 s[512];"));
    uint32_t *out = bench.array<uint32_t>(128);
    const std::string report = bench.report({}, {32}, 0, out);
    bool good = report.empty();
    /* Element [r][c] of matrix m is 64 m + 8 r + c. */
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned m = 0; m < 4; m++) {
            const unsigned column = lane / 4, row = lane % 4 * 2;
            const unsigned low = 64 * m + 8 * row + column, high = low + 8;
            good = good && out[4 * lane + m] == (high << 16 | low);
        }
    check(good, "ldmatrix of transposes " + report);
}

} // namespace

void test_matrices() {
    products<F16>("f16", nearest_f16, true);
    products<BF16>("bf16", nearest_bf16, true);
    products<F16>("f16", nearest_f16, false);
    products<BF16>("bf16", nearest_bf16, false);
    transposed_load();
}

/* ---- reports -------------------------------------------------------------------------------- */

namespace {

/* The report that a kernel of 64 threads ends in; it may touch 64 words. */
std::string report_of(const std::string &body, const std::string &before = "",
                      unsigned threads = 64) {
    Bench bench(kernel(1, "mad.wide.u32 %rd9, %r0, 4, %rd0;\n" + body, before));
    bench.library.surroundings.branches = 100000;
    return bench.report({}, {threads}, 0, bench.array<uint32_t>(64));
}

void memory_reports() {
    expect_report("past an allocation", report_of("st.global.u32 [%rd9+4], %r0;"),
                  "outside device memory");
    expect_report("before an allocation", report_of("ld.global.u32 %r1, [%rd9+-4];"),
                  "thread 0: reads 4 bytes");
    expect_report("a null pointer", report_of("mov.u64 %rd1, 0;\nld.u32 %r1, [%rd1];"),
                  "outside device memory");
    expect_report("a misaligned vector", report_of("ld.global.v2.u32 {%r1, %r2}, [%rd9];"),
                  "misaligned");
    expect_report(
        "past shared memory",
        report_of("mov.u32 %r1, s;\nst.shared.u32 [%r1+8], 0;", ".shared .align 4 .b8 s[8];", 32),
        "past shared memory");
    expect_report("past local memory",
                  report_of(".local .align 4 .b8 l[8];\nst.local.u32 [l+16], 0;"),
                  "past local memory");
    expect_report("a constant that is written",
                  report_of("mov.u64 %rd1, c;\nst.global.u32 [%rd1], 0;", ".const .u32 c[2];"),
                  "outside device memory");
    expect_report("a copy from nowhere",
                  report_of("mov.u32 %r1, s;\nmad.wide.u32 %rd9, %r0, 16, %rd0;\n"
                            "mad.lo.u32 %r1, %r0, 16, %r1;\n"
                            "cp.async.cg.shared.global [%r1], [%rd9], 16;",
                            ".shared .align 16 .b8 s[1024];"),
                  "reads outside device memory");
}

void race_reports() {
    const std::string s = ".shared .align 4 .b8 s[256];";
    const std::string own = "mov.u32 %r1, s;\nmad.lo.u32 %r2, %r0, 4, %r1;\n";
    expect_report("a missing barrier",
                  report_of(own + "st.shared.u32 [%r2], 1;\nxor.b32 %r3, %r0, 32;\n"
                                  "mad.lo.u32 %r4, %r3, 4, %r1;\nld.shared.u32 %r5, [%r4];",
                            s),
                  "races");
    expect_report("a write after others read",
                  report_of(own + "st.shared.u32 [%r2], 1;\nbar.sync 0;\nxor.b32 %r3, %r0, 32;\n"
                                  "mad.lo.u32 %r4, %r3, 4, %r1;\nld.shared.u32 %r5, [%r4];\n"
                                  "st.shared.u32 [%r2], %r5;",
                            s),
                  "races");
    expect_report("a copy over what others read",
                  report_of("mov.u32 %r1, s;\nld.shared.u32 %r2, [%r1];\n"
                            "cp.async.ca.shared.global [%r1], [%rd9], 4;",
                            s),
                  "races");
    check(report_of(own + "st.shared.u32 [%r2], 1;\nld.shared.u32 %r3, [%r2];", s).empty(),
          "what a thread wrote itself is no race");
}

void warp_reports() {
    expect_report("a barrier for half a warp",
                  report_of("and.b32 %r1, %r0, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra a;\n"
                            "bar.sync 0;\nbra b;\na:\nbar.sync 0;\nb:"),
                  "different barriers");
    expect_report("a shuffle without its lanes",
                  report_of("and.b32 %r1, %r0, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra a;\n"
                            "shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1;\na:"),
                  "waits for lanes that never come");
    expect_report("a lane outside its mask",
                  report_of("shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xFFFF;"), "mask does not name");
    expect_report("a lane that is not there",
                  report_of("shfl.sync.bfly.b32 %r2, %r0, 16, 31, -1;", "", 40),
                  "which is not there");
    expect_report("a loop without an end", report_of("a:\nbra a;"), "does not end");
    expect_report("two barriers",
                  report_of("setp.lt.u32 %p1, %r0, 32;\n@%p1 bra a;\nbar.sync 1;\nbra b;\na:\n"
                            "bar.sync 0;\nb:"),
                  "another barrier");
}

void decoding_reports() {
    const struct {
        const char *instruction, *part;
    } cases[] = {
        {"frobnicate.b32 %r1, %r0;", "not known: 'frobnicate.b32 %r1, %r0;'"},
        {"add.oob.s32 %r1, %r0, %r0;", "modifier that is not known, .oob"},
        {"add.s32 %r1, %r0, %rd1, %r0;", "unexpected operands"},
        {"add.s64 %rd1, %r0, %rd1;", "another width"},
        {"add.f32 %f1, %f1, 1;", "a float is expected"},
        {"mov.u32 %r1, %clock;", "%clock"},
        {"mov.u32 %r1, nowhere;", "nowhere"},
        {"bra nowhere;", "label"},
        {"call.uni nothing;", "nothing"},
        {"bar.sync 0, 32;", "a barrier of some threads"},
        {"wgmma.fence.sync.aligned;", "not known"},
        {"ex2.f32 %f1, %f1;", "approximation"},
    };
    for (const auto &c : cases)
        expect_report(c.instruction, report_of(c.instruction), c.part);
    Bench bench(".version 8.0\n.entry u(.param .u64 a)\n.maxntid 64, 1, 1\n{\nret;\n}" +
                kernel(1, "ret;"));
    expect_report("too few parameters", bench.report({}, {32}, 0), "bytes of parameters");
    expect_report("too large a block", bench.report({}, {1025}, 0, uint64_t{0}), "1025 threads");
}

} // namespace

void test_reports() {
    memory_reports();
    race_reports();
    warp_reports();
    decoding_reports();
}

/* How fast plain arithmetic goes; no promise of a busy machine, so it is only said. */
void test_rate() {
    Bench bench(kernel(1, "mov.u32 %r1, 0;\nmov.f32 %f1, 0f3F800000;\nagain:\n"
                          "fma.rn.f32 %f1, %f1, 0f3F000000, 0f3F000000;\nadd.u32 %r1, %r1, 1;\n"
                          "setp.lt.u32 %p1, %r1, 1000;\n@%p1 bra again;\n"
                          "mad.wide.u32 %rd1, %r0, 4, %rd0;\nst.global.f32 [%rd1], %f1;"));
    float *out = bench.array<float>(256);
    const auto start = std::chrono::steady_clock::now();
    bench.run({8}, {256}, 0, out);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    printf("%.0f million instructions a second\n",
           1e-6 * static_cast<double>(bench.library.counts.instructions) / seconds.count());
    check(out[255] == 1.0f, "a loop of arithmetic");
}

} // namespace ptx

/* operations.cu - kernels that use each operation of the host device once, for its tests. */
#include "operations.h"

#include "backend/cuda/dialect.cuh"

constexpr unsigned all = 0xffffffffu;

static __global__ void of_warps(uint32_t *out) {
    const unsigned lane = threadIdx.x;
    const int i = static_cast<int>(lane);
    uint32_t *mine = out + lane;
    mine[32 * ROW_INDEX] = __shfl_sync(all, lane, 3 * i, 8);
    mine[32 * ROW_UP] = __shfl_up_sync(all, lane, 2, 16);
    mine[32 * ROW_DOWN] = __shfl_down_sync(all, lane, 3);
    mine[32 * ROW_XOR] = __shfl_xor_sync(all, lane, 5);
    const unsigned long long wide = __shfl_xor_sync(all, (100ull + lane) << 32 | lane, 1);
    mine[32 * ROW_WIDE] = static_cast<uint32_t>(wide >> 32);
    mine[32 * ROW_BALLOT] = __ballot_sync(all, lane % 3 == 0);
    mine[32 * ROW_ANY] = __any_sync(all, lane == 7);
    mine[32 * ROW_ALL] = __all_sync(all, lane != 7);
    mine[32 * ROW_ADD] = __reduce_add_sync(all, lane);
    mine[32 * ROW_MIN] = __reduce_min_sync(all, lane ^ 21);
    mine[32 * ROW_MAX] = __reduce_max_sync(all, lane - 16);
    mine[32 * ROW_MIN_SIGNED] = static_cast<uint32_t>(__reduce_min_sync(all, i - 16));
    mine[32 * ROW_MAX_SIGNED] = static_cast<uint32_t>(__reduce_max_sync(all, i - 16));
    mine[32 * ROW_AND] = __reduce_and_sync(all, lane | 32);
    if (lane < 8)
        mine[32 * ROW_OR] = __reduce_or_sync(0xffu, lane);
    mine[32 * ROW_BITS_XOR] = __reduce_xor_sync(all, lane * lane);
    mine[32 * ROW_COUNT] = static_cast<uint32_t>(__syncthreads_count(lane > 3));
    mine[32 * ROW_BLOCK_OR] = static_cast<uint32_t>(__syncthreads_or(lane == 40));
    mine[32 * ROW_BLOCK_AND] = static_cast<uint32_t>(__syncthreads_and(lane < 40));
}

void operations_of_warps(uint32_t *out) {
    LISA_LAUNCH(of_warps, 1, 32, 0, nullptr, out);
}

/* Rows of A and B are 24 elements apart in shared memory, which keeps them aligned. */
constexpr unsigned apart = 24;

template <bool is_bf16>
static __global__ void of_matrices(const uint16_t *a, const uint16_t *b, float *c) {
    LISA_SHARED(uint16_t, s);
    uint16_t *sa = s, *sb = s + 16 * apart;
    const unsigned lane = threadIdx.x, group = lane / 4, pair = 2 * (lane % 4);
    for (unsigned i = lane; i < 256; i += 32) {
        sa[i / 16 * apart + i % 16] = a[i];
        sb[i / 16 * apart + i % 16] = b[i];
    }
    __syncwarp();
    uint32_t fa[4], fb[4];
    lisa_ldmatrix4(fa, sa + lane % 16 * apart + lane / 16 * 8);
    lisa_ldmatrix4_transposed(fb, sb + lane % 16 * apart + lane / 16 * 8);
    for (unsigned half = 0; half < 2; half++) {
        float sums[4] = {};
        const uint32_t columns[2] = {fb[2 * half], fb[2 * half + 1]};
        if (is_bf16)
            lisa_mma_bf16(sums, fa, columns);
        else
            lisa_mma_f16(sums, fa, columns);
        for (unsigned j = 0; j < 4; j++)
            c[(group + j / 2 * 8) * 16 + 8 * half + pair + j % 2] = sums[j];
    }
}

void operations_of_matrices(const uint16_t *a, const uint16_t *b, float *c, bool is_bf16) {
    const size_t shared = 2 * 16 * apart * sizeof(uint16_t);
    if (is_bf16)
        LISA_LAUNCH(of_matrices<true>, 1, 32, shared, nullptr, a, b, c);
    else
        LISA_LAUNCH(of_matrices<false>, 1, 32, shared, nullptr, a, b, c);
}

static __device__ void add_by_swaps(float *p, float value) {
    unsigned *bits = reinterpret_cast<unsigned *>(p);
    unsigned seen = atomicAdd(bits, 0u), expected;
    do {
        expected = seen;
        seen = atomicCAS(bits, expected, __float_as_uint(__uint_as_float(expected) + value));
    } while (seen != expected);
}

static __global__ void of_atomics(AtomicResults *results) {
    const int i = static_cast<int>(threadIdx.x);
    add_by_swaps(&results->sum, static_cast<float>(i));
    atomicMin(&results->least, i - 10);
    atomicMax(&results->most, i - 10);
    atomicOr(&results->bits, 1u << (i % 32));
    atomicInc(&results->wrapped, 5);
    atomicExch(&results->exchanged, 77);
}

void operations_of_atomics(AtomicResults *results) {
    LISA_LAUNCH(of_atomics, 1, 64, 0, nullptr, results);
}

#define CHECK(condition)                                                                           \
    if (!(condition))                                                                              \
    return #condition

const char *operations_wrong_arithmetic(void) {
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4);
    CHECK(__float2int_rz(-2.9f) == -2 && __float2int_rd(-2.1f) == -3 && __float2int_ru(2.1f) == 3);
    CHECK(__float2int_rn(3e9f) == INT32_MAX && __float2int_rn(-3e9f) == INT32_MIN);
    CHECK(__float2int_rn(nanf("")) == 0 && __float2uint_rz(-1.0f) == 0);
    CHECK(__float2uint_rz(5e9f) == UINT32_MAX && __float2uint_rn(4e9f) == 4000000000u);
    CHECK(__double2float_rz(1.0 + 0x1.fp-24) == 1.0f);
    CHECK(__double2float_rn(1.0 + 0x1.fp-24) == 1.0f + 0x1p-23f);
    CHECK(__double2float_rz(-1.0 - 0x1.fp-24) == -1.0f);
    CHECK(__umulhi(0x80000000u, 6) == 3 && __mulhi(-2, 3) == -1);
    CHECK(__umul64hi(1ull << 63, 6) == 3);
    CHECK(__brev(1) == 0x80000000u && __popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32);
    CHECK(__ffs(8) == 4 && __ffs(0) == 0 && __clzll(1) == 63);
    CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x5410u) == 0x55441100u);
    CHECK(__byte_perm(0x00008000u, 0, 0x0009u) == 0x000000ffu);
    CHECK(__funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(0, 1, 1) == 0x80000000u);
    CHECK(__hiloint2double(__double2hiint(1.25), __double2loint(1.25)) == 1.25);
    CHECK(rsqrtf(4.0f) == 0.5f && __saturatef(nanf("")) == 0.0f && __saturatef(2.0f) == 1.0f);
    CHECK(min(1u, 2u) == 1 && max(-1, 2) == 2 && max(nanf(""), 1.0f) == 1.0f);
    CHECK(__expf(0.0f) == 1.0f && __logf(1.0f) == 0.0f);
    return nullptr;
}

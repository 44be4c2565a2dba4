/* test_hostdevice.cpp - whether the host device finds planted errors and is silent without them. */
#include "hostdevice.h"
#include "operations.h"
#include "planted.h"
#include "ptx.h"

#include "../support/check_main.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

/* ---- helpers ---- */

static float *device_floats(size_t n, const float *values = nullptr) {
    void *p = nullptr;
    ck_assert_int_eq(cudaMalloc(&p, n * sizeof(float)), cudaSuccess);
    if (values != nullptr)
        ck_assert_int_eq(cudaMemcpy(p, values, n * sizeof(float), cudaMemcpyHostToDevice),
                         cudaSuccess);
    return static_cast<float *>(p);
}

static std::vector<float> host_floats(const float *device, size_t n) {
    std::vector<float> values(n);
    ck_assert_int_eq(cudaMemcpy(values.data(), device, n * sizeof(float), cudaMemcpyDeviceToHost),
                     cudaSuccess);
    return values;
}

static void ck_silent(void) {
    ck_assert_msg(hostdevice_report_count() == 0, "%s", hostdevice_last_report());
}

static void ck_reported(const char *part) {
    ck_assert_msg(hostdevice_was_reported(part), "no report has '%s', the last is '%s'", part,
                  hostdevice_last_report());
}

static void collect(void) {
    hostdevice_collect_reports(1);
    hostdevice_reset();
}

/* Runs f in a child: what it returns, -1 where a signal or a sanitizer ended it. */
template <class F> static int in_child(F f) {
    fflush(nullptr);
    constexpr int returned = 100;
    const pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == nullptr)
            _exit(1);
        _exit(returned + f());
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) >= returned ? WEXITSTATUS(status) - returned
                                                                : -1;
}

/* ---- kernels ---- */

enum Outcome { as_expected, silent_but_wrong, not_reported, falsely_reported, wrong_output };

static bool is_output_right(const float *out) {
    for (int i = 0; i < PLANTED_OUTPUTS; i++)
        if (out[i] != static_cast<float>(i))
            return false;
    return true;
}

static Outcome judge(const PlantedKernel &kernel, bool right) {
    const bool reports = hostdevice_report_count() != 0;
    const bool due = kernel.report != nullptr && (!kernel.race_lane || hostdevice_has_race_lane());
    if (due)
        return hostdevice_was_reported(kernel.report) ? as_expected : not_reported;
    if (reports)
        return falsely_reported;
    if (kernel.spoils_output)
        return right ? silent_but_wrong : as_expected;
    return right ? as_expected : wrong_output;
}

static int run_planted(const PlantedKernel &kernel) {
    collect();
    float zeros[PLANTED_OUTPUTS] = {};
    float *out = device_floats(PLANTED_OUTPUTS, zeros);
    kernel.run(out);
    float host[PLANTED_OUTPUTS] = {};
    cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    const Outcome outcome = judge(kernel, is_output_right(host));
    if (outcome != as_expected)
        printf("%s: outcome %d, last report '%s'\n", kernel.name, outcome,
               hostdevice_last_report());
    fflush(stdout);
    return outcome;
}

START_TEST(test_planted_kernel) {
    const PlantedKernel &kernel = planted_kernels[_i];
    const int outcome = in_child([&] { return run_planted(kernel); });
    const bool may_die = kernel.report != nullptr;
    ck_assert_msg(outcome == as_expected || (outcome == -1 && may_die), "%s: outcome %d",
                  kernel.name, outcome);
}
END_TEST

/* A kernel that is right gives the same in any order of blocks and threads. */
START_TEST(test_orders) {
    collect();
    for (uint32_t seed = 1; seed < 6; seed++)
        for (size_t i = 0; i < planted_kernel_count; i++) {
            if (strstr(planted_kernels[i].name, "(right)") == nullptr)
                continue;
            hostdevice_reset();
            hostdevice_set_order(seed < 3 ? HOSTDEVICE_REVERSE : HOSTDEVICE_SHUFFLED, seed);
            const float zeros[PLANTED_OUTPUTS] = {};
            float *out = device_floats(PLANTED_OUTPUTS, zeros);
            planted_kernels[i].run(out);
            ck_assert_msg(is_output_right(host_floats(out, PLANTED_OUTPUTS).data()), "%s",
                          planted_kernels[i].name);
            ck_silent();
        }
}
END_TEST

/* Sums by floating atomics depend on the order of threads, counts do not. */
START_TEST(test_order_is_felt) {
    collect();
    float in[256], first = 0;
    bool differs = false;
    for (int i = 0; i < 256; i++)
        in[i] = 1.0f / static_cast<float>(i + 1) * (i % 3 == 0 ? 1000.0f : 1.0f);
    float *x = device_floats(256, in);
    for (uint32_t seed = 0; seed < 6; seed++) {
        const float zeros[2] = {};
        float *out = device_floats(2, zeros);
        hostdevice_set_order(seed == 0 ? HOSTDEVICE_FORWARD : HOSTDEVICE_SHUFFLED, seed);
        planted_sum(x, out, reinterpret_cast<unsigned *>(out + 1), 16);
        const std::vector<float> got = host_floats(out, 2);
        unsigned count;
        memcpy(&count, &got[1], sizeof count);
        ck_assert_uint_eq(count, 16 * 8 * 32);
        differs = differs || (seed > 0 && got[0] != first);
        first = seed == 0 ? got[0] : first;
    }
    ck_assert(differs);
    ck_silent();
}
END_TEST

/* ---- operations ---- */

/* What lane i gets by the words of operations.h. */
static uint32_t expected_in_lane(int row, uint32_t i) {
    const uint32_t of_rows[OPERATION_ROWS] = {
        i / 8 * 8 + 3 * i % 8,
        i % 16 < 2 ? i : i - 2,
        i + 3 < 32 ? i + 3 : i,
        i ^ 5,
        100 + (i ^ 1),
        0x49249249u,
        1,
        0,
        496,
        0,
        UINT32_MAX,
        static_cast<uint32_t>(-16),
        15,
        32,
        7,
        896,
        28,
        0,
        1,
    };
    return of_rows[row];
}

START_TEST(test_warp_operations) {
    collect();
    const size_t n = 32 * OPERATION_ROWS;
    float *out = device_floats(n);
    operations_of_warps(reinterpret_cast<uint32_t *>(out));
    const std::vector<float> got = host_floats(out, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], sizeof bits);
        const int row = static_cast<int>(i / 32);
        if (row == ROW_OR && i % 32 >= 8)
            continue;
        ck_assert_msg(bits == expected_in_lane(row, i % 32), "row %d lane %zu: %u", row, i % 32,
                      bits);
    }
    ck_silent();
}
END_TEST

/* -8 to 8 in steps of 1 as bf16 or f16, whose sums of products are exact. */
static uint16_t small_element(int value, bool is_bf16) {
    const float x = static_cast<float>(value);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (is_bf16 || value == 0)
        return static_cast<uint16_t>(bits >> 16);
    return static_cast<uint16_t>((bits >> 16 & 0x8000) |
                                 (((bits & 0x7fffffff) - 0x38000000) >> 13));
}

START_TEST(test_matrix_operations) {
    collect();
    const bool is_bf16 = _i != 0;
    uint16_t elements[2][256];
    int values[2][256];
    for (int i = 0; i < 512; i++) {
        values[i / 256][i % 256] = (i * 37 + i / 16 * 5) % 17 - 8;
        elements[i / 256][i % 256] = small_element(values[i / 256][i % 256], is_bf16);
    }
    float *inputs = device_floats(256), *c = device_floats(256);
    cudaMemcpy(inputs, elements, sizeof elements, cudaMemcpyHostToDevice);
    const uint16_t *a = reinterpret_cast<const uint16_t *>(inputs);
    operations_of_matrices(a, a + 256, c, is_bf16);
    const std::vector<float> got = host_floats(c, 256);
    for (int i = 0; i < 256; i++) {
        int sum = 0;
        for (int k = 0; k < 16; k++)
            sum += values[0][i / 16 * 16 + k] * values[1][k * 16 + i % 16];
        ck_assert_float_eq(got[static_cast<size_t>(i)], static_cast<float>(sum));
    }
    ck_silent();
}
END_TEST

START_TEST(test_atomic_operations) {
    collect();
    AtomicResults results = {}, *device;
    void *memory = nullptr;
    ck_assert_int_eq(cudaMalloc(&memory, sizeof results), cudaSuccess);
    device = static_cast<AtomicResults *>(memory);
    cudaMemcpy(device, &results, sizeof results, cudaMemcpyHostToDevice);
    operations_of_atomics(device);
    cudaMemcpy(&results, device, sizeof results, cudaMemcpyDeviceToHost);
    ck_assert_float_eq(results.sum, 2016.0f);
    ck_assert_int_eq(results.least, -10);
    ck_assert_int_eq(results.most, 53);
    ck_assert_uint_eq(results.bits, UINT32_MAX);
    ck_assert_uint_eq(results.wrapped, 64 % 6);
    ck_assert_int_eq(results.exchanged, 77);
    ck_silent();
}
END_TEST

START_TEST(test_arithmetic) {
    const char *wrong = operations_wrong_arithmetic();
    ck_assert_msg(wrong == nullptr, "%s", wrong);
}
END_TEST

/* ---- launches ---- */

START_TEST(test_launch_limits) {
    collect();
    float *out = device_floats(1);
    planted_ask(out, 1025, 0, false);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    ck_reported("no such grid and block");
    planted_ask(out, 32, 48 * 1024 + 1, false);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
    ck_reported("of which it may have 49152");
    hostdevice_reset();
    out = device_floats(1);
    planted_ask(out, 32, 227 * 1024, true);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_silent();
    planted_ask(out, 32, 227 * 1024 + 1, true);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
}
END_TEST

/* ---- memory ---- */

START_TEST(test_memory_is_closed) {
    collect();
    float *p = device_floats(16);
    ck_assert_int_eq(in_child([p] { return static_cast<int>(*p); }), -1);
    planted_add_one(p, p, 16, nullptr);
    ck_assert_int_eq(in_child([p] { return static_cast<int>(*p); }), -1);
    ck_silent();
}
END_TEST

START_TEST(test_memory_begins_as_nan) {
    collect();
    float *p = device_floats(1000);
    for (float x : host_floats(p, 1000))
        ck_assert(isnan(x));
    ck_assert_int_eq(cudaFree(p), cudaSuccess);
    ck_assert_uint_eq(hostdevice_live_objects(), 0);
}
END_TEST

START_TEST(test_wrong_copies) {
    collect();
    float host[8] = {};
    float *p = device_floats(4);
    ck_assert_int_eq(cudaMemcpy(p, host, 20, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    ck_reported("cudaMemcpy: 20 bytes");
    ck_assert_int_eq(cudaMemcpy(host, p, 8, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemset(p, 0, 17), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(p + 1), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(p), cudaSuccess);
    ck_assert_int_eq(cudaFree(p), cudaErrorInvalidValue);
    ck_assert_uint_eq(hostdevice_report_count(), 5);
}
END_TEST

START_TEST(test_capacity) {
    collect();
    hostdevice_set_capacity(1 << 20);
    size_t left = 0, total = 0;
    void *a = nullptr, *b = nullptr;
    ck_assert_int_eq(cudaMalloc(&a, 600 << 10), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&b, 500 << 10), cudaErrorMemoryAllocation);
    ck_assert_ptr_null(b);
    ck_assert_int_eq(cudaMemGetInfo(&left, &total), cudaSuccess);
    ck_assert_uint_eq(left, 424 << 10);
    ck_assert_uint_eq(total, 1 << 20);
    ck_assert_int_eq(cudaFree(a), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&b, 500 << 10), cudaSuccess);
    ck_assert_uint_eq(hostdevice_peak_bytes(), 600 << 10);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}
END_TEST

/* Freed addresses serve again, whatever the sizes. */
START_TEST(test_many_allocations) {
    collect();
    std::vector<void *> live;
    uint32_t random = 7;
    for (int i = 0; i < 4000; i++) {
        random = random * 1664525u + 1013904223u;
        if (live.size() > 40 || (random >> 20 & 1) != 0) {
            if (live.empty())
                continue;
            ck_assert_int_eq(cudaFree(live[random % live.size()]), cudaSuccess);
            live.erase(live.begin() + static_cast<long>(random % live.size()));
            continue;
        }
        void *p = nullptr;
        ck_assert_int_eq(cudaMalloc(&p, random % 100000 + 1), cudaSuccess);
        ck_assert_uint_eq(reinterpret_cast<uintptr_t>(p) % 256, 0);
        live.push_back(p);
    }
    for (void *p : live)
        ck_assert_int_eq(cudaFree(p), cudaSuccess);
    ck_assert_uint_eq(hostdevice_live_bytes(), 0);
    ck_silent();
}
END_TEST

START_TEST(test_pinned_memory) {
    collect();
    char buffer[100];
    void *p = nullptr;
    ck_assert_int_eq(cudaHostAlloc(&p, 100, cudaHostAllocDefault), cudaSuccess);
    ck_assert(hostdevice_is_pinned_range(p, 100) && !hostdevice_is_pinned_range(p, 101));
    ck_assert_int_eq(cudaHostRegister(buffer, 100, cudaHostRegisterDefault), cudaSuccess);
    ck_assert_int_eq(cudaHostRegister(buffer + 50, 10, cudaHostRegisterDefault),
                     cudaErrorHostMemoryAlreadyRegistered);
    ck_assert_int_eq(cudaHostUnregister(buffer), cudaSuccess);
    ck_assert_int_eq(cudaHostUnregister(buffer), cudaErrorHostMemoryNotRegistered);
    static_cast<char *>(p)[100] = 1;
    ck_assert_int_eq(cudaFreeHost(p), cudaSuccess);
    ck_reported("past the end of 100 bytes of pinned memory");
}
END_TEST

/* ---- streams ---- */

struct TwoStreams {
    cudaStream_t a, b;
    cudaEvent_t event;
    float *x, *y;
    TwoStreams() {
        const float zeros[4] = {};
        ck_assert_int_eq(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaSuccess);
        ck_assert_int_eq(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), cudaSuccess);
        ck_assert_int_eq(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
        x = device_floats(4, zeros);
        y = device_floats(4, zeros);
        ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    }
};

/* x becomes 1 on one stream and y = x + 1 on the other: 2, if the other waited. */
static float across_streams(bool waits) {
    TwoStreams s;
    planted_add_one(s.x, s.x, 4, s.a);
    if (waits) {
        ck_assert_int_eq(cudaEventRecord(s.event, s.a), cudaSuccess);
        ck_assert_int_eq(cudaStreamWaitEvent(s.b, s.event, 0), cudaSuccess);
    }
    planted_add_one(s.x, s.y, 4, s.b);
    float y[4];
    ck_assert_int_eq(cudaMemcpyAsync(y, s.y, sizeof y, cudaMemcpyDeviceToHost, s.b), cudaSuccess);
    return y[0];
}

START_TEST(test_missing_event) {
    collect();
    int wrong = 0;
    for (uint32_t seed = 0; seed <= 40; seed++) {
        hostdevice_reset();
        hostdevice_set_streams(seed == 0 ? HOSTDEVICE_LAZY : HOSTDEVICE_RANDOM, seed);
        ck_assert_float_eq(across_streams(true), 2.0f);
        const float without = across_streams(false);
        wrong += without != 2.0f;
        ck_assert(seed != 0 || without == 1.0f);
    }
    ck_assert_int_ge(wrong, 10);
    ck_silent();
}
END_TEST

/* Work that is lazy is not done before the host waits, and the event says so. */
START_TEST(test_lazy_work) {
    collect();
    hostdevice_set_streams(HOSTDEVICE_LAZY, 0);
    TwoStreams s;
    planted_add_one(s.x, s.x, 4, s.a);
    ck_assert_int_eq(cudaEventRecord(s.event, s.a), cudaSuccess);
    planted_add_one(s.y, s.y, 4, s.b);
    hostdevice_kernel kernel = {};
    ck_assert_int_eq(hostdevice_get_kernel(0, &kernel), 1);
    ck_assert_uint_eq(kernel.launches, 0);
    ck_assert_int_eq(cudaEventQuery(s.event), cudaErrorNotReady);
    ck_assert_int_eq(cudaEventSynchronize(s.event), cudaSuccess);
    ck_assert_int_eq(cudaEventQuery(s.event), cudaSuccess);
    hostdevice_get_kernel(0, &kernel);
    ck_assert_uint_eq(kernel.launches, 1);
    int questions = 0;
    while (cudaStreamQuery(s.b) == cudaErrorNotReady)
        questions++;
    ck_assert_int_ge(questions, 1);
    hostdevice_get_kernel(0, &kernel);
    ck_assert_uint_eq(kernel.launches, 2);
    ck_silent();
}
END_TEST

/* Pageable memory is read at the call, pinned memory when the copy runs. */
START_TEST(test_sources_of_copies) {
    collect();
    hostdevice_set_streams(HOSTDEVICE_LAZY, 0);
    TwoStreams s;
    float pageable[4] = {1, 1, 1, 1};
    void *memory = nullptr;
    ck_assert_int_eq(cudaMallocHost(&memory, sizeof pageable), cudaSuccess);
    float *pinned = static_cast<float *>(memory);
    memcpy(pinned, pageable, sizeof pageable);
    ck_assert_int_eq(cudaMemcpyAsync(s.x, pageable, 16, cudaMemcpyHostToDevice, s.a), cudaSuccess);
    ck_assert_int_eq(cudaMemcpyAsync(s.y, pinned, 16, cudaMemcpyHostToDevice, s.a), cudaSuccess);
    pageable[0] = pinned[0] = 5;
    ck_assert_int_eq(cudaStreamSynchronize(s.a), cudaSuccess);
    ck_assert_float_eq(host_floats(s.x, 4)[0], 1.0f);
    ck_assert_float_eq(host_floats(s.y, 4)[0], 5.0f);
    ck_assert_int_eq(cudaMemcpyAsync(pinned, s.x, 16, cudaMemcpyDeviceToHost, s.a), cudaSuccess);
    ck_assert_float_eq(pinned[0], 5.0f);
    ck_assert_int_eq(cudaStreamSynchronize(s.a), cudaSuccess);
    ck_assert_float_eq(pinned[0], 1.0f);
    ck_silent();
}
END_TEST

/* The default stream and blocking streams wait for each other. */
START_TEST(test_default_stream) {
    collect();
    for (uint32_t seed = 1; seed < 30; seed++) {
        hostdevice_reset();
        hostdevice_set_streams(HOSTDEVICE_RANDOM, seed);
        const float zeros[4] = {};
        float *x = device_floats(4, zeros);
        cudaStream_t stream;
        ck_assert_int_eq(cudaStreamCreate(&stream), cudaSuccess);
        for (int i = 0; i < 10; i++)
            planted_add_one(x, x, 4, i % 2 == 0 ? stream : nullptr);
        ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
        ck_assert_float_eq(host_floats(x, 4)[0], 10.0f);
    }
    ck_silent();
}
END_TEST

START_TEST(test_elapsed_time) {
    collect();
    cudaEvent_t a, b;
    float milliseconds = -1;
    ck_assert_int_eq(cudaEventCreate(&a), cudaSuccess);
    ck_assert_int_eq(cudaEventCreate(&b), cudaSuccess);
    ck_assert_int_eq(cudaEventElapsedTime(&milliseconds, a, b), cudaErrorInvalidResourceHandle);
    ck_assert_int_eq(cudaEventRecord(a, nullptr), cudaSuccess);
    ck_assert_int_eq(cudaEventRecord(b, nullptr), cudaSuccess);
    ck_assert_int_eq(cudaEventElapsedTime(&milliseconds, a, b), cudaSuccess);
    ck_assert(milliseconds >= 0 && milliseconds < 1000);
    ck_assert_int_eq(cudaEventDestroy(a), cudaSuccess);
    ck_silent();
    ck_assert_int_eq(cudaEventRecord(a, nullptr), cudaErrorInvalidResourceHandle);
    ck_reported("which does not exist");
}
END_TEST

START_TEST(test_two_threads) {
    collect();
    float got[2] = {};
    auto work = [&got](int i) {
        const float zeros[4] = {};
        float *x = device_floats(4, zeros);
        for (int n = 0; n <= i; n++)
            planted_add_one(x, x, 4, nullptr);
        got[i] = host_floats(x, 4)[0];
        planted_sum(device_floats(256), device_floats(1),
                    reinterpret_cast<unsigned *>(device_floats(1)), 2);
        cudaFree(x);
    };
    std::thread first(work, 0);
    first.join();
    std::thread second(work, 1);
    second.join();
    ck_assert_float_eq(got[0], 1.0f);
    ck_assert_float_eq(got[1], 2.0f);
    ck_silent();
}
END_TEST

/* ---- failures ---- */

static cudaError_t small_program(void) {
    void *p = nullptr;
    cudaStream_t stream = nullptr;
    cudaError_t error = cudaMalloc(&p, 64);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) {
        planted_add_one(static_cast<float *>(p), static_cast<float *>(p), 16, stream);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(stream);
    if (stream != nullptr)
        cudaStreamDestroy(stream);
    cudaFree(p);
    return error;
}

START_TEST(test_every_call_fails_once) {
    collect();
    ck_assert_int_eq(small_program(), cudaSuccess);
    hostdevice_counts counts;
    hostdevice_get_counts(&counts);
    ck_assert_uint_eq(counts.calls, 4);
    for (uint64_t nth = 1; nth <= counts.calls; nth++) {
        hostdevice_reset();
        hostdevice_fail_call(nth, cudaErrorUnknown, HOSTDEVICE_ONCE);
        ck_assert_int_eq(small_program(), cudaErrorUnknown);
        ck_assert_uint_eq(hostdevice_live_objects(), 0);
        cudaGetLastError();
        ck_assert_int_eq(small_program(), cudaSuccess);
    }
    hostdevice_reset();
    hostdevice_fail_call(2, cudaErrorUnknown, HOSTDEVICE_FOR_EVER);
    ck_assert_int_eq(small_program(), cudaErrorUnknown);
    ck_assert_int_eq(small_program(), cudaErrorUnknown);
    ck_silent();
}
END_TEST

START_TEST(test_lost_device) {
    collect();
    hostdevice_set_streams(HOSTDEVICE_LAZY, 0);
    hostdevice_fail_operation(1, cudaErrorIllegalAddress);
    ck_assert_int_eq(small_program(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    void *p = nullptr;
    ck_assert_int_eq(cudaMalloc(&p, 1), cudaErrorIllegalAddress);
    ck_assert_uint_eq(hostdevice_live_objects(), 0);
    hostdevice_reset();
    ck_assert_int_eq(small_program(), cudaSuccess);
}
END_TEST

START_TEST(test_no_device) {
    collect();
    int n = 77;
    hostdevice_set_device_count(-1);
    ck_assert_int_eq(cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    ck_assert_int_eq(n, 77);
    hostdevice_set_device_count(0);
    ck_assert_int_eq(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    ck_assert_int_eq(n, 0);
    cublasHandle_t handle = nullptr;
    ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_NOT_INITIALIZED);
    hostdevice_set_device_count(2);
    ck_assert_int_eq(cudaGetDeviceCount(&n), cudaSuccess);
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    ck_assert_int_eq(cudaSetDevice(2), cudaErrorInvalidDevice);
}
END_TEST

START_TEST(test_not_after_fork) {
    collect();
    float *p = device_floats(1);
    ck_assert_int_eq(in_child([p] {
                         float x;
                         return static_cast<int>(cudaMemcpy(&x, p, 4, cudaMemcpyDeviceToHost));
                     }),
                     cudaErrorInitializationError);
}
END_TEST

/* ---- counts ---- */

START_TEST(test_counts) {
    collect();
    const float in[256] = {};
    float *x = device_floats(256, in);
    planted_add_one(x, x, 256, nullptr);
    host_floats(x, 256);
    cudaMemset(x, 0, 100);
    hostdevice_counts counts;
    hostdevice_get_counts(&counts);
    ck_assert_uint_eq(counts.launches, 1);
    ck_assert_uint_eq(counts.threads, 256);
    ck_assert_uint_eq(counts.switches, 4); /* to each of two blocks and back */
    ck_assert_uint_eq(counts.to_device_bytes, 1024);
    ck_assert_uint_eq(counts.to_host_bytes, 1024);
    ck_assert_uint_eq(counts.set_bytes, 100);
    ck_assert_uint_eq(counts.synchronisations, 1);
    hostdevice_kernel kernel = {};
    ck_assert_int_eq(hostdevice_get_kernel(0, &kernel), 1);
    ck_assert_str_eq(kernel.name, "add_one");
    ck_assert_uint_eq(kernel.read_bytes, hostdevice_has_race_lane() ? 1024 : 0);
    ck_assert_uint_eq(kernel.written_bytes, hostdevice_has_race_lane() ? 1024 : 0);
}
END_TEST

static double sector_use(int stride) {
    hostdevice_reset();
    hostdevice_measure_traffic(1);
    std::vector<float> values(static_cast<size_t>(32 * stride), 1.0f);
    float *in = device_floats(values.size(), values.data()), *out = device_floats(32);
    planted_load(in, out, stride);
    hostdevice_kernel kernel = {};
    for (size_t i = 0; hostdevice_get_kernel(i, &kernel); i++)
        if (kernel.launches == 1)
            return static_cast<double>(kernel.least_sectors) / static_cast<double>(kernel.sectors);
    return 0;
}

/* Loads 4 floats apart use 8 of 32 sectors' worth, stores all. */
START_TEST(test_traffic) {
    collect();
    if (!hostdevice_has_race_lane())
        return;
    ck_assert_double_eq(sector_use(1), 1.0);
    ck_assert_double_eq(sector_use(8), 8.0 / 36.0);
}
END_TEST

/* ---- cuBLAS ---- */

static cublasStatus_t product(cublasHandle_t handle, int m, int n, int k, const float *a, int lda,
                              const float *b, int ldb, float beta, float *c, int ldc,
                              bool transposed) {
    const float alpha = 1.0f;
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    return cublasGemmEx(handle, op, op, m, n, k, &alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb,
                        &beta, c, CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

static float entry(const std::vector<float> &x, int ld, int row, int column) {
    return x[static_cast<size_t>(column * ld + row)];
}

static std::vector<float> small_numbers(size_t n, uint32_t seed) {
    std::vector<float> x(n);
    for (float &value : x) {
        seed = seed * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int>(seed >> 24) - 128) / 16.0f;
    }
    return x;
}

/* Small whole numbers over 16, so that sums are exact in any order. */
static void check_product(cublasHandle_t handle, int m, int n, int k, bool transposed) {
    const int lda = (transposed ? k : m) + 3, ldb = (transposed ? n : k) + 1, ldc = m + 2;
    const std::vector<float> a = small_numbers(static_cast<size_t>(lda * (transposed ? m : k)), 1);
    const std::vector<float> b = small_numbers(static_cast<size_t>(ldb * (transposed ? k : n)), 2);
    float *da = device_floats(a.size(), a.data()), *db = device_floats(b.size(), b.data());
    float *dc = device_floats(static_cast<size_t>(ldc * n));
    ck_assert_int_eq(product(handle, m, n, k, da, lda, db, ldb, 0.0f, dc, ldc, transposed),
                     CUBLAS_STATUS_SUCCESS);
    const std::vector<float> c = host_floats(dc, static_cast<size_t>(ldc * n));
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int p = 0; p < k; p++)
                sum += (transposed ? entry(a, lda, p, i) : entry(a, lda, i, p)) *
                       (transposed ? entry(b, ldb, j, p) : entry(b, ldb, p, j));
            ck_assert_float_eq(entry(c, ldc, i, j), sum);
        }
    ck_assert(isnan(entry(c, ldc, m, 0)));
}

START_TEST(test_products) {
    collect();
    cublasHandle_t handle = nullptr;
    ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    for (int transposed = 0; transposed < 2; transposed++) {
        check_product(handle, 8, 4, 16, transposed != 0);
        check_product(handle, 13, 7, 5, transposed != 0);
        check_product(handle, 1, 1, 1, transposed != 0);
    }
    ck_assert_int_eq(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
    ck_silent();
}
END_TEST

START_TEST(test_wrong_products) {
    collect();
    cublasHandle_t handle = nullptr;
    ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    float *a = device_floats(64), *b = device_floats(64), *c = device_floats(64);
    ck_assert_int_eq(product(handle, 8, 8, 8, a, 7, b, 8, 0, c, 8, false),
                     CUBLAS_STATUS_INVALID_VALUE);
    ck_reported("lda is 7");
    ck_assert_int_eq(product(handle, 8, 8, 8, a, 9, b, 8, 0, c, 8, false),
                     CUBLAS_STATUS_EXECUTION_FAILED);
    ck_reported("matrix A (8 x 8, leading dimension 9");
    const float one = 1;
    ck_assert_int_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, a, CUDA_R_16BF,
                                  8, b, CUDA_R_32F, 8, &one, c, CUDA_R_32F, 8, CUBLAS_COMPUTE_32F,
                                  CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_uint_eq(hostdevice_report_count(), 3);
    ck_assert_int_eq(product(handle, 8, 8, 0, a, 8, b, 8, 0, c, 8, false), CUBLAS_STATUS_SUCCESS);
    ck_assert_float_eq(host_floats(c, 64)[63], 0.0f);
    ck_assert_int_eq(cublasSetWorkspace(handle, a + 1, 8), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(cublasSetWorkspace(handle, a, 256), CUBLAS_STATUS_SUCCESS);
    ck_assert_int_eq(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
}
END_TEST

/* 1 + 2^-8 lies between two numbers of bf16, as far from each: nearest even is 1. */
START_TEST(test_product_is_rounded) {
    collect();
    cublasHandle_t handle = nullptr;
    ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    const uint16_t a[3] = {0x3f80, 0x3f80, 0x3f80}; /* 1 */
    const uint16_t b[6] = {0x3f80, 0x3b80, 0,       /* 1, 2^-8 */
                           0x3f80, 0x3c40, 0};      /* 1, 3 2^-8 */
    const float one = 1, none = 0;
    float *da = device_floats(2), *db = device_floats(3), *dc = device_floats(2);
    cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice);
    ck_assert_int_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 2, 3, &one, da, CUDA_R_16BF,
                                  1, db, CUDA_R_16BF, 3, &none, dc, CUDA_R_16BF, 1,
                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_SUCCESS);
    uint16_t c[2];
    cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost);
    ck_assert_uint_eq(c[0], 0x3f80);
    ck_assert_uint_eq(c[1], 0x3f82);
    ck_assert_int_eq(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
    ck_silent();
}
END_TEST

/* ---- launches that are watched ---- */

static hostdevice_kernel watched;
static void watch(const hostdevice_kernel *launch) {
    watched = *launch;
}
static int runs_none(const char *) {
    return 0;
}

/* Three blocks read the same 256 numbers; atomics do not count. Without a search for races the
 * sectors are the same. */
START_TEST(test_sectors_once) {
    collect();
    const std::vector<float> ones(256, 1.0f);
    float *in = device_floats(256, ones.data()), *out = device_floats(1);
    unsigned *counted = reinterpret_cast<unsigned *>(device_floats(1));
    hostdevice_measure_traffic(1);
    hostdevice_watch(watch);
    for (int search = 0; search < 2; search++) {
        hostdevice_search_races(search);
        planted_sum(in, out, counted, 3);
        ck_assert_uint_eq(watched.launches, 1);
        ck_assert_uint_eq(watched.threads, 3 * 256);
        ck_assert_uint_eq(watched.sectors, hostdevice_has_race_lane() ? 96 : 0);
        ck_assert_uint_eq(watched.sectors_once, hostdevice_has_race_lane() ? 32 : 0);
    }
    ck_silent();
}
END_TEST

/* What is filtered out is counted and not done, but that a product's result becomes zeros. */
START_TEST(test_filter) {
    collect();
    const float numbers[4] = {1, 2, 3, 4};
    float *x = device_floats(4, numbers), *y = device_floats(4);
    cublasHandle_t handle = nullptr;
    ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    hostdevice_set_filter(runs_none);
    hostdevice_watch(watch);
    planted_add_one(x, x, 4, nullptr);
    ck_assert_float_eq(host_floats(x, 4)[3], 4.0f);
    ck_assert_uint_eq(watched.launches, 1);
    ck_assert_uint_eq(watched.threads, 0);
    ck_assert_int_eq(product(handle, 2, 2, 2, x, 2, x, 2, 0.0f, y, 2, false),
                     CUBLAS_STATUS_SUCCESS);
    ck_assert_float_eq(host_floats(y, 4)[3], 0.0f);
    ck_assert_uint_eq(watched.flops, 16);
    ck_assert_uint_eq(watched.read_bytes, 32);
    ck_assert_int_eq(product(handle, 2, 2, 2, x, 2, x, 2, 1.0f, x, 2, false),
                     CUBLAS_STATUS_SUCCESS);
    ck_assert_float_eq(host_floats(x, 4)[3], 4.0f);
    ck_assert_int_eq(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
    ck_silent();
}
END_TEST

/* ---- PTX ---- */

static std::string taken;

static int takes_add_one(const char *mangled) {
    return strstr(mangled, "add_one") != nullptr;
}

/* The parameters of add_one: two pointers and an int. */
static int add_two(const char *mangled, dim3 grid, dim3 block, size_t, const void *params,
                   size_t bytes) {
    struct {
        const float *in;
        float *out;
        int n;
    } p;
    taken = mangled;
    if (bytes != 20 || grid.x != 1 || block.x != 128)
        return 1;
    memcpy(&p, params, bytes);
    for (int i = 0; i < p.n; i++)
        p.out[i] = p.in[i] + 2.0f;
    return 0;
}

START_TEST(test_ptx_hooks) {
    collect();
    const float zeros[8] = {};
    float *x = device_floats(8, zeros);
    hostdevice_set_ptx(takes_add_one, add_two);
    planted_add_one(x, x, 8, nullptr);
    ck_assert_float_eq(host_floats(x, 8)[7], 2.0f);
    ck_assert(strncmp(taken.c_str(), "_Z", 2) == 0);
    hostdevice_set_ptx(nullptr, nullptr);
    planted_add_one(x, x, 8, nullptr);
    ck_assert_float_eq(host_floats(x, 8)[7], 3.0f);
    ck_silent();
}
END_TEST

/* ---- suite ---- */

static void add_case(Suite *suite, const char *name, std::initializer_list<const TTest *> tests) {
    TCase *group = tcase_create(name);
    for (const TTest *test : tests)
        tcase_add_test(group, test);
    suite_add_tcase(suite, group);
}

static Suite *make_suite(void) {
    Suite *suite = suite_create("host device");
    TCase *planted = tcase_create("planted");
    tcase_add_loop_test(planted, test_planted_kernel, 0, static_cast<int>(planted_kernel_count));
    suite_add_tcase(suite, planted);
    add_case(suite, "kernels", {test_orders, test_order_is_felt, test_launch_limits});
    add_case(suite, "operations", {test_warp_operations, test_atomic_operations, test_arithmetic});
    TCase *matrices = tcase_create("matrices");
    tcase_add_loop_test(matrices, test_matrix_operations, 0, 2);
    suite_add_tcase(suite, matrices);
    add_case(suite, "memory",
             {test_memory_is_closed, test_memory_begins_as_nan, test_wrong_copies, test_capacity,
              test_many_allocations, test_pinned_memory});
    add_case(suite, "streams",
             {test_missing_event, test_lazy_work, test_sources_of_copies, test_default_stream,
              test_elapsed_time, test_two_threads});
    add_case(suite, "failures",
             {test_every_call_fails_once, test_lost_device, test_no_device, test_not_after_fork});
    add_case(suite, "counts", {test_counts, test_traffic, test_sectors_once, test_filter});
    add_case(suite, "cublas", {test_products, test_wrong_products, test_product_is_rounded});
    add_case(suite, "ptx", {test_ptx_hooks});
    return suite;
}

LISA_CHECK_MAIN(make_suite)

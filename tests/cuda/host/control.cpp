/* control.cpp - a test's controls: settings, reports, failures and counts. */
#include "race.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

namespace hostdevice {

Settings settings;
hostdevice_counts counts;
std::recursive_mutex device_mutex;
Random stream_random, order_random;

uint32_t Random::below(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % n;
}

/* ---- reports ---- */

static bool collecting;
static std::vector<std::string> reports;

static void add_report(const char *text) {
    if (!collecting) {
        fprintf(stderr, "hostdevice: %s\n", text);
        abort();
    }
    reports.emplace_back(text);
}

/* ---- failures ---- */

struct Failure {
    uint64_t nth = 0;
    cudaError_t error = cudaSuccess;
    int how = HOSTDEVICE_ONCE;
    bool holds = false; /* of FOR_EVER: it has come */
};
static Failure call_failure, operation_failure;
static cudaError_t lost = cudaSuccess;
static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t noted(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t lost_error() {
    return lost;
}

void lose_device(cudaError_t error) {
    if (lost == cudaSuccess)
        lost = error;
}

static bool comes_due(Failure &failure) {
    return failure.nth != 0 && --failure.nth == 0;
}

cudaError_t call_may_fail() {
    counts.calls++;
    if (lost != cudaSuccess)
        return noted(lost);
    if (call_failure.holds)
        return noted(call_failure.error);
    if (!comes_due(call_failure))
        return cudaSuccess;
    call_failure.holds = call_failure.how == HOSTDEVICE_FOR_EVER;
    if (call_failure.how == HOSTDEVICE_LOST)
        lose_device(call_failure.error);
    return noted(call_failure.error);
}

bool operation_fails() {
    if (lost == cudaSuccess && comes_due(operation_failure))
        lose_device(operation_failure.error);
    return lost != cudaSuccess;
}

/* ---- counts of kernels ---- */

static std::vector<std::unique_ptr<hostdevice_kernel>> kernels;
static std::map<std::string, hostdevice_kernel *> kernels_by_name;

hostdevice_kernel *kernel_counts(const char *name) {
    auto [found, is_new] = kernels_by_name.emplace(name, nullptr);
    if (is_new) {
        kernels.push_back(std::make_unique<hostdevice_kernel>());
        found->second = kernels.back().get();
        found->second->name = found->first.c_str();
    }
    return found->second;
}

static void (*watcher)(const hostdevice_kernel *launch);
static int (*filter)(const char *kernel);

void count_launch(const hostdevice_kernel &launch) {
    hostdevice_kernel *sum = kernel_counts(launch.name);
    sum->launches += launch.launches;
    sum->threads += launch.threads;
    sum->read_bytes += launch.read_bytes;
    sum->written_bytes += launch.written_bytes;
    sum->flops += launch.flops;
    sum->sectors += launch.sectors;
    sum->least_sectors += launch.least_sectors;
    sum->rounds += launch.rounds;
    sum->least_rounds += launch.least_rounds;
    sum->sectors_once += launch.sectors_once;
    if (watcher != nullptr)
        watcher(&launch);
}

bool is_run(const char *kernel) {
    return filter == nullptr || filter(kernel) != 0;
}

/* ---- defaults from the environment ---- */

static int mode_named(const char *variable, const char *const (&names)[3], uint32_t *seed) {
    const char *text = getenv(variable);
    if (text == nullptr)
        return 0;
    const std::string whole = text;
    const std::string word = whole.substr(0, whole.find(':'));
    if (word.size() < whole.size())
        *seed = static_cast<uint32_t>(strtoul(whole.c_str() + word.size() + 1, nullptr, 10));
    for (int i = 0; i < 3; i++)
        if (word == names[i])
            return i;
    fprintf(stderr, "hostdevice: %s=%s is none of %s, %s, %s\n", variable, text, names[0], names[1],
            names[2]);
    abort();
}

static uint32_t nonzero(uint32_t seed) {
    return seed != 0 ? seed : 1;
}

static void set_defaults() {
    uint32_t stream_seed = 1, order_seed = 1, unused = 0;
    settings = Settings();
    settings.streams = mode_named("HOSTDEVICE_STREAMS", {"eager", "lazy", "random"}, &stream_seed);
    settings.order =
        mode_named("HOSTDEVICE_ORDER", {"forward", "reverse", "shuffled"}, &order_seed);
    collecting = mode_named("HOSTDEVICE_REPORTS", {"abort", "collect", ""}, &unused) == 1;
    stream_random.state = nonzero(stream_seed);
    order_random.state = nonzero(order_seed);
}

static void print_traffic_at_exit() {
    hostdevice_print_traffic();
}

__attribute__((constructor)) static void start() {
    set_defaults();
    if (getenv("HOSTDEVICE_TRAFFIC") == nullptr)
        return;
    hostdevice_measure_traffic(1);
    atexit(print_traffic_at_exit);
}

static void forget_counts() {
    counts = {};
    for (auto &kernel : kernels)
        *kernel = {kernel->name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    reports.clear();
}

} // namespace hostdevice

using namespace hostdevice;

void hostdevice_report(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add_report(text);
}

void hostdevice_reset(void) {
    HOSTDEVICE_LOCK();
    reset_streams();
    reset_memory();
    reset_pinned();
    forget_attributes();
    race_reset();
    call_failure = operation_failure = Failure();
    watcher = nullptr;
    filter = nullptr;
    lost = last_error = cudaSuccess;
    const bool was_collecting = collecting;
    set_defaults();
    collecting = was_collecting;
    forget_counts();
}

void hostdevice_collect_reports(int on) {
    collecting = on != 0;
}

size_t hostdevice_report_count(void) {
    return reports.size();
}

const char *hostdevice_last_report(void) {
    return reports.empty() ? "" : reports.back().c_str();
}

int hostdevice_was_reported(const char *part) {
    for (const std::string &report : reports)
        if (report.find(part) != std::string::npos)
            return 1;
    return 0;
}

void hostdevice_set_device_count(int n) {
    settings.devices = n;
}

void hostdevice_set_compute_capability(int major, int minor) {
    settings.major = major;
    settings.minor = minor;
}

void hostdevice_set_capacity(size_t bytes) {
    settings.capacity = bytes;
}

void hostdevice_set_shared_limit(size_t bytes) {
    settings.shared_limit = bytes;
}

void hostdevice_set_streams(int mode, uint32_t seed) {
    HOSTDEVICE_LOCK();
    finish_all();
    settings.streams = mode;
    stream_random.state = nonzero(seed);
}

void hostdevice_set_order(int mode, uint32_t seed) {
    settings.order = mode;
    order_random.state = nonzero(seed);
}

void hostdevice_fail_call(uint64_t nth, int error, int how) {
    call_failure = {nth, static_cast<cudaError_t>(error), how, false};
}

void hostdevice_fail_operation(uint64_t nth, int error) {
    operation_failure = {nth, static_cast<cudaError_t>(error), HOSTDEVICE_LOST, false};
}

void hostdevice_get_counts(hostdevice_counts *out) {
    *out = counts;
}

size_t hostdevice_kernel_count(void) {
    return kernels.size();
}

int hostdevice_get_kernel(size_t i, hostdevice_kernel *out) {
    if (i >= kernels.size())
        return 0;
    *out = *kernels[i];
    return 1;
}

void hostdevice_watch(void (*seen)(const hostdevice_kernel *launch)) {
    watcher = seen;
}

void hostdevice_set_filter(int (*runs)(const char *kernel)) {
    filter = runs;
}

size_t hostdevice_live_objects(void) {
    return live_memory_objects() + live_pinned_objects() + live_stream_objects();
}

/* The last error stays while the device is lost. */
cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last_error;
    last_error = lost;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

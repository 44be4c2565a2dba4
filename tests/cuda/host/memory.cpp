/* memory.cpp - the device's memory.
 *
 * It is one file without a name, mapped twice: at the addresses that programs see, where it is
 * inaccessible while host code runs, and at an alias that is always open to the host device itself.
 * While kernels run, an allocation is opened when it is first touched, and what is no allocation
 * stays closed. Every allocation begins as bytes 0xff, a NaN in every floating type, and lies
 * between two red zones. */
#include "internal.h"

#include <algorithm>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOSTDEVICE_ASAN 1
#include <sanitizer/asan_interface.h>
#endif
#endif

namespace hostdevice {

static constexpr size_t arena_bytes = size_t{16} << 30;
static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
static constexpr size_t red_zone = 512;
static constexpr unsigned char red = 0xa5;
static constexpr size_t kept_when_freed = size_t{1} << 20;

static char *arena, *alias;
static int arena_file = -1;
static size_t high_water; /* every span lies below it */
static size_t live_bytes, peak_bytes;

struct Allocation {
    size_t bytes;
    size_t span, span_bytes; /* what it takes of the arena, red zones and all */
};
/* By where the bytes begin. Each has pages of its own, and a page knows whose it is. */
static std::map<size_t, Allocation> &allocations = *new std::map<size_t, Allocation>;
static const std::pair<const size_t, Allocation> **owners;
static std::map<size_t, size_t> &free_spans = *new std::map<size_t, size_t>;

static size_t rounded(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* ---- access while kernels run ---- */

static int open_count; /* DeviceMemoryOpen objects */
static constexpr size_t most_open = 1024;
static std::pair<size_t, size_t> open_spans[most_open]; /* where, and how many bytes */
static size_t open_span_count;
static struct sigaction older_action;

/* Whether the fault at p is that of a kernel that first touches an allocation. */
static bool opens_at(const void *p) {
    if (open_count == 0 || !is_device_address(p) || open_span_count == most_open)
        return false;
    const auto *owner = owners[static_cast<size_t>(static_cast<const char *>(p) - arena) / page];
    if (owner == nullptr)
        return false;
    const Allocation &a = owner->second;
    open_spans[open_span_count++] = {a.span, a.span_bytes};
    return mprotect(arena + a.span, a.span_bytes, PROT_READ | PROT_WRITE) == 0;
}

static void say_fault(const void *at) {
    char text[160];
    int n = 0;
    if (is_device_address(at))
        n = snprintf(text, sizeof text, "hostdevice: %s touched device address %p%s\n",
                     open_count != 0 ? "a kernel" : "host code", at,
                     open_count != 0 ? ", which is not allocated" : "");
    else if (open_count != 0)
        n = snprintf(text, sizeof text, "hostdevice: a kernel touched address %p\n", at);
    if (n > 0 && write(STDERR_FILENO, text, static_cast<size_t>(n)) < 0)
        _exit(139);
}

/* A fault that is an error happens again, where the older handler sees it. */
static void fault(int, siginfo_t *info, void *) {
    if (opens_at(info->si_addr))
        return;
    say_fault(info->si_addr);
    sigaction(SIGSEGV, &older_action, nullptr);
}

static void install_fault_handler() {
    struct sigaction action = {};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &older_action);
}

DeviceMemoryOpen::DeviceMemoryOpen() {
    open_count++;
}

DeviceMemoryOpen::~DeviceMemoryOpen() {
    if (--open_count != 0)
        return;
    for (size_t i = 0; i < open_span_count; i++)
        mprotect(arena + open_spans[i].first, open_spans[i].second, PROT_NONE);
    open_span_count = 0;
}

/* ---- the arena ---- */

[[noreturn]] static void no_arena(const char *what) {
    fprintf(stderr, "hostdevice: %s: %s\n", what, strerror(errno));
    abort();
}

/* A device does not survive fork, as a real one does not. */
static void forked() {
    lose_device(cudaErrorInitializationError);
}

static void make_arena() {
    if (arena != nullptr)
        return;
    arena_file = memfd_create("hostdevice", MFD_CLOEXEC);
    if (arena_file < 0 || ftruncate(arena_file, arena_bytes) != 0)
        no_arena("a file for device memory");
    void *seen = mmap(nullptr, arena_bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, arena_file, 0);
    void *own = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                     arena_file, 0);
    void *table = mmap(nullptr, arena_bytes / page * sizeof *owners, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (seen == MAP_FAILED || own == MAP_FAILED || table == MAP_FAILED)
        no_arena("addresses for device memory");
    owners = static_cast<const std::pair<const size_t, Allocation> **>(table);
    arena = static_cast<char *>(seen);
    alias = static_cast<char *>(own);
    install_fault_handler();
    pthread_atfork(nullptr, nullptr, forked);
}

bool is_device_address(const void *p) {
    auto *at = static_cast<const char *>(p);
    return arena != nullptr && at >= arena && at < arena + arena_bytes;
}

void *device_alias(const void *p) {
    return is_device_address(p) ? alias + (static_cast<const char *>(p) - arena) : nullptr;
}

/* The allocation that p lies in or follows, end() without one. */
static std::map<size_t, Allocation>::iterator allocation_before(const void *p) {
    auto after = allocations.upper_bound(static_cast<size_t>(static_cast<const char *>(p) - arena));
    return after == allocations.begin() ? allocations.end() : std::prev(after);
}

std::pair<const char *, size_t> arena_range() {
    return {arena, arena_bytes};
}

std::string describe_address(const void *p) {
    char text[120];
    snprintf(text, sizeof text, "%p", p);
    if (!is_device_address(p))
        return text;
    auto found = allocation_before(p);
    if (found == allocations.end())
        return std::string(text) + " (before every allocation)";
    snprintf(text, sizeof text, "%p (byte %zu of an allocation of %zu)", p,
             static_cast<size_t>(static_cast<const char *>(p) - arena) - found->first,
             found->second.bytes);
    return text;
}

/* ---- allocations ---- */

static size_t take_span(size_t bytes) {
    for (auto span = free_spans.begin(); span != free_spans.end(); ++span) {
        if (span->second < bytes)
            continue;
        const size_t at = span->first, left = span->second - bytes;
        free_spans.erase(span);
        if (left != 0)
            free_spans[at + bytes] = left;
        return at;
    }
    const size_t at = high_water;
    high_water += bytes;
    return at;
}

static void give_span(size_t at, size_t bytes) {
    auto next = free_spans.lower_bound(at);
    if (next != free_spans.end() && next->first == at + bytes) {
        bytes += next->second;
        next = free_spans.erase(next);
    }
    if (next != free_spans.begin() && std::prev(next)->first + std::prev(next)->second == at)
        std::prev(next)->second += bytes;
    else
        free_spans[at] = bytes;
}

static void poison(size_t from, size_t to, bool on) {
#ifdef HOSTDEVICE_ASAN
    if (on)
        ASAN_POISON_MEMORY_REGION(arena + from, to - from);
    else
        ASAN_UNPOISON_MEMORY_REGION(arena + from, to - from);
#else
    static_cast<void>(from), static_cast<void>(to), static_cast<void>(on);
#endif
}

static void set_owner(const Allocation &a, const std::pair<const size_t, Allocation> *owner) {
    for (size_t i = a.span / page; i < (a.span + a.span_bytes) / page; i++)
        owners[i] = owner;
}

static void *allocate(size_t bytes) {
    const size_t span_bytes = rounded(bytes + 2 * red_zone, page);
    const size_t span = take_span(span_bytes), at = span + red_zone;
    memset(alias + span, red, span_bytes);
    memset(alias + at, 0xff, bytes);
    poison(span, span + span_bytes, true);
    poison(at, at + bytes, false);
    auto made = allocations.emplace(at, Allocation{bytes, span, span_bytes}).first;
    set_owner(made->second, &*made);
    live_bytes += bytes;
    peak_bytes = std::max(peak_bytes, live_bytes);
    counts.allocations++;
    return arena + at;
}

/* The first byte of [from, to) that is not red, `to` if all are. */
static size_t first_not_red(size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        if (static_cast<unsigned char>(alias[i]) != red)
            return i;
    return to;
}

static void check_red_zone(size_t at, const Allocation &a, const char *after) {
    const size_t end = at + a.bytes;
    const size_t behind = first_not_red(end, end + red_zone);
    if (behind != end + red_zone)
        hostdevice_report("%s: a write %zu bytes past the end of a device allocation of %zu bytes",
                          after, behind - end, a.bytes);
    const size_t before = first_not_red(at - red_zone, at);
    if (before != at)
        hostdevice_report("%s: a write %zu bytes before a device allocation of %zu bytes", after,
                          at - before, a.bytes);
    if (behind != end + red_zone)
        memset(alias + end, red, red_zone);
    if (before != at)
        memset(alias + at - red_zone, red, red_zone);
}

void check_red_zones(const char *after) {
    for (const auto &[at, a] : allocations)
        check_red_zone(at, a, after);
}

static void release(std::map<size_t, Allocation>::iterator found) {
    const Allocation a = found->second;
    if (a.span_bytes > kept_when_freed)
        fallocate(arena_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(a.span), static_cast<off_t>(a.span_bytes));
    else
        memset(alias + a.span, 0xff, a.span_bytes);
    poison(a.span, a.span + a.span_bytes, true);
    live_bytes -= a.bytes;
    set_owner(a, nullptr);
    allocations.erase(found);
    give_span(a.span, a.span_bytes);
}

size_t live_memory_objects() {
    return allocations.size();
}

void reset_memory() {
    while (!allocations.empty())
        release(allocations.begin());
    peak_bytes = 0;
}

} // namespace hostdevice

using namespace hostdevice;

/* ---- the runtime's functions ---- */

cudaError_t cudaMalloc(void **out, size_t bytes) {
    HOSTDEVICE_LOCK();
    *out = nullptr;
    if (const cudaError_t error = call_may_fail())
        return error;
    if (bytes == 0)
        return cudaSuccess;
    if (bytes > settings.capacity || live_bytes > settings.capacity - bytes)
        return noted(cudaErrorMemoryAllocation);
    make_arena();
    if (bytes > arena_bytes || high_water + bytes + 2 * red_zone + page > arena_bytes)
        return noted(cudaErrorMemoryAllocation);
    *out = allocate(bytes);
    return cudaSuccess;
}

/* Waits for all work, as the real one does; memory of a lost device is given back all the same. */
cudaError_t cudaFree(void *p) {
    HOSTDEVICE_LOCK();
    if (p == nullptr)
        return noted(lost_error());
    finish_all();
    auto found = is_device_address(p) ? allocation_before(p) : allocations.end();
    if (found == allocations.end() || arena + found->first != p) {
        hostdevice_report("cudaFree of %s, which is no allocation", describe_address(p).c_str());
        return noted(cudaErrorInvalidValue);
    }
    check_red_zone(found->first, found->second, "cudaFree");
    release(found);
    return noted(lost_error());
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    *total_bytes = settings.capacity;
    *free_bytes = settings.capacity > live_bytes ? settings.capacity - live_bytes : 0;
    return cudaSuccess;
}

int hostdevice_is_device_range(const void *p, size_t n) {
    if (!is_device_address(p))
        return 0;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
    const auto *owner = owners[at / page];
    return owner != nullptr && at >= owner->first && at - owner->first <= owner->second.bytes &&
           n <= owner->second.bytes - (at - owner->first);
}

size_t hostdevice_live_bytes(void) {
    return live_bytes;
}

size_t hostdevice_peak_bytes(void) {
    return peak_bytes;
}

void hostdevice_check_memory(void) {
    HOSTDEVICE_LOCK();
    check_red_zones("a check");
}

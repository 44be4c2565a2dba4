/* copy_async.cpp - accesses of 16 bytes: loads, stores and copies to shared memory that are not
 * done before they are waited for. */
#include "block.h"
#include "race.h"

#include <deque>
#include <vector>

namespace hostdevice {

struct AsyncCopy {
    void *to;
    const void *from; /* NULL: zeros */
    const void *code;
};

/* A thread's copies: groups that are closed, the oldest first, and the one that is open. */
struct AsyncCopies {
    std::deque<std::vector<AsyncCopy>> closed;
    std::vector<AsyncCopy> open;
};
static std::vector<AsyncCopies> &copies = *new std::vector<AsyncCopies>(most_threads);
static bool any_copies;

void forget_async_copies(unsigned threads) {
    if (!any_copies)
        return;
    for (unsigned i = 0; i < threads; i++)
        copies[i] = AsyncCopies();
    any_copies = false;
}

/* 16 bytes that are aligned, and of the device's memory none that is not allocated. */
static void check_access(const void *p, const char *what, const char *file, int line) {
    const bool aligned = reinterpret_cast<uintptr_t>(p) % 16 == 0;
    if (aligned && (!is_device_address(p) || hostdevice_is_device_range(p, 16) != 0))
        return;
    hostdevice_report("%s: %s of 16 bytes at %s, which is %s", current_place(file, line).c_str(),
                      what, describe_address(p).c_str(),
                      aligned ? "outside every allocation" : "not aligned");
}

/* The race lane counts every access, these too. */
static void count_traffic(const void *p, bool write) {
    if (hostdevice_has_race_lane() != 0 || !is_device_address(p))
        return;
    (write ? block.counts->written_bytes : block.counts->read_bytes) += 16;
}

uint4 load16(const void *p, const char *file, int line) {
    check_access(p, "a load", file, line);
    race_access(p, 16, Access::read, __builtin_return_address(0));
    count_traffic(p, false);
    uint4 value;
    memcpy(&value, p, sizeof value);
    return value;
}

void store16(void *p, uint4 value, const char *file, int line) {
    check_access(p, "a store", file, line);
    race_access(p, 16, Access::write, __builtin_return_address(0));
    count_traffic(p, true);
    memcpy(p, &value, sizeof value);
}

void copy_async16(void *to_shared, const void *from, bool is_there, const char *file, int line) {
    check_access(to_shared, "an asynchronous copy", file, line);
    if (!is_shared_range(to_shared, 16))
        hostdevice_report("%s: an asynchronous copy to %p, which is not shared memory",
                          current_place(file, line).c_str(), to_shared);
    if (is_there)
        check_access(from, "an asynchronous copy", file, line);
    const void *code = __builtin_return_address(0);
    race_access(to_shared, 16, Access::write, code);
    memset(to_shared, 0xff, 16);
    copies[running()->number].open.push_back({to_shared, is_there ? from : nullptr, code});
    any_copies = true;
}

void copy_async_commit() {
    AsyncCopies &own = copies[running()->number];
    own.closed.push_back(std::move(own.open));
    own.open.clear();
    any_copies = true;
}

static void make_copy(const AsyncCopy &copy) {
    race_access(copy.to, 16, Access::write, copy.code);
    if (copy.from == nullptr) {
        memset(copy.to, 0, 16);
        return;
    }
    race_access(copy.from, 16, Access::read, copy.code);
    count_traffic(copy.from, false);
    memcpy(copy.to, copy.from, 16);
}

void copy_async_wait(int newest_under_way) {
    AsyncCopies &own = copies[running()->number];
    while (own.closed.size() > static_cast<size_t>(newest_under_way)) {
        for (const AsyncCopy &copy : own.closed.front())
            make_copy(copy);
        own.closed.pop_front();
    }
}

} // namespace hostdevice

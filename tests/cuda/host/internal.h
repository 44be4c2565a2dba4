/* internal.h - what the parts of the host device know of each other. */
#ifndef HOSTDEVICE_INTERNAL_H
#define HOSTDEVICE_INTERNAL_H

#include "engine.h"
#include "hostdevice.h"
#include "ptx.h"

#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace hostdevice {

/* ---- control.cpp: settings, counts and failures ---- */

struct Settings {
    int devices = 1;
    int major = 9, minor = 0;
    size_t capacity = size_t{1} << 30;
    size_t shared_limit = 227 << 10;
    int streams = HOSTDEVICE_EAGER;
    int order = HOSTDEVICE_FORWARD;
};
extern Settings settings;
extern hostdevice_counts counts;

/* Entered by every function that a host may call. */
extern std::recursive_mutex device_mutex;
#define HOSTDEVICE_LOCK() std::lock_guard<std::recursive_mutex> locked(::hostdevice::device_mutex)

/* Sequences of random numbers: of streams and of the order within kernels. */
struct Random {
    uint32_t state = 1;
    uint32_t below(uint32_t n);
};
extern Random stream_random, order_random;

/* The failure due at this call, cudaSuccess in most. Notes it as the last error. */
cudaError_t call_may_fail();
/* The same for a queued operation that would run now; a failure loses the device. */
bool operation_fails();
/* Whether the device is lost, and why. */
cudaError_t lost_error();
void lose_device(cudaError_t error);
/* Keeps it as the calling thread's last error. */
cudaError_t noted(cudaError_t error);

/* The counts of a kernel, for ever at the same address. */
hostdevice_kernel *kernel_counts(const char *name);
/* Adds what a launch has done to its kernel's counts. */
void count_launch(const hostdevice_kernel &launch);

/* ---- memory.cpp ---- */

/* Device memory through a second mapping that is open at any time; NULL where p is none. */
void *device_alias(const void *p);
bool is_device_address(const void *p);
/* Where all device memory lies; NULL before the first allocation. */
std::pair<const char *, size_t> arena_range();
/* The text of what p points to, for a report. */
std::string describe_address(const void *p);
void check_red_zones(const char *after);
void reset_memory();
size_t live_memory_objects();

/* While one exists device memory is accessible where its pointers point to. */
class DeviceMemoryOpen {
  public:
    DeviceMemoryOpen();
    ~DeviceMemoryOpen();
    DeviceMemoryOpen(const DeviceMemoryOpen &) = delete;
    DeviceMemoryOpen &operator=(const DeviceMemoryOpen &) = delete;
};

/* ---- pinned.cpp ---- */

void reset_pinned();
size_t live_pinned_objects();

/* ---- stream.cpp ---- */

cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation);
cudaError_t finish_stream(cudaStream_t stream);
void finish_all();
void reset_streams();
size_t live_stream_objects();

/* ---- runtime.cpp ---- */

size_t dynamic_shared_limit(const void *kernel);
void forget_attributes();

/* ---- engine.cpp ---- */

void run_grid(const Launch &launch);

/* One thread's place in the block that runs. */
unsigned current_thread();
std::string current_place(const char *file, int line);
/* Whether n bytes from p are shared memory of the block that runs. */
bool is_shared_range(const void *p, size_t n);

/* ---- copy_async.cpp ---- */

void forget_async_copies(unsigned threads);

/* ---- symbol.cpp ---- */

/* The mangled name of the function at an address, also of one that its module does not export. */
std::string symbol_of(const void *function);
/* "file:line" of each address behind a call. */
std::map<const void *, std::string> places_of(const std::vector<const void *> &code);
/* First and last address of the module that an address lies in. */
std::pair<const char *, const char *> module_of(const void *address);

} // namespace hostdevice

/* ---- for cuBLAS: operations of streams that are no kernels of a module ---- */

#pragma GCC visibility push(default)

namespace hostdevice {

/* The failure due at a call, or cudaSuccess. */
cudaError_t library_call();
/* Queues a library's kernel, which counts as `work`; `run` has device memory open. */
cudaError_t library_launch(const hostdevice_kernel &work, cudaStream_t stream,
                           std::function<void()> run);
/* Whether the test wants this kernel to be done. */
bool is_run(const char *kernel);
void library_object(int change); /* +1 made, -1 destroyed */

} // namespace hostdevice

#pragma GCC visibility pop

#endif

/* hostdevice.h - a test's controls of the host device, for C and C++.
 *
 * The host device stands for a GPU, its driver and the CUDA runtime. What it finds wrong in kernels
 * or in their use is a report: it goes to stderr and ends the process by abort(), so that any test
 * program fails by it, unless reports are collected.
 *
 * Before a program's first call these environment variables set its defaults:
 *   HOSTDEVICE_STREAMS  eager, lazy or random:SEED
 *   HOSTDEVICE_ORDER    forward, reverse or shuffled:SEED
 *   HOSTDEVICE_REPORTS  abort or collect
 *   HOSTDEVICE_TRAFFIC  1: measure it, and print it when the program ends (race lane)
 *
 * Calls from several operating system threads exclude each other. A process that forks leaves the
 * device to the parent, as with a real one.
 *
 * What it cannot find: what follows from a weaker order of memory than that of one processor (a
 * missing __threadfence), from threads that wait for each other by other means than barriers and
 * warp operations, or from how a GPU rounds in functions that it approximates. In lanes other than
 * the race lane an access outside an allocation is found where it writes next to it, is 16 bytes
 * wide, or is far away, and a kernel's access to the host's memory is not. */
#ifndef HOSTDEVICE_H
#define HOSTDEVICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Ends all work, frees everything and sets every control, count and error to its default. */
void hostdevice_reset(void);

/* ---- reports ---- */

void hostdevice_collect_reports(int on);
/* Reports since the last reset, and the text of the last one ("" without one). */
size_t hostdevice_report_count(void);
const char *hostdevice_last_report(void);
/* Whether a report with this text in it came. */
int hostdevice_was_reported(const char *part);

/* ---- the device ---- */

/* n devices (all the same); 0: none, error 100; -1: no driver, error 35. */
void hostdevice_set_device_count(int n);
void hostdevice_set_compute_capability(int major, int minor);
/* Bytes of device memory; what cudaMalloc honours and cudaMemGetInfo says. */
void hostdevice_set_capacity(size_t bytes);
/* Most bytes of shared memory that a kernel may opt in to. */
void hostdevice_set_shared_limit(size_t bytes);

/* ---- order ---- */

#define HOSTDEVICE_EAGER 0  /* work is done when it is queued */
#define HOSTDEVICE_LAZY 1   /* work is done when the host waits for it, and no more than that */
#define HOSTDEVICE_RANDOM 2 /* a random legal interleaving */
void hostdevice_set_streams(int mode, uint32_t seed);

#define HOSTDEVICE_FORWARD 0
#define HOSTDEVICE_REVERSE 1
#define HOSTDEVICE_SHUFFLED 2
/* Of blocks in a grid and of threads in a block. */
void hostdevice_set_order(int mode, uint32_t seed);

/* ---- failures ---- */

#define HOSTDEVICE_ONCE 0
#define HOSTDEVICE_FOR_EVER 1 /* that call and all later ones that can fail */
#define HOSTDEVICE_LOST 2     /* the device is lost: every call gives this error from then on */
/* The nth call (1: the next) that can fail gives `error`; nth 0: none does. */
void hostdevice_fail_call(uint64_t nth, int error, int how);
/* The nth queued operation from now loses the device when it would run. */
void hostdevice_fail_operation(uint64_t nth, int error);

/* ---- counts, since the last reset ---- */

typedef struct hostdevice_counts {
    uint64_t calls;      /* that can fail */
    uint64_t operations; /* queued */
    uint64_t launches;   /* kernels, and products of cuBLAS */
    uint64_t threads;
    uint64_t switches;         /* from one thread of a block to another */
    uint64_t to_device_bytes;  /* copied */
    uint64_t to_host_bytes;    /* copied */
    uint64_t on_device_bytes;  /* copied */
    uint64_t set_bytes;        /* by cudaMemset and its like */
    uint64_t synchronisations; /* calls that made the host wait */
    uint64_t allocations;      /* of device memory */
} hostdevice_counts;
void hostdevice_get_counts(hostdevice_counts *out);

/* Bytes of global memory by loads and stores of 16 bytes and copies to shared memory, in the race
 * lane by every access; a product counts each operand once. FLOPs: of cuBLAS's products, and of
 * those that tensor cores make in kernels. */
typedef struct hostdevice_kernel {
    const char *name;
    uint64_t launches, threads, read_bytes, written_bytes, flops;
    /* While traffic is measured: sectors of 32 bytes that requests of a warp touched, and the least
     * that their bytes fill; rounds that shared memory took for them, and the least. */
    uint64_t sectors, least_sectors, rounds, least_rounds;
    /* Sectors that a launch read, and those that it wrote, however often: what a cache would leave
     * to memory if it held all of them. */
    uint64_t sectors_once;
} hostdevice_kernel;
size_t hostdevice_kernel_count(void);
/* Kernel i in the order of first launches; 0 where there is none. */
int hostdevice_get_kernel(size_t i, hostdevice_kernel *out);
/* `seen` is told of each launch when it has been done, by its counts alone. NULL: nobody is. */
void hostdevice_watch(void (*seen)(const hostdevice_kernel *launch));
/* Launches of which `runs` says 0 are counted and not done; a product's result, where it is not
 * added to what is there, is zeros. NULL: all are done. */
void hostdevice_set_filter(int (*runs)(const char *kernel));

size_t hostdevice_live_bytes(void); /* device memory */
size_t hostdevice_peak_bytes(void);
size_t hostdevice_live_objects(void); /* allocations, pinned ones too, streams, events, handles */

/* ---- memory ---- */

/* Whether all n bytes lie in one live allocation of device memory. */
int hostdevice_is_device_range(const void *p, size_t n);
/* Whether all n bytes are pinned host memory. */
int hostdevice_is_pinned_range(const void *p, size_t n);
/* Writes past the ends of allocations, looked for now. */
void hostdevice_check_memory(void);

/* Whether this is the race lane, in which every access of a kernel is seen. */
int hostdevice_has_race_lane(void);
/* There: off, no races are looked for, which is faster. */
void hostdevice_search_races(int on);
/* There: looks at what the lanes of a warp ask for together, and prints it by lines of source. */
void hostdevice_measure_traffic(int on);
void hostdevice_print_traffic(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif

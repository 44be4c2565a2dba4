/* cpu_level.h - the cpu backend with kernels that this processor would not choose.
 *
 * The including file defines CPU_LEVEL, the table of kernels, and CPU_LEVEL_RUNS, whether they run.
 */
#ifndef LISA_CONFORMANCE_CPU_LEVEL_H
#define LISA_CONFORMANCE_CPU_LEVEL_H

#include "check_main.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/ops.h"
#include "conformance/conformance.h"

#include <stdio.h>

static lisa_backend_ops level_ops;

static lisa_status level_start(lisa_backend **out, const lisa_backend_host *host) {
    lisa_status status = lisa__backend_cpu.start(out, host);
    if (status == LISA_OK) {
        (*out)->ops = &level_ops;
        lisa__cpu_of(*out)->vector = &CPU_LEVEL;
    }
    return status;
}

static int level_main(const char *name) {
    level_ops = lisa__backend_cpu;
    level_ops.start = level_start;
    if (CPU_LEVEL_RUNS)
        return lisa_check_run(conformance_suite(name, &level_ops, 0));
    printf("%s: not on this processor\n", name);
    return 77;
}

#endif

/* The cpu backend as on a processor without AVX2, held to the reference. */
#define CPU_LEVEL lisa__vector_base
#define CPU_LEVEL_RUNS 1
#include "conformance/cpu_level.h"

#include "check_main.h"

static Suite *make_suite(void) {
    return level_suite("conformance: cpu, base kernels");
}

LISA_CHECK_MAIN(make_suite)

/* The cpu backend as on a processor without AVX2, held to the reference. */
#define CPU_LEVEL lisa__vector_base
#define CPU_LEVEL_RUNS 1
#include "conformance/cpu_level.h"

int main(void) {
    return level_main("conformance: cpu, base kernels");
}

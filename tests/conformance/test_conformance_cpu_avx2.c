/* The cpu backend as on a processor without AVX-512, held to the reference. */
#ifdef __x86_64__
#define CPU_LEVEL lisa__vector_avx2
#define CPU_LEVEL_RUNS (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define CPU_LEVEL lisa__vector_base
#define CPU_LEVEL_RUNS 0
#endif
#include "conformance/cpu_level.h"

int main(void) {
    return level_main("conformance: cpu, AVX2 kernels");
}

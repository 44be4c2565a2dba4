/* The cpu backend held to the reference. */
#include "backend/cpu/cpu.h"
#include "conformance/conformance.h"

#include "check_main.h"

static Suite *make_suite(void) {
    return conformance_suite("conformance: cpu", &lisa__backend_cpu, 1);
}

LISA_CHECK_MAIN(make_suite)

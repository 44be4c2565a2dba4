/* The float reference held to the double one. */
#include "backend/reference/reference.h"
#include "conformance/conformance.h"

#include "check_main.h"

static Suite *make_suite(void) {
    return conformance_suite("conformance: reference", &lisa__backend_reference, 0);
}

LISA_CHECK_MAIN(make_suite)

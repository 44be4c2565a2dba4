/* The cuda backend held to the reference: on a GPU, or on the host device of tests/cuda/host,
 * whichever LISA_BACKEND_PATH leads to. */
#include "backend/registry.h"
#include "conformance/conformance.h"
#include "cuda_main.h"

static Suite *make_suite(void) {
    const lisa_backend_ops *ops;
    if (lisa__backend_find(&ops, "cuda") != LISA_OK)
        abort();
    return conformance_suite("conformance: cuda", ops, 0);
}

LISA_CUDA_MAIN(make_suite)

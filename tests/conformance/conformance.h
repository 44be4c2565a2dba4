/* conformance.h - holds a backend to the reference.
 *
 * Every operation runs on the backend with 1, 2 and 3 threads, which must agree bit for bit and
 * leave inputs and the padding of rows alone, and on a reference, which says what is right. A new
 * backend's test is two lines: a function that returns conformance_suite(...) and LISA_CHECK_MAIN.
 * With CONFORMANCE_REPORT=1 in the environment each comparison prints how much of its bound it
 * used.
 */
#ifndef LISA_CONFORMANCE_H
#define LISA_CONFORMANCE_H

#include "lisa/sys/backend.h"

#include <check.h>

/* large_products: also a product of more than a GFLOP, too much for plain loops. */
Suite *conformance_suite(const char *name, const lisa_backend_ops *ops, int large_products);

#endif

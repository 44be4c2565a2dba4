/* reference.h - the backend that defines what each operation means: plain loops, one thread.
 *
 * One source, compiled for float ("reference") and for double ("reference64"). Each value is read
 * into a double, computed in double and rounded to `real` once, when it is stored. Three operations
 * round more often: attention (out, dq, dk, dv) and embed_backward add up in their real outputs,
 * and adamw computes in `real` throughout, which for float fixes every bit of it. */
#ifndef LISA_BACKEND_REFERENCE_H
#define LISA_BACKEND_REFERENCE_H

#include "lisa/sys/backend.h"

extern const lisa_backend_ops lisa__backend_reference;
extern const lisa_backend_ops lisa__backend_reference64;

#endif

/* reference.h - the backend that defines what each operation means: plain loops, one thread.
 *
 * One source, compiled for float ("reference") and for double ("reference64"). Each value is read
 * into a double, computed in double and rounded once, when it is stored. Three operations round
 * more often: attention (out, dq, dk, dv) and embed_backward add up in `real`, and adamw computes
 * in `real` throughout, which for float fixes every bit of it.
 *
 * "reference-typed" keeps operands in the weights' type, as a device does: what such a backend is
 * compared with, since it rounds at the same points. */
#ifndef LISA_BACKEND_REFERENCE_H
#define LISA_BACKEND_REFERENCE_H

#include "lisa/sys/backend.h"

extern const lisa_backend_ops lisa__backend_reference;
extern const lisa_backend_ops lisa__backend_reference64;
extern const lisa_backend_ops lisa__backend_reference_typed;

#endif

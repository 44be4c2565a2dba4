/* cpu.h - the backend for everyday use: float, OpenBLAS for products, own kernels for the rest. */
#ifndef LISA_BACKEND_CPU_CPU_H
#define LISA_BACKEND_CPU_CPU_H

#include "lisa/sys/backend.h"

extern const lisa_backend_ops lisa__backend_cpu;

#endif

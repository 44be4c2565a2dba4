/* options.h - the only reader of option structs (the rules of openat2(2)). */
#ifndef LISA_CORE_OPTIONS_H
#define LISA_CORE_OPTIONS_H

#include "lisa/common.h"

/* Zero-fills `size` bytes at `options` and writes `size` as the leading struct_size.
 * LISA_E_ABI below `min_size`, the struct's size in version 0.1. */
lisa_status lisa__options_init(void *options, size_t size, size_t min_size, const char *name);

/* Copies a host's struct into the library's own (`known` bytes, zero beyond what the host has).
 * LISA_E_ABI when the host's is shorter than `min_size`, or longer with a non-zero tail. */
lisa_status lisa__options_read(void *own, size_t known, size_t min_size, const void *options,
                               const char *name);

/* Copies the library's struct of `known` bytes out into a host's whose struct_size is set, as far
 * as it reaches; struct_size stays the host's. */
lisa_status lisa__options_write(void *options, size_t min_size, const void *own, size_t known,
                                const char *name);

#endif

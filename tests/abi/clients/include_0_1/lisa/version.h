/* version.h - what was compiled against and what is loaded.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_VERSION_H
#define LISA_VERSION_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LISA_VERSION_MAJOR 0
#define LISA_VERSION_MINOR 1
#define LISA_VERSION_PATCH 0
#define LISA_VERSION_STRING "0.1.0"

/* The SONAME's number, counted apart from the release. 0 promises nothing yet. */
#define LISA_ABI_VERSION 0

/* "0.1.0" of the loaded library. Static. */
LISA_API const char *lisa_version_string(void);

/* major * 1000000 + minor * 1000 + patch of the loaded library. */
LISA_API uint32_t lisa_version_number(void);

/* LISA_ABI_VERSION of the loaded library. */
LISA_API uint32_t lisa_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif

/* registry.h - backends by name. */
#ifndef LISA_BACKEND_REGISTRY_H
#define LISA_BACKEND_REGISTRY_H

#include "lisa/sys/backend.h"

/* NULL means "cpu". A name that is not built in is looked for as a module (module.h).
 * LISA_E_BACKEND for a name that is none, and for a module that is not there or not usable. "auto"
 * is no backend: which one it is, starting one decides (core/context.h). */
lisa_status lisa__backend_find(const lisa_backend_ops **out, const char *name);

#endif

/* registry.h - backends by name. */
#ifndef LISA_BACKEND_REGISTRY_H
#define LISA_BACKEND_REGISTRY_H

#include "lisa/sys/backend.h"

/* NULL means "cpu". LISA_E_BACKEND for a name that is none, or one that is not in this build. */
lisa_status lisa__backend_find(const lisa_backend_ops **out, const char *name);

#endif

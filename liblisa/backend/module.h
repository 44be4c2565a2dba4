/* module.h - backends in files of their own, liblisa-NAME.so. */
#ifndef LISA_BACKEND_MODULE_H
#define LISA_BACKEND_MODULE_H

#include "lisa/sys/backend.h"

#include <limits.h>

/* Where modules are looked for, in this order: the directory lisa/ in `own`, `own` itself, and what
 * `path` lists, separated by ':', of which entries that are not absolute are passed over. */
struct lisa__module_places {
    char own[PATH_MAX]; /* the directory of liblisa's own file; "" where that is not known */
    const char *path;   /* may be NULL */
};

/* Beside liblisa.so (the program, where that has it inside), and LISA_BACKEND_PATH. */
void lisa__module_places(struct lisa__module_places *out);

/* The table of liblisa-NAME.so, of this version of the interface. The module stays loaded for good:
 * the runtime that a started backend has brought along does not survive being unloaded. `name` is
 * letters, digits, '-' and '_'. LISA_E_BACKEND where there is none or it is not usable. */
lisa_status lisa__module_load(const lisa_backend_ops **out, const char *name,
                              const struct lisa__module_places *places);

#endif

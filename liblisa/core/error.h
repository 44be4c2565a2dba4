/* error.h - the one way in which a failure is said. */
#ifndef LISA_CORE_ERROR_H
#define LISA_CORE_ERROR_H

#include "lisa/common.h"

#include <stdio.h>

/* Sets the calling thread's error text (one line, printf-like, made without malloc) and returns
 * `status`: `return lisa__fail(LISA_E_INVAL, "...");` */
lisa_status lisa__fail(lisa_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Keeps the text, and puts it back where a failure on the way turns out to be none: successful
 * calls leave the host's text alone. */
struct lisa__error_kept {
    char text[1024];
};

static inline void lisa__error_keep(struct lisa__error_kept *kept) {
    snprintf(kept->text, sizeof kept->text, "%s", lisa_error_last());
}

static inline void lisa__error_restore(const struct lisa__error_kept *kept) {
    lisa__fail(LISA_OK, "%s", kept->text);
}

/* Calls and returns on failure. */
#define LISA_TRY(call)                                                                             \
    do {                                                                                           \
        lisa_status lisa__try = (call);                                                            \
        if (lisa__try != LISA_OK)                                                                  \
            return lisa__try;                                                                      \
    } while (0)

#endif

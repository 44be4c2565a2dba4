/* error.h - the one way in which a failure is said. */
#ifndef LISA_CORE_ERROR_H
#define LISA_CORE_ERROR_H

#include "lisa/common.h"

/* Sets the calling thread's error text (one line, printf-like, made without malloc) and returns
 * `status`: `return lisa__fail(LISA_E_INVAL, "...");` */
lisa_status lisa__fail(lisa_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Calls and returns on failure. */
#define LISA_TRY(call)                                                                             \
    do {                                                                                           \
        lisa_status lisa__try = (call);                                                            \
        if (lisa__try != LISA_OK)                                                                  \
            return lisa__try;                                                                      \
    } while (0)

#endif

#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char error_text[1024];

lisa_status lisa__fail(lisa_status status, const char *format, ...) {
    /* Formatted aside, so that an argument may be the old text itself. */
    char text[sizeof error_text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t i = 0;
    for (; text[i] != '\0'; i++)
        error_text[i] = text[i] == '\n' || text[i] == '\r' ? ' ' : text[i];
    error_text[i] = '\0';
    return status;
}

const char *lisa_error_last(void) {
    return error_text;
}

const char *lisa_status_name(lisa_status status) {
    static const char *const names[] = {
        "LISA_OK",          "LISA_E_INVAL",       "LISA_E_NOMEM", "LISA_E_IO",
        "LISA_E_FORMAT",    "LISA_E_UNSUPPORTED", "LISA_E_STATE", "LISA_E_BUDGET",
        "LISA_E_NONFINITE", "LISA_E_BACKEND",     "LISA_E_ABI",   "LISA_E_CANCELLED",
        "LISA_E_NOTFOUND",  "LISA_E_INTERNAL",
    };
    const int32_t count = (int32_t)(sizeof names / sizeof *names);
    return status <= 0 && status > -count ? names[-status] : "LISA_E_?";
}

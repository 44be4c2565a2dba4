/* check.h - what public functions ask of their arguments. */
#ifndef LISA_API_CHECK_H
#define LISA_API_CHECK_H

#include "core/error.h"

#define LISA_REQUIRE(pointer)                                                                      \
    do {                                                                                           \
        if ((pointer) == NULL)                                                                     \
            return lisa__fail(LISA_E_INVAL, "%s: " #pointer " is NULL", __func__);                 \
    } while (0)

#endif

#include "core/options.h"

#include "core/error.h"

#include <string.h>

/* No struct will ever be larger, but what was never set often is: nothing is read or written by it.
 */
static const size_t MAX_SIZE = 4096;

static size_t struct_size_of(const void *options) {
    size_t size;
    memcpy(&size, options, sizeof size);
    return size;
}

static lisa_status check_size(const void *options, size_t min_size, const char *name) {
    if (options == NULL)
        return lisa__fail(LISA_E_INVAL, "%s: expected a struct, got NULL", name);
    const size_t size = struct_size_of(options);
    if (size < min_size || size > MAX_SIZE)
        return lisa__fail(LISA_E_ABI, "%s: struct_size is %zu, expected %zu to %zu (not set?)",
                          name, size, min_size, MAX_SIZE);
    return LISA_OK;
}

lisa_status lisa__options_init(void *options, size_t size, size_t min_size, const char *name) {
    if (options == NULL)
        return lisa__fail(LISA_E_INVAL, "%s: expected a struct, got NULL", name);
    if (size < min_size || size > MAX_SIZE)
        return lisa__fail(LISA_E_ABI, "%s: size is %zu, expected %zu to %zu", name, size, min_size,
                          MAX_SIZE);
    memset(options, 0, size);
    memcpy(options, &size, sizeof size);
    return LISA_OK;
}

lisa_status lisa__options_read(void *own, size_t known, size_t min_size, const void *options,
                               const char *name) {
    LISA_TRY(check_size(options, min_size, name));
    const unsigned char *bytes = options;
    const size_t size = struct_size_of(options);
    for (size_t i = known; i < size; i++)
        if (bytes[i] != 0)
            return lisa__fail(LISA_E_ABI,
                              "%s: byte %zu is set, but this library knows %zu bytes: it is older "
                              "than the header",
                              name, i, known);
    memset(own, 0, known);
    memcpy(own, options, size < known ? size : known);
    memcpy(own, &known, sizeof known);
    return LISA_OK;
}

lisa_status lisa__options_write(void *options, size_t min_size, const void *own, size_t known,
                                const char *name) {
    LISA_TRY(check_size(options, min_size, name));
    const size_t size = struct_size_of(options);
    memset(options, 0, size);
    memcpy(options, own, size < known ? size : known);
    memcpy(options, &size, sizeof size);
    return LISA_OK;
}

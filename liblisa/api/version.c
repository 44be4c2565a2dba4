#include "lisa/version.h"

const char *lisa_version_string(void) {
    return LISA_VERSION_STRING;
}

uint32_t lisa_version_number(void) {
    return LISA_VERSION_MAJOR * 1000000u + LISA_VERSION_MINOR * 1000u + LISA_VERSION_PATCH;
}

uint32_t lisa_abi_version(void) {
    return LISA_ABI_VERSION;
}

const char *lisa_dtype_name(uint32_t dtype) {
    static const char *const names[] = {"?", "f32", "bf16", "f16", "f64"};
    return dtype < sizeof names / sizeof *names ? names[dtype] : "?";
}

#include "backend/registry.h"

#include "backend/cpu/cpu.h"
#include "backend/module.h"
#include "backend/reference/reference.h"
#include "core/error.h"

#include <string.h>

static const lisa_backend_ops *const builtin[] = {
    &lisa__backend_cpu,
    &lisa__backend_reference,
    &lisa__backend_reference64,
    &lisa__backend_reference_typed,
};

/* What may become part of a file's name. */
static int is_name(const char *name) {
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    const size_t length = strlen(name);
    return length > 0 && length <= 64 && strspn(name, letters) == length;
}

lisa_status lisa__backend_find(const lisa_backend_ops **out, const char *name) {
    if (name == NULL)
        name = builtin[0]->name;
    for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
        if (strcmp(builtin[i]->name, name) == 0) {
            *out = builtin[i];
            return LISA_OK;
        }
    if (!is_name(name))
        return lisa__fail(
            LISA_E_BACKEND,
            "backend \"%s\": not a backend's name, expected cpu, cuda, auto, "
            "reference, reference64, reference-typed, or the NAME of a liblisa-NAME.so",
            name);
    struct lisa__module_places places;
    lisa__module_places(&places);
    return lisa__module_load(out, name, &places);
}

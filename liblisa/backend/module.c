#include "backend/module.h"

#include "core/error.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The path of a line of /proc/self/maps that covers `address`, or NULL. */
static char *file_at(char *line, uintptr_t address) {
    unsigned long begin, end;
    int path = 0;
    if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &begin, &end, &path) != 2 || path == 0 ||
        address < begin || address >= end)
        return NULL;
    line[strcspn(line, "\n")] = '\0';
    return line + path;
}

/* The kernel's names of mapped files are absolute. dladdr's may be relative to a directory that is
 * no longer the current one. */
static void own_directory(char *out, size_t size) {
    char line[PATH_MAX + 128];
    out[0] = '\0';
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL)
        return;
    while (out[0] == '\0' && fgets(line, sizeof line, maps) != NULL) {
        const char *file = file_at(line, (uintptr_t)own_directory);
        const char *slash = file != NULL ? strrchr(file, '/') : NULL;
        if (slash != NULL && (size_t)(slash - file) < size)
            snprintf(out, size, "%.*s", (int)(slash - file), file);
    }
    fclose(maps);
}

void lisa__module_places(struct lisa__module_places *out) {
    own_directory(out->own, sizeof out->own);
    out->path = secure_getenv("LISA_BACKEND_PATH");
}

/* Whether liblisa-NAME.so is in a directory, the first `length` bytes of a string. */
static int is_in(char file[PATH_MAX], const char *directory, size_t length, const char *name) {
    if (directory[0] != '/' || length >= PATH_MAX)
        return 0;
    const int n = snprintf(file, PATH_MAX, "%.*s/liblisa-%s.so", (int)length, directory, name);
    return n < PATH_MAX && access(file, F_OK) == 0;
}

static int find(char file[PATH_MAX], const char *name, const struct lisa__module_places *places) {
    char below[PATH_MAX + sizeof "/lisa"];
    snprintf(below, sizeof below, "%s/lisa", places->own);
    if (places->own[0] != '\0' && (is_in(file, below, strlen(below), name) ||
                                   is_in(file, places->own, strlen(places->own), name)))
        return 1;
    size_t length;
    for (const char *entry = places->path; entry != NULL; entry += length + 1) {
        length = strcspn(entry, ":");
        if (is_in(file, entry, length, name))
            return 1;
        if (entry[length] == '\0')
            break;
    }
    return 0;
}

static lisa_status not_found(const char *name, const struct lisa__module_places *places) {
    const char *own = places->own[0] != '\0' ? places->own : "(unknown)";
    const char *path = places->path != NULL ? places->path : "(not set)";
    return lisa__fail(LISA_E_BACKEND,
                      "backend \"%s\": not built in, and no liblisa-%s.so in %s/lisa, %s or "
                      "LISA_BACKEND_PATH %s",
                      name, name, own, own, path);
}

/* memcpy, because ISO C converts no void * to a function. */
static lisa_backend_get_fn entry_of(void *module) {
    lisa_backend_get_fn entry = NULL;
    void *address = dlsym(module, LISA_BACKEND_ENTRY);
    memcpy(&entry, &address, sizeof entry);
    return entry;
}

static lisa_status ask(const lisa_backend_ops **out, void *module, const char *file) {
    const lisa_backend_get_fn entry = entry_of(module);
    if (entry == NULL)
        return lisa__fail(LISA_E_BACKEND, "%s: no backend: it has no " LISA_BACKEND_ENTRY, file);
    const lisa_backend_ops *ops = entry(LISA_BACKEND_API_VERSION);
    if (ops == NULL)
        return lisa__fail(LISA_E_BACKEND,
                          "%s: made for another version of the backend interface than this "
                          "library's %d",
                          file, LISA_BACKEND_API_VERSION);
    if (ops->api_version != LISA_BACKEND_API_VERSION)
        return lisa__fail(LISA_E_BACKEND,
                          "%s: made for version %u of the backend interface, expected %d", file,
                          ops->api_version, LISA_BACKEND_API_VERSION);
    *out = ops;
    return LISA_OK;
}

lisa_status lisa__module_load(const lisa_backend_ops **out, const char *name,
                              const struct lisa__module_places *places) {
    char file[PATH_MAX];
    if (!find(file, name, places))
        return not_found(name, places);
    void *module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL)
        return lisa__fail(LISA_E_BACKEND, "backend \"%s\": %s", name, dlerror());
    const lisa_status status = ask(out, module, file);
    if (status != LISA_OK)
        dlclose(module);
    return status;
}

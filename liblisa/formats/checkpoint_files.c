/* The checkpoints of a directory: what they are called, which is the newest, and which go. */
#include "core/io.h"
#include "formats/checkpoint.h"
#include "formats/stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void lisa__checkpoint_name(char out[NAME_MAX + 1], uint64_t step) {
    snprintf(out, NAME_MAX + 1, "checkpoint-%012llu.safetensors", (unsigned long long)step);
}

static int is_name(const char *name, uint64_t *step) {
    char again[NAME_MAX + 1];
    unsigned long long number;
    if (sscanf(name, "checkpoint-%20llu.safetensors", &number) != 1)
        return 0;
    lisa__checkpoint_name(again, number);
    *step = number;
    return strcmp(name, again) == 0;
}

static lisa_status path_of(char path[PATH_MAX], const char *directory, uint64_t step) {
    char name[NAME_MAX + 1];
    lisa__checkpoint_name(name, step);
    return lisa__path_join(path, directory, name);
}

/* ---- the newest ---- */

struct newest {
    uint64_t below, step;
    int is_bounded, found;
};

static lisa_status look_for_newest(void *arg, const char *name) {
    struct newest *newest = arg;
    uint64_t step;
    if (is_name(name, &step) && !(newest->is_bounded && step >= newest->below) &&
        (!newest->found || step > newest->step)) {
        newest->step = step;
        newest->found = 1;
    }
    return LISA_OK;
}

static lisa_status verify(const char *path) {
    struct lisa__checkpoint c;
    LISA_TRY(lisa__checkpoint_open(&c, NULL, path));
    const lisa_status status = lisa__checkpoint_verify(&c);
    lisa__checkpoint_close(&c);
    return status;
}

/* From the newest down, past those that are damaged or gone by now. */
lisa_status lisa__checkpoint_newest(const char *directory, char path[PATH_MAX]) {
    struct newest newest = {.is_bounded = 0};
    struct lisa__error_kept kept;
    lisa_status status = LISA_E_FORMAT;
    lisa__error_keep(&kept);
    while (status == LISA_E_FORMAT || status == LISA_E_NOTFOUND) {
        newest.found = 0;
        LISA_TRY(lisa__list_directory(directory, &newest, look_for_newest));
        if (!newest.found)
            return lisa__fail(LISA_E_NOTFOUND, "%s: holds no checkpoint that is whole", directory);
        LISA_TRY(path_of(path, directory, newest.step));
        status = verify(path);
        newest.below = newest.step;
        newest.is_bounded = 1;
    }
    if (status == LISA_OK)
        lisa__error_restore(&kept);
    return status;
}

/* ---- the oldest ---- */

struct old {
    uint64_t own, oldest;
    uint32_t n;
};

static lisa_status look_for_oldest(void *arg, const char *name) {
    struct old *old = arg;
    uint64_t step;
    if (!is_name(name, &step))
        return LISA_OK;
    old->n++;
    if (step != old->own && (old->oldest == old->own || step < old->oldest))
        old->oldest = step;
    return LISA_OK;
}

lisa_status lisa__checkpoint_prune(const char *directory, uint64_t own, uint32_t keep) {
    for (uint64_t removed = own;;) {
        struct old old = {.own = own, .oldest = own};
        char path[PATH_MAX];
        LISA_TRY(lisa__list_directory(directory, &old, look_for_oldest));
        /* A listing may still have what is gone. */
        if (old.n <= keep || old.oldest == own || old.oldest == removed)
            return LISA_OK;
        removed = old.oldest;
        LISA_TRY(path_of(path, directory, removed));
        if (lisa__io->unlink(path) != 0 && errno != ENOENT)
            return lisa__io_fail("remove", path);
    }
}

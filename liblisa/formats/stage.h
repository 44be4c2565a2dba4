/* stage.h - files on their way into a directory: all are written and synced under temporary names
 * before the first is renamed. */
#ifndef LISA_FORMATS_STAGE_H
#define LISA_FORMATS_STAGE_H

#include "core/context.h"
#include "core/io.h"

#include <limits.h>

struct lisa__staged {
    char name[NAME_MAX + 1]; /* its own */
    char temporary[64];
    int renamed;
    int fresh; /* nothing of that name was there before: it may be removed again */
};

struct lisa__stage {
    lisa_context *context;
    const char *directory;
    struct lisa__staged *items;
    uint32_t n_items;
    uint32_t capacity;
};

/* Writes the file's bytes; `path` is for texts. */
typedef lisa_status (*lisa__stage_fill)(void *arg, int fd, const char *path);

lisa_status lisa__stage_open(struct lisa__stage *stage, lisa_context *context,
                             const char *directory, uint32_t capacity);

/* Writes and syncs one more file. */
lisa_status lisa__stage_file(struct lisa__stage *stage, const char *name, lisa__stage_fill fill,
                             void *arg);

/* Gives one file its own name. */
lisa_status lisa__stage_rename(struct lisa__stage *stage, struct lisa__staged *item);

/* Gives every file its own name, one after the other, and syncs the directory. */
lisa_status lisa__stage_rename_all(struct lisa__stage *stage);

/* Removes what has not become part of the directory for good; the error's text stays. */
void lisa__stage_close(struct lisa__stage *stage);

/* DIRECTORY/name; LISA_E_INVAL where the kernel would not take it. */
lisa_status lisa__path_join(char path[PATH_MAX], const char *directory, const char *name);

/* Makes a directory with its parents; one that is there is fine. */
lisa_status lisa__make_directory(const char *directory);

lisa_status lisa__sync_directory(const char *directory);

/* open(2) with O_CLOEXEC, through EINTR. */
int lisa__open_retrying(const char *path, int flags, unsigned mode);

/* Calls visit(arg, name) for every entry until it fails. */
lisa_status lisa__list_directory(const char *directory, void *arg,
                                 lisa_status (*visit)(void *arg, const char *name));

#endif

#include "formats/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

lisa_status lisa__path_join(char path[PATH_MAX], const char *directory, const char *name) {
    const int n = snprintf(path, PATH_MAX, "%s/%s", directory, name);
    if (n < 0 || n >= PATH_MAX)
        return lisa__fail(LISA_E_INVAL, "%.200s...: the path is too long", directory);
    return LISA_OK;
}

/* ---- directories ---- */

int lisa__open_retrying(const char *path, int flags, unsigned mode) {
    int fd;
    do
        fd = lisa__io->open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int fsync_retrying(int fd) {
    int result;
    do
        result = lisa__io->fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

lisa_status lisa__sync_directory(const char *directory) {
    const int fd = lisa__open_retrying(directory, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 && errno == EACCES)
        return LISA_OK; /* entries may be made where none may be listed */
    if (fd < 0)
        return lisa__io_fail("sync directory", directory);
    /* EINVAL: a file system that cannot sync directories and need not. */
    const int failed = fsync_retrying(fd) != 0 && errno != EINVAL;
    const lisa_status status = failed ? lisa__io_fail("sync directory", directory) : LISA_OK;
    lisa__io->close(fd);
    return status;
}

/* The new entry must reach the disk too: it lies in the parent. */
static lisa_status sync_parent(char *path) {
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return lisa__sync_directory(".");
    if (slash == path)
        return lisa__sync_directory("/");
    *slash = '\0';
    const lisa_status status = lisa__sync_directory(path);
    *slash = '/';
    return status;
}

static lisa_status make_one_directory(char *path) {
    if (lisa__io->mkdir(path, 0777) == 0)
        return sync_parent(path);
    return errno == EEXIST ? LISA_OK : lisa__io_fail("make directory", path);
}

static lisa_status make_parents(char *path) {
    for (size_t i = 1; path[i] != '\0'; i++) {
        if (path[i] != '/' || path[i - 1] == '/')
            continue;
        path[i] = '\0';
        const lisa_status status = make_one_directory(path);
        path[i] = '/';
        LISA_TRY(status);
    }
    return LISA_OK;
}

lisa_status lisa__make_directory(const char *directory) {
    char path[PATH_MAX];
    if (directory[0] == '\0')
        return lisa__fail(LISA_E_INVAL, "directory: is empty, a path expected");
    LISA_TRY(lisa__path_join(path, directory, ""));
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
    if (lisa__io->mkdir(path, 0777) == 0)
        return sync_parent(path);
    if (errno == EEXIST)
        return LISA_OK;
    /* Parents are made only where there are none: an existing one may well refuse to be asked. */
    if (errno != ENOENT)
        return lisa__io_fail("make directory", path);
    LISA_TRY(make_parents(path));
    return make_one_directory(path);
}

/* ---- staging ---- */

lisa_status lisa__stage_open(struct lisa__stage *stage, lisa_context *context,
                             const char *directory, uint32_t capacity) {
    lisa_status status;
    *stage = (struct lisa__stage){.context = context, .directory = directory, .capacity = capacity};
    stage->items = lisa__alloc(context, LISA_MEM_HANDLES, capacity * sizeof *stage->items, &status);
    return status;
}

static void remove_quietly(const struct lisa__stage *stage, const char *name) {
    char path[PATH_MAX];
    if (lisa__path_join(path, stage->directory, name) == LISA_OK)
        lisa__io->unlink(path);
}

void lisa__stage_close(struct lisa__stage *stage) {
    for (uint32_t i = 0; i < stage->n_items; i++) {
        const struct lisa__staged *item = stage->items + i;
        if (!item->renamed)
            remove_quietly(stage, item->temporary);
        else if (item->fresh)
            remove_quietly(stage, item->name);
    }
    lisa__release(stage->context, LISA_MEM_HANDLES, stage->items,
                  stage->capacity * sizeof *stage->items);
}

/* A name that nobody else uses: other processes and threads may be saving here too. */
static int open_temporary(const struct lisa__stage *stage, struct lisa__staged *item) {
    int fd = -1;
    errno = EEXIST;
    for (unsigned i = 0; fd < 0 && errno == EEXIST && i < 10000; i++) {
        char path[PATH_MAX];
        snprintf(item->temporary, sizeof item->temporary, ".lisa-%ld-%u.tmp", (long)getpid(), i);
        if (lisa__path_join(path, stage->directory, item->temporary) != LISA_OK) {
            errno = ENAMETOOLONG;
            return -1;
        }
        fd = lisa__open_retrying(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    }
    return fd;
}

static lisa_status fill_and_close(int fd, const char *path, lisa__stage_fill fill, void *arg) {
    lisa_status status = fill(arg, fd, path);
    if (status == LISA_OK && fsync_retrying(fd) != 0)
        status = lisa__io_fail("write", path);
    if (lisa__io->close(fd) != 0 && status == LISA_OK && errno != EINTR)
        status = lisa__io_fail("write", path);
    return status;
}

lisa_status lisa__stage_file(struct lisa__stage *stage, const char *name, lisa__stage_fill fill,
                             void *arg) {
    char path[PATH_MAX];
    struct lisa__staged *item = stage->items + stage->n_items;
    LISA_TRY(lisa__path_join(path, stage->directory, name));
    *item = (struct lisa__staged){.renamed = 0};
    if (strlen(name) >= sizeof item->name)
        return lisa__fail(LISA_E_INVAL, "%s: the name is too long", path);
    memcpy(item->name, name, strlen(name) + 1);
    const int fd = open_temporary(stage, item);
    if (fd < 0)
        return lisa__io_fail("create", path);
    stage->n_items++;
    return fill_and_close(fd, path, fill, arg);
}

lisa_status lisa__stage_rename(struct lisa__stage *stage, struct lisa__staged *item) {
    char from[PATH_MAX], to[PATH_MAX];
    LISA_TRY(lisa__path_join(from, stage->directory, item->temporary));
    LISA_TRY(lisa__path_join(to, stage->directory, item->name));
    if (lisa__io->rename(from, to) != 0)
        return lisa__io_fail("rename to", to);
    item->renamed = 1;
    return LISA_OK;
}

lisa_status lisa__stage_rename_all(struct lisa__stage *stage) {
    for (uint32_t i = 0; i < stage->n_items; i++)
        LISA_TRY(lisa__stage_rename(stage, stage->items + i));
    return stage->n_items > 0 ? lisa__sync_directory(stage->directory) : LISA_OK;
}

/* ---- listing ---- */

lisa_status lisa__list_directory(const char *directory, void *arg,
                                 lisa_status (*visit)(void *arg, const char *name)) {
    lisa_status status = LISA_OK;
    DIR *dir = lisa__io->opendir(directory);
    if (dir == NULL)
        return lisa__io_fail("list", directory);
    while (status == LISA_OK) {
        errno = 0;
        const struct dirent *entry = lisa__io->readdir(dir);
        if (entry == NULL) {
            status = errno == 0 ? LISA_OK : lisa__io_fail("list", directory);
            break;
        }
        status = visit(arg, entry->d_name);
    }
    lisa__io->closedir(dir);
    return status;
}

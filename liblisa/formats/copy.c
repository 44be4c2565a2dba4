#include "formats/writer.h"

#include "core/io.h"
#include "formats/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define MAX_COPIED ((uint64_t)256 << 20)

struct copy {
    struct lisa__stage stage;
    const char *from;
    const char *const *except;
    unsigned char *staging;
    uint32_t n_names;
    /* The file at hand. */
    int fd;
    uint64_t bytes;
    const char *path;
};

static int has_suffix(const char *name, const char *suffix) {
    const size_t length = strlen(name), n = strlen(suffix);
    return length >= n && strcmp(name + length - n, suffix) == 0;
}

static int is_copied(const char *name, const char *const *except) {
    static const char *const weights[] = {
        ".safetensors", ".safetensors.index.json",
        ".bin",         ".bin.index.json",
        ".pt",          ".pth",
        ".ckpt",        ".gguf",
        ".h5",          ".msgpack",
        ".onnx",
    };
    if (name[0] == '.')
        return 0;
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (has_suffix(name, weights[i]))
            return 0;
    for (; except != NULL && *except != NULL; except++)
        if (strcmp(*except, name) == 0)
            return 0;
    return 1;
}

static lisa_status fill_copy(void *arg, int fd, const char *path) {
    const struct copy *copy = arg;
    for (uint64_t at = 0; at < copy->bytes;) {
        const uint64_t left = copy->bytes - at;
        const uint64_t n = left < LISA__WRITE_STAGING ? left : LISA__WRITE_STAGING;
        LISA_TRY(lisa__io_read(copy->fd, copy->staging, n, at, copy->path));
        LISA_TRY(lisa__io_write(fd, copy->staging, n, path));
        at += n;
    }
    return LISA_OK;
}

static lisa_status copy_opened(struct copy *copy, const char *name) {
    struct stat info;
    if (lisa__io->fstat(copy->fd, &info) != 0)
        return lisa__io_fail("read", copy->path);
    if (!S_ISREG(info.st_mode))
        return LISA_OK;
    copy->bytes = (uint64_t)info.st_size;
    if (copy->bytes > MAX_COPIED) {
        lisa__log(copy->stage.context, LISA_LOG_WARN, "%s: above 256 MB, not copied", copy->path);
        return LISA_OK;
    }
    /* The directory may have grown since its names were counted. */
    if (copy->stage.n_items == copy->stage.capacity)
        return lisa__fail(LISA_E_IO, "%s: was changed while it was copied", copy->from);
    return lisa__stage_file(&copy->stage, name, fill_copy, copy);
}

static lisa_status copy_name(void *arg, const char *name) {
    struct copy *copy = arg;
    char path[PATH_MAX];
    if (!is_copied(name, copy->except))
        return LISA_OK;
    LISA_TRY(lisa__path_join(path, copy->from, name));
    /* O_NONBLOCK: a FIFO must not hang the host. */
    copy->fd = lisa__open_retrying(path, O_RDONLY | O_NONBLOCK, 0);
    if (copy->fd < 0 && (errno == ENXIO || errno == ENOENT))
        return LISA_OK; /* a socket, or a link into nowhere */
    if (copy->fd < 0)
        return lisa__io_fail("open", path);
    copy->path = path;
    const lisa_status status = copy_opened(copy, name);
    lisa__io->close(copy->fd);
    return status;
}

static lisa_status count_name(void *arg, const char *name) {
    struct copy *copy = arg;
    copy->n_names += (uint32_t)is_copied(name, copy->except);
    return LISA_OK;
}

static lisa_status identify(const char *directory, struct stat *info) {
    const int fd = lisa__open_retrying(directory, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return lisa__io_fail("open directory", directory);
    const lisa_status status =
        lisa__io->fstat(fd, info) != 0 ? lisa__io_fail("open directory", directory) : LISA_OK;
    lisa__io->close(fd);
    return status;
}

static lisa_status copy_files(struct copy *copy) {
    lisa_status status;
    copy->staging =
        lisa__alloc(copy->stage.context, LISA_MEM_STAGING, LISA__WRITE_STAGING, &status);
    if (copy->staging == NULL)
        return status;
    status = lisa__list_directory(copy->from, copy, copy_name);
    if (status == LISA_OK)
        status = lisa__stage_rename_all(&copy->stage);
    lisa__release(copy->stage.context, LISA_MEM_STAGING, copy->staging, LISA__WRITE_STAGING);
    return status;
}

lisa_status lisa__copy_small_files(lisa_context *context, const char *from, const char *to,
                                   const char *const *except) {
    struct copy copy = {.from = from, .except = except};
    struct lisa__error_kept kept;
    struct stat source, target;
    lisa__error_keep(&kept);
    lisa_status status = identify(from, &source);
    if (status == LISA_E_NOTFOUND) {
        lisa__error_restore(&kept);
        lisa__log(context, LISA_LOG_WARN, "%s is gone; nothing is copied from it", from);
        return LISA_OK;
    }
    LISA_TRY(status);
    LISA_TRY(lisa__make_directory(to));
    LISA_TRY(identify(to, &target));
    if (source.st_dev == target.st_dev && source.st_ino == target.st_ino)
        return LISA_OK;
    LISA_TRY(lisa__list_directory(from, &copy, count_name));
    LISA_TRY(lisa__stage_open(&copy.stage, context, to, copy.n_names));
    status = copy_files(&copy);
    lisa__stage_close(&copy.stage);
    return status;
}

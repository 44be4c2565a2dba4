#include "core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Linux moves at most 2^31 - 4096 bytes per call anyway. */
#define MAX_TRANSFER ((uint64_t)1 << 30)

static int system_open(const char *path, int flags, unsigned mode) {
    return open(path, flags, (mode_t)mode);
}

static int system_mkdir(const char *path, unsigned mode) {
    return mkdir(path, (mode_t)mode);
}

static int system_fallocate(int fd, off_t n) {
    return posix_fallocate(fd, 0, n);
}

static void *system_mmap(size_t n, int protection, int flags, int fd) {
    return mmap(NULL, n, protection, flags, fd, 0);
}

const struct lisa__io lisa__io_system = {
    .open = system_open,
    .close = close,
    .pread = pread,
    .write = write,
    .fsync = fsync,
    .fstat = fstat,
    .rename = rename,
    .unlink = unlink,
    .mkdir = system_mkdir,
    .fallocate = system_fallocate,
    .mmap = system_mmap,
    .munmap = munmap,
    .opendir = opendir,
    .readdir = readdir,
    .closedir = closedir,
};

const struct lisa__io *lisa__io = &lisa__io_system;

lisa_status lisa__io_fail(const char *what, const char *path) {
    const int code = errno;
    char words[128];
    const lisa_status status = code == ENOENT   ? LISA_E_NOTFOUND
                               : code == ENOMEM ? LISA_E_NOMEM
                                                : LISA_E_IO;
    return lisa__fail(status, "%s %s: %s", what, path, strerror_r(code, words, sizeof words));
}

lisa_status lisa__io_read(int fd, void *buffer, uint64_t n, uint64_t offset, const char *path) {
    unsigned char *to = buffer;
    while (n > 0) {
        const size_t want = (size_t)(n < MAX_TRANSFER ? n : MAX_TRANSFER);
        const ssize_t got = lisa__io->pread(fd, to, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lisa__io_fail("read", path);
        if (got == 0)
            return lisa__fail(LISA_E_FORMAT, "%s: ends at byte %llu, %llu more expected", path,
                              (unsigned long long)offset, (unsigned long long)n);
        to += got;
        offset += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return LISA_OK;
}

lisa_status lisa__io_write(int fd, const void *buffer, uint64_t n, const char *path) {
    const unsigned char *from = buffer;
    while (n > 0) {
        const size_t want = (size_t)(n < MAX_TRANSFER ? n : MAX_TRANSFER);
        const ssize_t put = lisa__io->write(fd, from, want);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            /* POSIX lets write return 0; asking again for ever would hang the host. */
            if (put == 0)
                errno = EIO;
            return lisa__io_fail("write", path);
        }
        from += put;
        n -= (uint64_t)put;
    }
    return LISA_OK;
}

static lisa_status slurp_open(char **out, uint64_t *n, int fd, const char *path,
                              uint64_t max_bytes) {
    struct stat info;
    if (lisa__io->fstat(fd, &info) != 0)
        return lisa__io_fail("read", path);
    if (!S_ISREG(info.st_mode))
        return lisa__fail(LISA_E_FORMAT, "%s: is no regular file", path);
    const uint64_t size = (uint64_t)info.st_size;
    if (size > max_bytes)
        return lisa__fail(LISA_E_FORMAT, "%s: %llu bytes, at most %llu expected", path,
                          (unsigned long long)size, (unsigned long long)max_bytes);
    char *text = malloc((size_t)size + 1);
    if (text == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for %llu bytes", path,
                          (unsigned long long)size);
    const lisa_status status = lisa__io_read(fd, text, size, 0, path);
    if (status != LISA_OK) {
        free(text);
        return status;
    }
    text[size] = '\0';
    *out = text;
    *n = size;
    return LISA_OK;
}

lisa_status lisa__io_slurp(char **out, uint64_t *n, const char *path, uint64_t max_bytes) {
    *out = NULL;
    *n = 0;
    /* O_NONBLOCK: a FIFO of that name must not hang the host. */
    const int fd = lisa__io->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return lisa__io_fail("open", path);
    const lisa_status status = slurp_open(out, n, fd, path, max_bytes);
    lisa__io->close(fd);
    return status;
}

/* io.h - every system call on files, in one table that tests replace to inject faults. */
#ifndef LISA_CORE_IO_H
#define LISA_CORE_IO_H

#include "core/error.h"

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* As the POSIX calls of the same name; failures are -1 (or MAP_FAILED, NULL) with errno. */
struct lisa__io {
    int (*open)(const char *path, int flags, unsigned mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *buffer, size_t n, off_t offset);
    ssize_t (*write)(int fd, const void *buffer, size_t n);
    int (*fsync)(int fd);
    int (*fstat)(int fd, struct stat *out);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, unsigned mode);
    int (*fallocate)(int fd, off_t n); /* posix_fallocate: returns an errno */
    void *(*mmap)(size_t n, int protection, int flags, int fd);
    int (*munmap)(void *ptr, size_t n);
    DIR *(*opendir)(const char *path);
    struct dirent *(*readdir)(DIR *dir); /* NULL with errno 0 at the end */
    int (*closedir)(DIR *dir);
};

/* The table in use: the system's own, unless a test has put its own there. */
extern const struct lisa__io *lisa__io;
extern const struct lisa__io lisa__io_system;

/* Fails with "<what> <path>: <errno's words>": LISA_E_NOTFOUND where there is no such file,
 * LISA_E_NOMEM where the kernel had no memory, else LISA_E_IO. */
lisa_status lisa__io_fail(const char *what, const char *path);

/* Reads exactly n bytes, through EINTR and short reads; LISA_E_FORMAT at an early end. */
lisa_status lisa__io_read(int fd, void *buffer, uint64_t n, uint64_t offset, const char *path);

/* Writes all n bytes, through EINTR and short writes. */
lisa_status lisa__io_write(int fd, const void *buffer, uint64_t n, const char *path);

/* A whole small file as a NUL-terminated string from malloc;
 * LISA_E_FORMAT above max_bytes. The caller frees it with free(). */
lisa_status lisa__io_slurp(char **out, uint64_t *n, const char *path, uint64_t max_bytes);

#endif

/* memory_files.h - files that exist in memory alone, so that a fuzzer opens thousands per second.
 */
#ifndef LISA_FUZZ_MEMORY_FILES_H
#define LISA_FUZZ_MEMORY_FILES_H

#include "core/io.h"

#include <errno.h>
#include <string.h>

#define FIRST_MEMORY_FD 1000

struct memory_file {
    const char *name;
    const uint8_t *data;
    size_t size;
};

static struct memory_file memory_files[4];

static inline int memory_open(const char *path, int flags, unsigned mode) {
    (void)flags;
    (void)mode;
    const char *slash = strrchr(path, '/');
    for (int i = 0; i < 4; i++)
        if (memory_files[i].name != NULL && slash != NULL &&
            strcmp(memory_files[i].name, slash + 1) == 0)
            return FIRST_MEMORY_FD + i;
    errno = ENOENT;
    return -1;
}

static inline int memory_close(int fd) {
    (void)fd;
    return 0;
}

static inline ssize_t memory_pread(int fd, void *buffer, size_t n, off_t offset) {
    const struct memory_file *file = memory_files + (fd - FIRST_MEMORY_FD);
    if ((size_t)offset >= file->size)
        return 0;
    const size_t left = file->size - (size_t)offset;
    memcpy(buffer, file->data + offset, n < left ? n : left);
    return (ssize_t)(n < left ? n : left);
}

static inline int memory_fstat(int fd, struct stat *out) {
    memset(out, 0, sizeof *out);
    out->st_mode = S_IFREG;
    out->st_size = (off_t)memory_files[fd - FIRST_MEMORY_FD].size;
    return 0;
}

static const struct lisa__io memory_io = {
    .open = memory_open,
    .close = memory_close,
    .pread = memory_pread,
    .fstat = memory_fstat,
};

static inline void put_memory_file(int i, const char *name, const void *data, size_t size) {
    memory_files[i] = (struct memory_file){name, data, size};
    lisa__io = &memory_io;
}

/* What must hold whatever the bytes were. */
static inline void must(int holds) {
    if (!holds)
        __builtin_trap();
}

/* libFuzzer looks for one name; the replay of all corpora in one program gives each its own. */
#ifdef LISA_FUZZ_REPLAY
#define FUZZ_ENTRY(name) static int name(const uint8_t *data, size_t size)
#else
#define FUZZ_ENTRY(name) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#endif

#endif

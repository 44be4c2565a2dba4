#include "core/scratch.h"

#include "core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

static const long TMPFS_MAGIC_NUMBER = 0x01021994, RAMFS_MAGIC_NUMBER = 0x858458f6;

static lisa_status check_directory(const char *directory) {
    struct statfs info;
    if (statfs(directory, &info) != 0)
        return lisa__io_fail("scratch_dir", directory);
    if ((long)info.f_type == TMPFS_MAGIC_NUMBER || (long)info.f_type == RAMFS_MAGIC_NUMBER)
        return lisa__fail(LISA_E_INVAL, "scratch_dir %s: is in memory, expected a disk", directory);
    return LISA_OK;
}

/* A file that loses its name at once. */
static int open_named(const char *directory) {
    char path[PATH_MAX];
    int fd = -1;
    errno = EEXIST;
    for (unsigned i = 0; i < 1000 && fd < 0 && errno == EEXIST; i++) {
        const int n =
            snprintf(path, sizeof path, "%s/.lisa-scratch-%ld-%u", directory, (long)getpid(), i);
        if (n < 0 || (size_t)n >= sizeof path) {
            errno = ENAMETOOLONG;
            return -1;
        }
        fd = lisa__io->open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    }
    if (fd >= 0)
        lisa__io->unlink(path);
    return fd;
}

/* A file without a name; not every file system can make one, and old kernels say EISDIR. */
static int open_unnamed(const char *directory) {
    const int fd = lisa__io->open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    const int refused = fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL);
    return refused ? open_named(directory) : fd;
}

static lisa_status map_file(struct lisa__scratch *scratch, int fd, uint64_t size,
                            const char *directory) {
    const int failure = lisa__io->fallocate(fd, (off_t)size);
    if (failure != 0) {
        errno = failure;
        return lisa__io_fail("scratch_dir", directory);
    }
    void *base = lisa__io->mmap((size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    if (base == MAP_FAILED)
        return lisa__io_fail("scratch_dir", directory);
    scratch->base = base;
    scratch->size = size;
    return LISA_OK;
}

lisa_status lisa__scratch_create(struct lisa__scratch *scratch, lisa_context *context,
                                 const char *directory, uint64_t size) {
    memset(scratch, 0, sizeof *scratch);
    if (size == 0)
        return LISA_OK;
    LISA_TRY(check_directory(directory));
    const int fd = open_unnamed(directory);
    if (fd < 0)
        return lisa__io_fail("scratch_dir", directory);
    const lisa_status status = map_file(scratch, fd, size, directory);
    lisa__io->close(fd);
    if (status == LISA_OK)
        lisa__account(context, LISA_MEM_DISK, size);
    return status;
}

void lisa__scratch_destroy(struct lisa__scratch *scratch, lisa_context *context) {
    if (scratch->base == NULL)
        return;
    lisa__io->munmap(scratch->base, (size_t)scratch->size);
    lisa__unaccount(context, LISA_MEM_DISK, scratch->size);
    memset(scratch, 0, sizeof *scratch);
}

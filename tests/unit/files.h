/* files.h - what the tests of formats share: a directory to write in, a context without a backend
 * that counts, and a table of system calls that fail on demand. */
#ifndef LISA_TEST_FILES_H
#define LISA_TEST_FILES_H

#include "core/context.h"
#include "core/io.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- directories ---- */

static char test_dir[64];

static inline void make_test_dir(void) {
    snprintf(test_dir, sizeof test_dir, "/tmp/lisa-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(test_dir));
}

static inline void empty_dir(const char *directory) {
    char path[512];
    DIR *dir = opendir(directory);
    if (dir == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%.200s/%s", directory, entry->d_name);
        if (unlink(path) != 0) {
            empty_dir(path);
            rmdir(path);
        }
    }
    closedir(dir);
}

static inline void remove_test_dir(void) {
    empty_dir(test_dir);
    rmdir(test_dir);
}

static inline const char *in_test_dir(const char *name) {
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", test_dir, name);
    return out;
}

static inline void put_file(const char *name, const void *data, size_t n) {
    FILE *file = fopen(in_test_dir(name), "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}

static inline void put_text(const char *name, const char *text) {
    put_file(name, text, strlen(text));
}

/* A safetensors file: length, header, n_data bytes that count upwards. */
static inline void put_safetensors(const char *name, const char *header, size_t n_header,
                                   size_t n_data) {
    unsigned char *bytes = malloc(8 + n_header + n_data);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)n_header >> (8 * i));
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n_header + i] = (unsigned char)i;
    put_file(name, bytes, 8 + n_header + n_data);
    free(bytes);
}

/* A whole file; the caller frees it. NULL where there is none. */
static inline char *get_file(const char *name, size_t *n) {
    FILE *file = fopen(in_test_dir(name), "rb");
    *n = 0;
    if (file == NULL)
        return NULL;
    char *data = calloc(1, 1 << 20);
    ck_assert_ptr_nonnull(data);
    *n = fread(data, 1, (1 << 20) - 1, file);
    fclose(file);
    return data;
}

static inline int has_file(const char *name) {
    return access(in_test_dir(name), F_OK) == 0;
}

static inline unsigned count_files(const char *directory) {
    unsigned n = 0;
    DIR *dir = opendir(directory);
    ck_assert_ptr_nonnull(dir);
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

/* ---- a context ---- */

static struct {
    uint64_t n_allocs;
    uint64_t fail_at;  /* the n-th allocation fails; 0: none */
    int fail_for_ever; /* and all after it */
    char log[4096];    /* all lines so far */
} host;

static inline void *host_alloc(void *user, size_t size, size_t align) {
    (void)user;
    host.n_allocs++;
    if (host.fail_at != 0 &&
        (host.n_allocs == host.fail_at || (host.fail_for_ever && host.n_allocs > host.fail_at)))
        return NULL;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static inline void host_release(void *user, void *ptr, size_t size, size_t align) {
    (void)user;
    (void)size;
    (void)align;
    free(ptr);
}

static inline void host_log(void *user, int32_t level, const char *line) {
    (void)user;
    (void)level;
    const size_t used = strlen(host.log);
    snprintf(host.log + used, sizeof host.log - used, "%s\n", line);
}

static struct lisa_context test_context;

static inline lisa_context *fresh_context(void) {
    memset(&host, 0, sizeof host);
    memset(&test_context, 0, sizeof test_context);
    test_context.references = 1;
    test_context.options.struct_size = sizeof test_context.options;
    test_context.options.alloc = host_alloc;
    test_context.options.release = host_release;
    test_context.options.log = host_log;
    test_context.options.log_level = LISA_LOG_INFO;
    return &test_context;
}

static inline void assert_nothing_held(void) {
    for (unsigned i = 0; i < LISA_MEM_CLASSES; i++)
        ck_assert_msg(test_context.current[i] == 0, "class %u still holds %llu bytes", i,
                      (unsigned long long)test_context.current[i]);
}

/* ---- system calls that fail ---- */

static struct {
    uint64_t n_calls;
    uint64_t fail_at; /* the n-th call fails; 0: none */
    int fail_for_ever;
    int code;           /* errno of a failure */
    int in_small_bites; /* reads and writes move a few bytes only, every other is interrupted */
    unsigned bite;
    int64_t room; /* bytes that the disk still takes; below 0: any number */
    int n_open;   /* descriptors, mappings and listings that are open */
} faults;

static inline int is_due(void) {
    faults.n_calls++;
    if (faults.fail_at == 0 || faults.n_calls < faults.fail_at ||
        (faults.n_calls > faults.fail_at && !faults.fail_for_ever))
        return 0;
    errno = faults.code;
    return 1;
}

static inline int faulty_open(const char *path, int flags, unsigned mode) {
    if (is_due())
        return -1;
    const int fd = lisa__io_system.open(path, flags, mode);
    faults.n_open += fd >= 0;
    return fd;
}

/* As Linux does it: the descriptor is gone even where close fails. */
static inline int faulty_close(int fd) {
    const int due = is_due();
    faults.n_open--;
    close(fd);
    if (due)
        errno = faults.code;
    return due ? -1 : 0;
}

static inline int is_interrupted(size_t *n) {
    if (!faults.in_small_bites)
        return 0;
    if (*n > 7)
        *n = 7;
    errno = EINTR;
    return ++faults.bite % 2 == 0;
}

static inline ssize_t faulty_pread(int fd, void *buffer, size_t n, off_t offset) {
    if (is_due() || is_interrupted(&n))
        return -1;
    return pread(fd, buffer, n, offset);
}

static inline ssize_t faulty_write(int fd, const void *buffer, size_t n) {
    if (is_due() || is_interrupted(&n))
        return -1;
    if (faults.room == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (faults.room > 0) {
        n = n < (size_t)faults.room ? n : (size_t)faults.room;
        faults.room -= (int64_t)n;
    }
    return write(fd, buffer, n);
}

/* Nothing is synced: hundreds of saves would take minutes, and no test pulls the plug. */
static inline int faulty_fsync(int fd) {
    size_t n = 0;
    (void)fd;
    return is_due() || is_interrupted(&n) ? -1 : 0;
}

static inline int faulty_fstat(int fd, struct stat *out) {
    return is_due() ? -1 : fstat(fd, out);
}

static inline int faulty_rename(const char *from, const char *to) {
    return is_due() ? -1 : rename(from, to);
}

static inline int faulty_unlink(const char *path) {
    return is_due() ? -1 : unlink(path);
}

static inline int faulty_mkdir(const char *path, unsigned mode) {
    return is_due() ? -1 : lisa__io_system.mkdir(path, mode);
}

static inline int faulty_fallocate(int fd, off_t n) {
    return is_due() ? faults.code : lisa__io_system.fallocate(fd, n);
}

static inline void *faulty_mmap(size_t n, int protection, int flags, int fd) {
    if (is_due())
        return MAP_FAILED;
    faults.n_open++;
    return lisa__io_system.mmap(n, protection, flags, fd);
}

static inline int faulty_munmap(void *ptr, size_t n) {
    faults.n_open--;
    munmap(ptr, n);
    return is_due() ? -1 : 0;
}

static inline DIR *faulty_opendir(const char *path) {
    if (is_due())
        return NULL;
    DIR *dir = opendir(path);
    faults.n_open += dir != NULL;
    return dir;
}

static inline struct dirent *faulty_readdir(DIR *dir) {
    return is_due() ? NULL : readdir(dir);
}

static inline int faulty_closedir(DIR *dir) {
    faults.n_open--;
    closedir(dir);
    return is_due() ? -1 : 0;
}

static const struct lisa__io faulty_io = {
    .open = faulty_open,
    .close = faulty_close,
    .pread = faulty_pread,
    .write = faulty_write,
    .fsync = faulty_fsync,
    .fstat = faulty_fstat,
    .rename = faulty_rename,
    .unlink = faulty_unlink,
    .mkdir = faulty_mkdir,
    .fallocate = faulty_fallocate,
    .mmap = faulty_mmap,
    .munmap = faulty_munmap,
    .opendir = faulty_opendir,
    .readdir = faulty_readdir,
    .closedir = faulty_closedir,
};

static inline void inject(uint64_t fail_at, int fail_for_ever, int code) {
    memset(&faults, 0, sizeof faults);
    faults.fail_at = fail_at;
    faults.fail_for_ever = fail_for_ever;
    faults.code = code;
    faults.room = -1;
    lisa__io = &faulty_io;
}

static inline void inject_nothing(void) {
    inject(0, 0, 0);
}

#endif

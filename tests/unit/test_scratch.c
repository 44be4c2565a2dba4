/* Memory in a file without a name: what is refused, and what is left behind: nothing. */
#include "core/scratch.h"

#include "check_main.h"
#include "core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, lisa_error_last())

static lisa_context *context;
static char directory[] = "/var/tmp/lisa-scratch-XXXXXX";
static struct lisa__io io;

static void setup(void) {
    lisa_context_options options;
    OK(lisa_context_options_init(&options, sizeof options));
    options.backend = "reference";
    options.n_threads = 1;
    OK(lisa_context_create(&context, &options));
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    io = lisa__io_system;
    lisa__io = &io;
}

/* Removing the directory fails unless it is empty. */
static void teardown(void) {
    uint64_t disk = 1;
    OK(lisa_context_memory(context, LISA_MEM_DISK, &disk, NULL));
    ck_assert_uint_eq(disk, 0);
    lisa__io = &lisa__io_system;
    lisa_context_destroy(context);
    ck_assert_int_eq(rmdir(directory), 0);
}

static int open_without_tmpfile(const char *path, int flags, unsigned mode) {
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return lisa__io_system.open(path, flags, mode);
}

static int n_taken;

/* The first names are others'. */
static int open_where_names_are_taken(const char *path, int flags, unsigned mode) {
    if ((flags & O_EXCL) != 0 && n_taken-- > 0) {
        errno = EEXIST;
        return -1;
    }
    return open_without_tmpfile(path, flags, mode);
}

static int fallocate_on_a_full_disk(int fd, off_t n) {
    (void)fd;
    (void)n;
    return ENOSPC;
}

static void *mmap_without_room(size_t n, int protection, int flags, int fd) {
    (void)n;
    (void)protection;
    (void)flags;
    (void)fd;
    errno = ENOMEM;
    return MAP_FAILED;
}

static void use(void) {
    struct lisa__scratch scratch;
    uint64_t disk = 0;
    OK(lisa__scratch_create(&scratch, context, directory, 100000));
    OK(lisa_context_memory(context, LISA_MEM_DISK, &disk, NULL));
    ck_assert_uint_eq(disk, 100000);
    memset(scratch.base, 7, 100000);
    ck_assert_uint_eq(((unsigned char *)scratch.base)[99999], 7);
    lisa__scratch_destroy(&scratch, context);
    lisa__scratch_destroy(&scratch, context);
}

START_TEST(a_file_without_a_name) {
    use();
    io.open = open_without_tmpfile;
    use();
    io.open = open_where_names_are_taken;
    n_taken = 3;
    use();
}
END_TEST

static void expect_refused(lisa_status expected, const char *where, const char *words) {
    struct lisa__scratch scratch;
    ck_assert_int_eq(lisa__scratch_create(&scratch, context, where, 4096), expected);
    ck_assert_ptr_null(scratch.base);
    ck_assert_msg(strstr(lisa_error_last(), words) != NULL, "said: %s", lisa_error_last());
    lisa__scratch_destroy(&scratch, context);
}

START_TEST(what_is_refused) {
    expect_refused(LISA_E_NOTFOUND, "/nowhere/at/all", "/nowhere/at/all");
    expect_refused(LISA_E_INVAL, "/dev/shm", "in memory");
    io.fallocate = fallocate_on_a_full_disk;
    expect_refused(LISA_E_IO, directory, "No space left");
    io.open = open_without_tmpfile;
    expect_refused(LISA_E_IO, directory, "No space left");
    io.fallocate = lisa__io_system.fallocate;
    io.mmap = mmap_without_room;
    expect_refused(LISA_E_NOMEM, directory, directory);
}
END_TEST

START_TEST(no_bytes_need_no_file) {
    struct lisa__scratch scratch;
    OK(lisa__scratch_create(&scratch, context, NULL, 0));
    ck_assert_ptr_null(scratch.base);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("scratch");
    TCase *tcase = tcase_create("scratch");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_file_without_a_name);
    tcase_add_test(tcase, what_is_refused);
    tcase_add_test(tcase, no_bytes_need_no_file);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

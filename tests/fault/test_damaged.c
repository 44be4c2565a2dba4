/* A checkpoint of which a bit is flipped, or that is cut off: it is refused, or what it loads is
 * what was saved. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/var/tmp/lisa-damaged-XXXXXX";
static char path[128];
static rig saved, loaded;

static int is_refusal(lisa_status status) {
    return status == LISA_E_FORMAT || status == LISA_E_UNSUPPORTED || status == LISA_E_INVAL;
}

/* 1 when it was refused. */
static int assert_harmless(uint64_t at, const char *what) {
    lisa_status status = lisa_checkpoint_verify(path, NULL);
    if (status == LISA_OK)
        status = lisa_checkpoint_load(loaded.optimizer, path, NULL);
    if (status == LISA_OK) {
        rig_assert_same_weights(&saved, &loaded, what);
        return 0;
    }
    ck_assert_msg(is_refusal(status), "%s %llu: %s, %s", what, (unsigned long long)at,
                  lisa_status_name(status), lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), path) != NULL, "%s %llu: %s", what,
                  (unsigned long long)at, lisa_error_last());
    return 1;
}

static void make_checkpoint(void) {
    rig_spec spec;
    rig_spec_init(&spec, "cpu");
    spec.config.n_layers = 2;
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    spec.optimizer.max_active_layers = 1;
    spec.optimizer.moments_layers = LISA_MOMENTS_8BIT;
    rig_make(&saved, &spec);
    rig_make(&loaded, &spec);
    const uint8_t mask[] = {1, 0, 1, 1};
    OK(lisa_optimizer_apply_mask(saved.optimizer, mask, sizeof mask));
    rig_random_batch(&saved, 2, 11, 1);
    OK(lisa_train_step(saved.model, NULL, saved.optimizer, saved.batch, 0, NULL));
    ck_assert_ptr_nonnull(mkdtemp(directory));
    OK(lisa_checkpoint_save(saved.optimizer, directory, 1, NULL));
    snprintf(path, sizeof path, "%s/checkpoint-000000000001.safetensors", directory);
}

static void end(void) {
    rig_destroy(&loaded);
    rig_destroy(&saved);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(directory), 0);
}

static uint64_t header_end(int fd) {
    uint64_t n = 0;
    unsigned char prefix[8];
    ck_assert_int_eq(pread(fd, prefix, 8, 0), 8);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | prefix[i];
    return 8 + n;
}

/* Every byte of the header, and of the rest some of each page. */
START_TEST(test_flipped) {
    struct stat info;
    uint64_t n_refused = 0, n = 0;
    make_checkpoint();
    const int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &info), 0);
    const uint64_t header = header_end(fd);
    for (uint64_t at = 0; at < (uint64_t)info.st_size; at += at < header ? 1 : 37) {
        unsigned char byte, flipped;
        ck_assert_int_eq(pread(fd, &byte, 1, (off_t)at), 1);
        flipped = byte ^ (unsigned char)(1 << at % 8);
        ck_assert_int_eq(pwrite(fd, &flipped, 1, (off_t)at), 1);
        const int refused = assert_harmless(at, "a bit flipped at byte");
        ck_assert_msg(refused || at < header, "a bit at byte %llu of the data was not noticed",
                      (unsigned long long)at);
        ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
        n_refused += refused;
        n++;
    }
    ck_assert_int_eq(close(fd), 0);
    printf("%llu bits flipped, %llu refused, the others said nothing\n", (unsigned long long)n,
           (unsigned long long)n_refused);
    OK(lisa_checkpoint_verify(path, NULL));
    end();
}
END_TEST

START_TEST(test_cut_off) {
    struct stat info;
    uint64_t n = 0;
    make_checkpoint();
    ck_assert_int_eq(stat(path, &info), 0);
    for (off_t bytes = info.st_size - 1; bytes >= 0; bytes -= bytes < 4096 ? 1 : 61, n++) {
        ck_assert_int_eq(truncate(path, bytes), 0);
        ck_assert(assert_harmless((uint64_t)bytes, "cut off after byte"));
    }
    printf("cut off at %llu places\n", (unsigned long long)n);
    end();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("damaged checkpoints");
    TCase *tcase = tcase_create("damage");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_flipped);
    tcase_add_test(tcase, test_cut_off);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

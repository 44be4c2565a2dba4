/* The reader of option structs: an older host, a newer host, and one that never set struct_size. */
#include "core/options.h"

#include "check_main.h"

#include <string.h>

/* One struct as three versions of a header have it. */
struct first {
    size_t struct_size;
    uint64_t a;
};
struct second {
    size_t struct_size;
    uint64_t a;
    uint64_t b;
};
struct third {
    size_t struct_size;
    uint64_t a;
    uint64_t b;
    uint64_t c;
};

#define MIN sizeof(struct first)

static void expect_said(const char *words) {
    ck_assert_msg(strstr(lisa_error_last(), words) != NULL, "\"%s\" does not say \"%s\"",
                  lisa_error_last(), words);
}

static struct second read_second(const void *host) {
    struct second own;
    memset(&own, 0xEE, sizeof own);
    ck_assert_int_eq(lisa__options_read(&own, sizeof own, MIN, host, "name"), LISA_OK);
    ck_assert_uint_eq(own.struct_size, sizeof own);
    return own;
}

START_TEST(init_clears_and_says_the_size) {
    struct third options;
    memset(&options, 0xEE, sizeof options);
    ck_assert_int_eq(lisa__options_init(&options, sizeof(struct second), MIN, "name"), LISA_OK);
    ck_assert_uint_eq(options.struct_size, sizeof(struct second));
    ck_assert_uint_eq(options.a, 0);
    ck_assert_uint_eq(options.b, 0);
    ck_assert_uint_eq(options.c, 0xEEEEEEEEEEEEEEEE);
    ck_assert_int_eq(lisa__options_init(&options, MIN, MIN, "name"), LISA_OK);
}
END_TEST

START_TEST(init_refuses_what_is_too_small) {
    struct first options = {7, 8};
    ck_assert_int_eq(lisa__options_init(&options, MIN - 1, MIN, "name"), LISA_E_ABI);
    expect_said("name: size is ");
    ck_assert_uint_eq(options.struct_size, 7);
    ck_assert_uint_eq(options.a, 8);
    ck_assert_int_eq(lisa__options_init(NULL, MIN, MIN, "name"), LISA_E_INVAL);
    expect_said("name");
}
END_TEST

START_TEST(read_takes_the_same_version) {
    const struct second host = {sizeof host, 1, 2};
    const struct second own = read_second(&host);
    ck_assert_uint_eq(own.a, 1);
    ck_assert_uint_eq(own.b, 2);
}
END_TEST

START_TEST(read_gives_an_older_host_zeros) {
    const struct second host = {sizeof(struct first), 1, 2}; /* b lies beyond its end */
    const struct second own = read_second(&host);
    ck_assert_uint_eq(own.a, 1);
    ck_assert_uint_eq(own.b, 0);
}
END_TEST

START_TEST(read_takes_a_newer_host_that_sets_nothing_new) {
    const struct third host = {sizeof host, 1, 2, 0};
    ck_assert_uint_eq(read_second(&host).b, 2);
}
END_TEST

START_TEST(read_refuses_a_newer_host_that_does) {
    struct third host = {sizeof host, 1, 2, 0};
    for (size_t byte = sizeof(struct second); byte < sizeof host; byte++) {
        struct second own = {7, 8, 9};
        ((unsigned char *)&host)[byte] = 1;
        ck_assert_int_eq(lisa__options_read(&own, sizeof own, MIN, &host, "name"), LISA_E_ABI);
        expect_said("name: byte ");
        ck_assert(own.struct_size == 7 && own.a == 8 && own.b == 9);
        ((unsigned char *)&host)[byte] = 0;
    }
}
END_TEST

/* Too short, or so long that it was never set: reading or clearing so much would be the end. */
START_TEST(read_refuses_what_is_no_size) {
    const size_t sizes[] = {0, 1, MIN - 1, 4097, SIZE_MAX};
    struct second own = {7, 8, 9};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct second host = {sizes[i], 1, 2};
        ck_assert_int_eq(lisa__options_read(&own, sizeof own, MIN, &host, "name"), LISA_E_ABI);
        expect_said("name: struct_size is ");
    }
    ck_assert_int_eq(lisa__options_read(&own, sizeof own, MIN, NULL, "name"), LISA_E_INVAL);
    ck_assert(own.struct_size == 7 && own.a == 8 && own.b == 9);
}
END_TEST

START_TEST(write_fills_as_far_as_the_host_reaches) {
    const struct second own = {sizeof own, 1, 2};
    struct third host = {MIN, 9, 9, 9};
    ck_assert_int_eq(lisa__options_write(&host, MIN, &own, sizeof own, "name"), LISA_OK);
    ck_assert(host.struct_size == MIN && host.a == 1 && host.b == 9 && host.c == 9);
    host.struct_size = sizeof own;
    ck_assert_int_eq(lisa__options_write(&host, MIN, &own, sizeof own, "name"), LISA_OK);
    ck_assert(host.struct_size == sizeof own && host.a == 1 && host.b == 2 && host.c == 9);
    host.struct_size = sizeof host;
    ck_assert_int_eq(lisa__options_write(&host, MIN, &own, sizeof own, "name"), LISA_OK);
    ck_assert(host.struct_size == sizeof host && host.a == 1 && host.b == 2 && host.c == 0);
}
END_TEST

START_TEST(write_refuses_what_is_no_size) {
    const struct second own = {sizeof own, 1, 2};
    const size_t sizes[] = {MIN - 1, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct third host = {sizes[i], 9, 9, 9};
        ck_assert_int_eq(lisa__options_write(&host, MIN, &own, sizeof own, "name"), LISA_E_ABI);
        expect_said("name: struct_size is ");
        ck_assert(host.struct_size == sizes[i] && host.a == 9 && host.b == 9 && host.c == 9);
    }
    ck_assert_int_eq(lisa__options_write(NULL, MIN, &own, sizeof own, "name"), LISA_E_INVAL);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("options");
    TCase *tcase = tcase_create("options");
    tcase_add_test(tcase, init_clears_and_says_the_size);
    tcase_add_test(tcase, init_refuses_what_is_too_small);
    tcase_add_test(tcase, read_takes_the_same_version);
    tcase_add_test(tcase, read_gives_an_older_host_zeros);
    tcase_add_test(tcase, read_takes_a_newer_host_that_sets_nothing_new);
    tcase_add_test(tcase, read_refuses_a_newer_host_that_does);
    tcase_add_test(tcase, read_refuses_what_is_no_size);
    tcase_add_test(tcase, write_fills_as_far_as_the_host_reaches);
    tcase_add_test(tcase, write_refuses_what_is_no_size);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

#include "check_main.h"
#include "files.h"

#include "core/dtype.h"
#include "formats/safetensors.h"
#include "formats/writer.h"

/* Byte j of tensor i is 31 i + j + salt. */
static unsigned salt;
static uint32_t n_written; /* the wide one, which needs more than one piece, is the last */
static lisa_status source_status;

static const struct lisa__write_tensor tensors[] = {
    {"z.weight", LISA_DTYPE_F16, 2, {3, 5}, 15},
    {"b", LISA_DTYPE_F32, 1, {3, 1}, 3},
    {"a.weight", LISA_DTYPE_BF16, 2, {2, 4}, 8},
    {"a \"q\"", LISA_DTYPE_F32, 2, {2, 2}, 4},
    {"d", LISA_DTYPE_F64, 1, {2, 1}, 2},
    {"empty", LISA_DTYPE_F32, 2, {0, 4}, 0},
    {"wide", LISA_DTYPE_BF16, 2, {1000, 600}, 600000},
};
#define N_TENSORS (sizeof tensors / sizeof *tensors)
#define TOTAL (30 + 12 + 16 + 16 + 16 + 0 + 1200000)

static lisa_status deliver(void *user, uint32_t index, uint64_t begin, uint64_t n, void *dst) {
    const uint64_t size = lisa__dtype_size(tensors[index].dtype);
    ck_assert_ptr_eq(user, &salt);
    ck_assert_uint_le(begin + n, tensors[index].n_elements);
    ck_assert_uint_le(n * size, LISA__WRITE_STAGING);
    for (uint64_t j = 0; j < n * size; j++)
        ((unsigned char *)dst)[j] = (unsigned char)(31 * index + begin * size + j + salt);
    return source_status == LISA_OK ? LISA_OK : lisa__fail(source_status, "the source's own text");
}

static lisa_status save(const char *directory, uint64_t max_shard_bytes) {
    return lisa__write_weights(&test_context, directory, tensors, n_written, max_shard_bytes,
                               deliver, &salt);
}

static void expect_save(const char *directory, uint64_t max_shard_bytes) {
    const lisa_status status = save(directory, max_shard_bytes);
    ck_assert_msg(status == LISA_OK, "%s", lisa_error_last());
    assert_nothing_held();
}

/* Whether the weights of a directory are those of a salt, whole. */
static int holds(const char *directory, unsigned expected) {
    struct lisa__weights *weights;
    int same = 1;
    if (lisa__weights_open(&weights, NULL, directory, 1) != LISA_OK)
        return 0;
    same &= lisa__weights_count(weights) == n_written;
    for (uint32_t i = 0; i < n_written && same; i++) {
        const struct lisa__st_tensor *t = lisa__weights_find(weights, tensors[i].name);
        same = t != NULL && t->dtype == tensors[i].dtype && t->n_dims == tensors[i].n_dims &&
               t->n_elements == tensors[i].n_elements && t->shape[0] == tensors[i].shape[0];
        const unsigned char *data = same ? lisa__weights_data(weights, t) : NULL;
        for (uint64_t j = 0; same && j < t->bytes; j++)
            same = data[j] == (unsigned char)(31 * i + j + expected);
    }
    lisa__weights_close(weights);
    return same;
}

static void set_up(void) {
    make_test_dir();
    fresh_context();
    inject_nothing();
    source_status = LISA_OK;
    salt = 1;
    n_written = N_TENSORS;
}

/* ---- one file ---- */

START_TEST(writes_the_order_of_the_format) {
    size_t n;
    lisa__io = &lisa__io_system;
    expect_save(test_dir, 0);
    ck_assert(holds(test_dir, 1));
    ck_assert_uint_eq(count_files(test_dir), 1);
    char *bytes = get_file("model.safetensors", &n);
    const unsigned header = (unsigned char)bytes[0] | (unsigned)(unsigned char)bytes[1] << 8;
    ck_assert_uint_eq(header % 8, 0);
    bytes[8 + header] = '\0';
    ck_assert_str_eq(strtok(bytes + 8, " "),
                     "{\"__metadata__\":{\"format\":\"pt\"},"
                     "\"d\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},\"a");
    const char *rest = bytes + 8 + strlen(bytes + 8) + 1;
    ck_assert_ptr_nonnull(strstr(rest, "\\\"q\\\"\":{\"dtype\":\"F32\",\"shape\":[2,2],"
                                       "\"data_offsets\":[16,32]},\"b\":{"));
    ck_assert_ptr_nonnull(strstr(rest, "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,4],"
                                       "\"data_offsets\":[44,44]},\"a.weight\":{"));
    ck_assert_ptr_nonnull(strstr(rest, "\"wide\":{"));
    ck_assert_ptr_nonnull(strstr(strstr(rest, "\"wide\":{"), "\"z.weight\":{"));
    free(bytes);
}
END_TEST

START_TEST(makes_directories) {
    char deep[512];
    snprintf(deep, sizeof deep, "%s", in_test_dir("a//b/c/"));
    expect_save(deep, 0);
    ck_assert(holds(deep, 1));
    ck_assert_int_eq(save("", 0), LISA_E_INVAL);
    put_text("plain", "");
    ck_assert_int_eq(save(in_test_dir("plain"), 0), LISA_E_IO);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "plain"));
    ck_assert_int_eq(save(in_test_dir("plain/x"), 0), LISA_E_IO);
}
END_TEST

START_TEST(writes_no_tensors) {
    struct lisa__weights *weights;
    ck_assert_int_eq(lisa__write_weights(&test_context, test_dir, tensors, 0, 0, deliver, &salt),
                     LISA_OK);
    ck_assert_int_eq(lisa__weights_open(&weights, NULL, test_dir, 0), LISA_OK);
    ck_assert_uint_eq(lisa__weights_count(weights), 0);
    lisa__weights_close(weights);
}
END_TEST

START_TEST(refuses_the_same_name_twice) {
    struct lisa__write_tensor twice[] = {tensors[0], tensors[1]};
    twice[1].name = twice[0].name;
    for (uint64_t most = 0; most <= 30; most += 30) {
        ck_assert_int_eq(
            lisa__write_weights(&test_context, test_dir, twice, 2, most, deliver, &salt),
            LISA_E_INTERNAL);
        ck_assert_ptr_nonnull(strstr(lisa_error_last(), "\"z.weight\" is there twice"));
        ck_assert_uint_eq(count_files(test_dir), 0);
        assert_nothing_held();
    }
}
END_TEST

/* ---- shards ---- */

START_TEST(cuts_into_shards) {
    size_t n;
    expect_save(test_dir, 58);
    ck_assert(holds(test_dir, 1));
    ck_assert_uint_eq(count_files(test_dir), 4);
    char *index = get_file("model.safetensors.index.json", &n);
    char total[64];
    snprintf(total, sizeof total, "\"total_size\": %d", TOTAL);
    ck_assert_ptr_nonnull(strstr(index, total));
    ck_assert_ptr_nonnull(strstr(index, "\"z.weight\": \"model-00001-of-00003.safetensors\""));
    ck_assert_ptr_nonnull(strstr(index, "\"a.weight\": \"model-00001-of-00003.safetensors\""));
    ck_assert_ptr_nonnull(strstr(index, "\"d\": \"model-00002-of-00003.safetensors\""));
    ck_assert_ptr_nonnull(strstr(index, "\"wide\": \"model-00003-of-00003.safetensors\""));
    free(index);
    /* One byte less, and the third tensor no longer fits beside the first two. */
    expect_save(test_dir, 57);
    index = get_file("model.safetensors.index.json", &n);
    ck_assert_ptr_nonnull(strstr(index, "\"a.weight\": \"model-g1-00002-of-00003.safetensors\""));
    free(index);
}
END_TEST

START_TEST(leaves_nothing_of_an_earlier_save) {
    const uint64_t sizes[] = {0, 60, 60, 60, 0, 2000000, 30, 0, 60, 30};
    put_text("model-notes.safetensors", "of the user");
    put_text("model-00001-of-00002.safetensors.bak", "of the user");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        salt = (unsigned)i + 1;
        expect_save(test_dir, sizes[i]);
        ck_assert(holds(test_dir, salt));
        ck_assert_int_eq(has_file("model.safetensors"), sizes[i] == 0 || sizes[i] == 2000000);
        ck_assert_int_eq(has_file("model.safetensors.index.json"), !has_file("model.safetensors"));
        ck_assert_int_eq(has_file("model-notes.safetensors"), 1);
        ck_assert_int_eq(has_file("model-00001-of-00002.safetensors.bak"), 1);
        const unsigned n_weights = sizes[i] == 60 ? 4 : sizes[i] == 30 ? 6 : 1;
        ck_assert_uint_eq(count_files(test_dir), 2 + n_weights);
        if (i == 1 || i == 3)
            ck_assert_int_eq(has_file("model-00003-of-00003.safetensors"), 1);
        if (i == 2)
            ck_assert_int_eq(has_file("model-g1-00003-of-00003.safetensors"), 1);
    }
}
END_TEST

START_TEST(replaces_files_that_are_mapped) {
    struct lisa__weights *weights;
    expect_save(test_dir, 60);
    ck_assert_int_eq(lisa__weights_open(&weights, NULL, test_dir, 1), LISA_OK);
    const struct lisa__st_tensor *d = lisa__weights_find(weights, "d");
    salt = 9;
    expect_save(test_dir, 60);
    ck_assert(holds(test_dir, 9));
    ck_assert_int_eq(lisa__weights_check(weights), LISA_OK);
    ck_assert_uint_eq(*(const unsigned char *)lisa__weights_data(weights, d), 31 * 4 + 1);
    lisa__weights_close(weights);
}
END_TEST

/* ---- faults ---- */

static unsigned long sum_of_files(void) {
    unsigned long sum = 0;
    DIR *dir = opendir(test_dir);
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        size_t n;
        if (entry->d_name[0] == '.')
            continue;
        char *bytes = get_file(entry->d_name, &n);
        for (size_t i = 0; i < n; i++)
            sum += (i + 1) * (unsigned char)bytes[i];
        free(bytes);
    }
    closedir(dir);
    return sum;
}

static void expect_old_or_new(lisa_status status, int for_ever, unsigned long old_sum,
                              unsigned n_old) {
    ck_assert_msg(holds(test_dir, 1) || holds(test_dir, 2), "neither: %s", lisa_error_last());
    if (status == LISA_OK) {
        ck_assert(holds(test_dir, 2));
        return;
    }
    ck_assert_int_eq(status, LISA_E_IO);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), test_dir));
    /* Where the failure is a single one, whatever was begun is taken back. */
    if (!for_ever && holds(test_dir, 1)) {
        ck_assert_uint_eq(count_files(test_dir), n_old);
        ck_assert_uint_eq(sum_of_files(), old_sum);
    }
}

/* From one file and from shards, to one file, as many shards and other shards. */
START_TEST(keeps_the_old_weights_through_every_fault) {
    const uint64_t froms[] = {0, 60}, tos[] = {0, 60, 30};
    const uint64_t from = froms[_i % 2], to = tos[_i / 2 % 3];
    const int for_ever = _i / 6;
    int was_reached = 1;
    unsigned n_failures = 0;
    n_written = N_TENSORS - 1;
    for (uint64_t at = 1; was_reached; at++) {
        empty_dir(test_dir);
        salt = 1;
        expect_save(test_dir, from);
        const unsigned n_old = count_files(test_dir);
        const unsigned long old_sum = sum_of_files();
        salt = 2;
        inject(at, for_ever, EIO);
        const lisa_status status = save(test_dir, to);
        was_reached = faults.n_calls >= at;
        ck_assert_int_eq(faults.n_open, 0);
        inject_nothing();
        assert_nothing_held();
        expect_old_or_new(status, for_ever, old_sum, n_old);
        n_failures += status != LISA_OK;
    }
    ck_assert_uint_gt(n_failures, 8);
}
END_TEST

START_TEST(survives_a_full_disk) {
    for (int64_t room = 0; room < TOTAL + 4000; room += room < 5000 ? 97 : 100000) {
        const uint64_t most = room % 2 ? 60 : 0;
        salt = 1;
        empty_dir(test_dir);
        expect_save(test_dir, 60);
        salt = 2;
        inject(0, 0, 0);
        faults.room = room;
        const lisa_status status = save(test_dir, most);
        ck_assert_int_eq(faults.n_open, 0);
        inject_nothing();
        if (status == LISA_OK)
            break;
        ck_assert_int_eq(status, LISA_E_IO);
        ck_assert_ptr_nonnull(strstr(lisa_error_last(), strerror(ENOSPC)));
        ck_assert_ptr_nonnull(strstr(lisa_error_last(), "/model"));
        ck_assert(holds(test_dir, 1));
        ck_assert_uint_eq(count_files(test_dir), 4);
        assert_nothing_held();
    }
}
END_TEST

START_TEST(writes_in_small_bites) {
    inject(0, 0, 0);
    faults.in_small_bites = 1;
    expect_save(test_dir, 60);
    ck_assert_uint_gt(faults.bite, 1000);
    inject_nothing();
    ck_assert(holds(test_dir, 1));
}
END_TEST

START_TEST(survives_every_failing_allocation) {
    lisa_status status;
    uint64_t at = 0;
    expect_save(test_dir, 60);
    salt = 2;
    do {
        fresh_context();
        host.fail_at = ++at;
        host.fail_for_ever = _i;
        status = save(test_dir, 60);
        ck_assert_int_eq(status, host.n_allocs >= at ? LISA_E_NOMEM : LISA_OK);
        ck_assert(holds(test_dir, status == LISA_OK ? 2 : 1));
        ck_assert_uint_eq(count_files(test_dir), 4);
        assert_nothing_held();
    } while (status != LISA_OK);
    ck_assert_uint_eq(at, 4);
}
END_TEST

static int32_t stop(void *user) {
    return ++*(int *)user > 3;
}

START_TEST(gives_up_where_the_host_or_the_source_says_so) {
    int n_polls = 0;
    expect_save(test_dir, 60);
    salt = 2;
    source_status = LISA_E_NONFINITE;
    ck_assert_int_eq(save(test_dir, 60), LISA_E_NONFINITE);
    ck_assert_str_eq(lisa_error_last(), "the source's own text");
    source_status = LISA_OK;
    test_context.options.interrupt = stop;
    test_context.options.interrupt_user = &n_polls;
    ck_assert_int_eq(save(test_dir, 0), LISA_E_CANCELLED);
    ck_assert(holds(test_dir, 1));
    ck_assert_uint_eq(count_files(test_dir), 4);
    assert_nothing_held();
}
END_TEST

/* ---- single files and copies ---- */

START_TEST(replaces_a_file_whole_or_not_at_all) {
    size_t n;
    int was_reached = 1;
    unsigned n_failures = 0;
    put_text("config.json", "old");
    for (uint64_t at = 1; was_reached; at++) {
        inject(at, _i, EIO);
        const lisa_status status =
            lisa__write_file(&test_context, test_dir, "config.json", "newer", 5);
        was_reached = faults.n_calls >= at;
        ck_assert_int_eq(faults.n_open, 0);
        inject_nothing();
        assert_nothing_held();
        char *text = get_file("config.json", &n);
        ck_assert(strcmp(text, "newer") == 0 || (strcmp(text, "old") == 0 && status != LISA_OK));
        ck_assert(status == LISA_OK || strstr(lisa_error_last(), test_dir) != NULL);
        if (!_i)
            ck_assert_uint_eq(count_files(test_dir), 1);
        n_failures += status != LISA_OK;
        free(text);
        empty_dir(test_dir);
        put_text("config.json", "old");
    }
    /* mkdir, open, write, fsync, close, rename; open and fsync of the directory. Its close says
     * nothing about the file. */
    ck_assert_uint_eq(n_failures, 8);
}
END_TEST

static void put_sources(void) {
    ck_assert_int_eq(mkdir(in_test_dir("from"), 0700), 0);
    ck_assert_int_eq(mkdir(in_test_dir("from/folder"), 0700), 0);
    ck_assert_int_eq(mkfifo(in_test_dir("from/fifo"), 0600), 0);
    ck_assert_int_eq(symlink("nowhere", in_test_dir("from/link")), 0);
    put_text("from/tokenizer.json", "{}");
    put_text("from/tokenizer.model", "sentencepiece");
    put_text("from/empty", "");
    put_text("from/config.json", "except");
    put_text("from/.hidden", "hidden");
    put_text("from/model.safetensors", "weights");
    put_text("from/model.safetensors.index.json", "index");
    put_text("from/pytorch_model.bin", "weights");
    put_text("from/pytorch_model.bin.index.json", "index");
}

static lisa_status copy(const char *from, const char *to) {
    static const char *const except[] = {"config.json", NULL};
    return lisa__copy_small_files(&test_context, in_test_dir(from), in_test_dir(to), except);
}

START_TEST(copies_small_files_alone) {
    size_t n;
    put_sources();
    put_text("from/large", "");
    ck_assert_int_eq(truncate(in_test_dir("from/large"), 256 * 1024 * 1024 + 1), 0);
    ck_assert_int_eq(copy("from", "to"), LISA_OK);
    ck_assert_uint_eq(count_files(in_test_dir("to")), 3);
    char *text = get_file("to/tokenizer.model", &n);
    ck_assert_str_eq(text, "sentencepiece");
    free(text);
    ck_assert_int_eq(has_file("to/tokenizer.json"), 1);
    ck_assert_int_eq(has_file("to/empty"), 1);
    ck_assert_ptr_nonnull(strstr(host.log, "from/large: above 256 MB, not copied"));
    assert_nothing_held();
}
END_TEST

START_TEST(copies_nothing_onto_itself) {
    put_sources();
    const unsigned n = count_files(in_test_dir("from"));
    struct stat before, after;
    ck_assert_int_eq(stat(in_test_dir("from/tokenizer.json"), &before), 0);
    inject(0, 0, 0);
    ck_assert_int_eq(copy("from", "from/../from"), LISA_OK);
    ck_assert_int_eq(faults.n_open, 0);
    inject_nothing();
    ck_assert_uint_eq(count_files(in_test_dir("from")), n);
    ck_assert_int_eq(stat(in_test_dir("from/tokenizer.json"), &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
    ck_assert_int_eq(copy("gone", "to"), LISA_OK);
    ck_assert_ptr_nonnull(strstr(host.log, "gone is gone"));
}
END_TEST

START_TEST(copies_whole_files_or_none) {
    int was_reached = 1;
    put_sources();
    for (uint64_t at = 1; was_reached; at++) {
        empty_dir(in_test_dir("to"));
        rmdir(in_test_dir("to"));
        inject(at, _i, EIO);
        const lisa_status status = copy("from", "to");
        was_reached = faults.n_calls >= at;
        ck_assert_int_eq(faults.n_open, 0);
        inject_nothing();
        assert_nothing_held();
        ck_assert(status == LISA_OK || status == LISA_E_IO);
        if (status == LISA_OK)
            ck_assert_uint_eq(count_files(in_test_dir("to")), 3);
        else
            ck_assert_ptr_nonnull(strstr(lisa_error_last(), test_dir));
    }
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("writer");
    TCase *tests = tcase_create("writer");
    tcase_add_checked_fixture(tests, set_up, remove_test_dir);
    tcase_add_test(tests, writes_the_order_of_the_format);
    tcase_add_test(tests, makes_directories);
    tcase_add_test(tests, writes_no_tensors);
    tcase_add_test(tests, refuses_the_same_name_twice);
    tcase_add_test(tests, cuts_into_shards);
    tcase_add_test(tests, leaves_nothing_of_an_earlier_save);
    tcase_add_test(tests, replaces_files_that_are_mapped);
    tcase_add_loop_test(tests, keeps_the_old_weights_through_every_fault, 0, 12);
    tcase_add_test(tests, survives_a_full_disk);
    tcase_add_test(tests, writes_in_small_bites);
    tcase_add_loop_test(tests, survives_every_failing_allocation, 0, 2);
    tcase_add_test(tests, gives_up_where_the_host_or_the_source_says_so);
    tcase_add_loop_test(tests, replaces_a_file_whole_or_not_at_all, 0, 2);
    tcase_add_test(tests, copies_small_files_alone);
    tcase_add_test(tests, copies_nothing_onto_itself);
    tcase_add_loop_test(tests, copies_whole_files_or_none, 0, 2);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

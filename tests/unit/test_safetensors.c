#include "check_main.h"
#include "files.h"

#include "formats/safetensors.h"

static const char file_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

static lisa_status open_it(struct lisa__weights **weights, int map) {
    return lisa__weights_open(weights, fresh_context(), test_dir, map);
}

/* ---- what is read ---- */

START_TEST(reads_every_kind_of_tensor) {
    /* Out of order, an odd header length, an unaligned start, an escaped name, a scalar, an empty
     * tensor, a type that the library has not. */
    static const char header[] =
        " \n{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[1,9]},"
        "\"__metadata__\":{\"format\":\"pt\",\"a\":\"1\"},"
        "\"a \\\"q\\\" \\u00fc\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[9,13]},"
        "\"bytes\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"empty\":{\"dtype\":\"F16\",\"shape\":[3,0,7],\"data_offsets\":[9,9]},"
        "\"six\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[13,16]},"
        "\"odd\":{\"dtype\":\"Q9\",\"shape\":[3],\"data_offsets\":[16,18]}}  ";
    const size_t n = sizeof header - 1;
    struct lisa__weights *weights;
    unsigned char bytes[8];
    put_safetensors(file_name, header, n, 18);
    for (int map = 0; map <= 1; map++) {
        ck_assert_int_eq(open_it(&weights, map), LISA_OK);
        ck_assert_uint_eq(lisa__weights_count(weights), 6);
        ck_assert_str_eq(lisa__weights_at(weights, 0)->name, "a \"q\" \xc3\xbc");
        const struct lisa__st_tensor *b = lisa__weights_find(weights, "b");
        ck_assert_ptr_nonnull(b);
        ck_assert_uint_eq(b->dtype, LISA_DTYPE_BF16);
        ck_assert_uint_eq(b->n_dims, 2);
        ck_assert_uint_eq(b->shape[1], 2);
        ck_assert_uint_eq(b->n_elements, 4);
        ck_assert_uint_eq(b->offset, 8 + n + 1);
        ck_assert_uint_eq(b->bytes, 8);
        ck_assert_int_eq(lisa__weights_read(weights, b, 2, bytes, 6), LISA_OK);
        ck_assert_mem_eq(bytes, "\3\4\5\6\7\10", 6);
        ck_assert_int_eq(lisa__weights_read(weights, b, 3, bytes, 6), LISA_E_INTERNAL);
        const void *data = lisa__weights_data(weights, b);
        if (map)
            ck_assert_mem_eq(data, "\1\2\3\4", 4);
        else
            ck_assert_ptr_null(data);
        ck_assert_uint_eq(lisa__weights_find(weights, "a \"q\" \xc3\xbc")->n_elements, 1);
        ck_assert_uint_eq(lisa__weights_find(weights, "empty")->n_elements, 0);
        ck_assert_uint_eq(lisa__weights_find(weights, "odd")->dtype, 0);
        ck_assert_str_eq(lisa__weights_find(weights, "odd")->dtype_name, "Q9");
        ck_assert_str_eq(lisa__weights_path(weights, b), in_test_dir(file_name));
        ck_assert_ptr_null(lisa__weights_find(weights, "c"));
        ck_assert_int_eq(lisa__weights_check(weights), LISA_OK);
        lisa__weights_close(weights);
        assert_nothing_held();
    }
}
END_TEST

START_TEST(reads_without_a_context) {
    struct lisa__weights *weights;
    put_safetensors(file_name, "{}", 2, 0);
    ck_assert_int_eq(lisa__weights_open(&weights, NULL, test_dir, 1), LISA_OK);
    ck_assert_uint_eq(lisa__weights_count(weights), 0);
    ck_assert_ptr_null(lisa__weights_find(weights, "a"));
    lisa__weights_close(weights);
}
END_TEST

START_TEST(notices_a_changed_file) {
    struct lisa__weights *weights;
    put_safetensors(file_name, "{}  ", 4, 0);
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    ck_assert_int_eq(truncate(in_test_dir(file_name), 9), 0);
    ck_assert_int_eq(lisa__weights_check(weights), LISA_E_IO);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), file_name));
    lisa__weights_close(weights);
    /* As long as before, and written a nanosecond later. */
    struct stat info;
    put_safetensors(file_name, "{}  ", 4, 0);
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    ck_assert_int_eq(stat(in_test_dir(file_name), &info), 0);
    const struct timespec times[2] = {info.st_atim,
                                      {info.st_mtim.tv_sec, info.st_mtim.tv_nsec ^ 1}};
    ck_assert_int_eq(utimensat(AT_FDCWD, in_test_dir(file_name), times, 0), 0);
    ck_assert_int_eq(lisa__weights_check(weights), LISA_E_IO);
    lisa__weights_close(weights);
}
END_TEST

START_TEST(forgotten_pages_come_back) {
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[8192],"
                                 "\"data_offsets\":[0,32768]}}";
    struct lisa__weights *weights;
    put_safetensors(file_name, header, sizeof header - 1, 32768);
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    const struct lisa__st_tensor *a = lisa__weights_find(weights, "a");
    const unsigned char *data = lisa__weights_data(weights, a);
    lisa__weights_forget(weights, a);
    for (size_t i = 0; i < a->bytes; i++)
        ck_assert_uint_eq(data[i], i % 256);
    lisa__weights_close(weights);
}
END_TEST

/* ---- what is refused: one file ---- */

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin          \
    ",       \
    " #end "]}"

static const struct {
    const char *header;
    size_t n_data;
    const char *text; /* a part of the error's */
} hostile[] = {
    {"", 0, "'{' expected"},
    {"[]", 0, "'{' expected"},
    {"{", 0, "a string expected"},
    {"{}x", 0, "the end expected"},
    {"{\"a\":1}", 0, "\"a\": \"shape\" as an array"},
    {"{\"a\":}", 0, "JSON"},
    {"{\"a\"}", 0, "':' expected"},
    {"{" T("a", "F32", "[1]", 0, 4) ",}", 4, "a string expected"},
    {"{" T("a", "F32", "[1]", 0, 4) " " T("b", "F32", "[1]", 4, 8) "}", 8, "',' expected"},
    {"{\"\xff\":1}", 0, "JSON"},
    {"{\"a\\u0000\":1}", 0, "JSON"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, "\"a\" is there twice"},
    {"{" T("a", "F32", "[0]", 0, 0) "," T("a", "F32", "[0]", 0, 0) "}", 0, "\"a\" is there twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "\"__metadata__\" is there twice"},
    {"{\"__metadata__\":{\"a\":\"1\",\"b\":\"2\",\"a\":\"3\"}}", 0, "has a key twice"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "\"a\": a string expected"},
    {"{\"__metadata__\":[]}", 0, "'{' expected"},
    {"{" T("a", "F32", "[1]", 4, 8) "}", 8, "a hole"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 8, 12) "}", 12,
     "\"b\" begins at byte"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[1]", 4, 8) "}", 8, "an overlap"},
    {"{" T("a", "F32", "[1]", 4, 0) "}", 4, "begin <= end"},
    {"{" T("a", "F32", "[1]", -4, 0) "}", 4, "begin <= end"},
    {"{" T("a", "F32", "[1]", 0, 4.0) "}", 4, "begin <= end"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "[begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "[begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "\"data_offsets\""},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "\"shape\""},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\""},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\""},
    {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, "integers from 0"},
    {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, "integers from 0"},
    {"{" T("a", "F32", "1", 0, 4) "}", 4, "\"shape\" as an array"},
    {"{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, "less than 2^64 elements"},
    {"{" T("a", "F32", "[4294967296,4294967296,0]", 0, 0) "}", 0, "less than 2^64 elements"},
    {"{" T("a", "F32", "[4294967296,134217728]", 0, 0) "}", 0, "less than 2^64 bits"},
    {"{" T("a", "F32", "[18446744073709551616]", 0, 0) "}", 0, "too big integer"},
    {"{" T("a", "F32", "[1]", 0, 9223372036854775807) "}", 4, "32 bits of F32 expected"},
    {"{" T("a", "U8", "[9223372036854775807]", 0, 9223372036854775807) "}", 4,
     "less than 2^64 bits"},
    {"{" T("a", "Q9", "[1]", 0, 9223372036854775807) "}", 4, "the tensors end at byte"},
    {"{" T("a", "Q9", "[1]", 0, 9223372036854775807) "," T("b", "Q9", "[1]", 9223372036854775807,
                                                           9223372036854775807) "}",
     4, "the tensors end at byte"},
    {"{" T("a", "F4", "[3]", 0, 1) "}", 1, "12 bits of F4 expected"},
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "64 bits of F32 expected by its shape"},
    {"{" T("a", "F32", "[1]", 0, 4) "}", 3, "which has 3 bytes"},
    {"{" T("a", "F32", "[1]", 0, 4) "}", 5, "which has 5 bytes"},
    {"{}", 1, "which has 1 bytes"},
};

START_TEST(refuses_hostile_headers) {
    struct lisa__weights *weights = (void *)&host;
    put_safetensors(file_name, hostile[_i].header, strlen(hostile[_i].header), hostile[_i].n_data);
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_FORMAT);
    ck_assert_ptr_null(weights);
    ck_assert_msg(strstr(lisa_error_last(), hostile[_i].text) != NULL, "%s\n  got: %s",
                  hostile[_i].text, lisa_error_last());
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), in_test_dir(file_name)));
    assert_nothing_held();
}
END_TEST

START_TEST(refuses_too_many_dimensions) {
    static const char header[] = "{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}";
    struct lisa__weights *weights;
    put_safetensors(file_name, header, sizeof header - 1, 4);
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "\"a\" has 9 dimensions"));
    assert_nothing_held();
}
END_TEST

static void expect_refusal(const void *bytes, size_t n, const char *text) {
    struct lisa__weights *weights;
    put_file(file_name, bytes, n);
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_FORMAT);
    ck_assert_msg(strstr(lisa_error_last(), text) != NULL, "%s\n  got: %s", text,
                  lisa_error_last());
    assert_nothing_held();
}

START_TEST(refuses_impossible_lengths) {
    expect_refusal("", 0, "at least 8 expected");
    expect_refusal("\2\0\0\0\0\0\0", 7, "at least 8 expected");
    expect_refusal("\2\0\0\0\0\0\0\0{", 9, "a header of 2 bytes, but the file ends after 9");
    expect_refusal("\1\341\365\5\0\0\0\0{}", 10, "100000001 bytes, at most 100000000 expected");
    expect_refusal("\377\377\377\377\377\377\377\377{}", 10, "at most 100000000 expected");
    /* The limit itself is let through to the next check. */
    expect_refusal("\0\341\365\5\0\0\0\0{}", 10, "but the file ends after 10");
}
END_TEST

START_TEST(refuses_every_truncation) {
    static const char header[] = "{" T("a", "F32", "[2]", 0, 8) "}";
    char whole[8 + sizeof header - 1 + 8] = {(char)(sizeof header - 1)};
    struct lisa__weights *weights;
    memcpy(whole + 8, header, sizeof header - 1);
    for (size_t n = 0; n < sizeof whole; n++)
        expect_refusal(whole, n, file_name);
    put_file(file_name, whole, sizeof whole);
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    lisa__weights_close(weights);
}
END_TEST

START_TEST(bounds_its_memory) {
    /* 4 MB of the costliest JSON as one value, and of the smallest entries that there can be. */
    const size_t n = 4000000;
    char *header = malloc(n + 64);
    ck_assert_ptr_nonnull(header);
    struct lisa__weights *weights;
    size_t used = (size_t)snprintf(header, n, "{\"a\":[");
    while (used < n)
        used += (size_t)snprintf(header + used, 4, "{},");
    put_safetensors(file_name, header, used, 0);
    ck_assert_int_eq(open_it(&weights, 0), LISA_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "at most 4096 bytes expected"));
    ck_assert_uint_lt(test_context.peak[LISA_MEM_HANDLES], 2 * used);
    used = (size_t)snprintf(header, n, "{");
    for (unsigned i = 0; used < n - 64; i++)
        used += (size_t)snprintf(header + used, 64,
                                 "%s\"%x\":{\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,0]}",
                                 i == 0 ? "" : ",", i);
    used += (size_t)snprintf(header + used, 2, "}");
    put_safetensors(file_name, header, used, 0);
    ck_assert_int_eq(open_it(&weights, 0), LISA_OK);
    ck_assert_uint_lt(test_context.peak[LISA_MEM_HANDLES], 10 * used);
    lisa__weights_close(weights);
    assert_nothing_held();
    free(header);
}
END_TEST

START_TEST(says_what_is_missing) {
    struct lisa__weights *weights;
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "neither model.safetensors nor"));
    ck_assert_int_eq(mkdir(in_test_dir(file_name), 0700), 0);
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "is no regular file"));
    ck_assert_int_eq(rmdir(in_test_dir(file_name)), 0);
    ck_assert_int_eq(mkfifo(in_test_dir(file_name), 0600), 0);
    ck_assert_int_eq(open_it(&weights, 1), LISA_E_FORMAT);
    assert_nothing_held();
}
END_TEST

/* ---- shards ---- */

static const char shard_1[] = "{" T("a", "F32", "[1]", 0, 4) "," T("x", "F32", "[1]", 4, 8) "}";
static const char shard_2[] = "{" T("b", "F16", "[2]", 0, 4) "}";

static void put_shards(void) {
    put_safetensors("s-1.safetensors", shard_1, sizeof shard_1 - 1, 8);
    put_safetensors("s-2.safetensors", shard_2, sizeof shard_2 - 1, 4);
}

START_TEST(reads_shards) {
    struct lisa__weights *weights;
    unsigned char bytes[4];
    put_shards();
    put_text(index_name, "{\"metadata\":{\"total_size\":8,\"other\":[1,{}]},\"weight_map\":"
                         "{\"b\":\"s-2.safetensors\",\"a\":\"s-1.safetensors\"}}\n");
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    ck_assert_uint_eq(lisa__weights_count(weights), 3);
    const struct lisa__st_tensor *b = lisa__weights_find(weights, "b");
    ck_assert_str_eq(lisa__weights_path(weights, b), in_test_dir("s-2.safetensors"));
    ck_assert_int_eq(lisa__weights_read(weights, b, 0, bytes, 4), LISA_OK);
    ck_assert_mem_eq(bytes, "\0\1\2\3", 4);
    ck_assert_mem_eq(lisa__weights_data(weights, b), "\0\1\2\3", 4);
    ck_assert_ptr_nonnull(strstr(host.log, "1 tensors of the shards are not mapped"));
    lisa__weights_close(weights);
    assert_nothing_held();
}
END_TEST

START_TEST(takes_a_single_file_before_an_index) {
    struct lisa__weights *weights;
    put_shards();
    put_text(index_name, "{\"weight_map\":{\"a\":\"s-1.safetensors\"}}");
    put_safetensors(file_name, "{}", 2, 0);
    ck_assert_int_eq(open_it(&weights, 1), LISA_OK);
    ck_assert_uint_eq(lisa__weights_count(weights), 0);
    lisa__weights_close(weights);
}
END_TEST

static const struct {
    const char *index;
    lisa_status status;
    const char *text;
} indices[] = {
    {"", LISA_E_FORMAT, "'{' expected"},
    {"{}", LISA_E_FORMAT, "\"weight_map\" with at least one tensor"},
    {"{\"weight_map\":{}}", LISA_E_FORMAT, "\"weight_map\" with at least one tensor"},
    {"{\"weight_map\":[]}", LISA_E_FORMAT, "'{' expected"},
    {"{\"weight_map\":{\"a\":\"s-1.safetensors\"}", LISA_E_FORMAT, "',' expected"},
    {"{\"weight_map\":{\"a\":\"s-1.safetensors\"}} x", LISA_E_FORMAT, "the end expected"},
    {"{\"weight_map\":{\"a\":1}}", LISA_E_FORMAT, "\"a\": a string expected"},
    {"{\"weight_map\":{\"a\":\"s-1.safetensors\"},\"weight_map\":{\"b\":\"s-2.safetensors\"}}",
     LISA_E_FORMAT, "\"weight_map\" is there twice"},
    {"{\"weight_map\":{\"a\":\"s-1.safetensors\",\"a\":\"s-1.safetensors\"}}", LISA_E_FORMAT,
     "\"a\" is mapped twice"},
    {"{\"weight_map\":{\"a\":\"../s-1.safetensors\"}}", LISA_E_FORMAT,
     "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", LISA_E_FORMAT, "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\"d\\\\s\"}}", LISA_E_FORMAT, "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\"..\"}}", LISA_E_FORMAT, "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\".\"}}", LISA_E_FORMAT, "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\"\"}}", LISA_E_FORMAT, "a plain file name expected"},
    {"{\"weight_map\":{\"a\":\"s-3.safetensors\"}}", LISA_E_NOTFOUND, "s-3.safetensors"},
    {"{\"weight_map\":{\"c\":\"s-1.safetensors\"}}", LISA_E_FORMAT,
     "\"c\" is not in its shard s-1.safetensors"},
    {"{\"weight_map\":{\"b\":\"s-1.safetensors\",\"a\":\"s-2.safetensors\"}}", LISA_E_FORMAT,
     "\"b\" is not in its shard s-1.safetensors"},
    {"{\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"twin\"}}", LISA_E_FORMAT,
     "\"a\" is also in "},
};

START_TEST(refuses_bad_indices) {
    struct lisa__weights *weights;
    put_shards();
    put_safetensors("twin", shard_1, sizeof shard_1 - 1, 8);
    put_text(index_name, indices[_i].index);
    ck_assert_int_eq(open_it(&weights, 1), indices[_i].status);
    ck_assert_ptr_null(weights);
    ck_assert_msg(strstr(lisa_error_last(), indices[_i].text) != NULL, "%s\n  got: %s",
                  indices[_i].text, lisa_error_last());
    assert_nothing_held();
}
END_TEST

/* ---- faults ---- */

static void put_index(void) {
    put_shards();
    put_text(index_name, "{\"weight_map\":{\"b\":\"s-2.safetensors\",\"a\":\"s-1.safetensors\"}}");
}

START_TEST(survives_every_failing_call) {
    const int codes[] = {EIO, ENOMEM, EMFILE};
    struct lisa__weights *weights;
    put_index();
    for (uint64_t at = 1;; at++) {
        inject(at, _i % 2, codes[_i / 2]);
        lisa__fail(LISA_OK, "%s", "");
        const lisa_status status = open_it(&weights, 1);
        const int was_reached = faults.n_calls >= at;
        if (status != LISA_OK) {
            ck_assert_int_eq(status, codes[_i / 2] == ENOMEM ? LISA_E_NOMEM : LISA_E_IO);
            ck_assert_ptr_null(weights);
            ck_assert_ptr_nonnull(strstr(lisa_error_last(), test_dir));
        }
        lisa__weights_close(weights);
        ck_assert_int_eq(faults.n_open, 0);
        assert_nothing_held();
        if (!was_reached)
            break;
    }
    inject_nothing();
}
END_TEST

START_TEST(survives_every_failing_allocation) {
    struct lisa__weights *weights;
    lisa_status status;
    put_index();
    inject(0, 0, 0);
    uint64_t at = 0;
    do {
        lisa_context *context = fresh_context();
        host.fail_at = ++at;
        host.fail_for_ever = _i;
        status = lisa__weights_open(&weights, context, test_dir, 1);
        ck_assert_int_eq(status, host.n_allocs >= at ? LISA_E_NOMEM : LISA_OK);
        lisa__weights_close(weights);
        ck_assert_int_eq(faults.n_open, 0);
        assert_nothing_held();
    } while (status != LISA_OK);
    ck_assert_uint_gt(at, 5);
    inject_nothing();
}
END_TEST

START_TEST(reads_in_small_bites) {
    struct lisa__weights *weights;
    put_index();
    inject(0, 0, 0);
    faults.in_small_bites = 1;
    ck_assert_int_eq(open_it(&weights, 0), LISA_OK);
    ck_assert_uint_eq(lisa__weights_count(weights), 3);
    lisa__weights_close(weights);
    inject_nothing();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("safetensors");
    TCase *tests = tcase_create("safetensors");
    tcase_add_checked_fixture(tests, make_test_dir, remove_test_dir);
    tcase_add_test(tests, reads_every_kind_of_tensor);
    tcase_add_test(tests, reads_without_a_context);
    tcase_add_test(tests, notices_a_changed_file);
    tcase_add_test(tests, forgotten_pages_come_back);
    tcase_add_loop_test(tests, refuses_hostile_headers, 0, sizeof hostile / sizeof *hostile);
    tcase_add_test(tests, refuses_too_many_dimensions);
    tcase_add_test(tests, refuses_impossible_lengths);
    tcase_add_test(tests, refuses_every_truncation);
    tcase_add_test(tests, bounds_its_memory);
    tcase_add_test(tests, says_what_is_missing);
    tcase_add_test(tests, reads_shards);
    tcase_add_test(tests, takes_a_single_file_before_an_index);
    tcase_add_loop_test(tests, refuses_bad_indices, 0, sizeof indices / sizeof *indices);
    tcase_add_loop_test(tests, survives_every_failing_call, 0, 6);
    tcase_add_loop_test(tests, survives_every_failing_allocation, 0, 2);
    tcase_add_test(tests, reads_in_small_bites);
    suite_add_tcase(suite, tests);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

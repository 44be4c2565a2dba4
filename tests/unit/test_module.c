/* Backends in files of their own: where they are looked for, what is refused, and that one is used.
 * The modules are built here, of the one source below. */
#include "backend/module.h"
#include "backend/registry.h"
#include "core/context.h"
#include "files.h"

#include "check_main.h"

#include <dlfcn.h>

static const char source[] =
    "#include \"lisa/sys/backend.h\"\n"
    "static lisa_status start(lisa_backend **out, const lisa_backend_host *host);\n"
    "static void stop(lisa_backend *be) {\n"
    "    be->host->release(be->host->self, LISA_MEM_HANDLES, be, sizeof *be);\n"
    "}\n"
    "static uint64_t workspace_bytes(uint32_t n_threads) {\n"
    "    return 1000 + n_threads;\n"
    "}\n"
    "static lisa_status add(lisa_backend *be, const double *x, size_t n, double *result) {\n"
    "    (void)be;\n"
    "    for (size_t i = 0; i < n; i++)\n"
    "        *result += x[i];\n"
    "    return LISA_OK;\n"
    "}\n"
    "static const lisa_backend_ops ops = {\n"
    "    .api_version = VERSION, .real_dtype = LISA_DTYPE_F32, .name = \"made here\",\n"
    "    .start = start, .stop = stop, .workspace_bytes = workspace_bytes, .sum = add,\n"
    "};\n"
    "static lisa_status start(lisa_backend **out, const lisa_backend_host *host) {\n"
    "    void *memory;\n"
    "    *out = NULL;\n"
    "    if (REFUSES)\n"
    "        return host->fail(host->self, LISA_E_BACKEND, \"made here: no device today\");\n"
    "    if (host->alloc(host->self, &memory, LISA_MEM_HANDLES, sizeof **out) != LISA_OK)\n"
    "        return LISA_E_NOMEM;\n"
    "    *out = memory;\n"
    "    (*out)->ops = &ops;\n"
    "    (*out)->host = host;\n"
    "    return LISA_OK;\n"
    "}\n"
    "const lisa_backend_ops *ENTRY(uint32_t version);\n"
    "const lisa_backend_ops *ENTRY(uint32_t version) {\n"
    "    return version == ASKED ? &ops : NULL;\n"
    "}\n";

#define THIS_VERSION "LISA_BACKEND_API_VERSION"

static void build(const char *file, const char *entry, const char *version, const char *asked,
                  int refuses) {
    const char *cc = getenv("CC");
    char command[4096];
    snprintf(command, sizeof command,
             "%s -std=c11 -fPIC -shared -I'" LISA_TEST_DATA "/../../include' -DENTRY=%s "
             "-DVERSION='%s' -DASKED='%s' -DREFUSES=%d -o '%s' '%s'",
             cc != NULL ? cc : "cc", entry, version, asked, refuses, in_test_dir(file),
             in_test_dir("module.c"));
    ck_assert_msg(system(command) == 0, "%s", command);
}

static void make_modules(void) {
    make_test_dir();
    put_file("module.c", source, sizeof source - 1);
    build("good.so", LISA_BACKEND_ENTRY, THIS_VERSION, THIS_VERSION, 0);
    build("refuses.so", LISA_BACKEND_ENTRY, THIS_VERSION, THIS_VERSION, 1);
    build("liblisa-nameless.so", "another_name", THIS_VERSION, THIS_VERSION, 0);
    build("liblisa-newer.so", LISA_BACKEND_ENTRY, THIS_VERSION " + 1", THIS_VERSION " + 1", 0);
    build("liblisa-careless.so", LISA_BACKEND_ENTRY, "77", THIS_VERSION, 0);
    put_file("liblisa-text.so", "no object", 9);
}

static void copy_module(const char *from, const char *to) {
    char command[2048];
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\" && cp '%s' '%s'",
             in_test_dir(to), in_test_dir(from), in_test_dir(to));
    ck_assert_int_eq(system(command), 0);
}

static void expect_said(const char *words) {
    ck_assert_msg(strstr(lisa_error_last(), words) != NULL, "\"%s\" does not say \"%s\"",
                  lisa_error_last(), words);
}

static struct lisa__module_places places_of(const char *own, const char *path) {
    struct lisa__module_places places = {.path = path};
    snprintf(places.own, sizeof places.own, "%s", own);
    return places;
}

/* ---- where ---- */

static void expect_loaded_from(const struct lisa__module_places *places, const char *file) {
    const lisa_backend_ops *ops = NULL;
    Dl_info info;
    ck_assert_int_eq(lisa__module_load(&ops, "mine", places), LISA_OK);
    ck_assert_int_ne(dladdr(ops, &info), 0);
    ck_assert_str_eq(info.dli_fname, in_test_dir(file));
}

START_TEST(places_have_an_order) {
    static const char *const files[] = {"own/lisa/liblisa-mine.so", "own/liblisa-mine.so",
                                        "first/liblisa-mine.so", "second/liblisa-mine.so"};
    const size_t n = sizeof files / sizeof *files;
    char path[1024];
    snprintf(path, sizeof path, "%s:%s", in_test_dir("first"), in_test_dir("second"));
    const struct lisa__module_places places = places_of(in_test_dir("own"), path);
    for (size_t i = 0; i < n; i++)
        copy_module("good.so", files[i]);
    for (size_t i = 0; i < n; i++) {
        expect_loaded_from(&places, files[i]);
        ck_assert_int_eq(unlink(in_test_dir(files[i])), 0);
    }
    const lisa_backend_ops *ops = NULL;
    ck_assert_int_eq(lisa__module_load(&ops, "mine", &places), LISA_E_BACKEND);
}
END_TEST

START_TEST(entries_that_are_not_absolute_are_passed_over) {
    char path[512];
    const lisa_backend_ops *ops = NULL;
    copy_module("good.so", "here/liblisa-mine.so");
    ck_assert_int_eq(chdir(in_test_dir("here")), 0);
    struct lisa__module_places places = places_of("", ":.:./:../here::");
    ck_assert_int_eq(lisa__module_load(&ops, "mine", &places), LISA_E_BACKEND);
    places = places_of(".", NULL);
    ck_assert_int_eq(lisa__module_load(&ops, "mine", &places), LISA_E_BACKEND);
    snprintf(path, sizeof path, ":here:%s:", in_test_dir("here"));
    places = places_of("", path);
    expect_loaded_from(&places, "here/liblisa-mine.so");
}
END_TEST

START_TEST(own_directory_is_the_programs) {
    char program[PATH_MAX];
    struct lisa__module_places places;
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    ck_assert_int_gt(n, 0);
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", "/some:/where", 1), 0);
    lisa__module_places(&places);
    ck_assert_str_eq(places.own, program);
    ck_assert_str_eq(places.path, "/some:/where");
}
END_TEST

/* ---- what is refused ---- */

static void refuse(const char *name, const char *words) {
    const lisa_backend_ops *ops = NULL;
    ck_assert_int_eq(lisa__backend_find(&ops, name), LISA_E_BACKEND);
    ck_assert_ptr_null(ops);
    expect_said(words);
}

START_TEST(bad_names_are_no_files) {
    char name[66];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    copy_module("good.so", "deep/liblisa-mine.so");
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", in_test_dir("deep"), 1), 0);
    static const char *const names[] = {"",       " ",     "mine.so",     "../deep/liblisa-mine",
                                        "a/mine", "mine ", "min\xC3\xA9", "%s"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        refuse(names[i], "not a backend's name");
    refuse(name, "not a backend's name");
    refuse(name + 1, "no liblisa-xxx");
}
END_TEST

START_TEST(missing_says_what_and_where) {
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", test_dir, 1), 0);
    refuse("tpu-2_b", "no liblisa-tpu-2_b.so in /");
    expect_said("/lisa, /");
    expect_said(test_dir);
    ck_assert_int_eq(unsetenv("LISA_BACKEND_PATH"), 0);
    refuse("tpu", "LISA_BACKEND_PATH (not set)");
}
END_TEST

START_TEST(unusable_says_why) {
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", test_dir, 1), 0);
    refuse("text", in_test_dir("liblisa-text.so"));
    refuse("nameless", "liblisa-nameless.so: no backend: it has no lisa_backend_get");
    refuse("newer", "liblisa-newer.so: made for another version");
    char expected[64];
    snprintf(expected, sizeof expected, "made for version 77 of the backend interface, expected %d",
             LISA_BACKEND_API_VERSION);
    refuse("careless", expected);
}
END_TEST

/* ---- using one ---- */

static lisa_context_options named(const char *backend) {
    lisa_context_options options;
    ck_assert_int_eq(lisa_context_options_init(&options, sizeof options), LISA_OK);
    options.backend = backend;
    options.n_threads = 1;
    return options;
}

START_TEST(a_module_is_used) {
    const double x[] = {1, 2, 4};
    double sum = 8;
    lisa_context *contexts[2];
    copy_module("good.so", "used/liblisa-mine.so");
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", in_test_dir("used"), 1), 0);
    const lisa_context_options options = named("mine");
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(lisa_context_create(&contexts[i], &options), LISA_OK);
    ck_assert_str_eq(lisa_context_backend(contexts[0]), "made here");
    const lisa_backend_ops *ops = contexts[0]->be->ops;
    ck_assert_ptr_eq(ops, contexts[1]->be->ops);
    ck_assert_uint_eq(ops->workspace_bytes(2), 1002);
    lisa_context_destroy(contexts[0]);
    ck_assert_int_eq(ops->sum(contexts[1]->be, x, 3, &sum), LISA_OK);
    ck_assert(sum == 15);
    lisa_context_destroy(contexts[1]);
    ck_assert_uint_eq(ops->workspace_bytes(1), 1001); /* it is still there */
}
END_TEST

static char log_line[1024];
static void keep_line(void *user, int32_t level, const char *line) {
    (void)user;
    ck_assert_int_eq(level, LISA_LOG_INFO);
    snprintf(log_line, sizeof log_line, "%s", line);
}

static void expect_auto(const char *backend) {
    lisa_context_options options = named("auto");
    options.log = keep_line;
    options.log_level = LISA_LOG_INFO;
    lisa_context *context = NULL;
    const lisa_backend_ops *ops = NULL;
    lisa__fail(LISA_E_INVAL, "the host's");
    log_line[0] = '\0';
    ck_assert_int_eq(lisa_context_create(&context, &options), LISA_OK);
    ck_assert_str_eq(lisa_context_backend(context), backend);
    ck_assert_int_eq(lisa__context_choose(&ops, &options), LISA_OK);
    ck_assert_ptr_eq(ops, context->be->ops);
    ck_assert_str_eq(lisa_error_last(), "the host's");
    lisa_context_destroy(context);
}

START_TEST(auto_is_cuda_where_that_starts) {
    copy_module("good.so", "starts/liblisa-cuda.so");
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", in_test_dir("starts"), 1), 0);
    expect_auto("made here");
    ck_assert_str_eq(log_line, "");
}
END_TEST

START_TEST(auto_is_cpu_where_cuda_refuses) {
    copy_module("refuses.so", "refuses/liblisa-cuda.so");
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", in_test_dir("refuses"), 1), 0);
    expect_auto("cpu");
    ck_assert_ptr_nonnull(strstr(log_line, "made here: no device today"));
    const lisa_context_options options = named("cuda");
    lisa_context *context = NULL;
    ck_assert_int_eq(lisa_context_create(&context, &options), LISA_E_BACKEND);
    ck_assert_str_eq(lisa_error_last(), "made here: no device today");
    ck_assert_ptr_null(context);
}
END_TEST

START_TEST(auto_is_cpu_where_there_is_no_module) {
    ck_assert_int_eq(unsetenv("LISA_BACKEND_PATH"), 0);
    expect_auto("cpu");
    ck_assert_ptr_nonnull(strstr(log_line, "no liblisa-cuda.so"));
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("modules");
    TCase *tc = tcase_create("modules");
    suite_add_tcase(suite, tc);
    tcase_set_timeout(tc, 60);
    tcase_add_unchecked_fixture(tc, make_modules, remove_test_dir);
    tcase_add_test(tc, places_have_an_order);
    tcase_add_test(tc, entries_that_are_not_absolute_are_passed_over);
    tcase_add_test(tc, own_directory_is_the_programs);
    tcase_add_test(tc, bad_names_are_no_files);
    tcase_add_test(tc, missing_says_what_and_where);
    tcase_add_test(tc, unusable_says_why);
    tcase_add_test(tc, a_module_is_used);
    tcase_add_test(tc, auto_is_cuda_where_that_starts);
    tcase_add_test(tc, auto_is_cpu_where_cuda_refuses);
    tcase_add_test(tc, auto_is_cpu_where_there_is_no_module);
    return suite;
}
LISA_CHECK_MAIN(make_suite)

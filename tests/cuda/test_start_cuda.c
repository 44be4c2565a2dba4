/* What a context on cuda says where it cannot start, and that nothing of it stays. Skipped on a
 * GPU, which cannot be taken away. */
#include "host_device.h"
#include "lisa/lisa.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

/* ---- a machine whose cuBLAS is not where it was ---- */

static const char *blas_below; /* where alone a cuBLAS can be loaded from; NULL: anywhere */

/* In front of libc's, for the module too. */
void *dlopen(const char *file, int mode) {
    static void *(*libc)(const char *, int);
    if (libc == NULL)
        *(void **)&libc = dlsym(RTLD_NEXT, "dlopen");
    if (blas_below != NULL && file != NULL && strstr(file, "libcublas") != NULL &&
        strncmp(file, blas_below, strlen(blas_below)) != 0)
        return libc("/nonexistent/libcublas.so", mode);
    return libc(file, mode);
}

/* ---- memory ---- */

static size_t n_live;

static void *count_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    n_live++;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

static void count_release(void *user, void *memory, size_t bytes, size_t align) {
    (void)user, (void)bytes, (void)align;
    n_live--;
    free(memory);
}

static void nothing_stays(void) {
    ck_assert_uint_eq(n_live, 0);
    ck_assert_uint_eq(ON_HOST_DEVICE(hostdevice_live_objects)(), 0);
    ck_assert_uint_eq(ON_HOST_DEVICE(hostdevice_live_bytes)(), 0);
}

/* ---- starting ---- */

static lisa_status start(lisa_context **out, const char *backend) {
    lisa_context_options options;
    lisa_context_options_init(&options, sizeof options);
    options.backend = backend;
    options.alloc = count_alloc;
    options.release = count_release;
    return lisa_context_create(out, &options);
}

static void starts(void) {
    lisa_context *context;
    ck_assert_msg(start(&context, "cuda") == LISA_OK, "%s", lisa_error_last());
    ck_assert_str_eq(lisa_context_backend(context), "cuda");
    lisa_context_destroy(context);
    nothing_stays();
}

/* Without what it needs: "cuda" says so, and "auto" is the cpu. */
static void refuses(const char *text, const char *more) {
    lisa_context *context;
    ck_assert_int_eq(start(&context, "cuda"), LISA_E_BACKEND);
    ck_assert_ptr_null(context);
    ck_assert_msg(strstr(lisa_error_last(), text) != NULL, "%s", lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), more) != NULL, "%s", lisa_error_last());
    nothing_stays();
    ck_assert_int_eq(start(&context, "auto"), LISA_OK);
    ck_assert_str_eq(lisa_context_backend(context), "cpu");
    lisa_context_destroy(context);
    nothing_stays();
}

START_TEST(no_driver) {
    ON_HOST_DEVICE(hostdevice_set_device_count)(-1);
    refuses("cuda: no usable device: ",
            "CUDA driver version is insufficient for CUDA runtime version");
    ON_HOST_DEVICE(hostdevice_reset)();
    starts();
}
END_TEST

START_TEST(no_device) {
    ON_HOST_DEVICE(hostdevice_set_device_count)(0);
    refuses("cuda: no usable device: ", "no CUDA-capable device is detected");
    ON_HOST_DEVICE(hostdevice_set_device_count)(1);
    starts();
}
END_TEST

START_TEST(an_old_device) {
    ON_HOST_DEVICE(hostdevice_set_compute_capability)(7, 5);
    refuses("cuda: device 0 ", "has compute capability 7.5, at least 8.0 is needed");
    ON_HOST_DEVICE(hostdevice_set_compute_capability)(8, 0);
    starts();
}
END_TEST

START_TEST(no_cublas) {
    blas_below = "/nonexistent/";
    refuses(
        "cuda: no libcublas.so.13 or libcublas.so.12 in the process, where the loader looks, below "
        "VIRTUAL_ENV, CONDA_PREFIX, ~/.local, the program's prefix and /usr/local, or in "
        "LISA_BACKEND_PATH",
        "; pip install nvidia-cublas");
    blas_below = NULL;
    starts();
}
END_TEST

/* A directory with one file of that name, which leads to `target`, in LISA_BACKEND_PATH. */
static void plant(char file[PATH_MAX], const char *target) {
    static char directory[] = "/tmp/lisa-cublas-XXXXXX";
    char path[PATH_MAX];
    const char *lane = getenv("LISA_BACKEND_PATH");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s:%s", lane, directory);
    snprintf(file, PATH_MAX, "%s/libcublas.so.13", directory);
    ck_assert_int_eq(symlink(target, file), 0);
    ck_assert_int_eq(setenv("LISA_BACKEND_PATH", path, 1), 0);
    blas_below = directory;
}

static void uproot(char file[PATH_MAX]) {
    unlink(file);
    *strrchr(file, '/') = '\0';
    rmdir(file);
}

START_TEST(a_cublas_that_does_not_load) {
    char file[PATH_MAX];
    plant(file, "/dev/null");
    refuses("cuda: no libcublas.so.13", file);
    uproot(file);
}
END_TEST

START_TEST(a_cublas_that_is_another_library) {
    char file[PATH_MAX], device[PATH_MAX];
    snprintf(device, sizeof device, "%s/libhostdevice.so", getenv("LISA_BACKEND_PATH"));
    plant(file, device);
    refuses("cuda: cuBLAS: ", "cublasCreate_v2");
    uproot(file);
}
END_TEST

/* Every call that a start makes fails in turn, in each of the ways there are. */
START_TEST(every_call) {
    lisa_context *context;
    hostdevice_counts counts;
    uint64_t n_failed = 0;
    ON_HOST_DEVICE(hostdevice_reset)();
    ck_assert_int_eq(start(&context, "cuda"), LISA_OK);
    ON_HOST_DEVICE(hostdevice_get_counts)(&counts);
    lisa_context_destroy(context);
    for (uint64_t n = 1; n <= counts.calls; n++) {
        ON_HOST_DEVICE(hostdevice_fail_call)(n, 999, _i);
        if (start(&context, "cuda") == LISA_OK) {
            lisa_context_destroy(context);
        } else {
            ck_assert_ptr_null(context);
            ck_assert_ptr_nonnull(strstr(lisa_error_last(), "cuda: "));
            n_failed++;
        }
        nothing_stays();
        ON_HOST_DEVICE(hostdevice_reset)();
    }
    ck_assert_uint_eq(n_failed, counts.calls);
    starts();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("start of cuda");
    TCase *tcase = tcase_create("start");
    tcase_add_test(tcase, no_driver);
    tcase_add_test(tcase, no_device);
    tcase_add_test(tcase, an_old_device);
    tcase_add_test(tcase, no_cublas);
    tcase_add_test(tcase, a_cublas_that_does_not_load);
    tcase_add_test(tcase, a_cublas_that_is_another_library);
    tcase_add_loop_test(tcase, every_call, HOSTDEVICE_ONCE, HOSTDEVICE_LOST + 1);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_HOST_DEVICE_MAIN(make_suite)

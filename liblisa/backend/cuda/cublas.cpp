#include "backend/cuda/cublas.h"

#include "backend/cuda/kernels.h"
#include "core/error.h"

#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

/* ---- finding it ---- */

static const char *const libraries[] = {"libcublas.so.13", "libcublas.so.12"};

/* Where a prefix may have it: its own libraries, those of a toolkit, and Python's packages. */
static const char below_prefix[] =
    "/{lib,cuda/lib64,lib/python3*/{site,dist}-packages/nvidia/{cu13,cublas}/lib}";

/* What was tried, and the loader's words about the last file that was there and did not load. */
struct search {
    void *library;
    char words[512];
};

/* By name: one that the process has already, else what the loader finds by itself. */
static void *open_by_name(void) {
    for (const int only_loaded : {RTLD_NOLOAD, 0})
        for (const char *name : libraries)
            if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | only_loaded))
                return library;
    return nullptr;
}

static void open_file(struct search *search, const char *file) {
    search->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (search->library == nullptr)
        snprintf(search->words, sizeof search->words, "%s", dlerror());
}

/* The files of a directory, which may have wildcards. */
static void open_in(struct search *search, const char *directory, const char *below) {
    for (const char *name : libraries) {
        char pattern[PATH_MAX];
        glob_t found;
        const int n = snprintf(pattern, sizeof pattern, "%s%s/%s", directory, below, name);
        if (directory[0] != '/' || n >= PATH_MAX || search->library != nullptr)
            return;
        if (glob(pattern, GLOB_BRACE, nullptr, &found) != 0)
            continue;
        for (size_t i = 0; i < found.gl_pathc && search->library == nullptr; i++)
            if (access(found.gl_pathv[i], F_OK) == 0)
                open_file(search, found.gl_pathv[i]);
        globfree(&found);
    }
}

static void open_below_prefix(struct search *search, const char *prefix, const char *more) {
    char directory[PATH_MAX];
    if (prefix == nullptr || search->library != nullptr ||
        snprintf(directory, sizeof directory, "%s%s", prefix, more) >= PATH_MAX)
        return;
    open_in(search, directory, below_prefix);
}

/* /usr of /usr/bin/python3. */
static const char *prefix_of_program(char out[PATH_MAX]) {
    const ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
    for (int i = 0; i < 2; i++)
        if (char *slash = strrchr(out, '/'))
            *slash = '\0';
    return out;
}

static void open_in_path(struct search *search, const char *path) {
    char directory[PATH_MAX];
    while (path != nullptr && search->library == nullptr) {
        const size_t length = strcspn(path, ":");
        if (length < sizeof directory) {
            memcpy(directory, path, length);
            directory[length] = '\0';
            open_in(search, directory, "");
        }
        path = path[length] == ':' ? path + length + 1 : nullptr;
    }
}

static lisa_status not_found(lisa_backend *be, const struct search *search) {
    char text[1024];
    snprintf(text, sizeof text,
             "cuda: no libcublas.so.13 or libcublas.so.12 in the process, where the loader looks, "
             "below VIRTUAL_ENV, CONDA_PREFIX, ~/.local, the program's prefix and /usr/local, or "
             "in LISA_BACKEND_PATH%s%s; pip install nvidia-cublas where there is none",
             search->words[0] != '\0' ? ": " : "", search->words);
    return be->host->fail(be->host->self, LISA_E_BACKEND, text);
}

static lisa_status take_functions(lisa_backend *be, struct lisa__cublas *out, void *library) {
    static const struct {
        const char *name;
        size_t member;
    } functions[] = {
        {"cublasCreate_v2", offsetof(struct lisa__cublas, create)},
        {"cublasDestroy_v2", offsetof(struct lisa__cublas, destroy)},
        {"cublasSetStream_v2", offsetof(struct lisa__cublas, set_stream)},
        {"cublasSetWorkspace_v2", offsetof(struct lisa__cublas, set_workspace)},
        {"cublasSetMathMode", offsetof(struct lisa__cublas, set_math_mode)},
        {"cublasGemmEx", offsetof(struct lisa__cublas, gemm)},
        {"cublasGetStatusString", offsetof(struct lisa__cublas, words)},
    };
    for (const auto &function : functions) {
        void *address = dlsym(library, function.name);
        if (address == nullptr) {
            char text[512];
            snprintf(text, sizeof text, "cuda: cuBLAS: %s", dlerror());
            return be->host->fail(be->host->self, LISA_E_BACKEND, text);
        }
        memcpy(reinterpret_cast<char *>(out) + function.member, &address, sizeof address);
    }
    return LISA_OK;
}

lisa_status lisa__cublas_find(lisa_backend *be, struct lisa__cublas *out) {
    struct search search = {open_by_name(), ""};
    char program[PATH_MAX];
    open_below_prefix(&search, secure_getenv("VIRTUAL_ENV"), "");
    open_below_prefix(&search, secure_getenv("CONDA_PREFIX"), "");
    open_below_prefix(&search, secure_getenv("HOME"), "/.local");
    open_below_prefix(&search, prefix_of_program(program), "");
    open_below_prefix(&search, "/usr/local", "");
    open_in_path(&search, secure_getenv("LISA_BACKEND_PATH"));
    if (search.library == nullptr)
        return not_found(be, &search);
    return take_functions(be, out, search.library);
}

/* ---- using it ---- */

/* What the device itself has to say explains more than cuBLAS's status. */
static lisa_status fail(struct lisa__cuda *cuda, cublasStatus_t status, const char *what) {
    const lisa_backend_host *host = cuda->base.host;
    const cudaError_t error = cudaStreamQuery(cuda->stream);
    if (error != cudaSuccess && error != cudaErrorNotReady)
        return lisa__cuda_fail(&cuda->base, error, what);
    cudaGetLastError();
    char text[512];
    snprintf(text, sizeof text, "cuda: %s: %s", what, cuda->cublas->words(status));
    return host->fail(host->self,
                      status == CUBLAS_STATUS_ALLOC_FAILED ? LISA_E_NOMEM : LISA_E_BACKEND, text);
}

/* A stream that is set takes the workspace away, so that comes after. Sums are in float whatever
 * the type of C, and products of floats are products of floats: no TF32. */
lisa_status lisa__cublas_open(struct lisa__cuda *cuda) {
    const struct lisa__cublas *cublas = cuda->cublas;
    const int mode = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    cublasStatus_t status = cublas->create(&cuda->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        cuda->handle = nullptr;
        return fail(cuda, status, "cuBLAS does not start");
    }
    status = cublas->set_stream(cuda->handle, cuda->stream);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublas->set_workspace(cuda->handle, cuda->blas_workspace, LISA_CUDA_BLAS_WORKSPACE);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublas->set_math_mode(cuda->handle, static_cast<cublasMath_t>(mode));
    return status == CUBLAS_STATUS_SUCCESS ? LISA_OK : fail(cuda, status, "cuBLAS does not start");
}

static const char *type_name(uint32_t dtype) {
    switch (dtype) {
    case LISA_DTYPE_F32:
        return "f32";
    case LISA_DTYPE_BF16:
        return "bf16";
    case LISA_DTYPE_F16:
        return "f16";
    case LISA_DTYPE_F64:
        return "f64";
    default:
        return "?";
    }
}

static cudaDataType type_of(lisa_typed x) {
    return x.dtype == LISA_DTYPE_F32    ? CUDA_R_32F
           : x.dtype == LISA_DTYPE_BF16 ? CUDA_R_16BF
                                        : CUDA_R_16F;
}

static lisa_status check(lisa_backend *be, const lisa_gemm *op) {
    const uint32_t operand = op->a.dtype;
    const bool has_type =
        operand == LISA_DTYPE_F32 || operand == LISA_DTYPE_BF16 || operand == LISA_DTYPE_F16;
    char text[128];
    if (!has_type || op->b.dtype != operand ||
        (op->c.dtype != operand && op->c.dtype != LISA_DTYPE_F32)) {
        snprintf(text, sizeof text,
                 "cuda: gemm: A is %s, B is %s and C is %s; expected A and B of one type of f32, "
                 "bf16, f16, and C of it or f32",
                 type_name(operand), type_name(op->b.dtype), type_name(op->c.dtype));
        return lisa__cuda_refuse(be, text);
    }
    const size_t sizes[] = {op->m, op->n, op->k, op->lda, op->ldb, op->ldc};
    for (const size_t size : sizes)
        if (size > INT_MAX) {
            snprintf(text, sizeof text, "cuda: gemm: a size or stride is %zu, at most %d", size,
                     INT_MAX);
            return lisa__cuda_refuse(be, text);
        }
    return LISA_OK;
}

/* cuBLAS has its matrices by columns. What is a row-major C to us is C^T to it, and that is
 * op(B)^T op(A)^T, with both found transposed as they lie. */
lisa_status lisa__cuda_gemm(lisa_backend *be, const lisa_gemm *op) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    const float alpha = static_cast<float>(op->alpha), beta = static_cast<float>(op->beta);
    LISA_TRY(check(be, op));
    if (op->m == 0 || op->n == 0)
        return LISA_OK;
    if (op->k == 0)
        return lisa__cuda_scale(be, op->c, op->ldc, op->m, op->n, beta);
    const cublasStatus_t status = cuda->cublas->gemm(
        cuda->handle, op->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
        op->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(op->n), static_cast<int>(op->m),
        static_cast<int>(op->k), &alpha, op->b.data, type_of(op->b), static_cast<int>(op->ldb),
        op->a.data, type_of(op->a), static_cast<int>(op->lda), &beta, op->c.data, type_of(op->c),
        static_cast<int>(op->ldc), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? LISA_OK : fail(cuda, status, "gemm");
}

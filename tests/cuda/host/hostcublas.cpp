/* hostcublas.cpp - cuBLAS on the host device, a shared library under NVIDIA's name.
 *
 * Arguments are held to what the documentation says of them, and matrices to the allocations they
 * lie in. A product sums in float, in ascending k, so that its bits depend on its operands alone;
 * a 16-bit result is rounded to nearest even. */
#include "internal.h"

#pragma GCC visibility push(default)
#include <cublas_v2.h>
#pragma GCC visibility pop

#include <algorithm>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector>

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};

namespace {

/* A matrix, column-major, and its like in a batch. */
struct Matrix {
    void *data;
    cudaDataType type;
    int rows, columns; /* as stored */
    int ld;
    long long stride;
};

struct Product {
    const char *name;
    cublasOperation_t trans_a, trans_b;
    int m, n, k;
    float alpha, beta;
    Matrix a, b, c;
    int batch;
};

size_t bytes_of(cudaDataType type) {
    return type == CUDA_R_32F ? 4 : 2;
}

char *element(const Matrix &matrix, size_t i) {
    return static_cast<char *>(matrix.data) + i * bytes_of(matrix.type);
}

size_t place(const Matrix &matrix, int item, int row, int column) {
    return static_cast<size_t>(item * matrix.stride) +
           static_cast<size_t>(column) * static_cast<size_t>(matrix.ld) + static_cast<size_t>(row);
}

float load(const Matrix &matrix, size_t i) {
    const void *at = element(matrix, i);
    float value;
    if (matrix.type == CUDA_R_16BF)
        value = __bfloat162float(*static_cast<const __nv_bfloat16 *>(at));
    else if (matrix.type == CUDA_R_16F)
        value = __half2float(*static_cast<const __half *>(at));
    else
        memcpy(&value, at, sizeof value);
    return value;
}

void store(const Matrix &matrix, size_t i, float value) {
    void *at = element(matrix, i);
    if (matrix.type == CUDA_R_16BF)
        *static_cast<__nv_bfloat16 *>(at) = __float2bfloat16_rn(value);
    else if (matrix.type == CUDA_R_16F)
        *static_cast<__half *>(at) = __float2half_rn(value);
    else
        memcpy(at, &value, sizeof value);
}

/* ---- the product ---- */

constexpr int tile_rows = 8, tile_columns = 4;

/* op(A) or op(B)' in panels of `width`: for each k the panel's elements, 0 past the edge. */
std::vector<float> packed(const Matrix &matrix, bool k_is_column, int item, int count, int k,
                          int width) {
    const int panels = (count + width - 1) / width;
    std::vector<float> out(static_cast<size_t>(panels) * static_cast<size_t>(k * width));
    for (int at = 0; at < count; at++)
        for (int p = 0; p < k; p++) {
            const int row = k_is_column ? at : p, column = k_is_column ? p : at;
            const size_t to = (static_cast<size_t>(at / width) * static_cast<size_t>(k) +
                               static_cast<size_t>(p)) *
                                  static_cast<size_t>(width) +
                              static_cast<size_t>(at % width);
            out[to] = load(matrix, place(matrix, item, row, column));
        }
    return out;
}

using Four = float __attribute__((vector_size(16)));

void multiply_tile(const float *a, const float *b, int k, float (&sums)[tile_columns][tile_rows]) {
    Four local[tile_columns][tile_rows / 4] = {};
    for (int p = 0; p < k; p++, a += tile_rows, b += tile_columns) {
        Four rows[tile_rows / 4];
        memcpy(rows, a, sizeof rows);
        for (int j = 0; j < tile_columns; j++)
            for (int i = 0; i < tile_rows / 4; i++)
                local[j][i] += rows[i] * b[j];
    }
    memcpy(sums, local, sizeof local);
}

/* beta = 0 does not read C. */
void put_tile(const Product &p, int item, int row, int column,
              const float (&sums)[tile_columns][tile_rows]) {
    for (int j = 0; j < std::min(tile_columns, p.n - column); j++)
        for (int i = 0; i < std::min(tile_rows, p.m - row); i++) {
            const size_t at = place(p.c, item, row + i, column + j);
            const float scaled = p.alpha * sums[j][i];
            store(p.c, at, p.beta == 0.0f ? scaled : scaled + p.beta * load(p.c, at));
        }
}

void multiply_item(const Product &p, int item) {
    const bool a_plain = p.trans_a == CUBLAS_OP_N, b_plain = p.trans_b == CUBLAS_OP_N;
    const std::vector<float> a = packed(p.a, a_plain, item, p.m, p.k, tile_rows);
    const std::vector<float> b = packed(p.b, !b_plain, item, p.n, p.k, tile_columns);
    const size_t depth = static_cast<size_t>(p.k);
    for (int column = 0; column < p.n; column += tile_columns)
        for (int row = 0; row < p.m; row += tile_rows) {
            float sums[tile_columns][tile_rows];
            multiply_tile(a.data() + static_cast<size_t>(row) * depth,
                          b.data() + static_cast<size_t>(column) * depth, p.k, sums);
            put_tile(p, item, row, column, sums);
        }
}

void multiply(const Product &product) {
    for (int item = 0; item < product.batch; item++)
        multiply_item(product, item);
}

/* ---- what the documentation asks for ---- */

bool is_operation(cublasOperation_t operation) {
    return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T || operation == CUBLAS_OP_C;
}

/* Rows of the table of cublasGemmEx that are real and computed in float. */
bool is_supported(const Product &p, cublasComputeType_t compute) {
    const cudaDataType in = p.a.type, out = p.c.type;
    if (in != p.b.type)
        return false;
    const bool floats = in == CUDA_R_32F && out == CUDA_R_32F;
    const bool halves = (in == CUDA_R_16BF || in == CUDA_R_16F) && (out == in || out == CUDA_R_32F);
    switch (compute) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
        return floats || halves;
    case CUBLAS_COMPUTE_32F_FAST_16F:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        return floats;
    default:
        return false;
    }
}

bool has_leading_dimension(const Product &p, const Matrix &matrix, const char *name) {
    if (matrix.ld >= std::max(1, matrix.rows))
        return true;
    hostdevice_report("%s: %s is %d, of a matrix of %d rows as it is stored", p.name, name,
                      matrix.ld, matrix.rows);
    return false;
}

bool are_values_legal(const Product &p) {
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0 || !is_operation(p.trans_a) ||
        !is_operation(p.trans_b)) {
        hostdevice_report("%s: m %d, n %d, k %d, batch %d, operations %d and %d", p.name, p.m, p.n,
                          p.k, p.batch, p.trans_a, p.trans_b);
        return false;
    }
    return has_leading_dimension(p, p.a, "lda") && has_leading_dimension(p, p.b, "ldb") &&
           has_leading_dimension(p, p.c, "ldc");
}

/* Each matrix of the batch inside one allocation, aligned as its type is. */
bool is_inside(const Product &p, const Matrix &matrix, const char *name) {
    if (matrix.rows == 0 || matrix.columns == 0)
        return true;
    const size_t elements = place(matrix, 0, matrix.rows - 1, matrix.columns - 1) + 1;
    for (int item = 0; item < p.batch; item++) {
        const void *at = element(matrix, static_cast<size_t>(item * matrix.stride));
        if (reinterpret_cast<uintptr_t>(at) % bytes_of(matrix.type) == 0 &&
            hostdevice_is_device_range(at, elements * bytes_of(matrix.type)))
            continue;
        hostdevice_report("%s: matrix %s (%d x %d, leading dimension %d, number %d) is not inside "
                          "one allocation of the device",
                          p.name, name, matrix.rows, matrix.columns, matrix.ld, item);
        return false;
    }
    return true;
}

uint64_t traffic(const Product &p, const Matrix &matrix) {
    return static_cast<uint64_t>(matrix.rows) * static_cast<uint64_t>(matrix.columns) *
           static_cast<uint64_t>(p.batch) * bytes_of(matrix.type);
}

hostdevice_kernel work_of(const Product &p) {
    hostdevice_kernel work = {};
    work.name = p.name;
    work.launches = 1;
    work.read_bytes = traffic(p, p.a) + traffic(p, p.b) + (p.beta == 0.0f ? 0 : traffic(p, p.c));
    work.written_bytes = traffic(p, p.c);
    work.flops = 2 * static_cast<uint64_t>(p.m) * static_cast<uint64_t>(p.n) *
                 static_cast<uint64_t>(p.k) * static_cast<uint64_t>(p.batch);
    return work;
}

/* In place of a product that is not wanted. */
void clear(const Product &p) {
    for (int item = 0; item < p.batch && p.beta == 0.0f; item++)
        for (int column = 0; column < p.n; column++)
            memset(element(p.c, place(p.c, item, 0, column)), 0,
                   static_cast<size_t>(p.m) * bytes_of(p.c.type));
}

cublasStatus_t launched(cublasHandle_t handle, const Product &p, cublasComputeType_t compute) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (hostdevice::library_call() != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!are_values_legal(p))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(p, compute)) {
        hostdevice_report("%s: no product of types %d and %d to %d in compute type %d", p.name,
                          p.a.type, p.b.type, p.c.type, compute);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (p.m == 0 || p.n == 0 || p.batch == 0)
        return CUBLAS_STATUS_SUCCESS;
    if (!is_inside(p, p.a, "A") || !is_inside(p, p.b, "B") || !is_inside(p, p.c, "C"))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    const cudaError_t error = hostdevice::library_launch(
        work_of(p), handle->stream, [p] { hostdevice::is_run(p.name) ? multiply(p) : clear(p); });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    int devices = 0;
    *handle = nullptr;
    if (cudaGetDeviceCount(&devices) != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (const cudaError_t error = hostdevice::library_call())
        return error == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
                                                  : CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasContext();
    hostdevice::library_object(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    hostdevice::library_object(-1);
    return CUBLAS_STATUS_SUCCESS;
}

/* A workspace that was given is forgotten, which callers must know: it is not looked at here. */
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t *stream) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (bytes == 0)
        return CUBLAS_STATUS_SUCCESS;
    const bool aligned = reinterpret_cast<uintptr_t>(workspace) % 256 == 0;
    return aligned && hostdevice_is_device_range(workspace, bytes) ? CUBLAS_STATUS_SUCCESS
                                                                   : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

/* Scalars on the device are not done. */
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    if (handle == nullptr)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) {
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "the operation completed successfully";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "an unknown status";
    }
}

/* The arguments of both products, those of a batch left out in one. */
struct Scalars {
    const void *alpha, *beta;
};

static cublasStatus_t product_of(const char *name, cublasHandle_t handle, Product p,
                                 const Scalars &scalars, cublasComputeType_t compute) {
    if (scalars.alpha == nullptr || scalars.beta == nullptr)
        return CUBLAS_STATUS_INVALID_VALUE;
    p.name = name;
    memcpy(&p.alpha, scalars.alpha, sizeof p.alpha);
    memcpy(&p.beta, scalars.beta, sizeof p.beta);
    return launched(handle, p, compute);
}

/* op(X) of rows x columns, as it is stored. */
static Matrix operand(cublasOperation_t operation, const void *data, cudaDataType type, int rows,
                      int columns, int ld, long long stride) {
    const bool plain = operation == CUBLAS_OP_N;
    return {const_cast<void *>(data), type, plain ? rows : columns,
            plain ? columns : rows,   ld,   stride};
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t trans_a,
                            cublasOperation_t trans_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c,
                            cudaDataType c_type, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t) {
    const Product p = {nullptr,
                       trans_a,
                       trans_b,
                       m,
                       n,
                       k,
                       0,
                       0,
                       operand(trans_a, a, a_type, m, k, lda, 0),
                       operand(trans_b, b, b_type, k, n, ldb, 0),
                       operand(CUBLAS_OP_N, c, c_type, m, n, ldc, 0),
                       1};
    return product_of("cublasGemmEx", handle, p, {alpha, beta}, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t trans_a,
                                          cublasOperation_t trans_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long stride_a, const void *b,
                                          cudaDataType b_type, int ldb, long long stride_b,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long stride_c, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
    const Product p = {nullptr,
                       trans_a,
                       trans_b,
                       m,
                       n,
                       k,
                       0,
                       0,
                       operand(trans_a, a, a_type, m, k, lda, stride_a),
                       operand(trans_b, b, b_type, k, n, ldb, stride_b),
                       operand(CUBLAS_OP_N, c, c_type, m, n, ldc, stride_c),
                       batch};
    return product_of("cublasGemmStridedBatchedEx", handle, p, {alpha, beta}, compute);
}

/* cuda.h - the CUDA backend's own struct, and what its parts share. */
#ifndef LISA_BACKEND_CUDA_CUDA_H
#define LISA_BACKEND_CUDA_CUDA_H

#include "lisa/sys/backend.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

struct lisa__cublas;  /* functions of cuBLAS, found when the backend starts (cublas.h) */
struct lisa__staging; /* pinned memory that uploads go through (memory.h) */

/* Tickets of `post` that can be under way at a time. */
#define LISA_CUDA_TICKETS 64

struct lisa__cuda {
    lisa_backend base;
    int device;
    int multiprocessors;
    int shared_per_block; /* bytes of shared memory that a kernel may opt in to */
    cudaStream_t stream;  /* of the operations */
    cudaStream_t copies;  /* of the transfers */
    cudaEvent_t filled[LISA_TRANSFER_SLOTS]; /* the slot's last transfer */
    cudaEvent_t freed[LISA_TRANSFER_SLOTS];  /* the operations before the slot's last free */
    const struct lisa__cublas *cublas;
    cublasHandle_t handle;
    struct lisa__staging *staging;
    void *blas_workspace;
    float *scratch; /* LISA_CUDA_SCRATCH floats: partial sums of a kernel and of what follows it */
    cudaEvent_t posted[LISA_CUDA_TICKETS]; /* ticket t's is posted[t % LISA_CUDA_TICKETS] */
    uint64_t n_posted;                     /* the newest ticket */
    size_t driver_bytes;                   /* counted as LISA_MEM_DRIVER */
    int lost; /* the cudaError_t of a device that was lost: every later call fails */
};

/* Floats of scratch: partial sums of reductions over rows, and attention's row sums. */
#define LISA_CUDA_SCRATCH (UINT32_C(1) << 20)

static inline struct lisa__cuda *lisa__cuda_of(lisa_backend *be) {
    return (struct lisa__cuda *)(void *)be;
}

/* The text of a failed call: "cuda: WHAT: NVIDIA's words". LISA_E_NOMEM where device memory ran
 * out, else LISA_E_BACKEND. */
lisa_status lisa__cuda_fail(lisa_backend *be, cudaError_t error, const char *what);

/* After a launch: whether it was accepted. */
lisa_status lisa__cuda_launched(lisa_backend *be, const char *what);

/* LISA_E_INVAL: what the backend cannot do at all. */
lisa_status lisa__cuda_refuse(lisa_backend *be, const char *text);

#endif

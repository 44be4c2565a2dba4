/* memory.h - memory of the CUDA backend, and copies. */
#ifndef LISA_BACKEND_CUDA_MEMORY_H
#define LISA_BACKEND_CUDA_MEMORY_H

#include "backend/cuda/cuda.h"

/* Uploads go through a ring of pinned slots: a slot is used again when its copy is done, so that
 * the processor fills one while the device reads another. Many, so that small uploads between
 * operations need not wait for those; large enough that a copy is worth its start. */
#define LISA_CUDA_STAGING_SLOTS 32
#define LISA_CUDA_STAGING_SLOT (UINT32_C(256) << 10)
#define LISA_CUDA_STAGING ((size_t)LISA_CUDA_STAGING_SLOTS * LISA_CUDA_STAGING_SLOT)

struct lisa__staging {
    char *memory;                              /* LISA_CUDA_STAGING bytes of LISA_MEM_WORKSPACE */
    cudaEvent_t read[LISA_CUDA_STAGING_SLOTS]; /* the slot's last copy */
    uint32_t next;                             /* slot */
};

lisa_status lisa__staging_create(struct lisa__cuda *cuda);
void lisa__staging_destroy(struct lisa__cuda *cuda);

/* n events that measure no time; those made before a failure stay. */
lisa_status lisa__cuda_make_events(struct lisa__cuda *cuda, cudaEvent_t *events, uint32_t n);
void lisa__cuda_destroy_events(cudaEvent_t *events, uint32_t n);

/* As the slots of the table. */
lisa_status lisa__cuda_alloc(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes);
void lisa__cuda_release(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes);
lisa_status lisa__cuda_upload(lisa_backend *be, void *device, const void *host, size_t bytes);
lisa_status lisa__cuda_download(lisa_backend *be, void *host, const void *device, size_t bytes);
lisa_status lisa__cuda_copy(lisa_backend *be, void *dst, const void *src, size_t bytes);
lisa_status lisa__cuda_zero(lisa_backend *be, void *dst, size_t bytes);
lisa_status lisa__cuda_sync(lisa_backend *be);
lisa_status lisa__cuda_post(lisa_backend *be, void *host, const void *device, size_t bytes,
                            uint64_t *ticket);
lisa_status lisa__cuda_passed(lisa_backend *be, uint64_t ticket, uint32_t *passed);
lisa_status lisa__cuda_transfer(lisa_backend *be, const lisa_transfer *op);
lisa_status lisa__cuda_transfer_wait(lisa_backend *be, uint32_t slot);
lisa_status lisa__cuda_transfer_free(lisa_backend *be, uint32_t slot);

#endif

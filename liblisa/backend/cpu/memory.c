#include "backend/cpu/ops.h"
#include "backend/elementwise.h"
#include "core/error.h"

#include <string.h>

lisa_status lisa__cpu_alloc(lisa_backend *be, void **out, uint32_t memory_class, size_t bytes) {
    return be->host->alloc(be->host->self, out, memory_class, bytes);
}

void lisa__cpu_release(lisa_backend *be, void *ptr, uint32_t memory_class, size_t bytes) {
    if (ptr != NULL)
        be->host->release(be->host->self, memory_class, ptr, bytes);
}

lisa_status lisa__cpu_copy(lisa_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    if (bytes > 0)
        memmove(dst, src, bytes);
    return LISA_OK;
}

lisa_status lisa__cpu_zero(lisa_backend *be, void *dst, size_t bytes) {
    (void)be;
    if (bytes > 0)
        memset(dst, 0, bytes);
    return LISA_OK;
}

lisa_status lisa__cpu_sync(lisa_backend *be) {
    (void)be;
    return LISA_OK;
}

lisa_status lisa__cpu_post(lisa_backend *be, void *host, const void *device, size_t bytes,
                           uint64_t *ticket) {
    *ticket = 0;
    return lisa__cpu_copy(be, host, device, bytes);
}

lisa_status lisa__cpu_passed(lisa_backend *be, uint64_t ticket, uint32_t *passed) {
    (void)be;
    (void)ticket;
    *passed = 1;
    return LISA_OK;
}

lisa_status lisa__cpu_transfer(lisa_backend *be, const lisa_transfer *op) {
    return lisa__cpu_copy(be, op->dst, op->src, op->bytes);
}

lisa_status lisa__cpu_transfer_order(lisa_backend *be, uint32_t slot) {
    (void)be;
    (void)slot;
    return LISA_OK;
}

struct conversion {
    lisa_typed dst, src;
};

/* From f64, or to it: rare, so one by one. */
static void convert_singly(lisa_typed dst, lisa_typed src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double value = lisa__load(src.data, src.dtype, i);
        if (dst.dtype == LISA_DTYPE_BF16)
            ((uint16_t *)dst.data)[i] = lisa__f64_to_bf16(value);
        else if (dst.dtype == LISA_DTYPE_F16)
            ((uint16_t *)dst.data)[i] = lisa__f64_to_f16(value);
        else
            lisa__store(dst.data, dst.dtype, i, value);
    }
}

static void convert_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const struct conversion *op = all->op;
    const struct lisa__vector *vector = all->cpu->vector;
    lisa_typed dst = lisa__typed_at(op->dst, from), src = lisa__typed_at(op->src, from);
    if (dst.dtype == src.dtype)
        memmove(dst.data, src.data, (to - from) * lisa__dtype_size(dst.dtype));
    else if (dst.dtype == LISA_DTYPE_F32)
        vector->widen(dst.data, src.data, src.dtype, to - from);
    else if (src.dtype == LISA_DTYPE_F32 && dst.dtype != LISA_DTYPE_F64)
        vector->narrow(dst.data, dst.dtype, src.data, to - from);
    else
        convert_singly(dst, src, to - from);
}

lisa_status lisa__cpu_convert(lisa_backend *be, lisa_typed dst, lisa_typed src, size_t n) {
    LISA_TRY(lisa__cpu_check_dtype(be, dst));
    LISA_TRY(lisa__cpu_check_dtype(be, src));
    struct conversion op = {dst, src};
    lisa__cpu_in_pieces(lisa__cpu_of(be), &op, n, LISA_CPU_CHUNK, convert_piece);
    return LISA_OK;
}

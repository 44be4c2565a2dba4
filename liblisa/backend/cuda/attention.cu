/* attention.cu - the operation: which kernels it takes, and in how many launches. */
#include "backend/cuda/attention.cuh"
#include "backend/cuda/kernels.h"

namespace {

lisa_status check(lisa_backend *be, const lisa_attention *op) {
    if (op->kv_heads == 0 || op->heads % op->kv_heads != 0)
        return lisa__cuda_refuse(be, "cuda: attention's kv_heads must divide heads");
    if (op->n_queries > op->n_keys || op->n_keys > op->key_stride)
        return lisa__cuda_refuse(be, "cuda: attention needs n_queries <= n_keys <= key_stride");
    if (op->documents != nullptr && op->n_queries != op->n_keys)
        return lisa__cuda_refuse(be, "cuda: attention with documents needs n_queries = n_keys");
    if (op->dtype != LISA_DTYPE_F32 && op->dtype != LISA_DTYPE_BF16 && op->dtype != LISA_DTYPE_F16)
        return lisa__cuda_refuse(be, "cuda: attention takes operands of F32, BF16 or F16");
    if (op->n_keys > LISA_ATTENTION_MOST_TOKENS)
        return lisa__cuda_refuse(be, "cuda: attention takes 2^29 keys at most");
    if (static_cast<uint64_t>(op->batch) * op->heads > INT32_MAX)
        return lisa__cuda_refuse(be, "cuda: attention takes 2^31 heads of sequences at most");
    return LISA_OK;
}

/* The operation with all of its heads. */
lisa__attention_job whole(const lisa_attention *op) {
    lisa__attention_job job = {};
    job.op = *op;
    job.scale = static_cast<float>(op->scale);
    job.window =
        static_cast<int>(op->window == 0 || op->window > op->n_keys ? op->n_keys : op->window);
    job.n_heads = op->batch * op->heads;
    return job;
}

/* Rows that begin at multiples of 16 bytes; x may be NULL. */
bool aligned(const void *x, size_t ld) {
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && ld % 8 == 0;
}

bool fits_tensor_cores(const lisa__attention_job *job, bool backward) {
    const lisa_attention *op = &job->op;
    if (op->dtype == LISA_DTYPE_F32 || !(job->scale > 0.0f))
        return false;
    if (op->head_dim != 64 && op->head_dim != 80 && op->head_dim != 128)
        return false;
    if (!aligned(op->q, op->ldq) || !aligned(op->k, op->ldk) || !aligned(op->v, op->ldv) ||
        !aligned(op->out, op->ldout))
        return false;
    return !backward || (aligned(op->dout, op->lddout) && aligned(op->dq, op->lddq) &&
                         aligned(op->dk, op->lddk) && aligned(op->dv, op->lddv));
}

bool nothing_to_do(const lisa_attention *op) {
    return op->batch == 0 || op->heads == 0 || op->n_queries == 0;
}

} // namespace

lisa_status lisa__attention_grid(struct lisa__cuda *cuda, const lisa__attention_job *job,
                                 uint64_t each, bool by_key_head, uint32_t *blocks) {
    const uint32_t group = by_key_head ? job->op.heads / job->op.kv_heads : 1;
    const uint64_t n = each * (job->n_heads / group);
    if (n > INT32_MAX)
        return lisa__cuda_refuse(&cuda->base, "cuda: attention of more tiles than a grid takes");
    *blocks = static_cast<uint32_t>(n);
    return LISA_OK;
}

extern "C" lisa_status lisa__cuda_attention_forward(lisa_backend *be, const lisa_attention *op) {
    LISA_TRY(check(be, op));
    if (nothing_to_do(op))
        return LISA_OK;
    const lisa__attention_job job = whole(op);
    return fits_tensor_cores(&job, false) ? lisa__attention_forward_tensor(lisa__cuda_of(be), &job)
                                          : lisa__attention_forward_plain(lisa__cuda_of(be), &job);
}

/* Row sums lie in the scratch: as many heads at a time as it has room for, whole groups of a key
 * head, since its gradients are sums over the group. */
extern "C" lisa_status lisa__cuda_attention_backward(lisa_backend *be, const lisa_attention *op) {
    LISA_TRY(check(be, op));
    if (nothing_to_do(op))
        return LISA_OK;
    if (op->n_queries != op->n_keys || op->n_keys != op->key_stride)
        return lisa__cuda_refuse(be,
                                 "cuda: attention backward needs n_queries = n_keys = key_stride");
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    lisa__attention_job piece = whole(op);
    const uint32_t n_heads = piece.n_heads, group = op->heads / op->kv_heads;
    const uint32_t most = LISA_CUDA_SCRATCH / op->n_queries / group * group;
    if (most == 0)
        return lisa__cuda_refuse(
            be, "cuda: attention backward takes 2^20 queries of a key head at most");
    const bool on_tensor_cores = fits_tensor_cores(&piece, true);
    piece.delta = cuda->scratch;
    for (; piece.first_head < n_heads; piece.first_head += piece.n_heads) {
        piece.n_heads = most < n_heads - piece.first_head ? most : n_heads - piece.first_head;
        LISA_TRY(on_tensor_cores ? lisa__attention_backward_tensor(cuda, &piece)
                                 : lisa__attention_backward_plain(cuda, &piece));
    }
    return LISA_OK;
}

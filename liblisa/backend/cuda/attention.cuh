/* attention.cuh - what attention's kernels share: a job, where its rows lie, and who sees what. */
#ifndef LISA_BACKEND_CUDA_ATTENTION_CUH
#define LISA_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/storage.cuh"

/* Places of tokens are int on the device, with room for a tile beyond the last. */
#define LISA_ATTENTION_MOST_TOKENS (UINT32_C(1) << 29)

/* An operation whose sizes are good, or the heads of it that one launch takes: n_heads query heads
 * from first_head on, counted through the sequences; whole groups of a key head. */
struct lisa__attention_job {
    lisa_attention op;
    float scale;
    int window; /* n_keys where there is none: no query stands as far from a key */
    uint32_t first_head, n_heads;
    float *delta; /* backward: [n_heads, n_queries], the row sums of dout * out */
};

/* The launches, each in a file of its own. The tensor cores' need 16-bit operands, rows and
 * pointers aligned to 16 bytes, a scale above 0, and a head_dim of 64, 80 or 128. */
lisa_status lisa__attention_forward_tensor(struct lisa__cuda *cuda,
                                           const struct lisa__attention_job *job);
lisa_status lisa__attention_forward_plain(struct lisa__cuda *cuda,
                                          const struct lisa__attention_job *job);
lisa_status lisa__attention_backward_tensor(struct lisa__cuda *cuda,
                                            const struct lisa__attention_job *job);
lisa_status lisa__attention_backward_plain(struct lisa__cuda *cuda,
                                           const struct lisa__attention_job *job);

/* *blocks = `each` for each of the job's query heads or, `by_key_head`, key heads: where a grid can
 * have as many. */
lisa_status lisa__attention_grid(struct lisa__cuda *cuda, const struct lisa__attention_job *job,
                                 uint64_t each, bool by_key_head, uint32_t *blocks);

/* A head's rows in one of the operation's matrices. */
template <class T> struct lisa__head_rows {
    T *first;
    size_t ld;
    int rows;
};

/* The query head that a block works on, or the first one of its key head. */
struct lisa__head {
    uint32_t index; /* sequence * heads + head */
    uint32_t sequence, head, kv_head;
};

__device__ __forceinline__ lisa__head lisa__head_of(const lisa__attention_job &job, uint32_t i) {
    const uint32_t index = job.first_head + i, head = index % job.op.heads;
    return {index, index / job.op.heads, head, head / (job.op.heads / job.op.kv_heads)};
}

template <class T>
__device__ __forceinline__ lisa__head_rows<T>
lisa__query_rows(const lisa__attention_job &job, const lisa__head &at, const void *x, size_t ld) {
    const size_t place = static_cast<size_t>(at.sequence) * job.op.n_queries * ld +
                         static_cast<size_t>(at.head) * job.op.head_dim;
    return {static_cast<T *>(const_cast<void *>(x)) + place, ld,
            static_cast<int>(job.op.n_queries)};
}

template <class T>
__device__ __forceinline__ lisa__head_rows<T>
lisa__key_rows(const lisa__attention_job &job, const lisa__head &at, const void *x, size_t ld) {
    const size_t place = static_cast<size_t>(at.sequence) * job.op.key_stride * ld +
                         static_cast<size_t>(at.kv_head) * job.op.head_dim;
    return {static_cast<T *>(const_cast<void *>(x)) + place, ld, static_cast<int>(job.op.n_keys)};
}

/* Who sees what in a sequence. A query's place is its row's, counted among the keys; places behind
 * the last see nothing. */
struct lisa__sight {
    const int32_t *documents;
    int n_keys, window, first_place; /* of the first query */

    __device__ __forceinline__ bool sees(int place, int key) const {
        if (key > place || place - key >= window || place >= n_keys)
            return false;
        return documents == nullptr || documents[place] == documents[key];
    }

    /* Whether each of n_places from `place` on sees each of n from `key` on, for all it knows. */
    __device__ __forceinline__ bool sees_all(int place, int n_places, int key, int n) const {
        return key + n - 1 <= place && place + n_places - 1 - key < window &&
               place + n_places <= n_keys && documents == nullptr;
    }

    /* The first and the last key that any of n_places from `place` on sees. */
    __device__ __forceinline__ int first_key(int place) const {
        const int first = place - window + 1;
        return first > 0 ? first : 0;
    }
    __device__ __forceinline__ int last_key(int place, int n_places) const {
        const int last = place + n_places - 1;
        return last < n_keys ? last : n_keys - 1;
    }

    /* The last query that sees one of n keys from `key` on. */
    __device__ __forceinline__ int last_place(int key, int n) const {
        const int last = key + n - 2 + window;
        return last < n_keys ? last : n_keys - 1;
    }
};

__device__ __forceinline__ lisa__sight lisa__sight_of(const lisa__attention_job &job,
                                                      const lisa__head &at) {
    const int32_t *documents = job.op.documents;
    if (documents != nullptr)
        documents += static_cast<size_t>(at.sequence) * job.op.n_keys;
    return {documents, static_cast<int>(job.op.n_keys), job.window,
            static_cast<int>(job.op.n_keys - job.op.n_queries)};
}

#endif

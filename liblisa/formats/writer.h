/* writer.h - writing a Hugging Face directory so that its files appear whole or not at all. */
#ifndef LISA_FORMATS_WRITER_H
#define LISA_FORMATS_WRITER_H

#include "core/context.h"

#define LISA__WRITE_STAGING ((uint64_t)1 << 20) /* bytes of LISA_MEM_STAGING during a call */

struct lisa__write_tensor {
    const char *name;
    uint32_t dtype; /* LISA_DTYPE_* as written; 0: bytes (U8) */
    uint32_t n_dims;
    uint64_t shape[2];
    uint64_t n_elements;
};

/* Delivers elements [begin, begin + n) of tensor `index`, already in its written type. */
typedef lisa_status (*lisa__tensor_source)(void *user, uint32_t index, uint64_t begin, uint64_t n,
                                           void *dst);

/* Writes model.safetensors, or model-0000i-of-0000n.safetensors with their index when the tensors
 * exceed max_shard_bytes (0: 5 GB). Makes the directory if need be. On failure the weights that lay
 * there are whole and untouched; on success none of their files is left. */
lisa_status lisa__write_weights(lisa_context *context, const char *directory,
                                const struct lisa__write_tensor *tensors, uint32_t n_tensors,
                                uint64_t max_shard_bytes, lisa__tensor_source source, void *user);

/* Writes them to the one file DIRECTORY/name, which appears whole or not at all. */
lisa_status lisa__write_tensors(lisa_context *context, const char *directory, const char *name,
                                const struct lisa__write_tensor *tensors, uint32_t n_tensors,
                                lisa__tensor_source source, void *user);

/* One file of tensors, and a text that belongs to it. */
struct lisa__write_pair {
    const char *tensors_name;
    const struct lisa__write_tensor *tensors;
    uint32_t n_tensors;
    lisa__tensor_source source;
    void *user;
    const char *text_name;
    const char *text;
    uint64_t text_bytes;
};

/* Writes both into a directory, which is made if need be. Each appears whole; both are on disk
 * before either does, and where one cannot, the other is taken back. */
lisa_status lisa__write_pair(lisa_context *context, const char *directory,
                             const struct lisa__write_pair *pair);

/* Writes `text` to DIRECTORY/name: temporary file, fsync, rename, fsync of the directory. */
lisa_status lisa__write_file(lisa_context *context, const char *directory, const char *name,
                             const void *text, uint64_t bytes);

/* Copies every regular file of `from` that is not hidden, not weights, no index of weights and not
 * in `except` (NULL-terminated list) to `to`. Files above 256 MB are left behind and logged, and so
 * is a directory that is gone. */
lisa_status lisa__copy_small_files(lisa_context *context, const char *from, const char *to,
                                   const char *const *except);

#endif

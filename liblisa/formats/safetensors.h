/* safetensors.h - reading the tensors of a directory: one file, or shards with their index. */
#ifndef LISA_FORMATS_SAFETENSORS_H
#define LISA_FORMATS_SAFETENSORS_H

#include "core/context.h"

#define LISA__ST_MAX_DIMS 8

struct lisa__st_tensor {
    const char *name;
    uint32_t dtype; /* LISA_DTYPE_*, or 0 where the library has none; then dtype_name says */
    uint32_t n_dims;
    uint64_t shape[LISA__ST_MAX_DIMS];
    uint64_t n_elements;
    uint64_t offset; /* of the first byte, in its file */
    uint64_t bytes;
    uint32_t file;
    char dtype_name[12];
};

struct lisa__weights; /* the open files of a checkpoint directory */

/* Opens DIRECTORY/model.safetensors, or the shards that model.safetensors.index.json names, reads
 * and checks the headers. `map`: also maps the files (shared, read-only). */
lisa_status lisa__weights_open(struct lisa__weights **out, lisa_context *context,
                               const char *directory, int map);

/* Opens the one file DIRECTORY/name, unmapped. */
lisa_status lisa__weights_open_file(struct lisa__weights **out, lisa_context *context,
                                    const char *directory, const char *name);
void lisa__weights_close(struct lisa__weights *weights);

uint32_t lisa__weights_count(const struct lisa__weights *weights);
const struct lisa__st_tensor *lisa__weights_at(const struct lisa__weights *weights, uint32_t index);
/* NULL if there is none of that name. */
const struct lisa__st_tensor *lisa__weights_find(const struct lisa__weights *weights,
                                                 const char *name);
/* The path of the tensor's file, for texts. */
const char *lisa__weights_path(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor);

/* The tensor's bytes in the mapping; NULL when not mapped. Any alignment. */
const void *lisa__weights_data(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor);

/* Reads bytes [begin, begin + n) of the tensor into dst with pread. */
lisa_status lisa__weights_read(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor, uint64_t begin, void *dst,
                               uint64_t n);

/* LISA_E_IO when a mapped file's size or mtime is not what it was at open. */
lisa_status lisa__weights_check(const struct lisa__weights *weights);

/* Tells the kernel that the tensor's mapped pages are no longer needed (it was copied). */
void lisa__weights_forget(const struct lisa__weights *weights,
                          const struct lisa__st_tensor *tensor);

#endif

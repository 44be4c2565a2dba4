/* checkpoint.h - a training on disk, from which it goes on bit for bit.
 *
 * A checkpoint is one file: the weights that have changed since the model was opened or drawn, an
 * adapter's, moments, low bits, step counts, the mask in force, the sampler, and what the host
 * likes to add. It does not hold the weights that have not changed: it belongs to its base, which
 * it knows by checksums. docs/checkpoint.md is the format and what a crash leaves.
 *
 * Not in it: learning rate, seed and the other options of the optimizer (the host gives them again,
 * and they may differ where the state does not depend on them), gradients (a checkpoint is taken
 * between windows), and the position in the host's data.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_CHECKPOINT_H
#define LISA_CHECKPOINT_H

#include "optimizer.h"
#include "sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lisa_checkpoint_options {
    size_t struct_size;
    const lisa_sampler *sampler; /* stored with its weights; default NULL: none */
    const void *blob;            /* blob_bytes of the host's own; default none */
    uint64_t blob_bytes;
    uint32_t keep; /* files in the directory, the newest by step; default 0: all */
    uint32_t reserved;
} lisa_checkpoint_options;

LISA_API lisa_status lisa_checkpoint_options_init(lisa_checkpoint_options *options,
                                                  size_t struct_size);

/* Writes DIRECTORY/checkpoint-<step in 12 digits>.safetensors, making the directory if need be, and
 * removes the oldest above `keep`. `step` is the host's: the number of steps that are done, say.
 * The file appears whole or not at all, on disk before it has its name; one of that name is
 * replaced. Nothing of the training changes. The first call reads the model's files once for their
 * checksums. options may be NULL. LISA_E_STATE inside an accumulation window; LISA_E_IO,
 * LISA_E_NOTFOUND of the disk; LISA_E_NOMEM, LISA_E_BUDGET; LISA_E_CANCELLED; LISA_E_NONFINITE
 * where an update that was made without stats failed, which is told now. */
LISA_API lisa_status lisa_checkpoint_save(lisa_optimizer *optimizer, const char *directory,
                                          uint64_t step, const lisa_checkpoint_options *options);

/* What a file says of itself. */
typedef struct lisa_checkpoint_info {
    size_t struct_size;
    uint64_t step;
    uint64_t blob_bytes;
    uint64_t bytes; /* of all that it holds */
    uint32_t format;
    uint32_t n_layers;
    uint32_t has_sampler;
    uint32_t adapted; /* 1: of an optimizer that trained an adapter */
} lisa_checkpoint_info;

/* Reads a whole file and compares every checksum. info may be NULL, else its struct_size must be
 * set. LISA_E_FORMAT names what is damaged; LISA_E_UNSUPPORTED a later format; LISA_E_NOTFOUND.
 * Threads: any. */
LISA_API lisa_status lisa_checkpoint_verify(const char *path, lisa_checkpoint_info *info);

/* Writes the path of the newest file in a directory that lisa_checkpoint_verify passes, with its
 * NUL, to path[path_bytes], past those that are damaged. LISA_E_NOTFOUND where there is none, also
 * where there is no directory; LISA_E_INVAL where the path is longer; another failure to verify the
 * newest (LISA_E_UNSUPPORTED, LISA_E_IO, LISA_E_NOMEM) as it is. Threads: any. */
LISA_API lisa_status lisa_checkpoint_find(const char *directory, char *path, size_t path_bytes);

/* Makes optimizer and model (and the adapter that it trains) what they were: step by step they go
 * on to the same bits. The optimizer is one of the same model and of options that give its state
 * the same shape: state_policy, moments_*, embedding_rows; slots enough for the layers that train.
 * It may have trained meanwhile: what has changed since is undone. An open
 * window is void. Everything is verified first and all memory taken, and a refusal changes nothing:
 * LISA_E_INVAL names the option, or the tensor in which the base differs; LISA_E_FORMAT what is
 * damaged; LISA_E_NOMEM, LISA_E_BUDGET; LISA_E_CANCELLED. Where the file cannot be read to its end
 * after all (LISA_E_IO), the model is LISA_E_STATE for every use until a load with this optimizer
 * succeeds. info may be NULL. */
LISA_API lisa_status lisa_checkpoint_load(lisa_optimizer *optimizer, const char *path,
                                          lisa_checkpoint_info *info);

/* Copies the host's own bytes out: n must be the info's blob_bytes. Threads: any. */
LISA_API lisa_status lisa_checkpoint_blob(const char *path, void *blob, uint64_t n);

/* Makes the sampler that was stored. LISA_E_NOTFOUND where none was. Threads: any. */
LISA_API lisa_status lisa_checkpoint_sampler(lisa_sampler **out, const char *path);

#ifdef __cplusplus
}
#endif

#endif

/* checkpoint.h - one file with the state of a training: a safetensors file with a description in
 * JSON that has a checksum of everything else (docs/checkpoint.md). */
#ifndef LISA_FORMATS_CHECKPOINT_H
#define LISA_FORMATS_CHECKPOINT_H

#include "formats/safetensors.h"
#include "lisa/adapter.h"
#include "lisa/sampler.h"
#include "model/tensors.h"

#include <jansson.h>
#include <limits.h>

#define LISA__CHECKPOINT_FORMAT 1u
#define LISA__CHECKPOINT_META "lisa.meta"
#define LISA__CHECKPOINT_BLOB "lisa.blob"
#define LISA__SECTION_NAME (LISA__MAX_NAME + 16)

struct lisa__checkpoint_group {
    uint64_t steps;
    uint32_t active, has_state, rounded;
};

/* What the description says beside names and checksums. */
struct lisa__checkpoint_record {
    uint64_t step;                     /* the host's */
    uint64_t updates;                  /* of the optimizer: streams of rounding */
    uint64_t draws;                    /* of the adapter: streams of dropout */
    uint32_t policy, moments[3], rows; /* the optimizer's options that its state depends on */
    uint32_t rows_used;                /* of a sparse embedding */
    uint32_t n_groups;
    struct lisa__checkpoint_group *groups; /* [n_groups] */
    uint32_t adapted, has_sampler;
    lisa_adapter_options adapter;
    lisa_sampler_options sampler;
};

/* A stretch of values or bytes under a name of its own. */
struct lisa__section {
    char name[LISA__SECTION_NAME];
    uint32_t dtype; /* LISA_DTYPE_*; 0: bytes */
    uint32_t n_dims;
    uint64_t shape[2];
    uint64_t n_elements, bytes;
    const void *data; /* where it lies: the writer's and the reader's own */
    uint32_t on_host; /* 1: in the host's memory */
    uint64_t sum;     /* XXH3 of its bytes; the writer fills it in */
};

/* ---- writing ---- */

struct lisa__checkpoint_content {
    const struct lisa__checkpoint_record *record;
    struct lisa__section *sections;
    uint32_t n_sections;
    const struct lisa__tensor_desc *base; /* tensors of the model it belongs to, and their sums */
    const uint64_t *base_sums;
    uint32_t n_base;
    /* Delivers n bytes of a section from byte `begin` on. */
    lisa_status (*read)(void *user, const struct lisa__section *section, uint64_t begin, uint64_t n,
                        void *dst);
    void *user;
};

/* Writes DIRECTORY/name, which appears whole or not at all. */
lisa_status lisa__checkpoint_write(lisa_context *context, const char *directory, const char *name,
                                   const struct lisa__checkpoint_content *content);

/* ---- files of a directory (checkpoint_files.c) ---- */

/* The name of a step's file. */
void lisa__checkpoint_name(char out[NAME_MAX + 1], uint64_t step);

/* The path of the newest file that is whole; LISA_E_NOTFOUND where there is none. */
lisa_status lisa__checkpoint_newest(const char *directory, char path[PATH_MAX]);

/* Removes the oldest files until `keep` are left, never that of step `own`. */
lisa_status lisa__checkpoint_prune(const char *directory, uint64_t own, uint32_t keep);

/* ---- reading ---- */

struct lisa__checkpoint {
    lisa_context *context; /* may be NULL */
    const char *path;      /* the host's */
    struct lisa__weights *file;
    json_t *meta;
    struct lisa__checkpoint_record record; /* its arrays are the checkpoint's */
};

/* Opens and checks the description, not yet what it describes. LISA_E_FORMAT where it is damaged,
 * LISA_E_UNSUPPORTED where it is of a later format. close() is owed where it succeeds. */
lisa_status lisa__checkpoint_open(struct lisa__checkpoint *out, lisa_context *context,
                                  const char *path);
void lisa__checkpoint_close(struct lisa__checkpoint *c);

/* Reads everything: LISA_E_FORMAT names the section whose checksum differs. */
lisa_status lisa__checkpoint_verify(const struct lisa__checkpoint *c);
lisa_status lisa__checkpoint_verify_section(const struct lisa__checkpoint *c, const char *name);

/* Reads a section that is there, LISA__CHECKPOINT_CHUNK bytes at a time through `staging`, and
 * gives each stretch to `read`: LISA_E_FORMAT at the end where its checksum differs. */
#define LISA__CHECKPOINT_CHUNK (1 << 20)
typedef lisa_status (*lisa__checkpoint_reader)(void *user, uint64_t at, uint64_t n,
                                               const void *bytes);
lisa_status lisa__checkpoint_read(const struct lisa__checkpoint *c, const char *name,
                                  unsigned char *staging, lisa__checkpoint_reader read, void *user);

/* NULL where there is none of that name. */
const struct lisa__st_tensor *lisa__checkpoint_find(const struct lisa__checkpoint *c,
                                                    const char *name);
uint32_t lisa__checkpoint_sections(const struct lisa__checkpoint *c);
uint64_t lisa__checkpoint_bytes(const struct lisa__checkpoint *c); /* of all sections */

/* LISA_E_INVAL unless the base has these tensors with these sums. */
lisa_status lisa__checkpoint_check_base(const struct lisa__checkpoint *c,
                                        const struct lisa__tensor_desc *base, const uint64_t *sums,
                                        uint32_t n);

/* ---- the description (checkpoint_meta.c) ---- */

/* As text of n bytes; free() it. */
lisa_status lisa__checkpoint_describe(char **out, uint64_t *n,
                                      const struct lisa__checkpoint_content *content,
                                      const char *path);

/* The record of a parsed description; forget() is owed whatever came of it. */
lisa_status lisa__checkpoint_read_record(struct lisa__checkpoint_record *out, const json_t *meta,
                                         const char *path);
void lisa__checkpoint_forget_record(struct lisa__checkpoint_record *record);

/* A number of 64 bits as the description writes it. */
lisa_status lisa__checkpoint_number(const json_t *object, const char *key, const char *path,
                                    uint64_t *out);

#endif

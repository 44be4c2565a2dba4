#include "lisa/checkpoint.h"

#include "api/check.h"
#include "api/sampler.h"
#include "core/options.h"
#include "optim/checkpoint.h"

#include <string.h>

lisa_status lisa_checkpoint_options_init(lisa_checkpoint_options *options, size_t struct_size) {
    return lisa__options_init(options, struct_size, sizeof *options, "lisa_checkpoint_options");
}

static lisa_status read_options(lisa_checkpoint_options *own,
                                const lisa_checkpoint_options *given) {
    LISA_TRY(lisa_checkpoint_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(
            lisa__options_read(own, sizeof *own, sizeof *own, given, "lisa_checkpoint_options"));
    if (own->reserved != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_checkpoint_options.reserved: %u, expected 0",
                          own->reserved);
    if (own->blob == NULL && own->blob_bytes != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_checkpoint_options.blob: NULL, %llu bytes expected",
                          (unsigned long long)own->blob_bytes);
    return LISA_OK;
}

lisa_status lisa_checkpoint_save(lisa_optimizer *optimizer, const char *directory, uint64_t step,
                                 const lisa_checkpoint_options *options) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(directory);
    lisa_checkpoint_options own;
    LISA_TRY(read_options(&own, options));
    const struct lisa__checkpoint_extra extra = {
        .step = step,
        .sampler = own.sampler == NULL ? NULL : lisa__sampler_options(own.sampler),
        .blob = own.blob,
        .blob_bytes = own.blob_bytes,
        .keep = own.keep,
    };
    return lisa__checkpoint_save(optimizer, directory, &extra);
}

static lisa_status write_info(const struct lisa__checkpoint *c, lisa_checkpoint_info *info) {
    const struct lisa__st_tensor *blob = lisa__checkpoint_find(c, LISA__CHECKPOINT_BLOB);
    const lisa_checkpoint_info own = {
        .struct_size = sizeof own,
        .step = c->record.step,
        .blob_bytes = blob == NULL ? 0 : blob->bytes,
        .bytes = lisa__checkpoint_bytes(c),
        .format = LISA__CHECKPOINT_FORMAT,
        .n_layers = c->record.n_groups - 2,
        .has_sampler = c->record.has_sampler,
        .adapted = c->record.adapted,
    };
    return info == NULL
               ? LISA_OK
               : lisa__options_write(info, sizeof own, &own, sizeof own, "lisa_checkpoint_info");
}

lisa_status lisa_checkpoint_verify(const char *path, lisa_checkpoint_info *info) {
    LISA_REQUIRE(path);
    struct lisa__checkpoint c;
    LISA_TRY(lisa__checkpoint_open(&c, NULL, path));
    lisa_status status = lisa__checkpoint_verify(&c);
    if (status == LISA_OK)
        status = write_info(&c, info);
    lisa__checkpoint_close(&c);
    return status;
}

lisa_status lisa_checkpoint_find(const char *directory, char *path, size_t path_bytes) {
    LISA_REQUIRE(directory);
    LISA_REQUIRE(path);
    char found[PATH_MAX];
    LISA_TRY(lisa__checkpoint_newest(directory, found));
    if (strlen(found) >= path_bytes)
        return lisa__fail(LISA_E_INVAL, "path_bytes: %zu, \"%.200s\" needs %zu", path_bytes, found,
                          strlen(found) + 1);
    memcpy(path, found, strlen(found) + 1);
    return LISA_OK;
}

lisa_status lisa_checkpoint_load(lisa_optimizer *optimizer, const char *path,
                                 lisa_checkpoint_info *info) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(path);
    struct lisa__checkpoint c;
    lisa_checkpoint_info own;
    if (info != NULL) /* refused before anything changes */
        LISA_TRY(lisa__options_read(&own, sizeof own, sizeof own, info, "lisa_checkpoint_info"));
    LISA_TRY(lisa__checkpoint_open(&c, optimizer->model->context, path));
    lisa_status status = lisa__checkpoint_load(optimizer, &c);
    if (status == LISA_OK)
        status = write_info(&c, info);
    lisa__checkpoint_close(&c);
    return status;
}

static lisa_status read_blob(const struct lisa__checkpoint *c, void *blob, uint64_t n) {
    const struct lisa__st_tensor *t = lisa__checkpoint_find(c, LISA__CHECKPOINT_BLOB);
    const uint64_t bytes = t == NULL ? 0 : t->bytes;
    if (n != bytes)
        return lisa__fail(LISA_E_INVAL, "%s: holds %llu bytes of the host's, %llu were asked for",
                          c->path, (unsigned long long)bytes, (unsigned long long)n);
    return n == 0 ? LISA_OK : lisa__weights_read(c->file, t, 0, blob, n);
}

lisa_status lisa_checkpoint_blob(const char *path, void *blob, uint64_t n) {
    LISA_REQUIRE(path);
    struct lisa__checkpoint c;
    if (n != 0)
        LISA_REQUIRE(blob);
    LISA_TRY(lisa__checkpoint_open(&c, NULL, path));
    lisa_status status = lisa__checkpoint_verify_section(&c, LISA__CHECKPOINT_BLOB);
    if (status == LISA_OK)
        status = read_blob(&c, blob, n);
    lisa__checkpoint_close(&c);
    return status;
}

lisa_status lisa_checkpoint_sampler(lisa_sampler **out, const char *path) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(path);
    struct lisa__checkpoint c;
    LISA_TRY(lisa__checkpoint_open(&c, NULL, path));
    lisa_status status;
    c.record.sampler.struct_size = sizeof c.record.sampler;
    if (c.record.has_sampler)
        status = lisa_sampler_create(out, &c.record.sampler);
    else
        status = lisa__fail(LISA_E_NOTFOUND, "%s: holds no sampler", path);
    lisa__checkpoint_close(&c);
    return status;
}

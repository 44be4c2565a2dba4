/* The description of a checkpoint, in a file whose other parts and checksum are right: what gets
 * past the checksum must be harmless, too. (fuzz_header has whole files.) */
#include "formats/checkpoint.h"
#include "lisa/checkpoint.h"
#include "memory_files.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { MOST_META = 1 << 16, BLOB = 4, SUM = 16 };
#define NAME "checkpoint-000000000001.safetensors"

static size_t put_header(uint8_t *file, size_t meta) {
    char text[512];
    const int n =
        snprintf(text, sizeof text,
                 "{\"lisa.meta\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[0,%zu]},"
                 "\"lisa.blob\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}}",
                 meta, meta, BLOB, meta, meta + BLOB);
    memset(file, 0, 8);
    file[0] = (uint8_t)(n & 0xFF);
    file[1] = (uint8_t)(n >> 8);
    memcpy(file + 8, text, (size_t)n);
    return 8 + (size_t)n;
}

static void look_at(const struct lisa__checkpoint *c) {
    const struct lisa__checkpoint_record *r = &c->record;
    must(r->n_groups >= 2 && r->groups != NULL);
    for (uint32_t g = 0; g < r->n_groups; g++)
        must(r->groups[g].active <= r->groups[g].has_state && r->groups[g].has_state <= 1);
    must(!r->has_sampler || r->sampler.n_layers <= LISA_SAMPLER_MAX_LAYERS);
    if (lisa__checkpoint_verify(c) != LISA_OK)
        must(lisa_error_last()[0] != '\0');
}

static void make_sampler(void) {
    lisa_sampler *sampler;
    uint8_t mask[LISA_SAMPLER_MAX_LAYERS + 2];
    if (lisa_checkpoint_sampler(&sampler, "memory/" NAME) != LISA_OK) {
        must(sampler == NULL && lisa_error_last()[0] != '\0');
        return;
    }
    (void)lisa_sampler_mask(sampler, 7, mask, lisa_sampler_n_groups(sampler));
    lisa_sampler_destroy(sampler);
}

FUZZ_ENTRY(fuzz_checkpoint) {
    static uint8_t file[MOST_META + 1024];
    struct lisa__checkpoint c;
    char sum[SUM + 1];
    if (size > MOST_META)
        return 0;
    size_t n = put_header(file, size + SUM);
    memcpy(file + n, data, size);
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)XXH3_64bits(data, size));
    memcpy(file + n + size, sum, SUM);
    n += size + SUM;
    memset(file + n, 0, BLOB);
    put_memory_file(0, NAME, file, n + BLOB);
    if (lisa__checkpoint_open(&c, NULL, "memory/" NAME) == LISA_OK) {
        look_at(&c);
        lisa__checkpoint_close(&c);
        make_sampler();
    } else {
        must(lisa_error_last()[0] != '\0' && c.file == NULL && c.meta == NULL);
    }
    put_memory_file(0, NULL, NULL, 0);
    return 0;
}

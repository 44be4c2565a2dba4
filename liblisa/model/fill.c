#include "model/fill.h"

#include "core/dtype.h"
#include "model/stream.h"
#include "sampler/philox.h"

#include <math.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Elements that are staged at once; every staged buffer is of doubles or less. Of masters (a float
 * each, the weight's 16 bits, and up to a float of low bits) it holds half as many. */
enum { CHUNK = 1 << 18, MASTERS = CHUNK / 2 };
_Static_assert(LISA__FILL_BYTES == CHUNK * sizeof(double), "one chunk a buffer");

static void convert(void *dst, uint32_t dst_dtype, const void *src, uint32_t src_dtype, size_t n) {
    for (size_t i = 0; i < n; i++)
        lisa__store(dst, dst_dtype, i, lisa__load(src, src_dtype, i));
}

static void *element_at(const lisa_typed *value, uint64_t i) {
    return (unsigned char *)value->data + i * lisa__dtype_size(value->dtype);
}

static uint64_t chunk_of(uint64_t begin, uint64_t end) {
    return end - begin < CHUNK ? end - begin : CHUNK;
}

void lisa__fill_end(struct lisa__fill *s) {
    lisa_backend *be = s->context->be;
    lisa__release(s->context, LISA_MEM_STAGING, s->a, LISA__FILL_BYTES);
    lisa__release(s->context, LISA_MEM_STAGING, s->b, LISA__FILL_BYTES);
    if (s->device != NULL)
        be->ops->release(be, s->device, LISA_MEM_STAGING, LISA__FILL_BYTES);
}

lisa_status lisa__fill_begin(struct lisa__fill *s, lisa_context *context, int on_device) {
    lisa_backend *be = context->be;
    lisa_status status;
    *s = (struct lisa__fill){.context = context};
    s->a = lisa__alloc(context, LISA_MEM_STAGING, LISA__FILL_BYTES, &status);
    if (status == LISA_OK && on_device)
        status = be->ops->alloc(be, &s->device, LISA_MEM_STAGING, LISA__FILL_BYTES);
    else if (status == LISA_OK)
        s->b = lisa__alloc(context, LISA_MEM_STAGING, LISA__FILL_BYTES, &status);
    if (status != LISA_OK)
        lisa__fill_end(s);
    return status;
}

lisa_status lisa__fill_from_file(lisa_model *model, uint32_t index, const struct lisa__fill *s) {
    struct lisa__tensor *t = &model->base.tensors[index];
    const uint64_t n = model->base.descs[index].n_elements;
    const size_t size = lisa__dtype_size(t->source->dtype);
    XXH3_state_t sum;
    XXH3_64bits_reset(&sum);
    for (uint64_t at = 0; at < n; at += CHUNK) {
        const uint64_t count = chunk_of(at, n);
        void *from = s->a;
        LISA_TRY(lisa__weights_read(model->files, t->source, at * size, from, count * size));
        XXH3_64bits_update(&sum, from, count * size);
        if (t->value.dtype != t->source->dtype) {
            convert(s->b, t->value.dtype, from, t->source->dtype, count);
            from = s->b;
        }
        LISA_TRY(model->be->ops->upload(model->be, element_at(&t->value, at), from,
                                        count * lisa__dtype_size(t->value.dtype)));
    }
    t->file_sum = XXH3_64bits_digest(&sum);
    t->is_summed = 1;
    return LISA_OK;
}

/* Elements 2 * pair and 2 * pair + 1 of a tensor. */
static void normal_pair(double out[2], uint64_t seed, uint64_t pair, uint32_t tensor) {
    uint32_t word[4];
    lisa__philox(seed, pair, tensor, word);
    const double scale = 1.0 / 9007199254740992.0; /* 2^-53 */
    const double u = ((double)((uint64_t)(word[0] >> 5) << 26 | word[1] >> 6) + 0.5) * scale;
    const double w = (double)((uint64_t)(word[2] >> 5) << 26 | word[3] >> 6) * scale;
    const double radius = sqrt(-2 * log(u));
    out[0] = radius * cos(6.283185307179586 * w);
    out[1] = radius * sin(6.283185307179586 * w);
}

static double constant_of(uint32_t role) {
    switch (role) {
    case LISA__ATTN_NORM_W:
    case LISA__MLP_NORM_W:
    case LISA__FINAL_NORM_W:
    case LISA__Q_NORM_W:
    case LISA__K_NORM_W:
        return 1;
    default:
        return 0;
    }
}

static void random_chunk(const lisa_model *model, uint32_t index, uint64_t seed, uint64_t at,
                         uint64_t count, double *out) {
    const struct lisa__tensor_desc *d = &model->base.descs[index];
    for (uint64_t i = 0; i < count; i++) {
        if (d->n_dims == 1) {
            out[i] = constant_of(d->role);
            continue;
        }
        double pair[2];
        normal_pair(pair, seed, (at + i) / 2, index);
        out[i] = model->config.init_std * pair[(at + i) % 2];
    }
}

lisa_status lisa__fill_random(lisa_model *model, uint32_t index, uint64_t seed,
                              const struct lisa__fill *s) {
    const struct lisa__tensor *t = &model->base.tensors[index];
    const uint64_t n = model->base.descs[index].n_elements;
    for (uint64_t at = 0; at < n; at += CHUNK) {
        const uint64_t count = chunk_of(at, n);
        random_chunk(model, index, seed, at, count, s->a);
        /* Rounded to the file's type first, so that every backend starts from the same values. */
        convert(s->b, t->file_dtype, s->a, LISA_DTYPE_F64, count);
        convert(s->a, t->value.dtype, s->b, t->file_dtype, count);
        LISA_TRY(model->be->ops->upload(model->be, element_at(&t->value, at), s->a,
                                        count * lisa__dtype_size(t->value.dtype)));
    }
    return LISA_OK;
}

lisa_status lisa__typed_get_staged(lisa_model *model, const lisa_typed *value, uint64_t at,
                                   uint64_t count, void *out, uint32_t dtype, void *staging) {
    void *to = dtype == value->dtype ? out : staging;
    LISA_TRY(model->be->ops->download(model->be, to, element_at(value, at),
                                      count * lisa__dtype_size(value->dtype)));
    if (to != out)
        convert(out, dtype, staging, value->dtype, count);
    return LISA_OK;
}

lisa_status lisa__typed_get(lisa_model *model, const lisa_typed *value, uint64_t begin, uint64_t n,
                            void *out, uint32_t dtype) {
    lisa_status status = LISA_OK;
    void *staging = lisa__alloc(model->context, LISA_MEM_STAGING, LISA__FILL_BYTES, &status);
    for (uint64_t done = 0; done < n && status == LISA_OK; done += CHUNK)
        status = lisa__typed_get_staged(model, value, begin + done, chunk_of(done, n),
                                        (unsigned char *)out + done * lisa__dtype_size(dtype),
                                        dtype, staging);
    lisa__release(model->context, LISA_MEM_STAGING, staging, LISA__FILL_BYTES);
    return status;
}

lisa_status lisa__tensor_get(lisa_model *model, uint32_t index, uint64_t begin, uint64_t n,
                             void *out, uint32_t dtype) {
    return lisa__typed_get(model, &model->base.tensors[index].value, begin, n, out, dtype);
}

lisa_status lisa__download_real(lisa_model *model, const void *from, uint64_t n, void *out,
                                uint32_t dtype) {
    const lisa_typed value = {(void *)(uintptr_t)from, model->be->ops->real_dtype};
    return lisa__typed_get(model, &value, 0, n, out, dtype);
}

static lisa_status upload_converted(lisa_model *model, const lisa_typed *value, uint64_t at,
                                    uint64_t count, const void *data, uint32_t dtype,
                                    void *staging) {
    convert(staging, value->dtype, data, dtype, count);
    return model->be->ops->upload(model->be, element_at(value, at), staging,
                                  count * lisa__dtype_size(value->dtype));
}

/* Split on the device, and copied from there: weights and low bits may lie in host memory. */
static lisa_status write_some_masters(lisa_model *model, const lisa_typed *weight, void *low,
                                      uint64_t count, const void *data, uint32_t dtype,
                                      const struct lisa__fill *s) {
    lisa_backend *be = model->be;
    float *values = s->device, *low_bits = values + MASTERS;
    const lisa_master op = {
        .what = LISA_MASTER_WRITE,
        .n = count,
        .weight = {low_bits + MASTERS, weight->dtype},
        .low = low_bits,
        .values = values,
    };
    convert(s->a, LISA_DTYPE_F32, data, dtype, count);
    LISA_TRY(be->ops->upload(be, values, s->a, count * sizeof(float)));
    LISA_TRY(be->ops->master(be, &op));
    LISA_TRY(be->ops->copy(be, low, op.low, count * lisa__low_size(weight->dtype)));
    return be->ops->copy(be, weight->data, op.weight.data, count * sizeof(uint16_t));
}

static lisa_status write_masters(lisa_model *model, const struct lisa__tensor *t, uint64_t at,
                                 void *low, uint64_t count, const void *data, uint32_t dtype,
                                 const struct lisa__fill *s) {
    for (uint64_t i = 0; i < count; i += MASTERS) {
        const lisa_typed weight = {element_at(&t->value, at + i), t->value.dtype};
        LISA_TRY(write_some_masters(
            model, &weight, (unsigned char *)low + i * lisa__low_size(weight.dtype),
            count - i < MASTERS ? count - i : MASTERS,
            (const unsigned char *)data + i * lisa__dtype_size(dtype), dtype, s));
    }
    return LISA_OK;
}

static lisa_status put_chunk(lisa_model *model, uint32_t index, uint64_t at, uint64_t count,
                             const void *data, uint32_t dtype, const struct lisa__fill *s) {
    const struct lisa__tensor *t = &model->base.tensors[index];
    if (t->low == NULL || t->rows != NULL)
        return upload_converted(model, &t->value, at, count, data, dtype, s->a);
    return write_masters(model, t, at,
                         (unsigned char *)t->low + at * lisa__low_size(t->value.dtype), count, data,
                         dtype, s);
}

/* Of the rows that train, after the weights themselves. */
static lisa_status put_row_masters(lisa_model *model, uint32_t index, const void *data,
                                   uint32_t dtype, const struct lisa__fill *s) {
    const struct lisa__tensor *t = &model->base.tensors[index];
    const uint64_t width = model->base.descs[index].shape[1];
    for (uint32_t slot = 0; slot < t->rows->n_used; slot++)
        for (uint64_t j = 0; j < width; j += CHUNK) {
            const uint64_t at = t->rows->row_of[slot] * width + j;
            LISA_TRY(write_masters(model, t, at,
                                   (unsigned char *)t->low + slot * t->rows->low_bytes +
                                       j * lisa__low_size(t->value.dtype),
                                   chunk_of(j, width),
                                   (const unsigned char *)data + at * lisa__dtype_size(dtype),
                                   dtype, s));
        }
    return LISA_OK;
}

/* Finite as given, and as it will be held and saved. */
static lisa_status check_finite(const char *name, uint32_t held_dtype, uint64_t n, const void *data,
                                uint32_t dtype) {
    for (uint64_t i = 0; i < n; i++) {
        double held;
        lisa__store(&held, held_dtype, 0, lisa__load(data, dtype, i));
        if (!isfinite(lisa__load(&held, held_dtype, 0)))
            return lisa__fail(LISA_E_NONFINITE, "tensor \"%s\": value %llu is not finite as %s",
                              name, (unsigned long long)i, lisa_dtype_name(held_dtype));
    }
    return LISA_OK;
}

lisa_status lisa__reserve_group(lisa_model *model, uint32_t group) {
    const uint32_t part = group == 0                        ? LISA__PART_EMBEDDING
                          : group <= model->config.n_layers ? LISA__PART_LAYERS
                                                            : LISA__PART_HEAD;
    /* Streamed layers are private to begin with. */
    if (part == LISA__PART_LAYERS && model->stream.is_on)
        return LISA_OK;
    return lisa__model_reserve(model, part);
}

/* What is under way between the host's memory and the device may be of what is written next. */
lisa_status lisa__wait_for_transfers(lisa_model *model) {
    for (uint32_t slot = 0; slot < LISA_TRANSFER_SLOTS; slot++)
        LISA_TRY(model->be->ops->transfer_wait(model->be, slot));
    return LISA_OK;
}

lisa_status lisa__make_writable(lisa_model *model, uint32_t group) {
    LISA_TRY(lisa__reserve_group(model, group));
    LISA_TRY(lisa__wait_for_transfers(model));
    if (!model->stream.is_on)
        return lisa__model_own_group(model, group);
    /* Streamed layers are written where they lie. */
    lisa__stream_forget(model);
    return group == 0 || group > model->config.n_layers ? lisa__model_own_group(model, group)
                                                        : LISA_OK;
}

static lisa_status put_all(lisa_model *model, uint32_t index, const void *data, uint32_t dtype,
                           const struct lisa__fill *s) {
    const struct lisa__tensor *t = &model->base.tensors[index];
    const uint64_t n = model->base.descs[index].n_elements;
    for (uint64_t at = 0; at < n; at += CHUNK)
        LISA_TRY(put_chunk(model, index, at, chunk_of(at, n),
                           (const unsigned char *)data + at * lisa__dtype_size(dtype), dtype, s));
    return t->rows == NULL || t->low == NULL ? LISA_OK
                                             : put_row_masters(model, index, data, dtype, s);
}

lisa_status lisa__tensor_put(lisa_model *model, uint32_t index, const void *data, uint32_t dtype) {
    const struct lisa__tensor_desc *d = &model->base.descs[index];
    struct lisa__fill s;
    LISA_TRY(lisa__model_check(model));
    LISA_TRY(check_finite(d->name, d->dtype, d->n_elements, data, dtype));
    LISA_TRY(lisa__fill_begin(&s, model->context, 1));
    lisa_status status = lisa__make_writable(model, d->group);
    if (status == LISA_OK) {
        model->base.tensors[index].changed = 1;
        status = lisa__change_begin(&model->base, "a write of a tensor");
        if (status == LISA_OK)
            status = lisa__change_end(&model->base, put_all(model, index, data, dtype, &s));
    }
    lisa__fill_end(&s);
    model->version++;
    return status;
}

static lisa_status upload_all(lisa_model *model, const lisa_typed *value, uint64_t begin,
                              uint64_t n, const void *data, uint32_t dtype, void *staging) {
    for (uint64_t at = 0; at < n; at += CHUNK)
        LISA_TRY(upload_converted(model, value, begin + at, chunk_of(at, n),
                                  (const unsigned char *)data + at * lisa__dtype_size(dtype), dtype,
                                  staging));
    return LISA_OK;
}

lisa_status lisa__values_put(lisa_model *model, struct lisa__parameters *p, uint32_t index,
                             uint64_t begin, uint64_t n, const void *data, uint32_t dtype) {
    const lisa_typed *value = &p->tensors[index].value;
    lisa_status status;
    LISA_TRY(check_finite(p->descs[index].name, value->dtype, n, data, dtype));
    void *staging = lisa__alloc(model->context, LISA_MEM_STAGING, LISA__FILL_BYTES, &status);
    if (staging == NULL)
        return status;
    status = lisa__change_begin(p, "a write of a tensor");
    if (status == LISA_OK)
        status = lisa__change_end(p, upload_all(model, value, begin, n, data, dtype, staging));
    lisa__release(model->context, LISA_MEM_STAGING, staging, LISA__FILL_BYTES);
    return status;
}

static void uniform_chunk(double *out, uint64_t at, uint64_t count, double bound, uint64_t seed,
                          uint64_t stream) {
    uint32_t words[4] = {0};
    for (uint64_t i = 0; i < count; i++) {
        if ((at + i) % 4 == 0)
            lisa__philox(seed, (at + i) / 4, stream, words);
        const double u = (words[(at + i) % 4] + 0.5) / 4294967296.0;
        out[i] = (float)(bound * (2 * u - 1));
    }
}

lisa_status lisa__fill_uniform(lisa_model *model, const lisa_typed *value, uint64_t n, double bound,
                               uint64_t seed, uint64_t stream) {
    struct lisa__fill s;
    LISA_TRY(lisa__fill_begin(&s, model->context, 0));
    lisa_status status = LISA_OK;
    for (uint64_t at = 0; at < n && status == LISA_OK; at += CHUNK) {
        const uint64_t count = chunk_of(at, n);
        uniform_chunk(s.a, at, count, bound, seed, stream);
        status = upload_converted(model, value, at, count, s.a, LISA_DTYPE_F64, s.b);
    }
    lisa__fill_end(&s);
    return status;
}

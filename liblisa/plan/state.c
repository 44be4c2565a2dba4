#include "plan/state.h"

#include "core/dtype.h"
#include "lisa/sys/backend.h"

#include <string.h>

static uint64_t round_up(uint64_t n, uint64_t to) {
    return (n + to - 1) / to * to;
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

struct lisa__state_shape lisa__state_shape_of(const struct lisa__tensor_desc *descs,
                                              uint32_t n_tensors, const lisa_model_config *config,
                                              const lisa_optimizer_options *options,
                                              const lisa_backend_ops *ops) {
    const uint32_t asked = options->max_active_layers;
    const uint32_t moments[LISA__PARTS] = {options->moments_embedding, options->moments_layers,
                                           options->moments_head};
    struct lisa__state_shape shape = {
        .tensors = descs,
        .n_tensors = n_tensors,
        .n_layers = config->n_layers,
        .max_active = asked == LISA_NO_LAYERS ? 0
                      : asked == 0            ? config->n_layers
                                              : asked,
        .policy = options->state_policy,
        .train_embedding = options->train_embedding,
        .train_head = options->train_head,
        .in_backward = options->update_in_backward,
        .embedding_rows = options->embedding_rows,
        .tied_head = config->tied_head,
        .streamed = options->state_policy == LISA_STATE_OFFLOAD &&
                    (ops->flags & LISA_BACKEND_HOST_MEMORY) == 0,
        .real_size = lisa__dtype_size(ops->real_dtype),
    };
    for (uint32_t p = 0; p < LISA__PARTS; p++)
        shape.moments[p] = moments[p] == 0 ? LISA_MOMENTS_F32 : moments[p];
    return shape;
}

size_t lisa__low_size(uint32_t dtype) {
    return dtype == LISA_DTYPE_BF16 ? sizeof(int16_t) : dtype == LISA_DTYPE_F16 ? sizeof(float) : 0;
}

uint32_t lisa__part_of(const struct lisa__state_shape *s, uint32_t group) {
    return group == 0                 ? LISA__PART_EMBEDDING
           : group == s->n_layers + 1 ? LISA__PART_HEAD
                                      : LISA__PART_LAYERS;
}

uint64_t lisa__code_bytes(uint64_t n) {
    return round_up(n, LISA__ALIGN);
}

static size_t element_bytes(const struct lisa__state_shape *s, uint32_t moments) {
    return moments == LISA_MOMENTS_8BIT   ? sizeof(uint8_t)
           : moments == LISA_MOMENTS_BF16 ? sizeof(uint16_t)
                                          : s->real_size;
}

uint32_t lisa__moments_of(const struct lisa__state_shape *s, uint32_t index) {
    return s->moments[lisa__part_of(s, s->tensors[index].group)];
}

size_t lisa__moment_size(const struct lisa__state_shape *s, uint32_t index) {
    return element_bytes(s, lisa__moments_of(s, index));
}

/* Of one moment of n elements, to a multiple of 64. */
static uint64_t moment_bytes(const struct lisa__state_shape *s, uint32_t moments, uint64_t n) {
    const uint64_t n_blocks = round_up(n, LISA_MOMENTS_BLOCK) / LISA_MOMENTS_BLOCK;
    if (moments == LISA_MOMENTS_8BIT)
        return lisa__code_bytes(n) + round_up(n_blocks * sizeof(float), LISA__ALIGN);
    return round_up(n * element_bytes(s, moments), LISA__ALIGN);
}

static int is_sparse(const struct lisa__state_shape *s, const struct lisa__tensor_desc *t) {
    return s->embedding_rows != 0 && t->role == LISA__EMBED_W;
}

int lisa__is_sparse(const struct lisa__state_shape *s, uint32_t index) {
    return is_sparse(s, &s->tensors[index]);
}

int lisa__is_state_streamed(const struct lisa__state_shape *s, uint32_t group) {
    return s->streamed && !(group == 0 && s->embedding_rows != 0);
}

int lisa__is_kept(const struct lisa__state_shape *s) {
    return s->policy == LISA_STATE_KEEP || s->streamed;
}

static int trains(const struct lisa__state_shape *s, uint32_t group) {
    const uint32_t part = lisa__part_of(s, group);
    return part == LISA__PART_EMBEDDING ? s->train_embedding != 0
           : part == LISA__PART_HEAD    ? s->train_head != 0
                                        : s->max_active != 0;
}

uint64_t lisa__trained_elements(const struct lisa__state_shape *s,
                                const struct lisa__tensor_desc *t) {
    return is_sparse(s, t) ? s->embedding_rows * t->shape[1] : t->n_elements;
}

/* Of n elements of a tensor whose state stands by itself. */
static struct lisa__extent extent_of(const struct lisa__state_shape *s,
                                     const struct lisa__tensor_desc *t, uint64_t n) {
    const uint32_t moments = s->moments[lisa__part_of(s, t->group)];
    return (struct lisa__extent){
        .elements = n,
        .moment = moment_bytes(s, moments, n),
        .low = round_up(n * lisa__low_size(t->dtype), LISA__ALIGN),
    };
}

struct lisa__extent lisa__row_extent(const struct lisa__state_shape *s,
                                     const struct lisa__tensor_desc *t) {
    return extent_of(s, t, t->shape[1]);
}

static void extend(struct lisa__extent *e, const struct lisa__state_shape *s,
                   const struct lisa__tensor_desc *t) {
    const uint64_t times = is_sparse(s, t) ? s->embedding_rows : 1;
    const struct lisa__extent one =
        is_sparse(s, t) ? lisa__row_extent(s, t) : extent_of(s, t, t->n_elements);
    /* 16 elements are 64 bytes of f32, and a multiple of 64 bytes of f64. */
    e->elements += round_up(times * one.elements, 16);
    e->moment += times * one.moment;
    e->low += times * one.low;
}

struct lisa__extent lisa__tensor_extent(const struct lisa__state_shape *s, uint32_t index,
                                        uint32_t rows_used) {
    const struct lisa__tensor_desc *t = &s->tensors[index];
    if (!is_sparse(s, t))
        return (struct lisa__extent){t->n_elements,
                                     moment_bytes(s, lisa__moments_of(s, index), t->n_elements),
                                     t->n_elements * lisa__low_size(t->dtype)};
    const struct lisa__extent row = lisa__row_extent(s, t);
    return (struct lisa__extent){rows_used * row.elements, rows_used * row.moment,
                                 rows_used * row.low};
}

struct lisa__extent lisa__tensor_place(const struct lisa__state_shape *s, uint32_t index) {
    struct lisa__extent e = {0, 0, 0};
    uint32_t i = index;
    while (i > 0 && s->tensors[i - 1].group == s->tensors[index].group)
        extend(&e, s, &s->tensors[--i]);
    return e;
}

static struct lisa__extent group_extent(const struct lisa__state_shape *s, uint32_t group) {
    struct lisa__extent e = {0, 0, 0};
    for (uint32_t i = 0; i < s->n_tensors; i++)
        if (s->tensors[i].group == group)
            extend(&e, s, &s->tensors[i]);
    return e;
}

static struct lisa__extent largest_layer(const struct lisa__state_shape *s) {
    struct lisa__extent largest = {0, 0, 0};
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct lisa__extent e = group_extent(s, 1 + l);
        largest.elements = e.elements > largest.elements ? e.elements : largest.elements;
        largest.moment = e.moment > largest.moment ? e.moment : largest.moment;
        largest.low = e.low > largest.low ? e.low : largest.low;
    }
    return largest;
}

static struct lisa__state take_state(struct lisa__layout *layout, const struct lisa__extent *e,
                                     uint64_t n, int away) {
    const uint32_t moments = away ? LISA_MEM_HOST : LISA_MEM_MOMENTS;
    struct lisa__state out;
    out.m = lisa__take(layout, moments, n, e->moment);
    out.v = lisa__take(layout, moments, n, e->moment);
    out.low = lisa__take(layout, away ? LISA_MEM_HOST : LISA_MEM_LOW_BITS, n, e->low);
    return out;
}

/* Large enough for copies at the speed of the bus, small beside a layer. */
#define WINDOW_ELEMENTS (UINT64_C(1) << 21)
_Static_assert(WINDOW_ELEMENTS % LISA_MOMENTS_BLOCK == 0, "a piece begins where a block does");

/* Of the largest piece of a tensor that may train. */
static struct lisa__extent window_extent(const struct lisa__state_shape *s) {
    struct lisa__extent most = {0, 0, 0};
    for (uint32_t i = 0; s->streamed && i < s->n_tensors; i++) {
        const struct lisa__tensor_desc *t = &s->tensors[i];
        if (!trains(s, t->group) || is_sparse(s, t))
            continue;
        const uint64_t n = t->n_elements < WINDOW_ELEMENTS ? t->n_elements : WINDOW_ELEMENTS;
        const struct lisa__extent e = extent_of(s, t, n);
        most.elements = larger(most.elements, round_up(n, LISA_MOMENTS_BLOCK));
        most.moment = larger(most.moment, e.moment);
        most.low = larger(most.low, e.low);
    }
    return most;
}

/* A tensor of a block that backward finishes together with the one before it: roles come in pairs.
 */
static int is_second(const struct lisa__state_shape *s, uint32_t index) {
    const struct lisa__tensor_desc *t = &s->tensors[index];
    return t->role % 2 == 1 && index > 0 && t[-1].group == t->group && t[-1].role == t->role - 1;
}

/* What the gradients of a tied embedding, which live from the head to the end, take. */
static uint64_t lasting_elements(const struct lisa__state_shape *s) {
    return s->tied_head && s->train_embedding ? group_extent(s, 0).elements : 0;
}

uint64_t lisa__shared_gradient_place(const struct lisa__state_shape *s, uint32_t index) {
    const uint32_t part = lisa__part_of(s, s->tensors[index].group);
    uint64_t place = LISA__GRADIENT_HEADER;
    if (part != LISA__PART_EMBEDDING)
        place += lasting_elements(s);
    if (part != LISA__PART_LAYERS)
        return place + lisa__tensor_place(s, index).elements;
    return is_second(s, index) ? place + round_up(s->tensors[index - 1].n_elements, 16) : place;
}

/* The most that one pair of a layer's tensors takes. */
static uint64_t pair_elements(const struct lisa__state_shape *s) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < s->n_tensors && s->max_active != 0; i++) {
        uint64_t pair = round_up(s->tensors[i].n_elements, 16);
        if (lisa__part_of(s, s->tensors[i].group) != LISA__PART_LAYERS)
            continue;
        if (is_second(s, i))
            pair += round_up(s->tensors[i - 1].n_elements, 16);
        most = larger(most, pair);
    }
    return most;
}

static uint64_t gradient_elements(const struct lisa__state_shape *s,
                                  const struct lisa__state_memory *memory) {
    const uint64_t embedding = memory->embedding.elements, head = memory->head.elements;
    if (!s->in_backward)
        return embedding + head + s->max_active * memory->layer.elements;
    const uint64_t in_turn = larger(head, pair_elements(s)), lasting = lasting_elements(s);
    return lasting != 0 ? lasting + in_turn : larger(embedding, in_turn);
}

void lisa__state_layout(struct lisa__layout *layout, struct lisa__state_memory *out,
                        const struct lisa__state_shape *s) {
    memset(out, 0, sizeof *out);
    const uint32_t n_slots = lisa__is_kept(s) && s->max_active != 0 ? s->n_layers : s->max_active;
    out->n_slots = n_slots;
    out->layer = largest_layer(s);
    if (s->train_embedding)
        out->embedding = group_extent(s, 0);
    if (s->train_head)
        out->head = group_extent(s, s->n_layers + 1);
    out->gradient_elements = LISA__GRADIENT_HEADER + gradient_elements(s, out);
    out->gradients = lisa__take(layout, LISA_MEM_GRADIENTS, out->gradient_elements, s->real_size);
    out->window = window_extent(s);
    out->slots = take_state(layout, &out->layer, n_slots, s->streamed);
    out->embedding_state = take_state(layout, &out->embedding, 1, lisa__is_state_streamed(s, 0));
    out->head_state = take_state(layout, &out->head, 1, s->streamed);
    out->windows = take_state(layout, &out->window, LISA__STATE_WINDOWS, 0);
    out->squares = lisa__take(layout, LISA_MEM_WORKSPACE, s->n_tensors, sizeof *out->squares);
    out->outcome = lisa__take(layout, LISA_MEM_WORKSPACE, 1, sizeof *out->outcome);
    out->posted = lisa__take(layout, LISA_MEM_HOST, 1, sizeof *out->posted);
}

static void *advance(void *base, uint64_t bytes) {
    return base == NULL ? NULL : (unsigned char *)base + bytes;
}

static struct lisa__state state_at(struct lisa__state first, const struct lisa__extent *extent,
                                   uint32_t i) {
    return (struct lisa__state){
        .m = advance(first.m, i * extent->moment),
        .v = advance(first.v, i * extent->moment),
        .low = advance(first.low, i * extent->low),
    };
}

struct lisa__state lisa__slot_at(const struct lisa__state_memory *memory, uint32_t i) {
    return state_at(memory->slots, &memory->layer, i);
}

struct lisa__state lisa__window_at(const struct lisa__state_memory *memory, uint32_t i) {
    return state_at(memory->windows, &memory->window, i);
}

uint64_t lisa__slot_bytes(const struct lisa__extent *extent) {
    return 2 * extent->moment + extent->low;
}

uint64_t lisa__offload_bytes(const struct lisa__state_shape *s) {
    if (s->policy != LISA_STATE_OFFLOAD || s->streamed || s->max_active == 0)
        return 0;
    const struct lisa__extent layer = largest_layer(s);
    return s->n_layers * lisa__slot_bytes(&layer);
}

void lisa__homes_layout(struct lisa__layout *layout, void **homes,
                        const struct lisa__tensor_desc *tensors, uint32_t n_tensors, uint32_t first,
                        uint32_t last) {
    for (uint32_t i = 0; i < n_tensors; i++)
        if (tensors[i].mapped && tensors[i].group >= first && tensors[i].group <= last) {
            void *home = lisa__take(layout, LISA_MEM_WEIGHTS_PRIVATE, tensors[i].n_elements,
                                    lisa__dtype_size(tensors[i].dtype));
            if (homes != NULL)
                homes[i] = home;
        }
}

uint32_t lisa__held_dtype(const lisa_backend_ops *ops, uint32_t file_dtype) {
    if (ops->real_dtype == LISA_DTYPE_F64)
        return LISA_DTYPE_F64;
    return file_dtype == LISA_DTYPE_F64 ? LISA_DTYPE_F32 : file_dtype;
}

uint64_t lisa__streamed_bytes(const struct lisa__tensor_desc *d) {
    return round_up(d->n_elements * lisa__dtype_size(d->dtype), LISA__ALIGN);
}

uint64_t lisa__stream_layout(struct lisa__layout *layout, const struct lisa__tensor_desc *tensors,
                             uint32_t n_tensors, uint32_t n_layers, void **host, void **buffers) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_tensors; i++)
        bytes += tensors[i].group == 1 ? lisa__streamed_bytes(&tensors[i]) : 0;
    *host = lisa__take(layout, LISA_MEM_HOST, n_layers, bytes);
    *buffers = lisa__take(layout, LISA_MEM_WEIGHTS_PRIVATE, LISA__STREAM_BUFFERS, bytes);
    return bytes;
}

int lisa__is_streamed(const lisa_model_options *options, const lisa_backend_ops *ops,
                      const struct lisa__tensor_desc *tensors, uint32_t n_tensors, uint64_t limit) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_tensors; i++)
        bytes += lisa__streamed_bytes(&tensors[i]);
    if (options->weights != LISA_WEIGHTS_AUTO)
        return options->weights == LISA_WEIGHTS_STREAMED;
    return limit != 0 && bytes > limit / 2 && (ops->flags & LISA_BACKEND_HOST_MEMORY) == 0;
}

double *lisa__take_number(struct lisa__layout *layout) {
    return lisa__take(layout, LISA_MEM_WORKSPACE, 1, sizeof(double));
}

struct lisa__kinds lisa__kinds_of(const lisa_backend_ops *ops, uint32_t held_dtype) {
    const int typed = (ops->flags & LISA_BACKEND_TYPED_OPERANDS) != 0;
    return (struct lisa__kinds){ops->real_dtype, typed ? held_dtype : ops->real_dtype};
}

void lisa__part_groups(const lisa_model_config *config, uint32_t part, uint32_t *first,
                       uint32_t *last) {
    const uint32_t head = config->n_layers + 1;
    *first = part == LISA__PART_EMBEDDING ? 0 : part == LISA__PART_LAYERS ? 1 : head;
    *last = part == LISA__PART_EMBEDDING ? 0 : part == LISA__PART_LAYERS ? head - 1 : head;
}

#include "data/rows.h"

#include <math.h>
#include <string.h>

/* Arrays of max_batch * max_tokens elements in one piece of memory. */
enum { N_ARRAYS = 8 };

static size_t capacity(const struct lisa__rows *r) {
    return (size_t)r->max_batch * r->max_tokens;
}

lisa_status lisa__rows_create(struct lisa__rows *r, lisa_context *context, uint32_t max_batch,
                              uint32_t max_tokens, uint32_t vocab_size) {
    memset(r, 0, sizeof *r);
    r->max_batch = max_batch;
    r->max_tokens = max_tokens;
    r->vocab_size = vocab_size;
    const size_t n = capacity(r);
    lisa_status status;
    int32_t *at = lisa__alloc(context, LISA_MEM_HANDLES, n * N_ARRAYS * sizeof *at, &status);
    if (at == NULL)
        return status;
    r->memory = at;
    r->token = at;
    r->label = at + n;
    r->document = at + 2 * n;
    r->position = at + 3 * n;
    r->index = at + 4 * n;
    r->target = at + 5 * n;
    r->label_weight = (float *)(void *)(at + 6 * n);
    r->weight = (float *)(void *)(at + 7 * n);
    return LISA_OK;
}

void lisa__rows_destroy(struct lisa__rows *r, lisa_context *context) {
    lisa__release(context, LISA_MEM_HANDLES, r->memory, capacity(r) * N_ARRAYS * sizeof(int32_t));
    memset(r, 0, sizeof *r);
}

static lisa_status check_ids(const struct lisa__rows *r, const int32_t *ids, size_t n,
                             const char *what, int may_ignore) {
    for (size_t i = 0; i < n; i++) {
        const int ignored = may_ignore && ids[i] == LISA_IGNORE_LABEL;
        if (!ignored && (ids[i] < 0 || (uint32_t)ids[i] >= r->vocab_size))
            return lisa__fail(LISA_E_INVAL, "batch: %s[%zu] is %d, expected 0 to %u%s", what, i,
                              ids[i], r->vocab_size - 1, may_ignore ? " or -100" : "");
    }
    return LISA_OK;
}

static int same_document(const struct lisa__rows *r, size_t i, size_t k) {
    return !r->has_documents || r->document[i] == r->document[k];
}

/* Position t is scored on the next label of its own document. */
static void score_row(struct lisa__rows *r, size_t row, uint32_t t) {
    const size_t i = row + t;
    if (t + 1 == r->tokens || r->label[i + 1] == LISA_IGNORE_LABEL || !same_document(r, i, i + 1) ||
        r->label_weight[i + 1] == 0)
        return;
    r->index[r->n_scored] = (int32_t)i;
    r->target[r->n_scored] = r->label[i + 1];
    r->weight[r->n_scored] = r->label_weight[i + 1];
    r->weight_sum += r->label_weight[i + 1];
    r->n_scored++;
}

static void rebuild(struct lisa__rows *r) {
    r->n_scored = 0;
    r->weight_sum = 0;
    for (uint32_t b = 0; b < r->batch; b++) {
        const size_t row = (size_t)b * r->tokens;
        for (uint32_t t = 0; t < r->tokens; t++) {
            const size_t i = row + t;
            const int starts = t == 0 || !same_document(r, i - 1, i);
            r->position[i] = starts ? 0 : r->position[i - 1] + 1;
            score_row(r, row, t);
        }
    }
}

lisa_status lisa__rows_set(struct lisa__rows *r, const int32_t *tokens, const int32_t *targets,
                           uint32_t n_batch, uint32_t n_tokens) {
    if (tokens == NULL)
        return lisa__fail(LISA_E_INVAL, "batch: tokens is NULL, expected [B,T] token ids");
    if (n_batch == 0 || n_batch > r->max_batch || n_tokens == 0 || n_tokens > r->max_tokens)
        return lisa__fail(LISA_E_INVAL, "batch: %u x %u tokens, expected 1 x 1 to %u x %u", n_batch,
                          n_tokens, r->max_batch, r->max_tokens);
    const size_t n = (size_t)n_batch * n_tokens;
    LISA_TRY(check_ids(r, tokens, n, "tokens", 0));
    if (targets != NULL)
        LISA_TRY(check_ids(r, targets, n, "targets", 1));
    r->batch = n_batch;
    r->tokens = n_tokens;
    r->has_documents = 0;
    memcpy(r->token, tokens, n * sizeof *tokens);
    memcpy(r->label, targets != NULL ? targets : tokens, n * sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        r->label_weight[i] = 1;
    rebuild(r);
    return LISA_OK;
}

static lisa_status check_set(const struct lisa__rows *r, const char *what) {
    if (r->batch == 0)
        return lisa__fail(LISA_E_STATE, "batch: %s come after lisa_batch_set", what);
    return LISA_OK;
}

static void sift_down(uint64_t *keys, size_t at, size_t n) {
    const uint64_t moving = keys[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && keys[child + 1] > keys[child])
            child++;
        if (keys[child] <= moving)
            break;
        keys[at] = keys[child];
    }
    keys[at] = moving;
}

static void sort(uint64_t *keys, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(keys, i, n);
    for (size_t last = n; last-- > 1;) {
        const uint64_t most = keys[0];
        keys[0] = keys[last];
        keys[last] = most;
        sift_down(keys, 0, last);
    }
}

/* Where in a row a document is that was left before; n where none is. `runs` is scratch of n. */
static uint32_t first_return(const int32_t *row, uint32_t n, uint64_t *runs) {
    size_t n_runs = 0;
    uint32_t found = n;
    for (uint32_t t = 0; t < n; t++)
        if (t == 0 || row[t] != row[t - 1])
            runs[n_runs++] = (uint64_t)(uint32_t)row[t] << 32 | t;
    sort(runs, n_runs);
    for (size_t i = 1; i < n_runs; i++)
        if (runs[i] >> 32 == runs[i - 1] >> 32 && (uint32_t)runs[i] < found)
            found = (uint32_t)runs[i];
    return found;
}

/* A document is contiguous: an id that returns after another would restart its positions, and be
 * seen from before the gap. Leaves index and target, which lie together, to be rebuilt. */
static lisa_status check_documents(const struct lisa__rows *r, const int32_t *documents) {
    uint64_t *runs = (uint64_t *)(void *)r->index;
    for (uint32_t b = 0; b < r->batch; b++) {
        const int32_t *row = documents + (size_t)b * r->tokens;
        const uint32_t t = first_return(row, r->tokens, runs);
        if (t < r->tokens)
            return lisa__fail(LISA_E_INVAL,
                              "batch: document %d of row %u returns at token %u, expected "
                              "contiguous documents",
                              row[t], b, t);
    }
    return LISA_OK;
}

lisa_status lisa__rows_set_documents(struct lisa__rows *r, const int32_t *documents) {
    LISA_TRY(check_set(r, "documents"));
    const lisa_status status = documents != NULL ? check_documents(r, documents) : LISA_OK;
    if (status == LISA_OK) {
        r->has_documents = documents != NULL;
        if (documents != NULL)
            memcpy(r->document, documents, (size_t)r->batch * r->tokens * sizeof *documents);
    }
    rebuild(r);
    return status;
}

lisa_status lisa__rows_set_weights(struct lisa__rows *r, const float *weights) {
    LISA_TRY(check_set(r, "weights"));
    const size_t n = (size_t)r->batch * r->tokens;
    for (size_t i = 0; weights != NULL && i < n; i++)
        if (!isfinite(weights[i]) || weights[i] < 0)
            return lisa__fail(LISA_E_INVAL, "batch: weights[%zu] is %g, expected finite and >= 0",
                              i, (double)weights[i]);
    for (size_t i = 0; i < n; i++)
        r->label_weight[i] = weights != NULL ? weights[i] : 1;
    rebuild(r);
    return LISA_OK;
}

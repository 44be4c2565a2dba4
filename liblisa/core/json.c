#include "core/json.h"

#include "core/io.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

void *(*lisa__json_allocate)(size_t bytes) = malloc;

static _Thread_local int lacked_memory;

void *lisa__json_malloc(size_t bytes) {
    void *ptr = lisa__json_allocate(bytes);
    lacked_memory |= ptr == NULL;
    return ptr;
}

static json_t *parse(const char *text, size_t n, size_t flags, json_error_t *error) {
    *error = (json_error_t){.text = ""};
    lacked_memory = 0;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, error);
    if (!lacked_memory)
        return value;
    json_decref(value);
    *error = (json_error_t){.text = ""};
    return NULL;
}

/* jansson says "out of memory" in several ways, one of which is to say nothing. */
static lisa_status parse_failure(const json_error_t *error, const char *file, uint64_t at) {
    if (json_error_code(error) == json_error_out_of_memory || error->text[0] == '\0')
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", file);
    return lisa__fail(LISA_E_FORMAT, "%s: JSON, byte %llu: %s", file,
                      (unsigned long long)(at + (uint64_t)error->position), error->text);
}

lisa_status lisa__json_parse(json_t **out, const char *text, uint64_t n, const char *file) {
    json_error_t error;
    *out = parse(text, (size_t)n, 0, &error);
    return *out == NULL ? parse_failure(&error, file, 0) : LISA_OK;
}

lisa_status lisa__json_load(json_t **out, const char *path, uint64_t max_bytes) {
    char *text;
    uint64_t n;
    *out = NULL;
    LISA_TRY(lisa__io_slurp(&text, &n, path, max_bytes));
    const lisa_status status = lisa__json_parse(out, text, n, path);
    free(text);
    return status;
}

static char *dump_exactly(const json_t *json) {
    for (int digits = 15;; digits++) {
        char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *again = text == NULL ? NULL : json_loads(text, 0, NULL);
        const int equal = again != NULL && json_equal(json, again);
        json_decref(again);
        if (equal || digits == 17)
            return text;
        free(text);
    }
}

lisa_status lisa__json_dump(char **out, uint64_t *n, const json_t *json, const char *file) {
    char *text = dump_exactly(json);
    if (text == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", file);
    *n = strlen(text) + 1;
    text[*n - 1] = '\n'; /* in the place of the NUL */
    *out = text;
    return LISA_OK;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The next character that is no white space, without taking it; NUL at the end. */
static char peek(struct lisa__json_walk *walk) {
    while (walk->at < walk->end && is_space(walk->text[walk->at]))
        walk->at++;
    return walk->at < walk->end ? walk->text[walk->at] : '\0';
}

static lisa_status expect(struct lisa__json_walk *walk, char wanted) {
    if (peek(walk) != wanted)
        return lisa__fail(LISA_E_FORMAT, "%s: JSON, byte %llu: '%c' expected", walk->file,
                          (unsigned long long)walk->at, wanted);
    walk->at++;
    return LISA_OK;
}

/* Parses one value out of the next max_bytes bytes. */
static lisa_status take_value(struct lisa__json_walk *walk, uint64_t max_bytes, json_t **value) {
    json_error_t error;
    const uint64_t left = walk->end - walk->at;
    const uint64_t window = left < max_bytes ? left : max_bytes;
    *value = parse(walk->text + walk->at, (size_t)window, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK,
                   &error);
    if (*value == NULL && window < left &&
        json_error_code(&error) == json_error_premature_end_of_input)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: JSON, byte %llu: a value of at most %llu bytes expected", walk->file,
                          (unsigned long long)walk->at, (unsigned long long)max_bytes);
    if (*value == NULL)
        return parse_failure(&error, walk->file, walk->at);
    walk->at += (uint64_t)error.position;
    return LISA_OK;
}

/* A string and its NUL are shorter than its text, so they fit in the text's own place. */
static lisa_status take_string(struct lisa__json_walk *walk, const char **out) {
    if (peek(walk) != '"')
        return lisa__fail(LISA_E_FORMAT, "%s: JSON, byte %llu: a string expected", walk->file,
                          (unsigned long long)walk->at);
    char *place = walk->text + walk->at;
    json_t *value;
    LISA_TRY(take_value(walk, UINT64_MAX, &value));
    const size_t length = json_string_length(value);
    memcpy(place, json_string_value(value), length);
    place[length] = '\0';
    json_decref(value);
    *out = place;
    return LISA_OK;
}

lisa_status lisa__json_enter(struct lisa__json_walk *walk) {
    walk->n_members = 0;
    return expect(walk, '{');
}

lisa_status lisa__json_next(struct lisa__json_walk *walk, const char **key) {
    *key = NULL;
    if (peek(walk) == '}') {
        walk->at++;
        return LISA_OK;
    }
    if (walk->n_members++ > 0)
        LISA_TRY(expect(walk, ','));
    LISA_TRY(take_string(walk, key));
    return expect(walk, ':');
}

lisa_status lisa__json_text(struct lisa__json_walk *walk, const char *key, const char **value) {
    if (peek(walk) != '"')
        return lisa__fail(LISA_E_FORMAT, "%s: \"%.200s\": a string expected", walk->file, key);
    return take_string(walk, value);
}

lisa_status lisa__json_value(struct lisa__json_walk *walk, const char *key, uint64_t max_bytes,
                             json_t **value) {
    if (peek(walk) == '\0')
        return lisa__fail(LISA_E_FORMAT, "%s: \"%.200s\": a value expected", walk->file, key);
    return take_value(walk, max_bytes, value);
}

lisa_status lisa__json_finish(struct lisa__json_walk *walk) {
    if (peek(walk) != '\0' || walk->at < walk->end)
        return lisa__fail(LISA_E_FORMAT, "%s: JSON, byte %llu: the end expected", walk->file,
                          (unsigned long long)walk->at);
    return LISA_OK;
}

/* NULL when the key is absent or null. */
static const json_t *lookup(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

int lisa__json_has(const json_t *object, const char *key) {
    return lookup(object, key) != NULL;
}

lisa_status lisa__json_require(struct lisa__json_source source, const char *key) {
    if (!lisa__json_has(source.object, key))
        return lisa__fail(LISA_E_FORMAT, "%s: key \"%s%s\" is missing", source.file, source.prefix,
                          key);
    return LISA_OK;
}

/* What a value is, for texts: itself where it is short. */
static void describe(char *out, size_t size, const json_t *value) {
    static const char *const types[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    if (json_is_integer(value))
        snprintf(out, size, "%lld", (long long)json_integer_value(value));
    else if (json_is_string(value))
        snprintf(out, size, "\"%.40s\"", json_string_value(value));
    else
        snprintf(out, size, "%s", types[json_typeof(value)]);
}

static lisa_status unexpected(struct lisa__json_source source, const char *key, const json_t *value,
                              const char *wanted) {
    char what[64];
    describe(what, sizeof what, value);
    return lisa__fail(LISA_E_FORMAT, "%s: \"%s%s\" is %s, %s expected", source.file, source.prefix,
                      key, what, wanted);
}

lisa_status lisa__json_u32(struct lisa__json_source source, const char *key, uint32_t absent,
                           uint32_t low, uint32_t high, uint32_t *out) {
    const json_t *value = lookup(source.object, key);
    *out = absent;
    if (value == NULL)
        return LISA_OK;
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < (json_int_t)low || n > (json_int_t)high) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "an integer from %u to %u", low, high);
        return unexpected(source, key, value, wanted);
    }
    *out = (uint32_t)n;
    return LISA_OK;
}

lisa_status lisa__json_double(struct lisa__json_source source, const char *key, double absent,
                              double low, double high, double *out) {
    const json_t *value = lookup(source.object, key);
    *out = absent;
    if (value == NULL)
        return LISA_OK;
    const double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= low && x <= high)) {
        char wanted[96];
        if (high < DBL_MAX)
            snprintf(wanted, sizeof wanted, "a number from %g to %g", low, high);
        else
            snprintf(wanted, sizeof wanted, "a finite number of at least %g", low);
        return unexpected(source, key, value, wanted);
    }
    *out = x;
    return LISA_OK;
}

lisa_status lisa__json_bool(struct lisa__json_source source, const char *key, uint32_t absent,
                            uint32_t *out) {
    const json_t *value = lookup(source.object, key);
    *out = absent;
    if (value == NULL)
        return LISA_OK;
    if (!json_is_boolean(value))
        return unexpected(source, key, value, "true or false");
    *out = json_is_true(value) ? 1 : 0;
    return LISA_OK;
}

lisa_status lisa__json_string(struct lisa__json_source source, const char *key, const char *absent,
                              const char **out) {
    const json_t *value = lookup(source.object, key);
    *out = absent;
    if (value == NULL)
        return LISA_OK;
    if (!json_is_string(value))
        return unexpected(source, key, value, "a string");
    *out = json_string_value(value);
    return LISA_OK;
}

/* json.h - reading JSON that strangers wrote, in bounded memory. Texts name the file and the key.
 */
#ifndef LISA_CORE_JSON_H
#define LISA_CORE_JSON_H

#include "core/error.h"

#include <jansson.h>

/* What a private copy of jansson calls in malloc's place: jansson itself does not always tell a
 * lack of memory from a fault in the text, and may even drop a character. With a shared jansson
 * nobody calls it, and such a lack may be taken for LISA_E_FORMAT. */
void *lisa__json_malloc(size_t bytes);

/* malloc, unless a test has put its own there. */
extern void *(*lisa__json_allocate)(size_t bytes);

/* Parses a whole text; duplicate keys are refused. The caller gives *out up with json_decref. A
 * tree takes up to about 80 bytes per byte of text: the caller bounds n. */
lisa_status lisa__json_parse(json_t **out, const char *text, uint64_t n, const char *file);

/* Parses a whole file of at most max_bytes. */
lisa_status lisa__json_load(json_t **out, const char *path, uint64_t max_bytes);

/* The text of a tree with a line's end, n bytes without a NUL, in the fewest digits that give every
 * number back (1e-05 stays 1e-05); free() it. `file` is for texts. */
lisa_status lisa__json_dump(char **out, uint64_t *n, const json_t *json, const char *file);

/* A walk over one JSON object, member by member, in memory that does not grow with the object. */
struct lisa__json_walk {
    char *text;
    uint64_t at, end;
    const char *file;
    uint32_t n_members;
};

/* Steps behind the object's opening brace. */
lisa_status lisa__json_enter(struct lisa__json_walk *walk);

/* Reads the next member's key in place of its text (NUL-terminated, borrowed from the text) and
 * steps to its value; *key is NULL, and the walk stands behind the closing brace, at the end. */
lisa_status lisa__json_next(struct lisa__json_walk *walk, const char **key);

/* Reads a value that must be a string, likewise in place. */
lisa_status lisa__json_text(struct lisa__json_walk *walk, const char *key, const char **value);

/* Reads a value of any type whose text is at most max_bytes long. */
lisa_status lisa__json_value(struct lisa__json_walk *walk, const char *key, uint64_t max_bytes,
                             json_t **value);

/* Fails unless only white space is left. */
lisa_status lisa__json_finish(struct lisa__json_walk *walk);

/* Typed reading of an object's keys. An absent or null key gives `absent`; any value of another
 * type or out of [low, high] is LISA_E_FORMAT. `object` may be nested: `prefix` ("rope_scaling.")
 * is for texts. */
struct lisa__json_source {
    const json_t *object;
    const char *file;
    const char *prefix;
};

lisa_status lisa__json_u32(struct lisa__json_source source, const char *key, uint32_t absent,
                           uint32_t low, uint32_t high, uint32_t *out);
lisa_status lisa__json_double(struct lisa__json_source source, const char *key, double absent,
                              double low, double high, double *out);
lisa_status lisa__json_bool(struct lisa__json_source source, const char *key, uint32_t absent,
                            uint32_t *out);
/* Borrowed from the object. */
lisa_status lisa__json_string(struct lisa__json_source source, const char *key, const char *absent,
                              const char **out);

/* 1 when the key is there and not null. */
int lisa__json_has(const json_t *object, const char *key);

/* LISA_E_FORMAT when a key that has no default is absent. */
lisa_status lisa__json_require(struct lisa__json_source source, const char *key);

#endif

/* fixture.h - reads the tensors of tests/data/NAME. A missing file or tensor ends the test.
 *
 * Its own few lines on purpose: the library's reader is among the things under test. */
#ifndef LISA_TEST_FIXTURE_H
#define LISA_TEST_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

typedef struct fixture fixture;

/* The path of tests/data/NAME; a static buffer. */
const char *fixture_path(const char *name);

fixture *fixture_open(const char *name);
void fixture_close(fixture *f);

/* Elements of a tensor of that type, borrowed; *n (may be NULL) is their number. */
const double *fixture_f64(const fixture *f, const char *name, size_t *n);
const float *fixture_f32(const fixture *f, const char *name, size_t *n);
const int32_t *fixture_i32(const fixture *f, const char *name, size_t *n);
const uint8_t *fixture_u8(const fixture *f, const char *name, size_t *n);

/* Size of one dimension of a tensor. */
size_t fixture_dim(const fixture *f, const char *name, size_t dim);

/* How many tensors' names begin with `prefix`. */
size_t fixture_count(const fixture *f, const char *prefix);

#endif

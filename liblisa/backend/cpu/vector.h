/* vector.h - the inner loops over consecutive floats, compiled for several instruction sets.
 *
 * All sets compute the same bits, but for `product`: sums run in lanes whose number is fixed, and
 * no set fuses multiplication and addition. Bounds, for float arguments
 * (tests/numerics/test_cpu_vector.c): exp 3e-7 relative, and 0 below exp(-86); act and its slope
 * 5e-7 of the larger of 1 and |value|.
 */
#ifndef LISA_BACKEND_CPU_VECTOR_H
#define LISA_BACKEND_CPU_VECTOR_H

#include "backend/cpu/product.h"
#include "backend/moments.h"

/* The scalars of AdamW as floats; see the reference backend for their order of use. */
struct lisa__adamw_factors {
    float grad_scale, keep, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size, sqrt_correction2, eps;
};

/* What normalises a vector: mean is 0 for RMS. */
struct lisa__moments {
    float mean, rstd;
};

/* Words that are drawn at once. */
#define LISA_CPU_DRAWS LISA_MOMENTS_BLOCK

struct lisa__vector {
    const char *name;

    /* To and from float; to nearest even. narrow: BF16, F16 and F32. */
    void (*widen)(float *dst, const void *src, uint32_t dtype, size_t n);
    void (*narrow)(void *dst, uint32_t dtype, const float *src, size_t n);

    /* x . w, w of any type. */
    float (*dot)(const float *x, const void *w, uint32_t dtype, size_t n);
    void (*scale)(float *x, float factor, size_t n);
    void (*add)(float *y, const float *x, size_t n);
    /* (x_i, y_i) turned by the angle whose cosine and sine are (c_i, sign s_i). */
    void (*rotate)(float *x, float *y, const float *c, const float *s, float sign, size_t n);

    /* In double. */
    double (*sum)(const float *x, size_t n);
    double (*sum_squares)(const float *x, float mean, size_t n); /* of x - mean */
    void (*add_columns)(double *sums, const float *x, size_t n); /* sums += x */

    /* y = (x - mean) rstd w + b; b may be NULL. */
    void (*normalize)(float *y, const float *x, struct lisa__moments s, const float *w,
                      const float *b, size_t n);
    /* sums[0] += sum of dy w, sums[1] += sum of dy w (x - mean) rstd. */
    void (*norm_sums)(double sums[2], const float *dy, const float *x, struct lisa__moments s,
                      const float *w, size_t n);
    /* dx (+)= rstd (dy w - mean_g - xhat mean_gx). */
    void (*norm_input)(float *dx, const float *dy, const float *x, struct lisa__moments s,
                       const float *w, const float means[2], uint32_t accumulate, size_t n);
    /* dw += dy (x - mean) rstd and db += dy. */
    void (*norm_columns)(double *dw, double *db, const float *dy, const float *x,
                         struct lisa__moments s, size_t n);

    /* The largest; -Inf for none. NaNs are passed over. */
    float (*maximum)(const float *x, size_t n);
    /* The sum of exp(x - shift). */
    float (*sum_exp)(const float *x, float shift, size_t n);
    /* x = factor exp(x - shift). */
    void (*exponentiate)(float *x, float shift, float factor, size_t n);

    /* On the columns of a matrix of rows x n, n a multiple of 16 and every column by itself.
     * most: the larger of it and the column's largest. */
    void (*lane_maximum)(float *most, const float *x, size_t ldx, size_t rows, size_t n);
    /* x = exp(x - shift), and sums += them. */
    void (*lane_exp)(float *sums, float *x, size_t ldx, const float *shifts, size_t rows, size_t n);
    /* ds = p (ds - delta) factor. */
    void (*lane_slope)(float *ds, const float *p, size_t ld, const float *deltas, float factor,
                       size_t rows, size_t n);
    /* The one that may fuse, and so differ between sets. */
    void (*product)(const struct lisa__product *p);

    /* As lisa_activation; up and dup may be NULL. Outputs may be inputs. */
    void (*activate)(uint32_t kind, float *y, const float *gate, const float *up, size_t n);
    void (*activate_back)(uint32_t kind, float *dgate, float *dup, const float *gate,
                          const float *up, const float *dy, size_t n);

    /* In float throughout, to the same bits as the reference backend. */
    void (*adamw)(const struct lisa__adamw_factors *f, lisa_typed weight, void *low,
                  const float *gradient, float *m, float *v, size_t n);
    /* The words of Philox blocks from `block` on, as lisa__philox(seed, block, stream) has them. */
    void (*draws)(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[LISA_CPU_DRAWS]);
    /* One block of moments to float and back, as backend/moments.h says. */
    void (*kept_load)(uint32_t moments, struct lisa__kept kept, float *m, float *v, size_t n);
    void (*kept_store)(uint32_t moments, struct lisa__kept kept, const float *m, const float *v,
                       const uint32_t *draws, size_t n);
};

extern const struct lisa__vector lisa__vector_base;
extern const struct lisa__vector lisa__vector_avx2;
extern const struct lisa__vector lisa__vector_avx512;

/* The best one that this processor has. */
const struct lisa__vector *lisa__vector_choose(void);

#endif

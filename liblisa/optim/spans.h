/* spans.h - what an update does at once: a tensor, a row of a sparse embedding, or a piece of a
 * tensor whose state is streamed. */
#ifndef LISA_OPTIM_SPANS_H
#define LISA_OPTIM_SPANS_H

#include "optim/optimizer.h"

struct lisa__span {
    uint64_t n, first; /* elements, and those of the tensor before them */
    lisa_typed weight;
    void *low, *gradient;
    void *m, *v;
    float *m_scale, *v_scale; /* of 8-bit moments */
    uint64_t draw;            /* below the number of spans that draw apart */
};

/* Operations on one span, whose state is on the device. */
typedef lisa_status (*lisa__span_visitor)(const lisa_optimizer *o, uint32_t tensor,
                                          const struct lisa__span *span);

/* What a visitor does to a state. */
enum lisa__span_use { LISA__STATE_UPDATED, LISA__LOW_BITS_MADE };

/* Visits all that trains of a tensor. A streamed state comes to the device in pieces, each while
 * the one before it is visited, and goes back. */
lisa_status lisa__visit_spans(const lisa_optimizer *o, uint32_t tensor, enum lisa__span_use use,
                              lisa__span_visitor visit);

#endif

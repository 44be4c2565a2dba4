/* sampler.h - what a sampler was made of, for whoever stores it. */
#ifndef LISA_API_SAMPLER_H
#define LISA_API_SAMPLER_H

#include "lisa/sampler.h"

/* Borrowed, arrays included. */
const lisa_sampler_options *lisa__sampler_options(const lisa_sampler *sampler);

#endif

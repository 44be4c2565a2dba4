/* lisa.h - the whole public interface of liblisa: fine-tuning language models from inside any
 * program. docs/api.md is the guide.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_H
#define LISA_H

#include "adapter.h"
#include "batch.h"
#include "common.h"
#include "context.h"
#include "model.h"
#include "optimizer.h"
#include "plan.h"
#include "sampler.h"
#include "train.h"
#include "version.h"

#endif

#!/bin/bash
# Whole models whose weights and states are streamed, with streams in any order that is legal.
export HOSTDEVICE_STREAMS=random:7 CK_RUN_CASE=bits CK_TIMEOUT_MULTIPLIER=10
exec "$(dirname "$0")/../cuda/lane.sh" host test_models_cuda

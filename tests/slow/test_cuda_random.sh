#!/bin/bash
# The cuda backend with threads and blocks in any order, and streams in any that is legal.
export HOSTDEVICE_STREAMS=random:7 HOSTDEVICE_ORDER=shuffled:7 CK_TIMEOUT_MULTIPLIER=10
exec "$(dirname "$0")/../cuda/lane.sh" host test_conformance_cuda

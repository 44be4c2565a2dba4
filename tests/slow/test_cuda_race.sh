#!/bin/bash
# Every access of every kernel: races, bounds, and what a warp asks of memory at once.
export CK_TIMEOUT_MULTIPLIER=30
exec "$(dirname "$0")/../cuda/lane.sh" race test_conformance_cuda

#!/bin/bash
# The cuda backend's own code and kernels under ASan and UBSan, on the host device.
[ -e "${CUDA_ASAN_PRELOAD-}" ] || {
    echo "${CUDA_HOST_MISSING:-the address sanitizer of clang is not installed}"
    exit 77
}
export ASAN_OPTIONS=detect_leaks=0 CK_TIMEOUT_MULTIPLIER=10 LD_PRELOAD=$CUDA_ASAN_PRELOAD
exec "$(dirname "$0")/../cuda/lane.sh" asan test_conformance_cuda

#!/bin/bash
# Runs a test of tests/cuda on a module of the cuda backend; skipped where it was not built.
# Usage: lane.sh LANE TEST   (a folder of $BUILD/cuda, a program of $BUILD/tests/cuda)
set -u
module=$BUILD/cuda/$1
[ -e "$module/liblisa-cuda.so" ] || {
    echo "${CUDA_HOST_MISSING:-$module/liblisa-cuda.so was not built}"
    exit 77
}
LISA_BACKEND_PATH=$module exec "$BUILD/tests/cuda/$2"

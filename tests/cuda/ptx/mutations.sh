#!/bin/bash
# Planted changes of the backend's PTX, each of which the conformance suite must see.
cd "$(dirname "$0")/../../.." || exit 1
BUILD=${BUILD:-$PWD/build/release}
ptx=$BUILD/cuda/ptx
[ -e "$ptx/libhostptx.so" ] || { echo "${PTX_MISSING:-$ptx/libhostptx.so was not built}"; exit 77; }
exec "${PYTHON:-python3}" tests/cuda/ptx/mutate.py --build "$BUILD"

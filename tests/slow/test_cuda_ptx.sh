#!/bin/bash
# The conformance suite on the PTX that nvcc emits, and which kernels it reaches. CK_RUN_CASE, as
# Check has it, runs a part. The kernels that nothing ran are listed, and no failure.
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-$PWD/build/release}
ptx=$BUILD/cuda/ptx
[ -e "$ptx/libhostptx.so" ] || { echo "${PTX_MISSING:-$ptx/libhostptx.so was not built}"; exit 77; }

counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
export CK_TIMEOUT_MULTIPLIER=${CK_TIMEOUT_MULTIPLIER:-20}
env LISA_BACKEND_PATH="$BUILD/cuda/host" LD_LIBRARY_PATH="$BUILD/cuda/host" \
    LD_PRELOAD="$ptx/libhostptx.so" PTX_DIRECTORY="$ptx" PTX_COUNTS="$counts" \
    "$BUILD/tests/cuda/test_conformance_cuda"
status=$?

awk '{ n += $2 / 1e6; s += $3 }
    END { if (s) printf "%.0f million instructions, %.0f million a second\n", n, n / s }' "$counts"
cat "$ptx"/*.ptx | sed -n 's/^.*\.entry \([^(]*\)(.*/\1/p' | sort -u |
    comm -23 - <(cut -d' ' -f4 "$counts" | sort -u) | sed 's/^/not run: /'
exit $status

#!/bin/bash
# The interpreter knows every instruction of the backend's PTX.
BUILD=${BUILD:-$(cd "$(dirname "$0")/../.." && pwd)/build/release}
ptx=$BUILD/cuda/ptx
[ -e "$ptx/test_ptx" ] || { echo "${PTX_MISSING:-$ptx/test_ptx was not built}"; exit 77; }
exec "$ptx/test_ptx" "$ptx"/*.ptx

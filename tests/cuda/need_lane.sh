# need_lane.sh - sourced by the shell tests of tests/cuda.
#   need_lane LANE   the cuda backend is that lane's module (a folder of $BUILD/cuda); ends the
#                    script as skipped where it was not built

need_lane() {
    export LISA_BACKEND_PATH=$BUILD/cuda/$1
    [ -e "$LISA_BACKEND_PATH/liblisa-cuda.so" ] && return
    echo "${CUDA_HOST_MISSING:-$LISA_BACKEND_PATH/liblisa-cuda.so was not built}"
    exit 77
}

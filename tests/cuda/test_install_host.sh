#!/bin/bash
# An installed liblisa finds the module that was installed with it, and uninstall leaves none. The
# module is the host device's, as no nvcc is needed to install what is there.
. "$(dirname "$0")/../support/shell.sh"
. "$(dirname "$0")/need_lane.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "a sanitizer's library is not installed" ;; esac
need_lane host
host=$LISA_BACKEND_PATH
unset LISA_BACKEND_PATH

stage=$work/stage
prefix=/opt/lisa
lib=$stage$prefix/lib
make_it() {
    MAKEFLAGS='' ${MAKE:-make} --no-print-directory VARIANT="${VARIANT:-release}" CC="$CC" \
        CXX="$CXX" BLAS="${BLAS:-private}" SYSTEM_LIBS="${SYSTEM_LIBS:-0}" DESTDIR="$stage" \
        PREFIX=$prefix NVCC=no-such-nvcc cuda_module="$work/module/liblisa-cuda.so" \
        cuda_sources= "$@"
}
train() {
    "$work/finetune" --backend cuda --steps 1 --tokens 16 tests/data/llama-untied "$work/tokens" \
        "$work/out"
}
no_backend() {
    ! train 2>"$work/said" && grep -q "LISA_E_BACKEND.*$lib/lisa" "$work/said" &&
        [ "$(wc -l <"$work/said")" = 1 ]
}
left() { find "$stage" ! -type d | grep .; }

# Without a module none is installed, and there is no lisa/ beside the library.
check "make install without a module" make_it install
check "no directory for one" test ! -e "$lib/lisa"
check "a program is built against it" "$CC" examples/finetune.c -o "$work/finetune" \
    -I"$stage$prefix/include" -L"$lib" -llisa -Wl,-rpath,"$lib" -lm
head -c 64 /dev/zero >"$work/tokens"
check "and is told where a module was looked for" no_backend

mkdir "$work/module"
cp "$host/liblisa-cuda.so" "$work/module"
check "make install with a module" make_it install
same "it is in LIBDIR/lisa" "$host/liblisa-cuda.so" "$lib/lisa/liblisa-cuda.so"
# The device and its cuBLAS, which a GPU's driver stands for elsewhere.
cp "$host/libhostdevice.so" "$host/libcublas.so.13" "$lib/lisa"
check "the program finds it without LISA_BACKEND_PATH" train
rm "$lib/lisa/libhostdevice.so" "$lib/lisa/libcublas.so.13"

check "make uninstall" make_it uninstall
check "uninstall leaves no file" test -z "$(left)"
check "nor a directory of its own" test ! -e "$lib/lisa"

# Apart from the library, and where distributions put libraries.
check "make install-cuda" make_it install-cuda LIBDIR=$prefix/lib/x86_64
check "installs the module alone" test "$(left)" = "$lib/x86_64/lisa/liblisa-cuda.so"
check "make uninstall-cuda" make_it uninstall-cuda LIBDIR=$prefix/lib/x86_64
check "uninstall-cuda leaves no file" test -z "$(left)"
check "nor its directory" test ! -e "$lib/x86_64/lisa"
finish

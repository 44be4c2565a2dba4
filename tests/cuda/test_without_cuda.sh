#!/bin/bash
# A machine without CUDA's headers, clang or nvcc: make selects nothing of CUDA, every lane says why
# it is skipped, and `make cuda` says what it lacks.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
unset LISA_BACKEND_PATH

make_it() {
    MAKEFLAGS='' ${MAKE:-make} --no-print-directory VARIANT="${VARIANT:-release}" CC="$CC" \
        CXX="$CXX" BLAS="${BLAS:-private}" SYSTEM_LIBS="${SYSTEM_LIBS:-0}" "$@"
}
# What make would do if nothing were built.
dry() { make_it -n -B "$@" >"$work/dry" 2>"$work/warnings"; }
of_cuda() { grep -E 'backend/cuda/|/cuda/(host|asan|race|ptx)/' "$work/dry"; }
selects_nothing() { dry "$@" && [ ! -s "$work/warnings" ] && ! of_cuda; }
said() { sed -n "s/.*$1='\\([^']*\\)'.*/\\1/p" "$work/dry"; }

scripts=(tests/cuda/test_*_host.sh tests/slow/test_cuda_*.sh)
# As make would run them here: each is skipped, with a reason that has the given words in it.
skipped() { # words for the host's lanes, words for those of nvcc
    BUILD=$work/build CUDA_HOST_MISSING=$(said CUDA_HOST_MISSING) NVCC=no-such-nvcc \
        CUDA_ASAN_PRELOAD=$(said CUDA_ASAN_PRELOAD) PTX_MISSING=$(said PTX_MISSING) \
        tests/run.sh "${scripts[@]}" >"$work/run"
    grep -E '(ptx|static)[a-z_]*\.sh ' "$work/run" | grep -vF "skipped: $2" && return 1
    grep -vE '(ptx|static)[a-z_]*\.sh ' "$work/run" | grep '\.sh ' | grep -vF "skipped: $1" && return 1
    [ "$(grep -c 'skipped: ' "$work/run")" = ${#scripts[@]} ]
}

for lack in CUDA_HOME=/nonexistent CXX_HOST=no-such-clang; do
    case $lack in
    CUDA_HOME=*) why='the headers of CUDA are not in /nonexistent/include' ;;
    *) why='no-such-clang is not installed' ;;
    esac
    for target in all check-now check-slow-now; do
        check "$lack: $target selects nothing of CUDA" selects_nothing $target $lack NVCC=no-such-nvcc
    done
    check "$lack: every lane is skipped and says why" skipped "$why" "nvcc is not installed"
done
if [ -e "$BUILD/cuda/host/liblisa-cuda.so" ]; then
    dry check-now
    check "where all is there, check-now selects it" of_cuda
    dry check-slow-now NVCC=no-such-nvcc
    check "without nvcc no PTX is selected" test -z "$(grep '/cuda/ptx/' "$work/dry")"
    check "and its reason is nvcc" test "$(said PTX_MISSING)" = "nvcc is not installed"
fi

# Where no module is found at all, what needs one is skipped and says where it was looked for.
programs_skip() {
    BUILD=$work/build tests/run.sh "$BUILD"/tests/cuda/test_*_cuda >"$work/run"
    [ "$(grep -cE 'skipped: .*(liblisa-cuda.so|the host device .*is not in )' "$work/run")" = \
        "$(ls "$BUILD"/tests/cuda/test_*_cuda | wc -l)" ]
}
check "the tests that need a device are skipped" programs_skip

for target in cuda install-cuda check-gpu; do
    one_line() {
        ! make_it $target NVCC=no-such-nvcc cuda_module="$work/none/liblisa-cuda.so" \
            DESTDIR="$work" 2>"$work/out" && [ "$(wc -l <"$work/out")" = 1 ] &&
            grep -q 'no-such-nvcc not found: install .*CUDA.* or set NVCC' "$work/out"
    }
    check "make $target says in one line what is missing" one_line
done

# .ci/packages on a machine that has all packages but clang, and installs none.
mkdir -p "$work/bin" "$work/toolkit/include"
touch "$work/toolkit/include/cuda_runtime_api.h"
for tool in bash env sed tr sort grep mktemp tail rm cat; do
    ln -s "$(type -P $tool)" "$work/bin/$tool"
done
cat >"$work/bin/dpkg-query" <<'SCRIPT'
#!/bin/bash
tr -cs 'a-z0-9+-' '\n' <.ci/packages | grep -vx clang | sed 's/^/install ok installed /'
SCRIPT
printf '#!/bin/bash\necho 1000\n' >"$work/bin/id"
chmod +x "$work/bin/dpkg-query" "$work/bin/id"
packages() { env -u CXX_HOST PATH="$work/bin" "$@" .ci/packages >"$work/said" 2>&1; }
wants_clang() { packages CUDA_HOME="$work/toolkit" && grep -q ' clang$' "$work/said"; }
silent() { packages "$@" && [ ! -s "$work/said" ]; }
check "packages: clang is wanted for CUDA's headers, and its lack is not fatal" wants_clang
check "packages: not without the headers" silent CUDA_HOME=/nonexistent
check "packages: nor where another compiler was chosen" silent CUDA_HOME="$work/toolkit" \
    CXX_HOST=other
ln -s "$(type -P true)" "$work/bin/clang++"
check "packages: nor where there is one that no package brought" silent CUDA_HOME="$work/toolkit"
needs_more() {
    ! env PATH="$work/bin" CUDA_HOME=/nonexistent .ci/packages no-such-package >"$work/said" 2>&1 &&
        grep -q ' no-such-package$' "$work/said"
}
check "packages: that of another is" needs_more
finish

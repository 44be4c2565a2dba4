#!/bin/bash
# liblisa in a host's process: silent, no threads before they are asked for, deaf to the BLAS
# settings in the environment, and without an effect on the host's own BLAS.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "an instrumented library needs an instrumented host" ;; esac
[ "${BLAS:-private}" = private ] || skip "a system BLAS speaks for itself"

lisa=$BUILD/liblisa.so
guest() { # name, further flags
    $CC -std=c11 -D_GNU_SOURCE -Wall -Wextra -Iinclude tests/api/guest.c -o "$work/$1" "${@:2}" -ldl \
        -lpthread || exit 1
}
guest guest

# Nothing of this may be heard: neither printed, nor in a bit of what is trained. A SkylakeX kernel
# is an illegal instruction on most machines, and others have other bits.
settings="OPENBLAS_VERBOSE=2 OPENBLAS_NUM_THREADS=7 OMP_NUM_THREADS=5 GOTO_NUM_THREADS=6
    OPENBLAS_MAIN_FREE=1 OPENBLAS_BLOCK_FACTOR=3"
env -i "$work/guest" quiet "$lisa" >"$work/expected" 2>&1
check "it trains" grep -q '^loss 0x' "$work/expected"
for core in Prescott Nehalem Haswell SkylakeX Cooperlake Nonsense; do
    env $settings OPENBLAS_CORETYPE=$core "$work/guest" quiet "$lisa" >"$work/out" 2>&1
    check "OPENBLAS_CORETYPE=$core: runs" test $? = 0
    same "OPENBLAS_CORETYPE=$core: nothing is heard" "$work/expected" "$work/out"
done

printf 'loaded 1\ncontext 3\ndestroyed 1\n' >"$work/expected"
env $settings "$work/guest" threads "$lisa" >"$work/out" 2>&1
same "threads: none at load, those asked for, none left" "$work/expected" "$work/out"

echo "20 children trained" >"$work/expected"
"$work/guest" fork "$lisa" 20 >"$work/out" 2>&1
same "children train, forked while another thread trains" "$work/expected" "$work/out"

# Loaded and unloaded a thousand times, every tenth time used. Without malloc's caches of free
# memory, which count as used, the heap is flat but for a block of the library's thread-local data.
GLIBC_TUNABLES=glibc.malloc.tcache_count=0 "$work/guest" reload "$lisa" 1000 >"$work/out" 2>&1
check "reload: $(tail -n 1 "$work/out")" awk '
    { flat = NF == 10 && $2 < 2048 && $5 < 64 && $8 + $10 == 0 }
    END { exit !flat }' "$work/out"

# A host with an OpenBLAS of its own, loaded or linked; the threaded build where there is one.
blas=libopenblas.so.0
for candidate in /usr/lib/*/openblas-pthread/libopenblas.so.0; do
    [ -e "$candidate" ] && blas=$candidate
done
linked=-l:$blas
[ "${blas#/}" = "$blas" ] || linked="$blas -Wl,-rpath,${blas%/*}"
guest linked -Wl,--no-as-needed $linked
printf 'threads kept\nproducts equal\n' >"$work/expected"
for host in guest linked; do
    "$work/$host" blas "$lisa" "$blas" >"$work/out" 2>&1
    same "the host's BLAS keeps its threads and results ($host)" "$work/expected" "$work/out"
done
finish

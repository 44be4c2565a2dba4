#!/bin/bash
# liblisa in a host's process: silent, no threads before they are asked for, deaf to the BLAS
# settings in the environment, and without an effect on the host's own BLAS.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "an instrumented library needs an instrumented host" ;; esac
[ "${BLAS:-private}" = private ] || skip "a system BLAS speaks for itself"

$CC -std=c11 -D_GNU_SOURCE -Wall -Wextra -Iinclude tests/api/guest.c -o "$work/guest" -ldl || exit 1
lisa=$BUILD/liblisa.so

# Nothing of this may be heard, and a SkylakeX kernel is an illegal instruction on most machines.
settings="OPENBLAS_VERBOSE=2 OPENBLAS_NUM_THREADS=7 OMP_NUM_THREADS=5 GOTO_NUM_THREADS=6
    OPENBLAS_MAIN_FREE=1 OPENBLAS_BLOCK_FACTOR=3"
echo trained >"$work/expected"
for core in Prescott Nehalem Haswell SkylakeX Cooperlake Nonsense; do
    env $settings OPENBLAS_CORETYPE=$core "$work/guest" quiet "$lisa" >"$work/out" 2>&1
    check "OPENBLAS_CORETYPE=$core: runs" test $? = 0
    same "OPENBLAS_CORETYPE=$core: nothing is printed" "$work/expected" "$work/out"
done

printf 'loaded 1\ncontext 3\ndestroyed 1\n' >"$work/expected"
env $settings "$work/guest" threads "$lisa" >"$work/out" 2>&1
same "threads: none at load, those asked for, none left" "$work/expected" "$work/out"

# A host with an OpenBLAS of its own; the threaded build where there is one.
blas=libopenblas.so.0
for candidate in /usr/lib/*/openblas-pthread/libopenblas.so.0; do
    [ -e "$candidate" ] && blas=$candidate
done
printf 'threads kept\nproduct equal\n' >"$work/expected"
"$work/guest" blas "$lisa" "$blas" >"$work/out" 2>&1
same "the host's BLAS keeps its threads and results" "$work/expected" "$work/out"
finish

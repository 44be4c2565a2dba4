#!/bin/bash
# What gcc's analyzer and clang-tidy find in the library is what tests/support/analyze.txt explains.
# Vectors and their kernels are left to the sanitizers: gcc 12 takes a vector's width for that of its
# elements. Findings are those of a version, so that others are not asked.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
export LC_ALL=C
{ [ "$("$CC" -dumpversion)" = 12 ] && ! "$CC" -dM -E -x c /dev/null | grep -q __clang__; } ||
    skip "the list of findings is gcc 12's, and CC is something else"
tidy=$(command -v clang-tidy-14) || skip "the list of findings is clang-tidy 14's, which is not there"

flags="-std=c11 -Iinclude -Iliblisa -D_GNU_SOURCE -DLISA_BUILDING"
analyze() {
    case $1 in
    */vector_*.c | */product_*.c) ;;
    *) "$CC" $flags -O0 -fanalyzer -fdiagnostics-plain-output -c -o /dev/null "$1" || return ;;
    esac
    "$tidy" --quiet "$1" -- $flags -march=x86-64-v4
}
export CC tidy flags
export -f analyze
every_file() {
    find liblisa -name '*.c' -not -path 'liblisa/backend/cuda/*' | sort |
        xargs -P "${JOBS:-1}" -I{} bash -c 'analyze {}' >"$work/said" 2>&1
}
check "both analyzers take every file" every_file

# FILE: MESSAGE [CHECK], without the line, which moves.
sed -nE "s|^($top/)?(liblisa[^:]*):[0-9]+:[0-9]+: (warning\|error): (.*\])\$|\2: \4|p" "$work/said" |
    sort -u >"$work/found"
grep -v '^#\|^$' tests/support/analyze.txt | sort -u >"$work/explained"
same "findings = tests/support/analyze.txt" "$work/explained" "$work/found"
finish

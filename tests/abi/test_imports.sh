#!/bin/bash
# The library asks for what tests/abi/imports.txt lists and for nothing else: a new dependency is a
# decision, which `make abi-update` writes down.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "a sanitizer asks for its own" ;; esac
[ "${BLAS:-private}${SYSTEM_LIBS:-0}" = private0 ] || skip "the system's libraries are asked too"

bash tests/abi/imports.sh "$BUILD/liblisa.so" >"$work/imports"
written_for=$(head -n 1 tests/abi/imports.txt)
built_with=$(head -n 1 "$work/imports")
[ "$written_for" = "$built_with" ] || skip "written down for ${written_for#\# }, not ${built_with#\# }"

check "there are imports" grep -q '^malloc@GLIBC' "$work/imports"
same "imports of liblisa.so" tests/abi/imports.txt "$work/imports"

# A library of one more call.
echo 'int getpriority(int, int); int more(void) { return getpriority(0, 0); }' |
    $CC -shared -fPIC -x c -o "$work/more.so" - &&
    bash tests/abi/imports.sh "$work/more.so" >"$work/more"
check "one more would be noticed" grep -q '^getpriority@GLIBC' "$work/more"
finish

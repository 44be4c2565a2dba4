#!/bin/bash
# The symbols of the headers, the map, the documentation and both libraries are the same list, and
# the library needs, exports and does nothing that a guest should not.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
[ "${VARIANT:-release}" = release ] || [ -n "${FORCE_SYMBOLS-}" ] ||
    case $VARIANT in *san) skip "a sanitizer adds its own symbols" ;; esac

so=$BUILD/liblisa.so
sed -n 's/^LISA_API.*[ *]\(lisa_[a-z0-9_]*\)(.*/\1/p' include/lisa/*.h | sort >"$work/headers"
sed -n 's/^ *\(lisa_[a-z0-9_]*\);$/\1/p' liblisa/liblisa.map | sort >"$work/map"
sed -n 's/^\(lisa_[a-z0-9_]*\)  *[0-9.]*$/\1/p' docs/symbols-in-versions | sort >"$work/docs"
nm -D --defined-only "$so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$work/so"
nm --defined-only --extern-only "$BUILD/liblisa.a" | awk 'NF == 3 { print $3 }' | sort >"$work/a"

check "the headers declare something" test -s "$work/headers"
check "one declaration per line, LISA_API first" test \
    "$(grep -c '^LISA_API' include/lisa/*.h | awk -F: '{ n += $2 } END { print n }')" = \
    "$(wc -l <"$work/headers")"
same "headers = map" "$work/headers" "$work/map"
same "headers = docs/symbols-in-versions" "$work/headers" "$work/docs"
same "headers = symbols of liblisa.so" "$work/headers" "$work/so"
same "headers = symbols of liblisa.a" "$work/headers" "$work/a"

# INIT(x) of the test is x_init.
sed 's/INIT(\([a-z_]*\))/\1_init/' tests/api/test_null.c | grep -o 'lisa_[a-z0-9_]*' | sort -u |
    comm -12 - "$work/headers" >"$work/null"
same "headers = functions that tests/api/test_null.c calls" "$work/headers" "$work/null"

dynamic() { readelf -dW "$so" | sed -n "s/.*($1).*\[\(.*\)\]/\1/p"; }
abi=$(sed -n 's/^#define LISA_ABI_VERSION //p' include/lisa/version.h)
check "SONAME liblisa.so.$abi" test "$(dynamic SONAME)" = "liblisa.so.$abi"
check "no RPATH" test -z "$(dynamic RPATH)$(dynamic RUNPATH)"

# libm and the loader are parts of libc's package; nothing else is there on every machine.
allowed='libc\.so\.6|libm\.so\.6|ld-linux.*'
[ "${SYSTEM_LIBS:-0}" = 1 ] && allowed="$allowed|libjansson\.so.*"
[ "${BLAS:-private}" = system ] && allowed="$allowed|lib(open)?blas\.so.*"
needed_only_libc() { ! dynamic NEEDED | grep -vE "^($allowed)$"; }
check "needs libc alone" needed_only_libc

stack_not_executable() { ! readelf -lW "$so" | grep GNU_STACK | grep -q RWE; }
check "stack is not executable" stack_not_executable
no_text_relocations() { ! readelf -dW "$so" | grep -q TEXTREL; }
check "no text relocations" no_text_relocations

# The library's own objects (third parties are wrapped) call nothing that ends, prints into or
# re-arranges the host's process.
rude='abort|_?exit|_Exit|quick_exit|atexit|__assert_fail|v?printf|puts|putchar|perror'
rude="$rude|__v?printf_chk|stdout|stderr|rand|srand|random|srandom|signal|sigaction|raise"
rude="$rude|setenv|putenv|unsetenv|setlocale|chdir|umask|openblas_set_num_threads|strtod|atof"
polite() {
    ! find "$BUILD/obj/liblisa" -name '*.o' -exec nm -A --undefined-only {} + |
        awk '{ print $NF " in " $1 }' | grep -E "^($rude) "
}
check "the library's objects are polite" polite

# state.txt lists what there is: places into which tests put their own (I/O, JSON memory), and a
# property of the processor that is measured once. .data.rel.ro is constant once loaded, .tbss and
# .tdata are per thread. Compilers decorate the names of a function's statics.
no_writable_data() {
    ! find "$BUILD/obj/liblisa" -name '*.o' -exec objdump -t {} + |
        awk '$3 == "O" && $4 ~ /^\.(data|bss)/ && $4 !~ /^\.data\.rel\.ro/ { print $NF }
             $2 == "O" && $3 ~ /^\.(data|bss)/ && $3 !~ /^\.data\.rel\.ro/ { print $NF }' |
        sed -E 's/\.[0-9]+$//; s/.*\.//' | grep -vxF -f tests/abi/state.txt
}
check "no global mutable state beyond tests/abi/state.txt" no_writable_data
finish

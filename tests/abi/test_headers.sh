#!/bin/bash
# Every public header compiles alone, as C99 to C17 and C++11 to C++20, without a warning.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1

warnings="-Wall -Wextra -pedantic -Werror -Wshadow -Wundef -Wcast-qual"
headers=$(cd include && ls lisa/*.h lisa/sys/*.h)

# An empty translation unit is a pedantic error of its own, hence the typedef.
for header in $headers; do
    unit=$work/$(echo "$header" | tr / _)
    printf '#include "%s"\n#include "%s"\ntypedef int unit_is_not_empty;\n' "$header" "$header" \
        >"$unit.c"
    cp "$unit.c" "$unit.cc"
done

compile_all() { # compiler, standard, extension, extra flags
    local unit bad=0
    for unit in "$work"/*."$3"; do
        $1 -std="$2" $warnings $4 -fsyntax-only -Iinclude "$unit" || bad=1
    done
    return $bad
}

for compiler in $CC clang; do
    command -v $compiler >/dev/null || continue
    for std in c99 c11 c17; do
        check "C headers: $compiler -std=$std" compile_all "$compiler" $std c -Wstrict-prototypes
    done
done
for compiler in $CXX clang++; do
    command -v $compiler >/dev/null || continue
    for std in c++11 c++14 c++17 c++20; do
        check "C++ headers: $compiler -std=$std" compile_all "$compiler" $std cc ""
    done
done

# Stable structs have no holes: what lies between fields would have no meaning and no zero.
no_padding() {
    ! printf '#include "lisa/lisa.h"\n' | $CC -std=c11 -Wpadded -Iinclude -x c -fsyntax-only - \
        2>&1 | grep -E 'padd|padding'
}
check "no implicit padding in public structs" no_padding

umbrella() {
    local header
    for header in include/lisa/*.h; do
        header=${header##*/}
        [ "$header" = lisa.h ] || grep -q "#include \"$header\"" include/lisa/lisa.h ||
            { echo "lisa.h does not include $header"; return 1; }
    done
}
check "lisa.h includes every public header" umbrella

# Signatures of fixed-width scalars and pointers alone.
plain_signatures() {
    ! awk '/^LISA_API/ { text = "" } /^LISA_API/, /;/ { text = text " " $0 } /;/ && text {
        print text; text = "" }' include/lisa/*.h |
        grep -E '\.\.\.|\b(enum|long|short|bool|unsigned|int)\b|struct lisa_[a-z_]+ [a-z]'
}
check "no enums, variadics, by-value structs or types of the platform's width" plain_signatures
finish

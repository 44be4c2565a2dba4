#!/bin/bash
# Every public header compiles alone, as C99 to C23 and C++11 to C++23, without a warning.
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
    $1 -std="$2" $warnings $4 -fsyntax-only -Iinclude "$work"/*."$3"
}

# The compiler that builds and those at hand, each once, with the standards that it knows.
every() { # language, extension, extra flags, compilers, standards
    local compiler version std seen=
    for compiler in $4; do
        version=$(echo __VERSION__ | $compiler -E -P -x c - 2>/dev/null) || continue
        case $seen in *"$version"*) continue ;; esac
        seen="$seen $version"
        for std in $5; do
            $compiler -std="$std" -fsyntax-only -x "$1" /dev/null 2>/dev/null || continue
            check "headers: $compiler -std=$std" compile_all "$compiler" "$std" "$2" "$3"
        done
    done
}
every c c -Wstrict-prototypes "$CC gcc clang" "c99 c11 c17 c2x"
every c++ cc "" "$CXX g++ clang++" "c++11 c++14 c++17 c++20 c++2b"

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

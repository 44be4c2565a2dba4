#!/bin/bash
# Prints the layout of every public struct: "struct size N", then "struct.field offset N size N".
# Usage: tests/abi/layout.sh  (CC chooses the compiler)
cd "$(dirname "$0")/../.." || exit 1
program=$(mktemp)
trap 'rm -f "$program"' EXIT

fields() { # "struct field" per member, "struct" alone at its head
    awk '
    { gsub(/\/\*[^*]*\*\//, "") }
    /^typedef struct lisa_[a-z_]+ \{/ { name = $3; print name; next }
    /^\} / { name = "" }
    name != "" && /;/ {
        sub(/;.*/, ""); sub(/\[.*/, ""); n = split($0, part, ",")
        for (i = 1; i <= n; i++) { field = part[i]; sub(/.*[ *]/, "", field); print name, field }
    }' include/lisa/*.h
}

{
    echo '#include <lisa/lisa.h>'
    echo '#include <stdio.h>'
    echo 'int main(void) {'
    fields | while read -r name field; do
        if [ -z "$field" ]; then
            echo "printf(\"$name size %zu\\n\", sizeof($name));"
        else
            echo "printf(\"$name.$field offset %zu size %zu\\n\"," \
                "offsetof($name, $field), sizeof((($name *)0)->$field));"
        fi
    done
    echo 'return 0; }'
} | ${CC:-cc} -std=c11 -Iinclude -x c -o "$program" - && "$program"

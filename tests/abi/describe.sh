#!/bin/bash
# Prints the binary interface of a liblisa.so that was built in the current directory, as abidw
# writes it: functions, and the types that the public headers define.
# Usage: tests/abi/describe.sh LIBRARY
private=$(mktemp)
trap 'rm -f "$private"' EXIT

# abidw's own --headers-dir looks at a header's last name alone, so that the library's own context.h
# would count as public. The label is the one by which abidw makes types of other files opaque.
{
    echo '[suppress_type]'
    echo 'label = Artificial private types suppression specification'
    echo 'drop = yes'
    printf 'source_location_not_in ='
    for header in include/lisa/*.h; do
        printf ' %s, include/lisa/sys/../%s,' "$header" "${header##*/}"
    done
    echo ' none'
} >"$private"

abidw --suppressions "$private" --exported-interfaces-only --drop-undefined-syms \
    --no-parameter-names --no-show-locs --no-comp-dir-path --no-corpus-path --no-architecture \
    --no-elf-needed --type-id-style hash "$1"

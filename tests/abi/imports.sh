#!/bin/bash
# Prints what a library asks of others: its undefined symbols with their versions, led by what the
# list depends on beside the sources: the processor, the C library, the compiler.
# Usage: tests/abi/imports.sh LIBRARY   (CC is the compiler that it was built with)
compiler=$(echo __clang_major__ __GNUC__ | ${CC:-cc} -E -P -x c - |
    sed 's/__clang_major__ \(.*\)/gcc \1/; s/^\([0-9]*\) [0-9]*$/clang \1/')
echo "# $(uname -m), $(getconf GNU_LIBC_VERSION), $compiler"
nm -D --undefined-only "$1" | awk '{ print $NF }' | LC_ALL=C sort

#!/bin/bash
# Structs lie as they lay when tests/abi/layout.txt was written: fields are appended, never moved.
# `make abi-update` rewrites the file, which is a decision and belongs into the changelog.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
bash tests/abi/layout.sh >"$work/layout" || echo "layout.sh failed" >>"$work/layout"
check "structs were found" grep -q 'lisa_sampler_options.struct_size offset 0 size 8' "$work/layout"
if [ "$(uname -m)" = x86_64 ]; then
    same "layout of the public structs" tests/abi/layout.txt "$work/layout"
fi
# Every options struct and report starts with its own size.
sized() {
    ! awk '$2 == "size" { s = $1; getline; if ($1 != s ".struct_size") print s }' "$work/layout" |
        grep .
}
check "struct_size comes first everywhere" sized
finish

#!/bin/bash
# Structs lie as they lay when tests/abi/layout.txt was written: fields are appended, never moved.
# `make abi-update` rewrites the file, which is a decision and belongs into the changelog.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
bash tests/abi/layout.sh >"$work/layout" || echo "layout.sh failed" >>"$work/layout"
check "structs were found" grep -q 'lisa_sampler_options.struct_size offset 0 size 8' "$work/layout"

# Prints how a layout breaks the promises of an older one: what was there stays, what is new lies
# behind the end of the struct that was promised.
breaches() { # old, new
    awk '
    NR == FNR { promised[$1] = $0; if ($2 == "size") end[$1] = $3; next }
    { now[$1] = 1; struct = $1; sub(/\..*/, "", struct) }
    $2 == "size" { if ($1 in end && $3 < end[$1]) print $0 ", promised " end[$1]; next }
    $1 in promised { if (promised[$1] != $0) print $0 ", promised " promised[$1]; next }
    struct in end && $3 < end[struct] { print $0 " lies before the end" }
    END { for (name in promised) if (!(name in now)) print name " is gone" }' "$1" "$2" | grep .
}
kept() { ! breaches tests/abi/layout.txt "$1"; }
refused() { sed "$1" tests/abi/layout.txt >"$work/broken" && breaches tests/abi/layout.txt "$work/broken"; }
accepted() {
    sed "$1" tests/abi/layout.txt >"$work/grown" && ! cmp -s tests/abi/layout.txt "$work/grown" &&
        kept "$work/grown"
}

if [ "$(uname -m)" = x86_64 ]; then
    check "what was promised lies where it lay" kept "$work/layout"
    same "what is new is written down (make abi-update)" tests/abi/layout.txt "$work/layout"
fi
field=lisa_batch_options.head_rows
check "a field that moved is refused" refused "s/^$field offset 12/$field offset 20/"
check "a field that became narrower is refused" refused "s/^\($field .*\) size 4/\1 size 2/"
check "a field that went is refused" refused "/^$field/d"
check "a field in the middle is refused" refused "s/^$field .*/&\nlisa_batch_options.new offset 16 size 4/"
check "a struct that shrank is refused" refused "s/^lisa_batch_options size 24/lisa_batch_options size 16/"
check "a field behind the last is accepted" accepted \
    "s/^lisa_batch_options size 24/lisa_batch_options size 32/;s/^lisa_batch_options.reserved .*/&\nlisa_batch_options.new offset 24 size 8/"
check "a new struct is accepted" accepted "1i lisa_new size 8\nlisa_new.struct_size offset 0 size 8"

# Every options struct and report starts with its own size.
sized() {
    ! awk '$2 == "size" { s = $1; getline; if ($1 != s ".struct_size") print s }' "$work/layout" |
        grep .
}
check "struct_size comes first everywhere" sized
finish

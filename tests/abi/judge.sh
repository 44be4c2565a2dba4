#!/bin/bash
# Whether a binary interface still keeps the promises of an older one: prints what breaks them.
# Functions may be added, and fields behind the last one of a struct (docs/abi.md); nothing else.
# Usage: tests/abi/judge.sh OLD NEW   (two descriptions by tests/abi/describe.sh)
report=$(abidiff --leaf-changes-only --harmless --no-added-syms --no-show-locs "$1" "$2" 2>&1)
rc=$?
# abidiff says 4 for a change and 8 more for one that breaks; other bits are its own failures.
if [ $((rc & ~12)) != 0 ]; then
    echo "abidiff failed ($rc): $report"
    exit 1
fi

# Structs have no padding: an insertion before the end moves another field, which is said on a line
# of its own. Every line that is not known here is a breach.
breaches=$(awk '
    /^$/ || / summary: / { next }
    /^'\''struct lisa_[a-z_]*'\'' changed:$/ { struct = $0; next }
    /^  type size changed from [0-9]+ to [0-9]+ \(in bits\)$/ { next }
    /^  [0-9]+ data member insertions?:$/ { next }
    /^    '\''.*'\'', at offset [0-9]+ \(in bits\)$/ { next }
    { if (struct != "") print struct; struct = ""; print }' <<<"$report")
[ -z "$breaches" ] || {
    echo "$breaches"
    exit 1
}

#!/bin/bash
# The program for models larger than memory, on a small one of the same make: layers that have
# trained lie in the scratch file, and anonymous memory is the plan's however many there are.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "a sanitizer's memory is in no plan" ;; esac
program=$BUILD/tests/bench/seven_b
[ -x "$program" ] || skip "tests/bench/seven_b is not built"
case $(stat -f -c %T "$work") in
tmpfs | ramfs)
    rm -rf "$work"
    mkdir -p "$BUILD" && work=$(mktemp -d "$BUILD/seven_b.XXXXXX")
    ;;
esac

make_model() {
    "${PYTHON:-python3}" tests/bench/make_llama.py "$1" --layers 8 --hidden 384 --ffn 1024 \
        --heads 6 --vocab 16000 --shard-bytes 10000000
}
check "a directory of shards is made" make_model "$work/model"
check "in shards" test -e "$work/model/model-00005-of-00005.safetensors"

# Two of eight layers a step, so that four steps visit all and the fifth begins again.
run() {
    "$program" "$work/model" "$work" steps=5 tokens=128 turns=1 check=1 "$@" >"$work/log" || {
        cat "$work/log"
        return 1
    }
}
none_mapped() {
    grep -q '"still_mapped": 0}' "$work/log" || { cat "$work/log"; return 1; }
}
for how in in_backward=0 in_backward=1 rows=256; do
    check "$how: resident as planned, and no more after all layers trained" run $how
    check "$how: every layer moved out of the mapping" none_mapped
done
check "nothing stays in the scratch directory" \
    test -z "$(find "$work" -maxdepth 1 -name '.lisa-scratch*')"
finish

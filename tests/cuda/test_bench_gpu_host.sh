#!/bin/bash
# The benchmark of a GPU in shape: every row is measured, and called what it is, on the device that
# the processor stands for; without a device there is one line.
. "$(dirname "$0")/../support/shell.sh"
. "$(dirname "$0")/need_lane.sh"
cd "$top" || exit 1
need_lane host
export PYTHONDONTWRITEBYTECODE=1
unset LISA_BENCH_TORCH_NEW

measure() { "${PYTHON:-python3}" tests/bench/gpu.py >"$work/table" 2>"$work/errors"; }
check "it runs" measure
check "and says nothing beside its table" test ! -s "$work/errors"
rows() { sed -n '/^| --- /,$p' "$work/table" | tail -n +2; }
number='[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?'
times="$number ms \| $number \| $number of $number TFLOP/s \| $number of $number GB/s"
row() {
    rows | grep -qE "^\| HOST DEVICE, NO GPU: $1[^|]* \| $times \| $number, $number, $number \| [^|]+ \|\$"
}
for method in lisa full lora 'lisa.*states offload' 'lisa.*recompute' 'lisa.*streamed'; do
    check "a row: $method" row "$method"
done
check "no row failed" test -z "$(grep failed "$work/table")"
check "every row is said to be of no GPU" test -z "$(rows | grep -v '^| HOST DEVICE, NO GPU: ')"
check "and so is the table" grep -q '^HOST DEVICE, NO GPU: ' "$work/table"
check "PyTorch is named as missing" grep -q 'PyTorch.*LISA_BENCH_TORCH_NEW is not set' "$work/table"
# LISA with all in the device's memory: what is held is what was planned.
held() { rows | sed -n '1s/.*| \([0-9.]*\), \([0-9.]*\), [0-9.]* |.*/\1 \2/p'; }
as_planned() { read -r planned held < <(held) && [ "$planned" = "$held" ]; }
check "memory is held as planned" as_planned

no_device() {
    LISA_BACKEND_PATH='' measure
    [ $? = 77 ] && [ "$(wc -l <"$work/table")" = 1 ] && grep -q '^no GPU to measure: .*cuda' "$work/table"
}
check "without a module one line says so, and the status is a skip's" no_device
finish

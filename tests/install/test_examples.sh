#!/bin/bash
# The examples as built in the tree run and do what they say.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
bin=$BUILD/examples
export ASAN_OPTIONS=${ASAN_OPTIONS-}

first_loss() { sed -n 's/.*loss \([0-9.]*\).*/\1/p' "$1" | head -1; }
last_loss() { sed -n 's/.*loss \([0-9.]*\).*/\1/p' "$1" | tail -1; }
fell() { # file, factor: the last loss is below factor times the first
    awk -v a="$(first_loss "$1")" -v b="$(last_loss "$1")" -v f="$2" \
        'BEGIN { exit !(a > 0 && b > 0 && b < f * a) }'
}

embed() { "$bin/embed" >"$work/embed"; }
check "embed runs" embed
check "embed: the loss falls to a tenth" fell "$work/embed" 0.1
check "embed: the sentence was learned" \
    grep -qF 'the sampled| layers learn while the froz' "$work/embed"
data_parallel() { "$bin/data_parallel" >"$work/data_parallel"; }
check "data_parallel runs, and its replicas stay equal" data_parallel
check "data_parallel: the loss falls to a tenth" fell "$work/data_parallel" 0.1
check "data_parallel: the step knows of all targets" grep -q 'targets 188$' "$work/data_parallel"
adaptive() { "$bin/adaptive" >"$work/adaptive"; }
check "adaptive runs" adaptive
check "adaptive: the loss falls to a tenth" fell "$work/adaptive" 0.1
# Of a period's line: eight chances that sum to two layers, two of them drawn.
periods() {
    sed -n 's/.*%  *//p' "$work/adaptive" | awk '
        { drawn = gsub(/\*/, ""); sum = 0; for (i = 1; i <= NF; i++) sum += $i }
        NF != 8 || drawn != 2 || sum < 196 || sum > 204 { bad = 1 }
        NR == 1 { for (i = 2; i <= 8; i++) if ($i != $1) bad = 1 }
        NR == 20 { least = most = $1
            for (i = 2; i <= 8; i++) { if ($i > most) most = $i; if ($i < least) least = $i } }
        END { exit bad || NR != 20 || most < 2 * least }'
}
check "adaptive: chances begin equal and end apart, and each period draws two" periods
turns() {
    awk '/^steps trained/ { for (i = 3; i <= NF; i++) { sum += $i; if ($i == 0) bad = 1 } }
        END { exit bad || sum != 200 }' "$work/adaptive"
}
check "adaptive: every layer has had its turn" turns
lora() { "$bin/lora" >"$work/lora"; }
said() { sed -n "s/^$1.*[^0-9.]\\([0-9.]*\\)\$/\\1/p" "$work/lora"; }
total() { sed -n "s/^$1.* \\([0-9]*\\) in all\$/\\1/p" "$work/lora"; }
check "lora runs" lora
check "lora: the loss falls to a tenth" test "$(awk -v a="$(said 'step   0')" \
    -v b="$(said 'with the adapter')" 'BEGIN { print (b > 0 && b < 0.1 * a) }')" = 1
check "lora: the base is what it was" test "$(said 'without it')" = "$(said 'step   0')"
check "lora: merged, the loss is the adapter's" test "$(said 'merged')" = "$(said 'with the adapter')"
check "lora: it is planned below LISA, and that below full AdamW" \
    test "$(total LoRA)" -lt "$(total LISA)" -a "$(total LISA)" -lt "$(total 'full AdamW')"
host_cpp() { "$bin/host_cpp" >"$work/host_cpp"; }
check "host_cpp runs" host_cpp
check "host_cpp: the loss falls" fell "$work/host_cpp" 0.5
check "host_cpp: a mistake is an exception with a text" grep -q '^caught LISA_E_BACKEND: .*abacus' \
    "$work/host_cpp"

# finetune on the committed fixture: a directory in, a directory out.
model=tests/data/llama-untied
if [ -d "$model" ]; then
    for i in $(seq 0 511); do printf "\\x$(printf %02x $((i * 7 % 50)))\\0\\0\\0"; done >"$work/tokens"
    finetune() {
        "$bin/finetune" --steps 30 --batch 2 --tokens 16 --active 1 --interval 5 --lr 5e-3 \
            "$@" >"$work/finetune"
    }
    check "finetune runs" finetune "$model" "$work/tokens" "$work/out"
    check "finetune: the loss falls" fell "$work/finetune" 0.9
    check "finetune: config.json is there" test -s "$work/out/config.json"
    check "finetune: weights are there" test -s "$work/out/model.safetensors"
    check "finetune: what it wrote it can open" finetune "$work/out" "$work/tokens" "$work/again"
    check "finetune: full AdamW" finetune --method full "$model" "$work/tokens" "$work/full"
    check "finetune: LoRA" finetune --method lora "$model" "$work/tokens" "$work/adapter"
    check "finetune: LoRA's loss falls" fell "$work/finetune" 0.97
    check "finetune: LoRA writes PEFT's configuration" grep -q '"r": *8' \
        "$work/adapter/adapter_config.json"
    check "finetune: and its tensors" test -s "$work/adapter/adapter_model.safetensors"
fi
says() { # pattern, arguments: fails with one line that matches
    local pattern=$1
    shift
    ! "$bin/finetune" "$@" >"$work/said" 2>&1 && [ "$(wc -l <"$work/said")" = 1 ] &&
        grep -q "$pattern" "$work/said"
}
head -c 4096 /dev/zero >"$work/tokens"
check "finetune: a missing model is named" says 'no/such/model' no/such/model "$work/tokens" \
    "$work/none"
check "finetune: a missing token file is named" says 'no/such/tokens' "$model" no/such/tokens \
    "$work/none"
check "finetune: nothing was written" test ! -e "$work/none"
finish

#!/bin/bash
# The examples' training loops on the cuda backend, on the device that the processor stands for.
. "$(dirname "$0")/../support/shell.sh"
. "$(dirname "$0")/need_lane.sh"
cd "$top" || exit 1
need_lane host

finetune() { # backend, log, arguments
    "$BUILD/examples/finetune" --backend "$1" --steps 20 --batch 2 --tokens 16 --active 1 \
        --interval 5 --lr 5e-3 "${@:3}" >"$work/$2"
}
losses() { sed -n 's/^step.* loss \([0-9.]*\) .*/\1/p' "$work/$1"; }
fell() {
    losses "$1" | awk 'NR == 1 { first = $1 } { last = $1 }
        END { exit !(NR > 1 && last > 0 && last < 0.97 * first) }'
}
# Each loss, of a loop that amplifies what differs.
near() { # log, log, how much they may differ
    paste <(losses "$1") <(losses "$2") | awk -v by="$3" '
        { d = $1 - $2; if (NF != 2 || !(d * d <= by * by * $2 * $2)) bad = 1 }
        END { exit bad || NR < 2 }'
}
# The last update is a small one.
went_on() { # log, log
    awk -v a="$(losses "$1" | tail -1)" -v b="$(losses "$2" | head -1)" \
        'BEGIN { exit !(a > 0 && b > 0 && b < 1.01 * a) }'
}
# An adapter takes the base to where its training ended.
adapter_reopens() { # model, adapter, log
    LISA_LIBRARY=$BUILD/liblisa.so PYTHONPATH=bindings/python PYTHONDONTWRITEBYTECODE=1 \
        "${PYTHON:-python3}" - "$1" "$2" "$work/tokens" "$(losses "$3" | tail -1)" <<'PYTHON'
import array, sys
import liblisa

tokens = array.array("i", open(sys.argv[3], "rb").read(128))
with liblisa.Context(backend="cuda") as context, \
        liblisa.Model.open(context, sys.argv[1]) as model, \
        liblisa.Adapter.open(model, sys.argv[2]) as adapter, \
        liblisa.Batch(model, 2, 16) as batch:
    batch.set([list(tokens[:16]), list(tokens[16:])])
    base = model.evaluate(batch).loss
    model.set_adapter(adapter)
    adapted = model.evaluate(batch).loss
print(f"{base:.4f} without, {adapted:.4f} with the adapter, {sys.argv[4]} when it was written")
sys.exit(not adapted < 0.97 * base)
PYTHON
}

# 32 tokens, so that each step trains on the same: losses compare.
for i in $(seq 0 31); do printf "\\x$(printf %02x $((i * 7 % 47)))\\0\\0\\0"; done >"$work/tokens"
refused() { ! finetune abacus log tests/data/gpt2 "$work/tokens" "$work/none"; }
check "another backend is refused" refused
for name in llama-untied gpt2; do
    model=tests/data/$name
    for method in lisa full lora; do
        what="$name, $method"
        out=$work/$name-$method
        check "$what" finetune cuda log --method $method $model "$work/tokens" "$out"
        check "$what: on the cpu" finetune cpu cpu --method $method $model "$work/tokens" "$out.cpu"
        check "$what: the loss falls" fell log
        check "$what: the losses are the cpu's" near log cpu 1e-4
        if [ $method = lora ]; then
            check "$what: what it wrote opens" adapter_reopens $model "$out" log
        else
            check "$what: what it wrote opens" finetune cuda again "$out" "$work/tokens" "$out.again"
            check "$what: and goes on where it ended" went_on log again
        fi
    done
done
finish

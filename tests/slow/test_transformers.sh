#!/bin/bash
# liblisa and transformers on the same weights.
#   LISA_ORACLE_PYTHON   a Python with torch and transformers; default: PYTHON, python3
#   LISA_SMOLLM2         SmolLM2-135M-Instruct's directory; default: where the demo puts it
. "$(dirname "$0")/../support/shell.sh"

python=${LISA_ORACLE_PYTHON:-${PYTHON:-python3}}
model=${LISA_SMOLLM2:-$top/build/demo/SmolLM2-135M-Instruct}
export LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so}
export PYTHONPATH=$top/bindings/python PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

"$python" -c 'import numpy, safetensors, tokenizers, torch, transformers' 2>/dev/null ||
    skip "$python lacks numpy, safetensors, tokenizers, torch or transformers (LISA_ORACLE_PYTHON)"

run() {
    "$python" "$top/tests/slow/$1" "${@:2}" >"$work/out" 2>&1
    local status=$?
    cat "$work/out" >>"$work/all"
    cat "$work/out"
    return $status
}

directories=()
for config in "$top"/tests/data/*/config.json; do
    directories+=("${config%/config.json}")
done
if [ -e "$model/config.json" ]; then
    directories+=("$model")
    check "SmolLM2's logits are transformers'" run smollm2_parity.py "$model"
else
    echo "skipped: smollm2_parity.py: no model at $model (LISA_SMOLLM2)"
fi
check "a saved directory opens in transformers" run save_reopen.py "$work/saved" "${directories[@]}"
if "$python" -c 'import peft' 2>/dev/null; then
    check "PEFT and liblisa open each other's adapters" run peft_reopen.py "$work/adapters" \
        "${directories[@]}"
else
    echo "skipped: peft_reopen.py: $python lacks peft"
fi
cat "$work/all"
finish

#!/bin/bash
# liblisa as a model of lm-evaluation-harness, beside the harness's own model of Hugging Face.
#   LISA_ORACLE_PYTHON   a Python with torch, transformers and lm_eval; default: PYTHON, python3
#   LISA_SMOLLM2         SmolLM2-135M-Instruct's directory; default: where the demo puts it
. "$(dirname "$0")/../support/shell.sh"

python=${LISA_ORACLE_PYTHON:-${PYTHON:-python3}}
model=${LISA_SMOLLM2:-$top/build/demo/SmolLM2-135M-Instruct}
export LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so}
export PYTHONPATH=$top/bindings/python PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 HF_HOME=$work/huggingface TRANSFORMERS_VERBOSITY=error

"$python" -c 'import torch, transformers, tokenizers, lm_eval.models.huggingface' 2>/dev/null ||
    skip "$python lacks torch, transformers, tokenizers or lm_eval (LISA_ORACLE_PYTHON)"
[ -e "$model/config.json" ] || skip "no model at $model (LISA_SMOLLM2)"

parity() {
    "$python" "$top/tests/slow/eval_parity.py" "$model" "$1" >>"$work/figures" 2>"$work/errors" && return
    tail -n 20 "$work/errors"
    return 1
}
check "likelihoods, answers and templates are those of HFLM" parity Requests
check "so are the harness's tasks on local files" parity Tasks

# One task by the command and by the harness's own, of the same file.
mkdir "$work/tasks"
cat >"$work/test.jsonl" <<'END'
{"QUESTION": "Is water wet?", "CONTEXTS": ["Water wets.", "It was seen to."], "final_decision": "yes"}
{"QUESTION": "Is water dry?", "CONTEXTS": ["Water wets."], "final_decision": "no"}
END
cat >"$work/tasks/local.yaml" <<END
include: $("$python" -c 'import os, lm_eval; print(os.path.dirname(lm_eval.__file__))')/tasks/pubmedqa/pubmedqa.yaml
task: my_pubmedqa
dataset_path: json
dataset_name: null
dataset_kwargs: {data_files: {test: $work/test.jsonl}}
training_split: null
validation_split: null
END
tasks() { "$python" -m liblisa eval "$model" --json --tasks "$@" >"$work/command.json"; }
harness() {
    "$python" -m liblisa.evaluation --model liblisa --model_args "pretrained=$model" \
        --tasks my_pubmedqa --include_path "$work/tasks" --output_path "$work/out"
}
same_value() {
    "$python" - "$work/command.json" "$work"/out/*/results_*.json <<'END'
import json, sys
ours, theirs = (json.load(open(path)) for path in sys.argv[1:])
(row,) = [row for row in ours["tasks"] if row["metric"] == "acc"]
print(row)
assert row["documents"] == 2 and row["value"] == theirs["results"]["my_pubmedqa"]["acc,none"]
END
}
check "the command runs a task on local files" tasks pubmedqa --data-files "test=$work/test.jsonl"
check "the harness's command knows the model" harness
check "and both come to the same" same_value
tasks no_such_task 2>"$work/refused"
check "an unknown task is said in one line" grep -qx \
    "liblisa eval: lm-evaluation-harness knows no task no_such_task" "$work/refused"
cat "$work/figures"
finish

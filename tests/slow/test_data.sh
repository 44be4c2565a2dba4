#!/bin/bash
# liblisa.data and the command with real tokenizers and templates.
#   LISA_DATA_PYTHON     a Python with tokenizers and jinja2; default: the demo's, PYTHON, python3
#   LISA_ORACLE_PYTHON   one with transformers (tests/slow/setup.sh), whose templates are compared
# The demo's model is looked at where `make demo` has left it.
. "$(dirname "$0")/../support/shell.sh"

package_python LISA_DATA_PYTHON jinja2,tokenizers
model=$top/build/demo/SmolLM2-135M-Instruct
cases() { "${2:-$python}" "$top/tests/slow/data_tokens.py" "$1"; }
inspect() { "$python" -m liblisa inspect-data "$@"; }

check "templates have what they call, and no more" cases Templates
check "a tokenizer and a template from files" cases Directories
if [ -f "$model/tokenizer.json" ]; then
    export LISA_DEMO_MODEL=$model
    check "SmolLM2's conversations" cases SmolLM2
    check "the demo's data has nothing wrong" inspect "$top/examples/data/train.jsonl" --model "$model"
    inspect "$top/examples/data/train.jsonl" --model "$model" --max-tokens 40 --json \
        >"$work/short.json"
    check "what is cut to nothing is an error" test $? = 1
    check "and counted" grep -q '"truncated": [1-9]' "$work/short.json"
    tune() { "$python" -m liblisa finetune "$model" "$top/examples/data/heldout.jsonl" \
        --out "$work/tuned" --steps 2 --batch 1 --valid-fraction 0 "$@"; }
    check "the command trains it" tune --quiet
    check "what comes out is looked into" "$python" -m liblisa inspect-data --show 0 \
        --model "$work/tuned/model" "$top/examples/data/heldout.jsonl"
    check "and has its figures" test "$(wc -l <"$work/tuned/metrics.jsonl")" = 2
else
    echo "left out: SmolLM2's tokenizer (make demo)"
fi
fast() { (cd "$top/tests/python" && "$python" -m unittest -q "$@"); }
if "$python" -c 'import matplotlib' 2>/dev/null; then
    check "pictures of a run" fast test_plot
else
    echo "left out: pictures (matplotlib)"
fi
if "$python" -c 'import yaml' 2>/dev/null; then
    check "options in YAML" fast test_config
else
    echo "left out: options in YAML (PyYAML)"
fi
if [ -n "${LISA_ORACLE_PYTHON:-}" ]; then
    export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
    check "transformers renders the same" cases Transformers "$LISA_ORACLE_PYTHON"
    cp "$work/check.out" "$work/transformers"
    check "none of it skipped" grep -qx OK "$work/transformers"
else
    echo "left out: transformers' rendering (LISA_ORACLE_PYTHON)"
fi
# Nothing that is optional.
lacking() { "$python" -S -c 'import sys; sys.modules["tokenizers"] = None
from liblisa.cli import main; sys.exit(main(sys.argv[1:]))' inspect-data x --model "$1"; }
lacking "$top/tests/data/llama-tied" 2>"$work/lacking"
check "a missing package is said in one line" grep -qx \
    "liblisa inspect-data: the package tokenizers is missing: pip install 'liblisa\[data\]'" \
    "$work/lacking"
finish

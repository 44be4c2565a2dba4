#!/bin/bash
# liblisa generate and chat with real tokenizers and templates.
#   LISA_DATA_PYTHON   a Python with tokenizers and jinja2; default: the demo's, PYTHON, python3
# The demo's model speaks where `make demo` has left it.
. "$(dirname "$0")/../support/shell.sh"

package_python LISA_DATA_PYTHON jinja2,tokenizers
model=$top/build/demo/SmolLM2-135M-Instruct
cases() { "$python" "$top/tests/slow/generate_text.py" "$1"; }
lisa() { "$python" -m liblisa "$@"; }

check "tokens come as text" cases Streams
check "directories speak" cases Directories
check "what is broken is said in one line" cases Broken
if [ -f "$model/tokenizer.json" ]; then
    lisa generate "$model" --prompt 'What is 2+2?' --max-new-tokens 40 --json >"$work/sum.json"
    check "SmolLM2 knows that 2+2 is 4" grep -q '"text": ".*4' "$work/sum.json"
    check "and when to end" grep -q '"ended_by": "stop_token"' "$work/sum.json"
    printf 'Remember the number 7.\nWhich number should you remember?\n' |
        lisa chat "$model" --max-new-tokens 24 >"$work/said"
    check "and what was said before" grep -q 7 <(tail -n 1 "$work/said")
else
    echo "left out: SmolLM2 (make demo)"
fi
finish

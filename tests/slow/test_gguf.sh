#!/bin/bash
# liblisa convert on GGUF files of every architecture and type that it knows.
#   LISA_GGUF_PYTHON   a Python with gguf, numpy and tokenizers; default: the demo's, PYTHON, python3
. "$(dirname "$0")/../support/shell.sh"

export LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so}
export PYTHONPATH=$top/bindings/python PYTHONDONTWRITEBYTECODE=1

for python in "${LISA_GGUF_PYTHON:-$top/build/demo/venv/bin/python}" "${PYTHON:-python3}"; do
    "$python" -c 'import gguf, numpy, tokenizers' 2>/dev/null && break
    python=
done
[ -n "$python" ] || skip "no Python with gguf, numpy and tokenizers (LISA_GGUF_PYTHON)"

cases() { "$python" "$top/tests/slow/gguf_convert.py" "$1"; }
check "every architecture comes back" cases Families
check "every type comes back" cases Types
check "types and shards that are written, and what is said" cases Output
check "nothing half-written looks whole" cases Broken
check "tokenizers are rebuilt, copied or left alone" cases Tokenizers
check "the rest is refused in one line" cases Refusals
finish

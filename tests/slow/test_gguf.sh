#!/bin/bash
# liblisa convert on GGUF files of every architecture and type that it knows.
#   LISA_GGUF_PYTHON   a Python with gguf, numpy and tokenizers; default: the demo's, PYTHON, python3
. "$(dirname "$0")/../support/shell.sh"

package_python LISA_GGUF_PYTHON gguf,numpy,tokenizers

cases() { "$python" "$top/tests/slow/gguf_convert.py" "$1"; }
check "every architecture comes back" cases Families
check "every type comes back" cases Types
check "types and shards that are written, and what is said" cases Output
check "nothing half-written looks whole" cases Broken
check "tokenizers are rebuilt, copied or left alone" cases Tokenizers
check "the rest is refused in one line" cases Refusals
finish

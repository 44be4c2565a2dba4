#!/bin/bash
# Makes build/oracle: Debian's PyTorch with a transformers of its time, for the slow tests.
# Prints the Python to use. Usage: LISA_ORACLE_PYTHON=$(tests/slow/setup.sh) make check-slow
set -eu
cd "$(dirname "$0")/../.."
venv=$PWD/build/oracle
# The last release line that works with PyTorch 1.13. It lacks Qwen3 and the keys of transformers 5:
# those directories are reported as skipped.
packages="transformers==4.48.3 tokenizers<0.22 safetensors<1 huggingface_hub<1 psutil<8 jinja2<4"
# What lm-evaluation-harness imports, as old as Debian's NumPy: 70 MB.
packages="$packages datasets==3.6.0 pandas<2.3 pyarrow<19 numpy<1.25 sacrebleu<3 pytablewriter<2"
packages="$packages typing_extensions>=4.12,<5"
# Alone: they name PyTorch among what they need, and pip would bring its own of several GB; the
# last names more packages than are used here.
lone="peft==0.14.0 accelerate==0.34.2 lm_eval==0.4.13"

.ci/packages python3-venv python3-torch >&2
if ! cmp -s <(echo "$packages $lone") "$venv/packages"; then
    # Debian's PyTorch is for Debian's own Python.
    /usr/bin/python3 -m venv --clear --system-site-packages "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q $packages >&2
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q --no-deps $lone >&2
    echo "$packages $lone" >"$venv/packages"
fi
echo "$venv/bin/python"

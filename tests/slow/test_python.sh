#!/bin/bash
# The package on the oldest and the newest CPython at hand: all of tests/python by pytest, with
# hypothesis, numpy, tokenizers and jinja2 there, so that nothing is skipped for want of them; and
# its type hints by mypy.
#   LISA_ORACLE_PYTHON   a Python with PyTorch (tests/slow/setup.sh), whose tensors are tried
# The environments lie in build/python and are made once.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1

export LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so} LISA_EXAMPLES=${LISA_EXAMPLES:-50}
export PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH
tools="pytest>=8,<10 hypothesis>=6.113,<7 numpy tokenizers>=0.15,<1 jinja2>=3.1,<4 PyYAML>=6,<7"
# The last mypy that checks for Python 3.8.
checker="mypy==1.14.1"

# Every CPython from 3.8 on as "MINOR PATH": in PATH and where pyenv keeps them.
pythons() {
    local candidate
    for candidate in $(compgen -c python3 | grep -xE 'python3(\.[0-9]+)?' | sort -u) \
        /usr/bin/python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        "$candidate" -c 'import ctypes, ensurepip, ssl, sys, venv
if sys.implementation.name == "cpython" and sys.version_info >= (3, 8):
    print(sys.version_info[1], sys.executable)' 2>/dev/null
    done | sort -n -k 1,1 -u
}

# environment NAME PYTHON PACKAGE...: prints the Python of build/python/NAME.
environment() {
    local venv=$top/build/python/$1 base=$2
    shift 2
    if ! cmp -s <(echo "$base" "$@") "$venv/packages"; then
        "$base" -m venv --clear "$venv" || return
        "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q \
            --only-binary :all: "$@" || return
        echo "$base" "$@" >"$venv/packages"
    fi
    echo "$venv/bin/python"
}

mapfile -t found < <(pythons)
[ ${#found[@]} -gt 0 ] || skip "no CPython from 3.8 on with venv"
echo "found: $(printf '3.%s ' "${found[@]%% *}")"
newest=${found[-1]#* }
chosen=("${found[0]}")
if [ ${#found[@]} -gt 1 ]; then
    chosen+=("${found[-1]}")
else
    echo "left out: another CPython than 3.${found[0]%% *}: there is none"
fi

tests() { PYTHONPATH=$top/bindings/python "$1" -m pytest -q -p no:cacheprovider tests/python; }
torch() { cd tests/python && PYTHONPATH=$top/bindings/python "$1" -m unittest test_buffers.Torch; }
for entry in "${chosen[@]}"; do
    minor=${entry%% *}
    # shellcheck disable=SC2086
    python=$(environment "3.$minor" "${entry#* }" $tools 2>"$work/pip.log") || {
        tail -n 3 "$work/pip.log"
        skip "no packages for Python 3.$minor: no package index answers"
    }
    "$python" -c 'import hypothesis, jinja2, numpy, tokenizers' || exit 1
    check "tests/python on CPython 3.$minor" tests "$python"
    tail -n 1 "$work/check.out"
done

if python=$(environment mypy "$newest" "$checker" 2>"$work/pip.log"); then
    for version in 3.8 "3.${found[-1]%% *}"; do
        check "types for Python $version ($checker)" "$python" -m mypy --python-version "$version" \
            --config-file bindings/python/pyproject.toml --cache-dir "$work/mypy" \
            bindings/python/liblisa
        types_of_claims() {
            MYPYPATH=bindings/python "$python" -m mypy --python-version "$version" \
                --config-file bindings/python/pyproject.toml --cache-dir "$work/mypy" \
                examples/claims/*.py
        }
        check "types of examples/claims for Python $version" types_of_claims
    done
else
    echo "left out: $checker for Python 3.${found[-1]%% *}: $(tail -n 1 "$work/pip.log")"
fi

if [ -n "${LISA_ORACLE_PYTHON:-}" ]; then
    check "PyTorch's tensors" torch "$LISA_ORACLE_PYTHON"
    cd "$top" || exit 1
    cp "$work/check.out" "$work/torch"
    check "none of it skipped" grep -qx OK "$work/torch"
else
    echo "left out: PyTorch's tensors (LISA_ORACLE_PYTHON)"
fi
finish

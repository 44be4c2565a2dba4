#!/bin/bash
# The wheel is enough: it installs into a fresh environment, trains outside the tree with the library
# that it carries, and uninstalling leaves nothing behind.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "a sanitizer's library is not packed" ;; esac

unset LISA_LIBRARY PYTHONPATH LISA_BACKEND_PATH
venv=$work/venv
"${PYTHON:-python3}" -m venv "$venv" >"$work/venv.log" 2>&1 || skip "no venv: python3-venv is missing"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input -q "$@"; }
# What the wheel is built with comes from a package index.
pip download --no-deps -d "$work" 'setuptools>=70.1' >"$work/pip.log" 2>&1 ||
    skip "no package index answers"

make_wheel() {
    MAKEFLAGS='' ${MAKE:-make} --no-print-directory VARIANT="${VARIANT:-release}" CC="$CC" \
        CXX="$CXX" BLAS="${BLAS:-private}" SYSTEM_LIBS="${SYSTEM_LIBS:-0}" \
        PYTHON="${PYTHON:-python3}" WHEEL_DIR="$work/wheel" "$@" wheel
}
installed() { (cd "$venv" && find . -ipath '*liblisa*' | sort); }

check "make wheel" make_wheel
check "one wheel, for this platform and any Python 3" ls "$work"/wheel/liblisa-*-py3-none-linux_*.whl
check "nothing is left in the tree" test -z "$(find bindings -name build -o -name '*.egg-info')"
# Offline: it needs no other package.
check "it installs" pip install --no-index "$work"/wheel/liblisa-*.whl
if [ "${SYSTEM_LIBS:-0}" = 0 ]; then
    has_licence() { installed | grep -q "LICENSE.jansson\$"; }
    check "jansson's licence comes along" has_licence
fi

mkdir "$work/outside"
cd "$work/outside" || exit 1
awk '/^```python/ { inside = 1; next } /^```/ { if (inside) exit } inside' \
    "$top/docs/python.md" >train.py
cat >>train.py <<'END'
from liblisa import _ffi
import os
path = os.path.join(os.path.dirname(liblisa.__file__), _ffi.SONAME)
assert any(line.rstrip().endswith(path) for line in open("/proc/self/maps")), path
print(losses, file=open("losses", "w"))
END
check "the loop of docs/python.md trains on the bundled library" "$venv/bin/python" train.py
zig=${ZIG:-${PYTHON:-python3} -m ziglang}
if $zig version >/dev/null 2>&1; then
    mv losses here
    check "make wheel GLIBC=2.28" make_wheel -C "$top" ZIG="$zig" GLIBC=2.28
    check "it installs in its place" pip install --no-index --force-reinstall \
        "$work"/wheel/liblisa-*-manylinux_2_28_*.whl
    check "and trains" "$venv/bin/python" train.py
    same "to the same bits" here losses
else
    echo "left out: a wheel for older systems (ziglang)"
fi
# Built by nvcc, or the tests' own for a machine without it.
module=$(ls "$BUILD"/{lisa,cuda/host}/liblisa-cuda.so 2>/dev/null | head -1)
if [ -n "$module" ]; then
    refused() { "$venv/bin/liblisa" plan "$top/tests/data/llama-tied" --backend cuda 2>&1 | grep -q 'no liblisa-cuda'; }
    check "a plan for a device is refused without its backend" refused
    with_module() {
        WHEEL_MODULE=$module "$top/bindings/python/wheel.sh" "$BUILD/liblisa.so" "$work/wheel"
    }
    check "a wheel with a backend" with_module
    check "it installs in its place" pip install --no-index --force-reinstall "$work"/wheel/liblisa-*.whl
    has_module() { installed | grep -q '/liblisa/liblisa-cuda\.so$'; }
    check "with the backend beside its library" has_module
    # The tests' own needs its device, which lies beside it and is in no wheel.
    plans() {
        LD_LIBRARY_PATH=$(dirname "$module") \
            "$venv/bin/liblisa" plan "$top/tests/data/llama-tied" --backend cuda
    }
    check "and plans for a device" plans
else
    echo "left out: a wheel with a backend (make cuda, or the tests' own, built none)"
fi
has_hints() { installed | grep -q '/liblisa/py\.typed$'; }
check "type checkers see its hints" has_hints
check "the command is there" "$venv/bin/liblisa" plan "$top/tests/data/llama-tied" --json
LISA_LIBRARY=/nowhere "$venv/bin/liblisa" plan x 2>"$work/lost"
check "without its library it fails" test $? = 1
check "in one line" test "$(grep -c '^liblisa: .*could not be loaded' "$work/lost")" = "$(wc -l <"$work/lost")"
check "it uninstalls" pip uninstall -y liblisa
installed >"$work/left"
same "and leaves nothing behind" /dev/null "$work/left"
finish

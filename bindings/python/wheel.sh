#!/bin/bash
# Makes a wheel that carries the library: `make wheel`.
# Usage: wheel.sh LIBRARY OUTPUT_DIRECTORY [NAME=LICENCE_FILE...]
# The licences are those of what the library holds copies of. WHEEL_MODULE is a backend to go beside the
# library; by default none. WHEEL_PLATFORM is the platform that the wheel is for; by default this one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
library=$1 output=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy, because setuptools writes beside its sources.
mkdir "$work/source"
cp "$here/pyproject.toml" "$here/setup.py" "$here/../../LICENSE" "$work/source"
(cd "$here" && find liblisa -name '*.py' -o -name py.typed) |
    tar -C "$here" -cf - -T - | tar -C "$work/source" -xf -
soname=$(objdump -p "$library" | sed -n 's/^ *SONAME *//p')
strip --strip-unneeded -o "$work/source/liblisa/$soname" "$library"
if [ -n "${WHEEL_MODULE-}" ]; then
    strip --strip-unneeded -o "$work/source/liblisa/$(basename "$WHEEL_MODULE")" "$WHEEL_MODULE"
fi
for licence in "$@"; do
    if [ -e "${licence#*=}" ]; then
        cp "${licence#*=}" "$work/source/LICENSE.${licence%%=*}"
    else
        echo "warning: ${licence#*=} is missing: the wheel lacks the licence of ${licence%%=*}" >&2
    fi
done

"${PYTHON:-python3}" -m venv "$work/venv"
mkdir -p "$output"
rm -f "$output"/liblisa-*.whl
"$work/venv/bin/python" -m pip --disable-pip-version-check --no-input wheel -q --no-deps \
    -w "$output" "$work/source"
ls "$output"/liblisa-*.whl
if command -v auditwheel >/dev/null; then
    auditwheel show "$output"/liblisa-*.whl
fi

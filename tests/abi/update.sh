#!/bin/bash
# Writes the present interface down as the promised one: layout, description, imports. A decision,
# with a line in the changelog.
# Usage: tests/abi/update.sh LIBRARY   (CC chooses the compiler)
set -eu
cd "$(dirname "$0")/../.."
command -v abidw >/dev/null || { echo "abidw is missing: install abigail-tools" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bash tests/abi/layout.sh >"$work/layout.txt"
bash tests/abi/describe.sh "$1" >"$work/liblisa.abi"
bash tests/abi/imports.sh "$1" >"$work/imports.txt"
bash tests/abi/judge.sh tests/abi/liblisa.abi "$work/liblisa.abi" || echo "this breaks what was promised"
cp "$work"/* tests/abi

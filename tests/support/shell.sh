# shell.sh - sourced by the shell tests: named checks, and Check's closing line.
#   check "what is promised" COMMAND...      COMMAND must succeed
#   same "what" FILE FILE                     the files must be equal
#   skip "why"                                ends the script as skipped
#   package_python VARIABLE MODULES           sets $python: $VARIABLE, the demo's, PYTHON or python3,
#                                             the first with all of MODULES (a,b); none: skipped
#   finish                                    closes; the script's last command
# $work is a directory that goes away with the script, $top the source tree, $BUILD the build.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${BUILD:-$top/build/release}
CC=${CC:-cc}
CXX=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
failures=0

check() {
    local what=$1
    shift
    checks=$((checks + 1))
    if ! "$@" >"$work/check.out" 2>&1; then
        failures=$((failures + 1))
        echo "failed: $what"
        echo "  command: $*"
        head -n 20 "$work/check.out" | sed 's/^/  /'
    fi
}

same() {
    check "$1" diff "$2" "$3"
}

skip() {
    echo "$1"
    exit 77
}

package_python() {
    export LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so}
    export PYTHONPATH=$top/bindings/python PYTHONDONTWRITEBYTECODE=1
    for python in "${!1:-$top/build/demo/venv/bin/python}" "${PYTHON:-python3}"; do
        "$python" -c "import $2" 2>/dev/null && return
    done
    skip "no Python with $2 ($1)"
}

finish() {
    echo "$((checks > 0 ? 100 * (checks - failures) / checks : 100))%: Checks: $checks," \
        "Failures: $failures, Errors: 0"
    [ "$failures" = 0 ]
}

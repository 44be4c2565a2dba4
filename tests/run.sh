#!/bin/bash
# Runs test programs and closes with one line in Check's own format, summed over all of them.
#   tests/run.sh PROGRAM... | SCRIPT.sh... | python:DIRECTORY...
# A program or script says "N%: Checks: N, Failures: N, Errors: N" itself; exit 77 is a skip.
# BUILD (build directory), JOBS (at once), WRAPPER (command in front of each program).
set -u
cd "$(dirname "$0")/.." || exit 2
export BUILD=${BUILD:-$PWD/build/release}
# Check gives a test 4 seconds, which a busy machine or a sanitizer takes without a fault.
export CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-120}
# Threads of a system's BLAS on top of the library's own only wait for each other.
[ "${BLAS-}" = system ] && export OPENBLAS_NUM_THREADS=1
logs=$BUILD/logs
mkdir -p "$logs"
[ "${1-}" = --one ] || rm -f "$logs"/*.log "$logs"/*.sum
summary='^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+$'

# unittest's closing lines as Check's.
run_python() {
    local log=$1 directory=$2 rc ran failures errors
    LISA_LIBRARY=${LISA_LIBRARY:-$BUILD/liblisa.so} PYTHONPATH=$PWD/bindings/python \
        PYTHONDONTWRITEBYTECODE=1 "${PYTHON:-python3}" -m unittest discover -s "$directory" \
        >"$log" 2>&1
    rc=$?
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$log" | tail -1)
    failures=$(sed -n 's/^FAILED.*failures=\([0-9]*\).*/\1/p' "$log" | tail -1)
    errors=$(sed -n 's/^FAILED.*errors=\([0-9]*\).*/\1/p' "$log" | tail -1)
    echo "0%: Checks: ${ran:-0}, Failures: ${failures:-0}, Errors: ${errors:-0}" >>"$log"
    return $rc
}

# Leaves NAME.sum with "checks failures errors" and prints the program's own line.
run_one() {
    local test=$1 name log rc line checks failures errors note=
    name=${test#"$BUILD"/}
    name=${name#build/*/}
    name=${name#tests/}
    log=$logs/${name//[\/:]/-}.log
    case $test in
    python:*) run_python "$log" "${test#python:}" ;;
    *.sh) bash "$test" >"$log" 2>&1 ;;
    *) ${WRAPPER:-} "$test" >"$log" 2>&1 ;;
    esac
    rc=$?
    line=$(grep -E "$summary" "$log" | tail -1)
    if [ $rc = 77 ]; then
        printf '%-40s skipped: %s\n' "$name" "$(tail -1 "$log")"
        echo 0 0 0 >"${log%.log}.sum"
        return
    fi
    read -r checks failures errors < <(tr -dc '0-9 \n' <<<"${line#*%}" | tr -s ' ')
    checks=${checks:-0} failures=${failures:-0} errors=${errors:-0}
    if [ $rc != 0 ] && [ $((failures + errors)) = 0 ] || [ "$checks" = 0 ]; then
        checks=$((checks + 1)) errors=$((errors + 1)) note=" (exit status $rc)"
    fi
    echo "$checks $failures $errors" >"${log%.log}.sum"
    printf '%-40s %s%s\n' "$name" "$(closing "$checks" "$failures" "$errors")" "$note"
    [ $((failures + errors)) = 0 ] || last_of "$log" 40
}

# The last lines of a log but its closing one.
last_of() {
    grep -vE "$summary" "$1" | tail -n "$2" | sed 's/^/    /'
}

# Once more at the end, where a reader of a long output looks first.
what_failed() {
    local sum failures errors
    for sum in "$logs"/*.sum; do
        read -r _ failures errors <"$sum"
        [ $((failures + errors)) = 0 ] && continue
        echo "failed: $(basename "$sum" .sum)"
        last_of "${sum%.sum}.log" 6
    done
}

closing() {
    local good=$(($1 - $2 - $3))
    echo "$(($1 > 0 ? 100 * good / $1 : 100))%: Checks: $1, Failures: $2, Errors: $3"
}

if [ "${1-}" = --one ]; then
    run_one "$2" | { out=$(cat); printf '%s\n' "$out"; }
    exit 0
fi

[ $# -gt 0 ] && printf '%s\0' "$@" | xargs -0 -n 1 -P "${JOBS:-2}" bash tests/run.sh --one
read -r checks failures errors < <(cat "$logs"/*.sum 2>/dev/null |
    awk '{ c += $1; f += $2; e += $3 } END { print c + 0, f + 0, e + 0 }')
[ $((failures + errors)) = 0 ] || what_failed
closing "$checks" "$failures" "$errors"
[ $((failures + errors)) = 0 ]

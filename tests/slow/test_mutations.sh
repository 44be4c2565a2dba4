#!/bin/bash
# Each change of tests/slow/mutations.txt, made to a copy of the library, turns its suite red.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
unset MAKEFLAGS MFLAGS
export CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-120}
list=$top/tests/slow/mutations.txt
build=${BUILD#"$top"/}

# Objects come along with their times, so that only what a change reaches is built.
copy=$work/copy
mkdir -p "$copy/$build"
cp -a Makefile liblisa include tests examples "$copy"
cp -a "$BUILD"/{obj,third,flags,sources,libsupport.a} "$copy/$build" 2>"$work/cp.out"
cd "$copy" || exit 1

suite_of() { echo "$build/tests/$1"; }
build_suite() { "${MAKE:-make}" -s "$(suite_of "$1")"; }
is_green() { "$(suite_of "$1")" >"$work/suite.out" 2>&1; }
is_red() { ! is_green "$1"; }

while read -r suite; do
    check "$suite builds" build_suite "$suite"
    check "$suite is green without a change" is_green "$suite"
done < <(sed -n 's/^@ [^ ]* //p' "$list" | sort -u)
[ "$failures" = 0 ] || finish

# FILE FROM TO: what is replaced is there, and once.
change() {
    local text
    text=$(<"$1")
    [[ $text == *"$2"* && ${text#*"$2"} != *"$2"* ]] || return 1
    printf '%s\n' "${text/"$2"/"$3"}" >"$1"
}

made=0
before=$failures
mutant() {
    local what="$file: $from -> $to"
    made=$((made + 1))
    cp "$file" "$work/kept"
    check "there is once: $what" change "$file" "$from" "$to"
    check "compiles: $what" build_suite "$suite"
    check "is noticed by $suite: $what" is_red "$suite"
    cp "$work/kept" "$file"
}

while IFS= read -r line; do
    case $line in
    '@ '*) read -r _ file suite <<<"$line" ;;
    '- '*) from=${line#- } ;;
    '+ '*) to=${line#+ } && mutant ;;
    '+') to= && mutant ;;
    esac
done <"$list"
echo "killed $((made - failures + before)) of $made"
finish

#!/bin/bash
# Programs built with older and with newer headers run with today's library.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "an instrumented library needs an instrumented host" ;; esac
clients=tests/abi/clients

client() { # name, source, headers
    $CC -std=c11 -Wall -Wextra -Werror -I"$3" "$clients/$2.c" -o "$work/$1" -L"$BUILD" -llisa \
        -Wl,-rpath,"$BUILD"
}
runs() { "$work/$1" "$work/$1.dir" >"$work/$1.out" 2>&1 || { cat "$work/$1.out"; return 1; }; }

# The headers of a later version: one more field at the end of every struct.
mkdir -p "$work/include/lisa"
for header in include/lisa/*.h; do
    sed 's/^} lisa_[a-z_]*;/    uint64_t later;\n&/' "$header" >"$work/include/lisa/${header##*/}"
done

check "today's client builds" client today client_0_1 include
check "today's client runs" runs today
check "it trains" grep -q '^step 2: loss 0x.*updated 1$' "$work/today.out"
for first in "$clients"/include_*; do
    version=${first##*/include_}
    check "the client of $version builds with the headers of $version" \
        client "$version" "client_$version" "$first"
    check "the client of $version runs" runs "$version"
done
same "the client of 0.1 sees what today's sees" "$work/today.out" "$work/0_1.out"

check "a client of later headers builds" client later client_0_1 "$work/include"
check "a client of later headers that uses nothing new runs" runs later
same "it sees what today's sees" "$work/today.out" "$work/later.out"
check "one that uses what is new builds" client next client_next "$work/include"
check "one that uses what is new runs" runs next
printf 'done\n' >"$work/expected"
same "what is new is refused by name" "$work/expected" "$work/next.out"

# A program keeps the numbers that it was built with.
constants() { sed -n 's/^#define \(LISA_[A-Z0-9_]* .*\)/\1/p' "$1"/lisa/*.h | sed 's| */\*.*||' | sort; }
kept() {
    constants "$1" | grep -vE '^LISA_(ABI_VERSION|VERSION_.*|MEM_CLASSES|API) ' >"$work/promised"
    constants include >"$work/now"
    test -s "$work/promised" && ! comm -23 "$work/promised" "$work/now" | grep .
}
for first in "$clients"/include_*; do
    check "constants of ${first##*/include_} have their numbers" kept "$first"
done
finish

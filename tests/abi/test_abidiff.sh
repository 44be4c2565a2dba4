#!/bin/bash
# The library keeps the binary interface that tests/abi/liblisa.abi holds, and abidiff would notice
# if it did not. `make abi-update` writes the file anew (docs/abi.md).
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
for tool in abidw abidiff; do
    command -v $tool >/dev/null || skip "$tool is missing: install abigail-tools"
done
[ "$(uname -m)" = x86_64 ] || skip "the interface was written down on x86_64"
case ${VARIANT:-release} in *san) skip "a sanitizer adds its own" ;; esac
readelf -SW "$BUILD/liblisa.so" | grep -q '\.debug_info' || skip "a library without debug information"

now=$work/now.abi
bash tests/abi/describe.sh "$BUILD/liblisa.so" >"$now"
check "nothing that was promised changed" bash tests/abi/judge.sh tests/abi/liblisa.abi "$now"

# What the promise does not know it cannot keep.
symbols() { sed -n "s/.*<elf-symbol name='\([a-z0-9_]*\)'.*/\1/p" "$1" | sort; }
symbols tests/abi/liblisa.abi >"$work/promised"
symbols "$now" >"$work/exported"
same "every function is written down (make abi-update)" "$work/promised" "$work/exported"
check "no paths of a machine in it" test -z "$(grep -E "='/|/(home|root|tmp)/" tests/abi/liblisa.abi)"
kept_private() {
    ! grep "class-decl name='lisa_[a-z]*'" "$now" | grep -v is-declaration-only
}
check "handles are opaque" kept_private
structs_are_whole() {
    local struct
    for struct in $(sed -n 's/^\(lisa_[a-z_]*\) size .*/\1/p' tests/abi/layout.txt); do
        grep -q "class-decl name='$struct' size-in-bits" "$now" || { echo "$struct"; return 1; }
    done
}
check "structs are whole" structs_are_whole

# Libraries that break a promise, made of the part that builds in a second.
changed="include/lisa/sampler.h liblisa/api/sampler.c liblisa/liblisa.map"
library() { # name, sed expression on the files above
    local tree=$work/$1
    mkdir -p "$tree/liblisa"
    cp -r include "$tree"
    cp -r liblisa/liblisa.map liblisa/api liblisa/core liblisa/sampler "$tree/liblisa"
    (cd "$tree" && sed -i "$2" $changed &&
        $CC -std=c11 -g -fPIC -shared -fvisibility=hidden -D_GNU_SOURCE -DLISA_BUILDING -Iinclude \
            -Iliblisa liblisa/sampler/*.c liblisa/api/sampler.c liblisa/core/error.c \
            liblisa/core/options.c -Wl,--version-script=liblisa/liblisa.map -lm -o liblisa.so &&
        bash "$top/tests/abi/describe.sh" liblisa.so >"$work/$1.abi")
}
judged() { bash tests/abi/judge.sh "$work/intact.abi" "$work/$1.abi"; }
refused() { [ -s "$work/$1.abi" ] && ! judged "$1"; }
accepted() { ! cmp -s "$work/intact.abi" "$work/$1.abi" && judged "$1"; }

check "the part builds" library intact ''
while IFS='|' read -r verdict name change; do
    check "$name: builds" library "$name" "$change"
    check "$name: $verdict" "$verdict" "$name"
done <<'END'
refused|function removed|/lisa_sampler_max_active;/d
refused|parameter narrowed|s/uint64_t step, uint8_t/uint32_t step, uint8_t/
refused|result widened|s/uint32_t lisa_sampler_n_groups(/uint64_t lisa_sampler_n_groups(/
refused|field inserted|s/^    uint32_t kind;/    uint64_t inserted;\n&/
refused|fields exchanged|/uint32_t max_active;/{h;d};/uint32_t descending;/G
refused|field renamed|s/^    uint32_t descending;.*/    uint32_t ascending;\n#define descending ascending/
refused|field removed|s/^    uint32_t descending;.*/#define descending interval_steps/
refused|field appended and another changed|s/^} lisa_sampler_options;/    uint64_t later;\n&/;s/uint64_t first_step;/double first_step;/
accepted|field appended|s/^} lisa_sampler_options;/    uint64_t later;\n&/
accepted|function added|s/^LISA_API uint32_t lisa_sampler_n_groups/LISA_API uint32_t lisa_sampler_later(void);\n&/;s/^uint32_t lisa_sampler_n_groups/uint32_t lisa_sampler_later(void) { return 0; }\n&/;s/^ *lisa_sampler_n_groups;/lisa_sampler_later;\n&/
END
finish

#!/bin/bash
# An installed liblisa is enough: programs build outside the tree with pkg-config alone, shared and
# static, in C and C++, and run; uninstall leaves nothing behind.
. "$(dirname "$0")/../support/shell.sh"
cd "$top" || exit 1
case ${VARIANT:-release} in *san) skip "a sanitizer's library is not installed" ;; esac

stage=$work/stage
prefix=/opt/lisa
make_it() {
    MAKEFLAGS='' ${MAKE:-make} --no-print-directory VARIANT="${VARIANT:-release}" CC="$CC" \
        CXX="$CXX" BLAS="${BLAS:-private}" SYSTEM_LIBS="${SYSTEM_LIBS:-0}" \
        DESTDIR="$stage" PREFIX=$prefix "$@"
}
check "make install" make_it install
(cd "$stage$prefix" && find . ! -type d | sort) >"$work/installed"
version=$(sed -n 's/^#define LISA_VERSION_STRING "\(.*\)"/\1/p' include/lisa/version.h)
abi=$(sed -n 's/^#define LISA_ABI_VERSION //p' include/lisa/version.h)
for file in lib/liblisa.so "lib/liblisa.so.$abi" lib/liblisa.a lib/pkgconfig/lisa.pc \
    include/lisa/lisa.h include/lisa/sys/backend.h share/doc/liblisa/LICENSE; do
    check "installed: $file" grep -qx "./$file" "$work/installed"
done
check "every header is installed" test \
    "$(cd include && find . -name '*.h' | wc -l)" = "$(grep -c '\.h$' "$work/installed")"
if [ "${SYSTEM_LIBS:-0}" = 0 ]; then
    check "jansson's licence comes along" test -s "$stage$prefix/share/doc/liblisa/LICENSE.jansson"
fi
no_traces() { ! grep -rE "$stage|$top" "$stage$prefix/lib/pkgconfig" "$stage$prefix/include"; }
check "no path of the build in what is installed" no_traces

# The tree is moved: what pkg-config says follows it.
moved=$work/moved
mv "$stage$prefix" "$moved"
export PKG_CONFIG_PATH=$moved/lib/pkgconfig
pc() { pkg-config --define-variable=prefix="$moved" "$@" lisa; }
check "pkg-config knows lisa $version" test "$(pc --modversion)" = "$version"

mkdir "$work/outside"
cp examples/*.c examples/*.cc "$work/outside"
cd "$work/outside" || exit 1
warnings="-Wall -Wextra -Werror"

# Relative to the directory alone, and without the build's flags.
build_shared() { $1 $2 $warnings "$3" -o shared_$4 $(pc --cflags --libs) -lm; }
build_static() {
    $1 $2 $warnings "$3" -o static_$4 $(pc --cflags) \
        $(pc --static --libs | sed 's/-llisa/-l:liblisa.a/') $5
}
run_shared() { LD_LIBRARY_PATH=$moved/lib ./shared_"$1" >"$1.shared.out"; }
run_static() { ./static_"$1" >"$1.static.out"; }
needs_no_lisa() { ! readelf -dW "static_$1" | grep -q liblisa; }

for source in *.c *.cc; do
    name=${source%.*}
    case $source in *.c) compiler="$CC" std=-std=c11 ;; *) compiler="$CXX" std=-std=c++11 ;; esac
    check "$source builds against the shared library" build_shared "$compiler" $std "$source" "$name"
    check "$source builds against the static library" build_static "$compiler" $std "$source" "$name"
    check "$name (static) does not need liblisa.so" needs_no_lisa "$name"
    [ "$name" = finetune ] && continue
    check "$name runs, shared" run_shared "$name"
    check "$name runs, static" run_static "$name"
    same "$name: shared and static say the same" "$name.shared.out" "$name.static.out"
done
cd "$top" || exit 1

# Uninstall finds everything where install put it.
mkdir -p "$(dirname "$stage$prefix")"
mv "$moved" "$stage$prefix"
check "make uninstall" make_it uninstall
left() { ! find "$stage" ! -type d | grep .; }
check "uninstall leaves no file" left
no_directories() { ! find "$stage" -name '*lisa*' -mindepth 2 ! -path "$stage$prefix" | grep .; }
check "uninstall leaves no directory of its own" no_directories

# Distributions put libraries elsewhere.
check "make install LIBDIR=" make_it install LIBDIR=$prefix/lib/x86_64 INCLUDEDIR=/elsewhere/include
check "LIBDIR below the prefix stays relative" \
    grep -qx 'libdir=${prefix}/lib/x86_64' "$stage$prefix/lib/x86_64/pkgconfig/lisa.pc"
check "INCLUDEDIR beside it does not" \
    grep -qx 'includedir=/elsewhere/include' "$stage$prefix/lib/x86_64/pkgconfig/lisa.pc"
check "make uninstall LIBDIR=" make_it uninstall LIBDIR=$prefix/lib/x86_64 \
    INCLUDEDIR=/elsewhere/include
check "uninstall leaves no file there either" left
finish

#!/bin/bash
# Builds for aarch64 and runs the compiled fast tests under qemu-user. Called by make check-aarch64.
# Needs gcc-aarch64-linux-gnu, qemu-user-static, apt-get and dpkg; says so and does nothing where
# one of them is missing.
set -eu
cd "$(dirname "$0")/../.."
for tool in aarch64-linux-gnu-gcc qemu-aarch64-static apt-get dpkg; do
    command -v "$tool" >/dev/null || {
        echo "check-aarch64: skipped: $tool is missing"
        exit 0
    }
done
root=$PWD/build/aarch64-root
tests/support/aarch64_sysroot.sh "$root"
export PKG_CONFIG_LIBDIR=$root/usr/lib/aarch64-linux-gnu/pkgconfig
export PKG_CONFIG_SYSROOT_DIR=$root
# An emulated processor is some 30 times slower.
export CK_DEFAULT_TIMEOUT=1200 CK_TIMEOUT_MULTIPLIER=20
# Tests that ask the system about the process ask the emulator here.
export CK_EXCLUDE_TAGS=native
export WRAPPER="qemu-aarch64-static -L $root"
exec "${MAKE:-make}" --no-print-directory "-j${JOBS:-2}" VARIANT=aarch64 \
    CC="aarch64-linux-gnu-gcc --sysroot=$root" AR=aarch64-linux-gnu-ar \
    OBJCOPY=aarch64-linux-gnu-objcopy check-aarch64-now

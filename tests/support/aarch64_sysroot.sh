#!/bin/bash
# Fills a directory with the arm64 libraries that building and testing needs, from Debian's or
# Ubuntu's archive. The machine's own packages and lists stay as they are.
# usage: aarch64_sysroot.sh DIRECTORY
set -eu
root=$(mkdir -p "$1" && cd "$1" && pwd)
[ ! -e "$root/complete" ] || exit 0
state=$root/.apt
mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
: >"$state/status"
cat >"$state/conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$state/state";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
CONF
export APT_CONFIG=$state/conf
apt-get update -q >"$state/log" 2>&1 &&
    apt-get install -q -y --no-install-recommends --download-only check libc6-dev libgcc-12-dev \
        libjansson-dev libopenblas-serial-dev librandom123-dev libxxhash-dev >>"$state/log" 2>&1 || {
    tail -n 5 "$state/log" >&2
    exit 1
}
for package in "$state"/cache/archives/*.deb; do
    dpkg -x "$package" "$root"
done
rm -rf "$state"
touch "$root/complete"

#!/bin/bash
# Runs a test of tests/cuda on a module of the cuda backend; skipped where it was not built.
# Usage: lane.sh LANE TEST   (a folder of $BUILD/cuda, a program of $BUILD/tests/cuda)
set -u
. "$(dirname "$0")/need_lane.sh"
need_lane "$1"
exec "$BUILD/tests/cuda/$2"

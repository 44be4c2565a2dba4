#!/bin/bash
# More of the calls than make check has time for.
export LISA_TEST_STRIDE=23 CK_TIMEOUT_MULTIPLIER=20
exec "$(dirname "$0")/../cuda/lane.sh" host test_faults_cuda

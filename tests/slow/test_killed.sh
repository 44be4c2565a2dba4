#!/bin/bash
# More often than make check has time for.
LISA_TEST_KILLS=500 CK_TIMEOUT_MULTIPLIER=10 exec "$BUILD/tests/fault/test_killed"

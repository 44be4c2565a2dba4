#!/bin/bash
# On the device that the processor stands for.
exec "$(dirname "$0")/lane.sh" host test_start_cuda

#!/bin/bash
# What the kernels of each operation ask of memory, against the least.
exec "$(dirname "$0")/../cuda/lane.sh" race test_traffic_cuda

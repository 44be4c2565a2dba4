#!/bin/bash
# What ptxas made of the kernels: registers, spills, wide accesses (tests/cuda/static/budget.json).
cd "$(dirname "$0")/../.." || exit 1
exec "${PYTHON:-python3}" tests/cuda/static/static.py

#!/usr/bin/env bash
# On a machine with a GPU, the CUDA toolkit, CMake and Python: builds, tests and times everything. For the
# part "api" Python needs the packages of tests/requirements.txt.
#   tools/gpu/all.sh [DEVICE]     DEVICE: cuda:0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/gpu/bundle.sh build/gpu-check
bash build/gpu-check/check.sh "${1:-cuda:0}" kernels races api soak start

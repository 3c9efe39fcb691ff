#!/usr/bin/env bash
# Packs what a bare GPU machine needs into a folder: the program, the tests of kernels and of whole models, their data,
# and check.sh.
# Built here (Debian 12, nvcc 13); the result runs on any Linux with glibc 2.36 or newer and NVIDIA's driver.
#   tools/gpu/bundle.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:?usage: tools/gpu/bundle.sh FOLDER}
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || { echo "nvcc is missing: install the CUDA toolkit 13" >&2; exit 1; }
cmake --preset dev >/dev/null
cmake --build build/dev -- --quiet weir test_goldens test_invariance ops_gpu_test
mkdir -p "$out/bin" "$out/tests/data" "$out/share"
for program in build/dev/weir build/dev/src/runner/test_goldens build/dev/src/cli/test_invariance build/dev/src/ops/ops_gpu_test; do
  strip -o "$out/bin/$(basename "$program")" "$program"
done
cp -r tests/data/goldens "$out/tests/data/"
cp -r share/weir-xs "$out/share/"
python3 tools/gpu/shapes.py "$out/shapes"
cp tools/gpu/check.sh "$out/"
echo "$out: $(du -sh "$out" | cut -f1). On the GPU machine: cd there, bash check.sh"

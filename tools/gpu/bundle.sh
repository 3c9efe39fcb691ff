#!/usr/bin/env bash
# Packs what a bare GPU machine needs into a folder: the program, the tests of kernels, of whole models and of the server,
# their data, and check.sh.
# Built here (Debian 12, nvcc 13); the result runs on any Linux with glibc 2.36 or newer and NVIDIA's driver.
#   tools/gpu/bundle.sh FOLDER [WHEELS]
#   WHEELS: a folder of wheels of tests/requirements.txt for that machine's Python, if it has not the packages itself
#     (python3 -m pip download -r tests/requirements.txt -d WHEELS --only-binary=:all: --python-version 3.12 --platform ...)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:?usage: tools/gpu/bundle.sh FOLDER [WHEELS]}
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || { echo "nvcc is missing: install the CUDA toolkit 13" >&2; exit 1; }
cmake --preset dev >/dev/null
cmake --build build/dev -- --quiet weir test_goldens test_dummy_models test_invariance ops_gpu_test server_sim
# In these kernels every lane arrives at barriers for itself, as racecheck wants it (device/async.h).
cmake --preset dev -B build/race -DWEIR_NVCC_FLAGS=-DWEIR_EVERY_LANE_ARRIVES >/dev/null
cmake --build build/race -- --quiet ops_gpu_test test_goldens
mkdir -p "$out/bin" "$out/tests/data" "$out/tools/gpu" "$out/share" "$out/docs"
for program in weir src/runner/test_goldens src/runner/test_dummy_models src/cli/test_invariance src/ops/ops_gpu_test src/server/server_sim; do
  strip -o "$out/bin/$(basename "$program")" build/dev/"$program"
done
strip -o "$out/bin/ops_gpu_test_races" build/race/src/ops/ops_gpu_test
strip -o "$out/bin/test_goldens_races" build/race/src/runner/test_goldens
cp -r tests/data/goldens tests/data/answers.json "$out/tests/data/"
cp -r tests/program tests/server "$out/tests/"
cp -r share/weir-xs "$out/share/"
cp docs/api.md "$out/docs/"
cp tools/gpu/*.py "$out/tools/gpu/"
mkdir -p "$out/tools/xs"
cp tools/xs/eval_documents.jsonl "$out/tools/xs/"
find "$out" -name __pycache__ -prune -exec rm -r {} +
if [ $# -gt 1 ]; then
  mkdir -p "$out/wheels"
  cp "$2"/*.whl "$out/wheels/"
fi
python3 tools/gpu/shapes.py "$out/shapes"
cp tools/gpu/check.sh "$out/"
echo "$out: $(du -sh "$out" | cut -f1). On the GPU machine: cd there, bash check.sh"

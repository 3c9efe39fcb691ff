#!/usr/bin/env bash
# Everything that is claimed of the GPU backend, on the machine it runs on: kernels, golden data, row invariance, the
# stored answer, compute-sanitizer where it is installed, speed. Under ten minutes, most of them for the sanitizers;
# ends with the number of failures.
#   bash check.sh [DEVICE]        DEVICE: cuda:0
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
device=${1:-cuda:0}
export WEIR_TEST_DEVICE=$device
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=0

step() {  # step LINES LIMIT command...: the last LINES of what it prints, within LIMIT seconds
  local lines=$1 limit=$2 started=$SECONDS
  shift 2
  printf '\n== %s\n' "$*"
  if ! timeout "$limit" "$@" >"$log" 2>&1; then
    failures=$((failures + 1))
    lines=60
    echo "FAILED"
  fi
  tail -n "$lines" "$log" | cut -c1-240
  echo "($((SECONDS - started)) s)"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
step 1 180 bin/ops_gpu_test
step 0 120 bin/test_goldens
grep -a -e "values: mean" -e PASSED -e FAILED "$log"
step 1 180 bin/test_invariance
step 3 60 bin/weir run share/weir-xs "$(sed -n 1p share/weir-xs/example.txt)" --temperature 0 --print-token-ids --stats --device "$device"
if [ "$(tail -n 1 "$log")" = "$(sed -n 2p share/weir-xs/example.txt)" ]; then
  echo "the answer is the stored one, token for token"
else
  echo "FAILED: the stored answer differs"
  failures=$((failures + 1))
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step 1 120 compute-sanitizer --error-exitcode 9 --tool "$tool" bin/test_goldens --gtest_filter='*Greedy*moe_odd:*Greedy*moe_fit'
  done
fi
step 6 60 bin/weir bench share/weir-xs --device "$device" --repeats 2 --strict-kernels
# Random weights of the real shapes: contexts of 10,000 tokens, and operations one by one.
real=(shapes/35b --load-format dummy --device "$device" --max-num-seqs 64 --max-model-len 12288 --prompt-tokens 10000
  --strict-kernels)
step 8 150 bin/weir bench "${real[@]}" --output-tokens 64 --streams 1,8,32,64 --repeats 1
step 90 90 bin/weir bench "${real[@]}" --ops
printf '\n%s failures in %s s\n' "$failures" "$SECONDS"
[ "$failures" = 0 ]

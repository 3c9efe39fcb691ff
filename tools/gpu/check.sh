#!/usr/bin/env bash
# Everything that is claimed of the GPU backend, on the machine it runs on, in parts; each takes less than ten minutes:
#   kernels  kernels, golden data, row invariance, the stored answer, compute-sanitizer where it is installed, speed
#   races    compute-sanitizer over a few launches of each family of kernels and small models: shared memory's races, bad
#            addresses
#   api      the clients' tests against the server; needs Python with the packages of tests/requirements.txt, or wheels/
#   soak     64 streams for WEIR_SOAK_S seconds (300)
#   start    start to ready with 37 GB in the page cache, in WEIR_START_FOLDER or where there is room for them
# Ends with the number of failures.
#   bash check.sh [DEVICE [PART...]]        cuda:0 kernels
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
device=${1:-cuda:0}
parts=("${@:2}")
[ ${#parts[@]} -gt 0 ] || parts=(kernels)
export WEIR_TEST_DEVICE=$device WEIR_BINARY=bin/weir PYTHONDONTWRITEBYTECODE=1
log=$(mktemp)
temporary=$(mktemp -d)
trap 'rm -rf "$log" "$temporary" "${start_folder:-}"' EXIT
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
  tail -n "$lines" "$log" | cut -c1-600
  echo "($((SECONDS - started)) s)"
}

# --num-cuda-barriers: the tool goes by the compiler's count, which is 3 to 5 where a block's rings have up to 69.
sanitize() {  # sanitize LIMIT TOOL PROGRAM FILTER: those tests run, and the tool finds nothing
  local before=$failures
  step 1 "$1" compute-sanitizer --error-exitcode 9 --tool "$2" --num-cuda-barriers 128 "$3" --gtest_filter="$4"
  [ "$failures" = "$before" ] || return
  # Warnings of races are no errors; a device that the tool does not take is one that is not there.
  if ! grep -q -E 'SUMMARY: 0 (errors|hazards)' "$log" || grep -q SKIPPED "$log"; then
    failures=$((failures + 1))
    tail -n 60 "$log" | cut -c1-600
    echo "FAILED: not every test ran, or something was found"
  fi
}

few_goldens='*Greedy*moe_odd:*Greedy*moe_fit:*Greedy*moe_fit_fp8'

part_kernels() {
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
  command -v compute-sanitizer >/dev/null && sanitize 120 memcheck bin/test_goldens "$few_goldens"
  step 6 60 bin/weir bench share/weir-xs --device "$device" --repeats 2 --strict-kernels
  # Random weights of the real shapes: contexts of 10,000 tokens, and operations one by one.
  real=(shapes/35b --load-format dummy --device "$device" --max-num-seqs 64 --max-model-len 12288 --prompt-tokens 10000
    --strict-kernels)
  step 8 150 bin/weir bench "${real[@]}" --output-tokens 64 --streams 1,8,32,64 --repeats 1
  step 90 90 bin/weir bench "${real[@]}" --ops
}

part_races() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "FAILED: there is no compute-sanitizer"
    failures=$((failures + 1))
    return
  fi
  # Few launches and few blocks: they take a hundred times as long.
  local filter filters=(
    'LinearPacked.SlotsTakeTurns:LinearPacked.AddsToWhatIsThere:LinearPacked.NormsRows*'
    'MoePacked.TiesGo*:MoePacked.ARowHas*'
    'MoeFew.SlotsTakeTurns'
    'LinearFew.SlotsTakeTurns'
    'GdnPacked.GeneratedRowsOf*'
    'PagedAttention.Prepare*:PagedAttention.SeveralGenerated*'
    'PagedAttention.AGeneratedRows*'
    'PagedAttention.PromptRows*'
    'LinearPrompt.AddsToWhatIsThere:MoePrompt.AddsToWhatIsThere'
    'LinearPromptE4m3.AddsToWhatIsThere:MoePromptE4m3.AddsToWhatIsThere:QuantizeRows.RowsMay*'
    'Step.TokensArrive*:Step.AStepThat*'
    'GdnPacked.PromptsAgree*'
  )
  for filter in "${filters[@]}"; do
    sanitize 110 racecheck bin/ops_gpu_test_races "$filter"
  done
  sanitize 110 racecheck bin/test_goldens_races "$few_goldens"
  sanitize 120 memcheck bin/ops_gpu_test "$(IFS=: && echo "${filters[*]}")"
}

part_api() {
  if [ -d wheels ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$temporary/site" wheels/*.whl 2>"$log" || cat "$log"
    export PYTHONPATH=$temporary/site
  fi
  if ! python3 -c 'import httpx, openai, prometheus_client, pytest' 2>"$log"; then
    tail -n 1 "$log"
    echo "FAILED: python3 has not the packages of tests/requirements.txt"
    failures=$((failures + 1))
    return
  fi
  local pytest=(python3 -m pytest -q -p no:cacheprovider --tb=short -rf)
  # What tests of files alone find is the same on every device: test_bad_files and test_small_files stay at home.
  local suite
  for suite in openai answers goldens_http reuse drafts load commands surroundings; do
    step 3 240 "${pytest[@]}" "tests/program/test_$suite.py"
  done
  WEIR_SERVER_SIM=bin/server_sim WEIR_TEST_COMMAND="bin/weir serve share/weir-xs --device $device" step 3 240 "${pytest[@]}" tests/server
}

part_soak() {
  local seconds=${WEIR_SOAK_S:-300}
  step 2 $((seconds + 240)) python3 tools/gpu/soak.py share/weir-xs --device "$device" --seconds "$seconds" --json -- --enable-prefix-caching
}

# A folder of its own in the first of these places with room for the checkpoint.
room_for_start() {
  local place gib=40
  for place in ${WEIR_START_FOLDER:-/dev/shm "${TMPDIR:-/tmp}" .}; do
    [ "$(df --output=avail -B 1G "$place" | tail -n 1)" -ge "$gib" ] 2>/dev/null && mktemp -d "$place/weir-start.XXXXXX" && return
  done
  return 1
}

part_start() {
  if ! start_folder=$(room_for_start); then
    echo "FAILED: no place with 40 GiB for the checkpoint: give WEIR_START_FOLDER"
    failures=$((failures + 1))
    return
  fi
  step 1 150 python3 tools/gpu/checkpoint.py shapes/35b "$start_folder/35b"
  step 4 240 python3 tools/gpu/start.py "$start_folder/35b" --device "$device" --repeats 2 --limit 20 --json
  rm -rf "$start_folder"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
for part in "${parts[@]}"; do
  case "$part" in
    kernels | races | api | soak | start) "part_$part" ;;
    *) echo "no part '$part': kernels, races, api, soak or start" >&2; exit 2 ;;
  esac
done
printf '\n%s failures in %s s\n' "$failures" "$SECONDS"
[ "$failures" = 0 ]

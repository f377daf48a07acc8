#!/bin/sh
# What elastic training costs: steps with `train.deterministic = elastic` beside those without, in turns. On two ranks in shared memory, one
# thread each, with two micro-batches a rank (as many ranks as half of the micro-batches), the same otherwise; and on one rank beside
# the same batch at once, without accumulation.
#     tests/bench/elastic.sh <build folder> [rounds] [steps]
set -eu
build=${1:?usage: elastic.sh BUILD_FOLDER [rounds] [steps]}
rounds=${2:-5} steps=${3:-10}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/bench/train.sh
. "$here/train.sh"
open_bench "$build"

# run NAME COMMAND...: the median of its steps' seconds is kept under NAME
run() {
    name=$1
    shift
    "$@" --config "$work/run.yaml" --train.steps "$steps" --train.batch 16 --out "$work/run" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    step_values "$work/run/metrics.jsonl" seconds >"$work/steps"
    median "$work/steps" >>"$work/$name"
    rm -rf "$work/run"
}
two() { name=$1; shift; run "$name" mpirun --oversubscribe --bind-to none -n 2 "$work/pinned" "$helix" train "$@"; }
one() { name=$1; shift; run "$name" taskset -c 0 "$helix" train "$@"; }
elastic='--train.deterministic elastic'

i=0
while [ "$i" -lt "$rounds" ]; do
    for zero in 0 1 2; do
        two plain2_$zero --train.micro_batch 4 --ddp.zero $zero
        # shellcheck disable=SC2086
        two elastic2_$zero --train.micro_batch 4 $elastic --ddp.zero $zero
    done
    one plain1 --train.micro_batch 16
    # shellcheck disable=SC2086
    one elastic1 --train.micro_batch 4 $elastic
    i=$((i + 1))
done
echo '2 ranks, 4 micro-batches of 4 samples: ms a step, plain accumulation and elastic'
for zero in 0 1 2; do
    awk -v z=$zero -v p="$(median "$work/plain2_$zero")" -v e="$(median "$work/elastic2_$zero")" 'BEGIN {
        printf "  ZeRO %d  %8.1f  %8.1f   %.3f of plain\n", z, 1e3 * p, 1e3 * e, e / p }'
done
awk -v p="$(median "$work/plain1")" -v e="$(median "$work/elastic1")" 'BEGIN {
    printf "1 rank, 16 samples: at once %.1f ms a step, elastic in 4 micro-batches %.1f, %.3f of it\n", 1e3 * p, 1e3 * e, e / p }'

#!/bin/sh
# What elastic training costs: steps with `train.deterministic = elastic` beside those without, in turns. On two ranks in shared memory, one
# thread each, with two micro-batches a rank (as many ranks as half of the micro-batches), the same otherwise; and on one rank beside
# the same batch at once, without accumulation.
#     tests/bench/elastic.sh <build folder> [rounds] [steps]
set -eu
build=$(realpath "${1:?usage: elastic.sh BUILD_FOLDER [rounds] [steps]}")
rounds=${2:-5} steps=${3:-10}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/bench/train.sh
. "$here/train.sh"
helix=$build/helix
[ -x "$helix" ] || { echo "$helix is missing: build the target helix" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
make_run "$work"

# run NAME LAUNCHER... -- OPTIONS...: medians of the steps' seconds are kept under NAME
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
    two plain2 --train.micro_batch 4
    # shellcheck disable=SC2086
    for zero in 0 1 2; do two elastic2_$zero --train.micro_batch 4 $elastic --ddp.zero $zero; done
    two plain2_2 --train.micro_batch 4 --ddp.zero 2
    one plain1 --train.micro_batch 16
    # shellcheck disable=SC2086
    one elastic1 --train.micro_batch 4 $elastic
    i=$((i + 1))
done
awk -v p="$(median "$work/plain2")" -v e0="$(median "$work/elastic2_0")" -v e1="$(median "$work/elastic2_1")" -v e2="$(median "$work/elastic2_2")" \
    -v p2="$(median "$work/plain2_2")" -v p1="$(median "$work/plain1")" -v e="$(median "$work/elastic1")" 'BEGIN {
    printf "2 ranks, 4 micro-batches of 4 samples: ms a step\n"
    printf "  plain accumulation        %8.1f\n", 1e3 * p
    printf "  elastic, ZeRO 0           %8.1f   %.3f of plain\n", 1e3 * e0, e0 / p
    printf "  elastic, ZeRO 1           %8.1f   %.3f of plain\n", 1e3 * e1, e1 / p
    printf "  elastic, ZeRO 2           %8.1f   %.3f of plain, %.3f of ZeRO 2 (%.1f)\n", 1e3 * e2, e2 / p, e2 / p2, 1e3 * p2
    printf "1 rank, 16 samples: ms a step\n"
    printf "  at once                   %8.1f\n", 1e3 * p1
    printf "  elastic, 4 micro-batches  %8.1f   %.3f of at once\n", 1e3 * e, e / p1 }'

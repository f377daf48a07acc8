#!/bin/sh
# What two ranks of data parallelism in shared memory reach of two trainings that know nothing of each other, at the same time on the
# same two cores: one thread each, the same batch for each. Rounds take turns; the median of their ratios is to be 0.97 or more.
#     tests/bench/scaling.sh <build folder> [rounds] [steps]
set -eu
build=${1:?usage: scaling.sh BUILD_FOLDER [rounds] [steps]}
rounds=${2:-5} steps=${3:-20}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/bench/train.sh
. "$here/train.sh"
open_bench "$build"

alone() { taskset -c "$1" "$helix" train --config "$work/run.yaml" --train.steps "$steps" --out "$work/core$1" >"$work/core$1.log" 2>&1; }
together() {
    mpirun --oversubscribe --bind-to none -n 2 "$work/pinned" "$helix" train --config "$work/run.yaml" --train.steps "$steps" \
        --train.batch 16 --out "$work/both" >"$work/both.log" 2>&1
}
# step_median RUN: seconds of a step
step_median() {
    step_values "$work/$1/metrics.jsonl" seconds >"$work/steps"
    median "$work/steps"
}

echo "round   alone: ms a step on each core   2 ranks: ms a step   ratio of samples/s"
i=0
while [ "$i" -lt "$rounds" ]; do
    rm -rf "$work/core0" "$work/core1" "$work/both"
    alone 0 &
    good=yes
    alone 1 || good=no
    wait $! || good=no
    [ $good = yes ] || { cat "$work/core0.log" "$work/core1.log" >&2; exit 1; }
    together || { cat "$work/both.log" >&2; exit 1; }
    i=$((i + 1))
    awk -v i="$i" -v a="$(step_median core0)" -v b="$(step_median core1)" -v c="$(step_median both)" -v out="$work/ratios" 'BEGIN {
        ratio = 2 / c / (1 / a + 1 / b)
        printf "%5d   %15.1f %15.1f   %18.1f   %18.3f\n", i, 1e3 * a, 1e3 * b, 1e3 * c, ratio
        printf "%.9g\n", ratio >>out }'
done
echo "median ratio: $(median "$work/ratios")"

#!/bin/sh
# What data parallelism in shared memory reaches on two cores: a GPT of 10.7 million parameters at 8 samples of 256 tokens a step, trained
# by one rank of two threads, by two ranks of one thread, and as two trainings of 4 samples each that know nothing of each other, at the
# same time: what two ranks could reach that had nothing to say to each other. Each thread has a core of its own. The three take turns;
# medians over the rounds. Two ranks are to reach 0.97 of the two that are independent.
#     tests/bench/scaling.sh BUILD_FOLDER [rounds] [steps] [dtype]
set -eu
build=${1:?usage: scaling.sh BUILD_FOLDER [rounds] [steps] [dtype]}
rounds=${2:-5} steps=${3:-20} dtype=${4:-f32}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/bench/train.sh
. "$here/train.sh"
open_bench "$build"
batch=8 ctx=256

# train OUT BATCH OPTION...
train() {
    out=$work/$1 samples=$2
    shift 2
    set -- "$helix" train --config "$work/run.yaml" --model.ctx $ctx --model.dim 384 --model.heads 6 --model.dtype "$dtype" \
        --train.steps "$steps" --train.batch "$samples" --out "$out" "$@"
    # shellcheck disable=SC2086
    $before "$@" >"$out.log" 2>&1
}
threads() { before="taskset -c 0,1" && train threads $batch --threads 2; }
ranks() { before="mpirun --oversubscribe --bind-to none -n 2 $work/pinned" && train ranks $batch; }
alone() { before="taskset -c $1" && train "alone$1" $((batch / 2)); }
both_alone() {
    alone 0 &
    good=yes
    alone 1 || good=no
    wait $! || good=no
    [ $good = yes ]
}
# tokens RUN BATCH: a second, of the median step
tokens() {
    step_values "$work/$1/metrics.jsonl" seconds >"$work/steps"
    awk -v s="$(median "$work/steps")" -v n="$(($2 * ctx))" 'BEGIN { printf "%.9g\n", n / s }'
}

echo "tokens/s: 1 rank x 2 threads   2 ranks x 1 thread   2 independent   2 ranks / independent   2 ranks / 2 threads"
i=0
while [ "$i" -lt "$rounds" ]; do
    rm -rf "$work/alone0" "$work/alone1" "$work/ranks" "$work/threads"
    for way in both_alone ranks threads; do
        $way || { cat "$work"/*.log >&2; exit 1; }
    done
    i=$((i + 1))
    awk -v threads="$(tokens threads $batch)" -v ranks="$(tokens ranks $batch)" -v a="$(tokens alone0 $((batch / 2)))" \
        -v b="$(tokens alone1 $((batch / 2)))" 'BEGIN { print threads, ranks, a + b, ranks / (a + b), ranks / threads }' >>"$work/rounds"
    tail -n 1 "$work/rounds" | awk '{ printf "%28.0f %20.0f %15.0f %23.3f %21.3f\n", $1, $2, $3, $4, $5 }'
done
for column in 1 2 3 4 5; do
    awk -v c=$column '{ print $c }' "$work/rounds" >"$work/column"
    median "$work/column"
done | tr '\n' ' ' | awk '{ printf "median\n%28.0f %20.0f %15.0f %23.3f %21.3f\n", $1, $2, $3, $4, $5 }'

# shellcheck shell=sh
# Sourced by the benches of training: a model and text to train on, ranks on cores of their own, and what metrics.jsonl says.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# make_run FOLDER: FOLDER/run.yaml, a GPT of 4.9 million parameters and 8 samples of 128 tokens; FOLDER/pinned COMMAND ..., which runs
# a rank's command on the core of the rank's number.
make_run() {
    awk 'BEGIN { srand(1); for (i = 0; i < 10000; i++) print "And the " int(rand() * 1e6) " of the days was good, and it was so." }' \
        >"$1/corpus.txt"
    cat >"$1/run.yaml" <<TEXT
device: cpu
threads: 1
progress: none
data: {path: $1/corpus.txt, holdout: 0}
model: {ctx: 128, layers: 6, dim: 256, heads: 8}
train: {batch: 8, log_every: 1, eval_every: -1}
ckpt: {every: -1}
TEXT
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec taskset -c "$OMPI_COMM_WORLD_RANK" "$@"\n' >"$1/pinned"
    chmod +x "$1/pinned"
}

# open_bench BUILD: sets $helix, and $work, a folder with such a run, which goes when the script ends.
# shellcheck disable=SC2034
open_bench() {
    helix=$(realpath "$1")/helix
    [ -x "$helix" ] || { echo "$helix is missing: build the target helix" >&2; exit 2; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    make_run "$work"
}

# step_values METRICS EXPRESSION: of each step but the first three, on which memory is still new; `seconds` and `comm_share` are
# awk's variables in the expression.
step_values() {
    awk "function number(key) {
            return match(\$0, \"\\\"\" key \"\\\":[-+.0-9e]+\") ? substr(\$0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : 0
        }
        /\"event\":\"step\"/ && ++n > 3 { seconds = number(\"seconds\"); comm_share = number(\"comm_share\"); printf \"%.9g\\n\", $2 }" "$1"
}

# median FILE: of one number a line
median() { sort -g "$1" | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

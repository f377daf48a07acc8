# shellcheck shell=bash disable=SC2034
# Sourced by the scripts of this folder, which are called as: test_x.sh HELIX FOLDER
set -uo pipefail
helix=$1
folder=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder" || exit 1
full=${HELIX_TEST_FULL:-} # 1: long forms
unset "${!HELIX_@}" OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
ulimit -c unlimited 2>/dev/null || true # a crash leaves a core file where the system is set up for it
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
failed=0

fail() { printf 'FAILED: %s\n' "$*"; failed=1; }
finish() {
    [ "$failed" -eq 0 ] && echo passed
    exit "$failed"
}
two_ranks=(mpirun --oversubscribe --bind-to none -n 2)

# step_file RUN STEP: its checkpoint of a step, of the newest generation that has one
step_file() { compgen -G "$1/ckpt/gen-*/$(printf 'step-%08d.h5' "$2")" | tail -1; }

# expect CODE TEXT COMMAND...: the command leaves with CODE and says TEXT; a crash or a hang never counts.
expect() {
    local code=$1 text=$2 output got
    shift 2
    output=$(timeout 60 "$@" 2>&1 </dev/null)
    got=$?
    [ "$got" -eq "$code" ] || fail "exit code $got, expected $code: $*"$'\n'"$output"
    grep -qF -- "$text" <<<"$output" || fail "'$text' is not said by: $*"$'\n'"$output"
    # a single process says what is wrong once
    if [ "$code" -ne 0 ] && [ "$1" = "$helix" ] && [ "$(grep -c '^helix: ' <<<"$output")" -ne 1 ]; then
        fail "expected one line of error: $*"$'\n'"$output"
    fi
}

# values FILE NAME: one per line; attributes, which come behind the data, are left out
values() { h5dump -d "$2" -y -w 1 -m '%.17g' "$1" | sed '/ATTRIBUTE/,$d' | sed -n '/DATA {/,/}/p' | grep -oE '[-+.0-9e]+[0-9]'; }
distances() {
    local name
    for name in $(h5ls -r "$1/model" | awk '$2 == "Dataset" {print "/model" $1}' | grep -v 'attn\.k\.bias'); do
        paste <(values "$1" "$name") <(values "$2" "$name") |
            awk -v name="$name" '{d += ($1 - $2)^2; n += $1^2; k++} END {printf "%s %d %g\n", name, k, sqrt(d) / (sqrt(n) + 1e-300)}'
    done
}
# same_model TEXT A B: two checkpoints, tensor by tensor, |a - b| <= 1e-9 |b|; the key biases, whose gradient is zero in theory, are
# left out.
same_model() {
    distances "$2" "$3" >distances.txt
    awk -v text="$1" '{k += $2; if ($3 > worst) worst = $3} END {printf "%s: %d values, tensors differ by at most %g\n", text, k, worst
        exit !(k > 100000 && worst <= 1e-9)}' distances.txt || fail "$1 end elsewhere: $(cat distances.txt)"
}

# make_text FILE: a text of 60 kB that a small model learns quickly.
make_text() {
    local i
    for i in $(seq 1 1200); do printf 'And the %d of the days was good, and it was so.\n' $((i % 7)); done >"$1"
}

# A model that trains in seconds.
small=(--model.ctx=32 --model.layers=2 --model.dim=32 --model.heads=2 --train.batch=8 --train.eval_batches=4
    --train.log_every=5 --optim.warmup=5)

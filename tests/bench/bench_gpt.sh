#!/bin/sh
# Helix and PyTorch on the same model, alternately, so that both see the same machine: medians of tokens per second and
# their ratio.
#     [PYTHON=/usr/bin/python3] tests/bench/bench_gpt.sh <build folder> [threads] [rounds] [steps]
set -eu
build=${1:?usage: bench_gpt.sh BUILD_FOLDER [threads] [rounds] [steps]}
threads=${2:-1} rounds=${3:-5} steps=${4:-5}
here=$(cd "$(dirname "$0")" && pwd)
program=$build/tests/bench_gpt
[ -x "$program" ] || { echo "$program is missing: build the target bench_gpt" >&2; exit 2; }
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OPENBLAS_NUM_THREADS="$threads" OMP_NUM_THREADS="$threads"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/helix"
: >"$work/torch"

rate() { sed -n 's/.*tokens_per_s \([0-9.]*\).*/\1/p'; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

python=${PYTHON:-python3}
have_torch=yes
"$python" -c 'import torch' 2>/dev/null || have_torch=no
i=0
while [ "$i" -lt "$rounds" ]; do
    "$program" "$threads" "$steps" >"$work/out"
    rate <"$work/out" >>"$work/helix"
    if [ "$have_torch" = yes ]; then
        "$python" "$here/bench_gpt.py" "$threads" "$steps" >"$work/out"
        rate <"$work/out" >>"$work/torch"
    fi
    i=$((i + 1))
done

helix=$(median "$work/helix")
echo "helix: $helix tokens/s (median of $rounds rounds, $threads threads)"
if [ "$have_torch" = no ]; then
    echo "torch not installed (Debian: apt-get install python3-torch): no comparison"
    exit 0
fi
torch=$(median "$work/torch")
echo "torch: $torch tokens/s"
awk -v h="$helix" -v t="$torch" 'BEGIN { printf "ratio helix/torch: %.2f\n", h / t }'

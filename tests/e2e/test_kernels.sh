#!/usr/bin/env bash
# What decides the bits of a run is written down, told when it changes, and asked for where a run is to be elastic.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --threads=1 --data.path corpus.txt)
elastic=("${train[@]}" --train.deterministic=elastic --train.steps 1 --out e)

expect 0 '2 steps' "${train[@]}" --train.steps 2 --out a
expect 0 'gemm own' "$helix" ckpt show a
expect 0 '"kernels":' "$helix" ckpt show a --json
expect 0 'WARNING: bits will differ' env HELIX_GEMM=openblas "${train[@]}" --train.steps 3 --out a --resume
expect 0 'gemm openblas' "$helix" ckpt show a
HELIX_GEMM=openblas "${train[@]}" --train.steps 4 --out a --resume >same.txt 2>&1 || fail "resume: $(cat same.txt)"
grep -q 'WARNING' same.txt && fail "a warning without a change: $(cat same.txt)"

expect 2 'micro_batch = 0' "${elastic[@]}"
expect 2 'makes 2.66667' "${elastic[@]}" --train.micro_batch 3
expect 2 'makes 2 of them for 3 ranks' mpirun --oversubscribe --bind-to none -n 3 "${elastic[@]}" --train.micro_batch 4
expect 2 "rank 1 computes with the kernels 'cpu" mpirun --oversubscribe --bind-to none -n 1 "${elastic[@]}" --train.micro_batch 4 \
    : -n 1 env HELIX_GEMM=openblas "${elastic[@]}" --train.micro_batch 4
[ -e e ] && fail 'a run that was refused left its folder'
finish

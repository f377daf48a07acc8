#!/usr/bin/env bash
# The number of threads and the way streams execute change no bit of the result. Built with ThreadSanitizer this is also
# the test for races: one process with many threads and no MPI, whose own threads are not instrumented.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train --model.ctx=64 --model.layers=2 --model.dim=48 --model.heads=4 --model.dropout=0.1 --train.batch=6
    --train.micro_batch=4 --train.eval_batches=2 --optim.warmup=2 --data.path corpus.txt --train.steps 12 --ckpt.every 6)
# same_state RUN [STEP]
same_state() {
    local step=${2:-12}
    h5diff "$(step_file one "$step")" "$(step_file "$1" "$step")" /model >diff.txt || fail "$1: other weights: $(head -3 diff.txt)"
    h5diff "$(step_file one "$step")" "$(step_file "$1" "$step")" /optim >diff.txt || fail "$1: other moments: $(head -3 diff.txt)"
}
expect 0 '12 steps' "${train[@]}" --out one --threads 1
for threads in 2 3 5; do
    expect 0 '12 steps' "${train[@]}" --out "threads$threads" --threads $threads
    same_state "threads$threads"
done
HELIX_STREAM=async expect 0 '12 steps' "${train[@]}" --out async --threads 2
same_state async
# a thread copies what the next step uses
HELIX_TEST_COPY_MS=200 expect 0 '12 steps' "${train[@]}" --out beside --threads 2 --ckpt.async wait --ckpt.every 1 --ckpt.keep 20 \
    --train.ema 0.9 --train.eval_every 2
same_state beside 6
same_state beside
HELIX_GEMM=openblas expect 0 '12 steps' "${train[@]}" --out blas1 --threads 1
HELIX_GEMM=openblas expect 0 '12 steps' "${train[@]}" --out blas3 --threads 3
h5diff "$(step_file blas1 12)" "$(step_file blas3 12)" /model >diff.txt || fail "OpenBLAS: other weights: $(head -3 diff.txt)"
finish

#!/usr/bin/env bash
# Elastic training: a run that is killed, or moves to other ranks; other norms, tensor parallelism, evaluations; and what an elastic run
# does not go on with.
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/elastic.sh"
expect 0 '6 steps' "${train[@]}" --out whole

# killed after a checkpoint, wherever that is, and on with fewer ranks
"${ranks[@]}" 3 "${train[@]}" --out killed --ddp.zero 1 >killed.txt 2>&1 &
pid=$!
for _ in $(seq 300); do
    [ -n "$(step_file killed 3)" ] && break
    sleep 0.1
done
kill -9 $pid
wait $pid 2>/dev/null
expect 0 'held-out' "${ranks[@]}" 2 "${train[@]}" --out killed --resume --ddp.zero 2
same_state 'killed with 3 ranks, resumed with 2' whole killed
expect 0 '3 steps' "${ranks[@]}" 4 "${train[@]}" --train.steps 3 --out moved
expect 0 '6 steps' "${train[@]}" --out moved --resume
same_state '4 ranks, then 1' whole moved

# the norm that clipping goes by, in its other forms
for type in 1 inf; do
    for n in 1 3; do expect 0 '6 steps' "${ranks[@]}" $n "${train[@]}" --optim.clip_norm_type $type --out "norm${type}_$n" --ddp.zero 1; done
    same_run "norm of type $type" "norm${type}_1" "norm${type}_3"
done

# ranks with parts of the model: two of them alone, and twice two
expect 0 '(tp=2)' "${ranks[@]}" 2 "${train[@]}" --mesh.tp 2 --out parts
for zero in 0 1 2; do
    expect 0 'dp=2 x tp=2' "${ranks[@]}" 4 "${train[@]}" --mesh.tp 2 --out parts$zero --ddp.zero $zero
    same_run "tp=2, ZeRO $zero" parts parts$zero
done

# an evaluation has the same bits too
losses=$(for n in 1 2 3; do "${ranks[@]}" $n "$helix" eval whole --json --data.path corpus.txt | grep -oE '"loss": *[^,}]*'; done | sort -u)
[ "$(wc -l <<<"$losses")" -eq 1 ] || fail "eval differs between numbers of ranks: $losses"

# what an elastic run does not go on with
expect 2 '--train.deterministic=ranks goes on' "${train[@]}" --out whole --resume --train.steps 9 --train.micro_batch 4
expect 2 'in 16 of 1' "${train[@]}" --out whole --resume --train.steps 9 --train.micro_batch 1
expect 2 'mesh.tp = 1, mesh.sequence = false, this run has 2, true' "${ranks[@]}" 2 "${train[@]}" --out whole --resume --train.steps 9 --mesh.tp 2 \
    --mesh.sequence true
expect 2 'mesh.tp = 2, mesh.sequence = false, this run has 1, false' "${train[@]}" --out parts --resume --train.steps 9
expect 2 'gemm openblas' env HELIX_GEMM=openblas "${train[@]}" --out whole --resume --train.steps 9
expect 0 'WARNING: bits will differ' env HELIX_GEMM=openblas "${train[@]}" --out whole --resume --train.steps 9 --train.deterministic ranks
finish

#!/usr/bin/env bash
# A rank that is killed, and a run that goes on with other numbers of ranks.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
ranks=(mpirun --oversubscribe --bind-to none -n)
# A step takes some 50 ms, so that a kill comes between two checkpoints. The learning rate does not depend on the number
# of steps, so that a run may be extended.
train=("$helix" train --model.ctx=128 --model.layers=2 --model.dim=64 --model.heads=4 --model.dtype=f64 --model.dropout=0.1
    --train.batch=12 --train.eval_batches=1 --train.log_every=1 --optim.warmup=5 --optim.schedule=constant
    --data.path corpus.txt --ckpt.every 10)

expect 0 '20 steps' "${ranks[@]}" 2 "${train[@]}" --train.steps 20 --out whole

# kill -9 of one rank: the job ends soon, and says so
"${ranks[@]}" 2 "${train[@]}" --train.steps 20 --out killed >killed.log 2>&1 &
job=$!
for _ in $(seq 1000); do [ -n "$(step_file killed 10)" ] && break; kill -0 $job 2>/dev/null || break; sleep 0.01; done
mapfile -t pids < <(pgrep -P $job -x helix)
[ ${#pids[@]} -eq 2 ] || fail "expected two ranks to kill one of, found ${#pids[@]}"
began=$(date +%s%N)
kill -KILL "${pids[1]}"
wait $job
code=$?
took=$((($(date +%s%N) - began) / 1000000))
echo "the job ended $took ms after the kill, with exit code $code"
[ "$code" -ne 0 ] || fail "exit code 0 after a rank was killed"
[ "$took" -lt 10000 ] || fail "the job took $took ms to end"
grep -qiE 'killed|signal 9' killed.log || fail "nobody says that a rank was killed: $(tail -5 killed.log)"
[ -z "$(step_file killed 20)" ] || fail "the run was over before the kill"

# bit for bit on the same number of ranks
expect 0 '20 steps' "${ranks[@]}" 2 "${train[@]}" --train.steps 20 --out killed --resume
h5diff "$(step_file whole 20)" "$(step_file killed 20)" /model || fail "the resumed model is another"
h5diff "$(step_file whole 20)" "$(step_file killed 20)" /optim || fail "the resumed optimizer is another"

# 2, then 3, then 1 ranks: the same sums in another order
expect 0 '10 steps' "${ranks[@]}" 2 "${train[@]}" --train.steps 10 --out moved
expect 0 '15 steps' "${ranks[@]}" 3 "${train[@]}" --train.steps 15 --out moved --resume
expect 0 '20 steps' "${train[@]}" --train.steps 20 --out moved --resume
same_model '2 -> 3 -> 1 ranks' "$(step_file whole 20)" "$(step_file moved 20)"

# a checkpoint that is being written when all ranks fail is waited for, longer than ranks that do not answer are, and the failure is told
mkfifo gate # rank 1 begins to write when somebody reads its log of calls
diverging=("${train[@]}" --out failing --model.dtype f32 --train.steps 50 --ckpt.every 2 --ckpt.async wait --train.eval_every -1 --train.save_best=false
    --optim.optimizer sgd --optim.lr 1000 --optim.clip 0 --optim.warmup 0 --train.max_skips 3)
(sleep 12 && timeout 30 cat gate >/dev/null) &
expect 7 'updates in a row were left out' mpirun --oversubscribe --bind-to none -n 1 "${diverging[@]}" : -n 1 env HELIX_TEST_IO_LOG=gate "${diverging[@]}"
wait $!
expect 0 'all checksums match' "$helix" ckpt verify "$(step_file failing 2)"
grep -q '"event":"save_end","step":2,' failing/metrics.jsonl || fail "a save that was begun has no end: $(cat failing/metrics.jsonl)"
# one process does the same, and fails with what it failed with
(sleep 3 && timeout 30 cat gate >/dev/null) &
expect 7 'updates in a row were left out' env HELIX_TEST_IO_LOG=gate "${diverging[@]}" --out alone
wait $!
expect 0 'all checksums match' "$helix" ckpt verify "$(step_file alone 2)"
grep -q '"event":"save_end","step":2,.*"is_best":false' alone/metrics.jsonl || fail "one process: a save that was begun has no end"
[ "$(h5dump -d /saves/step alone/history.h5 | grep -c '(0): 2')" = 1 ] || fail "one process: a save that was begun has no row"

# other people's tools see whole tensors under readable names
h5ls -r whole/ckpt/gen-0001/latest >listing.txt || fail "h5ls cannot read the checkpoint"
grep -qE '^/model/blocks\.1\.attn\.k\.weight +Dataset \{64, 64\}' listing.txt || fail "no whole k.weight in $(cat listing.txt)"
grep -qE '^/optim/m/tok\.weight +Dataset \{256, 64\}' listing.txt || fail "no moments of tok.weight in $(cat listing.txt)"
finish

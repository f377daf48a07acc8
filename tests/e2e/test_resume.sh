#!/usr/bin/env bash
# A run that is stopped and resumed ends with the same weights as one that was not.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --data.path corpus.txt --train.steps 30 --ckpt.every 10 --train.eval_every 10)

# weights FILE: a digest of all datasets' values, nothing of the file's own layout
weights() {
    local name
    for name in $(h5ls -r "$1" | awk '$2 == "Dataset" && !/^\/meta\// {print $1}'); do
        printf '%s ' "$name"
        h5dump -d "$name" -y -w 0 "$1" | sed -n '/DATA {/,/}/p' | md5sum
    done
}

expect 0 '30 steps' "${train[@]}" --out whole

# killed without warning after the first checkpoint
"${train[@]}" --out killed --train.steps 30 >killed.log 2>&1 &
pid=$!
for _ in $(seq 600); do [ -n "$(step_file killed 10)" ] && break; kill -0 $pid 2>/dev/null || break; sleep 0.02; done
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
expect 2 '--resume' "${train[@]}" --out killed
expect 0 '30 steps' "${train[@]}" --out killed --resume
diff <(weights "$(step_file whole 30)") <(weights "$(step_file killed 30)") >diff.txt ||
    fail "the killed and resumed run has other weights: $(head -3 diff.txt)"

# asked to stop by a signal: a checkpoint, exit code 11, and the same end
HELIX_TRAIN_STEPS=100000 "$helix" train "${small[@]}" --data.path corpus.txt --out stopped --ckpt.every 100000 \
    --optim.schedule constant >stopped.log 2>&1 &
pid=$!
for _ in $(seq 600); do grep -q 'step 10/' stopped.log && break; sleep 0.02; done
kill -TERM $pid
wait $pid
code=$?
[ "$code" -eq 11 ] || fail "exit code $code after SIGTERM, expected 11: $(cat stopped.log)"
compgen -G 'stopped/ckpt/gen-*/step-*.h5' >/dev/null || fail "no checkpoint after SIGTERM"

# other ranks, other cadence of checkpoints: fine; another model: refused, with the first difference (what users of other trainers
# lose, number 8: a resume diverges or loads another model without a word, Megatron#1570, #6920)
expect 0 'going on from' "${two_ranks[@]}" "${train[@]}" --out killed --resume --train.steps 35 --ckpt.every 5
expect 6 'model.layers' "${train[@]}" --out killed --resume --model.layers=3
expect 0 'starting afresh' "${train[@]}" --out nothing_yet --resume --train.steps 2
expect 0 '' "${train[@]}" --out from_weights --init_from whole/ckpt --train.steps 2

# of another model what fits is loaded, and the rest is told; all of a run's state, too
expect 6 'blocks.2' "${train[@]}" --out deeper --init_from whole --train.steps 2 --model.layers=3
expect 6 '--resume_partial takes what fits of whole/ckpt/gen-' "${train[@]}" --out averaged --init_from whole --train.steps 2 --model.layers=3
expect 0 'and 12 more' "${train[@]}" --out deepest --init_from whole --train.steps 2 --model.layers=4 --resume_partial
expect 0 'not loaded: /model/blocks.2' "${train[@]}" --out deeper --init_from whole --train.steps 2 --model.layers=3 --resume_partial
expect 0 'not wanted: /optim' "${train[@]}" --out from_weights2 --init_from whole --train.steps 2 --resume_partial
expect 0 'going on from' "${two_ranks[@]}" "${train[@]}" --out killed --resume --resume_partial --train.steps 36 --model.layers=3

# what is made from weights is made from those that were loaded: master copies in f32, moving averages
expect 0 '' "${train[@]}" --out half --model.dtype bf16 --train.freeze 'tok.*,blocks.*' --train.steps 10
expect 0 'not loaded: /optim/m/' "${train[@]}" --out half --model.dtype bf16 --resume --resume_partial --train.steps 12 --optim.lr 0 --train.ema 0.5
same=("$(step_file half 10)" "$(step_file half 12)")
for name in tok.weight blocks.1.mlp.in.weight; do
    h5diff "${same[@]}" "/model/$name" >/dev/null || fail "a resumed part lost $name at a step of rate 0"
    cmp -s <(values "${same[1]}" "/ema/$name") <(values "${same[1]}" "/model/$name") || fail "the average of $name begins elsewhere"
done
expect 6 'none of' "${train[@]}" --out half --model.dtype f32 --resume --resume_partial --train.steps 13
expect 6 'none of' "${train[@]}" --out nothing_fits --init_from whole --train.steps 2 --model.layers=2 --model.dim=48 --model.heads=4 --model.ctx=16 --resume_partial
finish

#!/usr/bin/env bash
# Layers cut over ranks: the same run as one process makes, checkpoints that any layout goes on from, and what is refused.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
ranks=(mpirun --oversubscribe --bind-to none -n)
train=("$helix" train --model.ctx=32 --model.layers=2 --model.dim=72 --model.heads=6 --model.dtype=f64 --model.dropout=0.1
    --train.batch=12 --train.eval_batches=1 --train.log_every=1 --optim.warmup=5 --optim.schedule=constant --optim.clip=0.5
    --data.path corpus.txt --ckpt.every 10)

expect 0 '20 steps' "${train[@]}" --train.steps 20 --out whole
expect 0 'dp=2 x tp=2' "${ranks[@]}" 4 "${train[@]}" --train.steps 10 --out moved --mesh.tp 2
expect 0 '15 steps' "${ranks[@]}" 2 "${train[@]}" --train.steps 15 --out moved --resume --mesh.tp 2 --model.recompute 1
expect 0 '20 steps' "${ranks[@]}" 3 "${train[@]}" --train.steps 20 --out moved --resume
same_model '2 x 2 -> 1 x 2 -> 3 x 1 ranks' "$(step_file whole 20)" "$(step_file moved 20)"
tensors() { h5ls -r "$1" | grep -v "^/meta/" | sort; }
[ "$(tensors "$(step_file moved 10)")" = "$(tensors "$(step_file moved 20)")" ] ||
    fail 'a cut model has other tensors in its checkpoint'

# with the optimizer's state shared out on top
expect 0 '10 steps' "${ranks[@]}" 4 "${train[@]}" --train.steps 10 --out shared --mesh.tp 2 --ddp.zero 1
expect 0 '20 steps' "${ranks[@]}" 3 "${train[@]}" --train.steps 20 --out shared --resume --ddp.zero 1
same_model '2 x 2 -> 3 x 1 ranks, ZeRO 1' "$(step_file whole 20)" "$(step_file shared 20)"

# with norms and dropouts split by position: gradients that are parts of a sum, with replicas and without, and in shares
split=("${train[@]}" --out split --mesh.tp 2 --mesh.sequence)
expect 0 'dp=2 x tp=2' "${ranks[@]}" 4 "${split[@]}" --train.steps 10 --train.micro_batch 2 --ddp.zero 2
expect 0 '15 steps' "${ranks[@]}" 2 "${split[@]}" --train.steps 15 --resume --model.recompute 1
expect 0 '20 steps' "${ranks[@]}" 4 "${split[@]}" --train.steps 20 --resume --ddp.bucket_bytes 4096
same_model '2 x 2 -> 1 x 2 -> 2 x 2 ranks, split by position' "$(step_file whole 20)" "$(step_file split 20)"

# what is asked of the logits is the same on any layout
expect 0 '"loss"' "${ranks[@]}" 2 "$helix" eval moved --json --mesh.tp 2 --data.path corpus.txt
expect 0 '"loss"' "$helix" eval moved --json --data.path corpus.txt
losses=$(for layout in '1' '2' '2 --mesh.sequence'; do
    # shellcheck disable=SC2086
    "${ranks[@]}" ${layout%% *} "$helix" eval moved --json --mesh.tp $layout --data.path corpus.txt | grep -oE '"loss": *[0-9.]{12}'
done | sort | uniq -c)
[[ "$losses" =~ ^\ *3\ [^$'\n']*$ ]] || fail "eval differs between layouts: $losses"

expect 2 'model.heads = 6' "${ranks[@]}" 4 "${train[@]}" --out a --mesh.tp 4
expect 2 'model.ctx = 33' "${ranks[@]}" 2 "${train[@]}" --out a --mesh.tp 2 --mesh.sequence --model.ctx=33
expect 2 'tp=2 makes 2 ranks, but there are 3' "${ranks[@]}" 3 "${train[@]}" --out a --mesh.tp 2
expect 2 'both 0' "${ranks[@]}" 2 "${train[@]}" --out a --mesh.tp 0
expect 2 'tp=2' "${train[@]}" --out a --mesh.tp 2
expect 2 'no rank has whole logits' "${ranks[@]}" 2 "$helix" generate moved --mesh.tp 2

# A rank that runs out of memory within a layer, where the other waits for it: the job ends all the same, and says why.
large=("$helix" train --model.ctx=256 --model.layers=4 --model.dim=128 --model.heads=4 --train.batch=256 --train.steps 3
    --data.path=corpus.txt --mesh.tp 2 --threads 1 --out large)
began=$(date +%s)
expect 3 'HX_ERR_MEMORY' mpirun --oversubscribe --bind-to none -n 1 "${large[@]}" \
    : -n 1 bash -c 'ulimit -v 1500000; exec "$@"' bash "${large[@]}"
echo "a rank without memory ended the job after $(($(date +%s) - began)) s"
finish

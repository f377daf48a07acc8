#!/usr/bin/env bash
# A LLaMA-shaped model by configuration alone: train on two ranks, resume, evaluate, generate beyond its context.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
run=(--config "$root/launch/llama.yaml" --model.layers 2 --model.dim 32 --model.mlp_dim 48 --model.ctx 32 --train.batch 8
    --train.eval_every 0 --optim.warmup 10 --optim.lr 1e-2 --data.path corpus.txt --out run --ckpt.every 100)

expect 0 'held-out loss' "${two_ranks[@]}" "$helix" train "${run[@]}" --train.steps 100
expect 0 'held-out loss' "${two_ranks[@]}" "$helix" train "${run[@]}" --train.steps 300 --resume
expect 0 'blocks.1.mlp.gate.weight' "$helix" ckpt show run
expect 0 'bits/byte' "$helix" eval run
text=$("$helix" generate run --prompt 'And the ' --temperature 0 --tokens 90)
grep -q 'was good' <<<"$text" || fail "the text has not been learned: $text"
[ "${#text}" -ge 98 ] || fail "expected 98 characters: $text"

# the same shape in half precision, with less memory
for dtype in bf16 f16; do
    expect 0 'held-out loss' "${two_ranks[@]}" "$helix" train "${run[@]}" --out $dtype --model.dtype $dtype --model.recompute 1 --train.steps 20
    expect 0 "$dtype " "$helix" ckpt show $dtype
    expect 0 'bits/byte' "$helix" eval $dtype
done

expect 2 'even' "$helix" train "${run[@]}" --out odd --model.dim 36 --train.steps 1
expect 2 'kv_heads' "$helix" train "${run[@]}" --out odd --model.kv_heads 3 --train.steps 1
finish

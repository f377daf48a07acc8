#!/usr/bin/env bash
# Options that choose among a model's parameters and layers: freezing, averages of the weights, recomputation.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=(train "${small[@]}" --data.path corpus.txt --train.steps 12 --ckpt.every 6 --train.eval_every 6 --train.eval_batches 0 --optim.lr 5e-3)
averaged=("${train[@]}" --train.ema 0.9 --train.freeze 'tok.*, blocks.0.mlp.*')
last=12

# values FILE PREFIX: a digest of each dataset below PREFIX
values() {
    local name
    for name in $(h5ls -r "$1" | awk -v p="$2" '$2 == "Dataset" && index($1, p) == 1 && !/^\/meta\// {print $1}'); do
        printf '%s ' "$name"
        h5dump -d "$name" -y -w 0 "$1" | sed -n '/DATA {/,/}/p' | md5sum
    done
}
# loss OPTION...: what helix eval says
loss() { "$helix" eval "$@" --json | grep -o '"loss":[0-9.]*'; }
last_eval() { grep '"event": *"eval"' "$1/metrics.jsonl" | tail -1 | sed 's/.*"loss": *\([0-9]*\.[0-9]\{4\}\).*/\1/'; }

expect 0 'are frozen' "$helix" "${averaged[@]}" --out whole
mkdir -p halves/ckpt && cp "$(step_file whole 6)" halves/ckpt
expect 0 'step 6' "$helix" "${averaged[@]}" --out halves --resume
diff <(values "$(step_file whole $last)" /) <(values "$(step_file halves $last)" /) >diff.txt || fail "resumed with averages: $(head -3 diff.txt)"
h5ls -r "$(step_file whole $last)" >names.txt
grep -q '/ema/blocks.1.attn.q.weight' names.txt || fail 'no averages in the checkpoint'
grep -Eq '/(ema|optim/[a-z]+)/(tok|blocks.0.mlp)' names.txt && fail 'a frozen parameter has an average or moments'
values "$(step_file whole 6)" /model/tok >before.txt
values "$(step_file whole $last)" /model/tok | diff - before.txt >diff.txt || fail 'a frozen parameter moved'

# the run evaluates its averages, and so does helix eval when asked to
[ "$(loss whole --use_ema | grep -o '[0-9]*\.[0-9]\{4\}')" != "$(loss whole | grep -o '[0-9]*\.[0-9]\{4\}')" ] || fail 'averages change no loss'
expect 0 "loss $(last_eval whole)" "$helix" eval whole --use_ema
expect 0 '' "$helix" generate whole --use_ema --tokens 20
expect 0 "$(loss whole --use_ema | cut -c1-14)" "${two_ranks[@]}" "$helix" eval whole --use_ema --json
expect 0 '12 steps' "$helix" "${train[@]}" --out plain
expect 2 'it holds no averages' "$helix" eval plain --use_ema
expect 2 'no parameter has a name like "token.*"; there are: tok.weight' "$helix" "${train[@]}" --out refused --train.freeze 'token.*'
expect 2 'all of them frozen' "$helix" "${train[@]}" --out refused --train.freeze '*'

# policies of recomputation: other memory, the same bits, another model to no one
expect 0 'computes 1 of' "$helix" "${train[@]}" --out by_path --model.recompute_layers 'blocks.0'
expect 0 'computes 2 of 2 blocks again' "$helix" "${train[@]}" --out by_number --model.recompute 1
expect 0 'computes 1 of 2 blocks again: ' "$helix" "${train[@]}" --out by_budget --model.recompute_budget_mb 1
for run in by_path by_number by_budget; do
    diff <(values "$(step_file plain $last)" /) <(values "$(step_file $run $last)" /) >diff.txt || fail "$run: $(head -3 diff.txt)"
done
expect 2 'no layer has a path like "blocks.7"' "$helix" "${train[@]}" --out refused --model.recompute_layers blocks.7
expect 2 'expected at most one' "$helix" "${train[@]}" --out refused --model.recompute 1 --model.recompute_budget_mb 1
expect 0 'nats' "$helix" eval by_budget
expect 0 'recompute_budget_mb' "$helix" train --help
finish

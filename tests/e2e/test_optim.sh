#!/usr/bin/env bash
# Every optimizer learns, keeps its state in checkpoints, and gives the same on two ranks.
. "$(dirname "$0")/common.sh"
make_text corpus.txt

# last_loss FOLDER: the training loss of the last step that is in the metrics
last_loss() { grep '"event": *"step"' "$1/metrics.jsonl" | tail -1 | sed 's/.*"loss": *\([0-9.e+-]*\).*/\1/'; }

# check NAME OPTION...: 12 steps at a stretch, 6 and 6, and on two ranks
check() {
    local name=$1 whole halves ranks
    shift
    local train=(train "${small[@]}" --data.path corpus.txt --train.steps 12 --ckpt.every 6 --train.eval_every 3 --train.log_every 1 "$@")
    expect 0 '12 steps' "$helix" "${train[@]}" --out "$name"
    mkdir -p "$name-2/ckpt"
    cp "$(step_file "$name" 6)" "$name-2/ckpt"
    expect 0 'step 6' "$helix" "${train[@]}" --out "$name-2" --resume
    expect 0 '12 steps' "${two_ranks[@]}" "$helix" "${train[@]}" --out "$name-3"
    whole=$(last_loss "$name") halves=$(last_loss "$name-2") ranks=$(last_loss "$name-3")
    [ -n "$whole" ] && [ "$whole" = "$halves" ] || fail "$name: loss $whole at a stretch, $halves after resuming"
    awk -v a="$whole" -v b="$ranks" 'BEGIN { d = a - b; exit !(d < 1e-3 && d > -1e-3 && a < 5.2) }' ||
        fail "$name: loss $whole alone, $ranks on two ranks; it began at 5.5"
}
check adam --optim.optimizer=adam --optim.lr=3e-3 --optim.clip_norm_type=inf --optim.clip=0.05 --optim.schedule=linear
check sgd --optim.optimizer=sgd --optim.lr=0.3 --optim.momentum=0.9 --optim.nesterov --optim.clip=0 --optim.clip_value=0.05
check rmsprop --optim.optimizer=rmsprop --optim.lr=1e-3 --optim.momentum=0.5 --optim.centered --optim.clip_norm_type=1 --optim.clip=20
check lion --optim.optimizer=lion --optim.lr=1e-3 --optim.beta2=0.99 --optim.schedule=plateau --optim.plateau_patience=0

expect 2 'clip_value' "$helix" train "${small[@]}" --data.path corpus.txt --out refused --optim.clip_value=1
expect 2 'eval_every = -1' "$helix" train "${small[@]}" --data.path corpus.txt --out refused --optim.schedule=plateau --train.eval_every -1

# resumed with another schedule: one that looks at the loss starts afresh; with another optimizer: refused
train=(train "${small[@]}" --data.path corpus.txt --train.eval_every 0)
expect 0 '' "$helix" "${train[@]}" --out other --train.steps 2
expect 0 '4 steps' "$helix" "${train[@]}" --out other --train.steps 4 --resume --optim.schedule=plateau
expect 0 '6 steps' "$helix" "${train[@]}" --out other --train.steps 6 --resume --optim.schedule=plateau
expect 0 '8 steps' "$helix" "${train[@]}" --out other --train.steps 8 --resume --optim.schedule=linear
expect 6 'optim.optimizer = adamw, this run has lion' "$helix" "${train[@]}" --out other --train.steps 9 --resume --optim.optimizer=lion
expect 0 '' "$helix" "${train[@]}" --out own --train.steps 2 --init_from other --optim.optimizer=lion
finish

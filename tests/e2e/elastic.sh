# shellcheck shell=bash disable=SC2034
# Sourced by the scripts about elastic training, after common.sh: a run of eight leaves, and when two runs are the same.
make_text corpus.txt
steps=6
ranks=(mpirun --oversubscribe --bind-to none -n)
train=("$helix" train --model.ctx=32 --model.layers=2 --model.dim=72 --model.heads=2 --model.dropout=0.1 --train.batch=16
    --train.micro_batch=2 --train.deterministic=elastic --train.eval_every=3 --train.eval_batches=3 --train.log_every=1 --optim.warmup=2
    --optim.clip=0.5 --optim.schedule=constant --data.path corpus.txt --ckpt.every 3 --ckpt.keep 9 --train.steps $steps)

# What a run wrote that is not about time: steps, losses, gradient norms, to the last digit.
numbers() { grep -oE '"(event|step|loss|eval_loss|best_loss|grad_norm|count)": ?[^,}]*' "$1/metrics.jsonl"; }
same_state() {
    local group
    for group in /model /optim; do
        h5diff "$(step_file "$2" $steps)" "$(step_file "$3" $steps)" $group >diff.txt 2>&1 || fail "$1: other numbers in $group: $(head -3 diff.txt)"
    done
}
same_run() {
    same_state "$1" "$2" "$3"
    diff <(numbers "$2") <(numbers "$3") >diff.txt || fail "$1: other losses: $(head -6 diff.txt)"
}

#!/usr/bin/env bash
# A plan is what a run then takes: bytes of the arena to the byte, of the process within 10 %.
. "$(dirname "$0")/common.sh"
make_text corpus.txt

# plan_field TP ZERO NAME: a number of plan.json; the bytes of that mesh and stage add up to its arena.
plan_field() {
    local row kinds
    row=$(sed 's/{"dp"/\n&/g' plan.json | grep "\"tp\":$1,\"zero\":$2,.*\"bytes\"")
    kinds=$(grep -o '"bytes":{[^}]*}' <<<"$row" | grep -oE '[-0-9]+' | awk '{n += $1; if ($1 < 0) n = -1e18} END {printf "%.0f", n}')
    [ "$kinds" = "$(grep -o '"arena":[0-9]*' <<<"$row" | cut -d: -f2)" ] || echo "kinds that make $kinds"
    grep -oE "\"$3\":[-+.e0-9]+" <<<"$row" | cut -d: -f2
}

# same_bytes NP TP ZERO OPTIONS...: what rank 0 of the run, on $hosts hosts, reports at its highest is what was planned.
hosts=1
same_bytes() {
    local np=$1 tp=$2 zero=$3 planned reported
    shift 3
    rm -rf run
    "$helix" plan "${small[@]}" "$@" --hosts $hosts --gpus $((np / hosts)) --json >plan.json || fail "helix plan $*"
    planned=$(plan_field "$tp" "$zero" rank0_arena)
    HELIX_TEST_HOSTS=$hosts expect 0 '4 steps' mpirun --oversubscribe --bind-to none -n "$np" "$helix" train "${small[@]}" "$@" --data.path corpus.txt \
        --train.steps 4 --train.log_every 1 --out run --device cpu --threads 1 --mesh.tp "$tp" --ddp.zero "$zero"
    reported=$(grep -o '"memory_bytes":[0-9]*' run/metrics.jsonl | cut -d: -f2 | sort -n | tail -1)
    echo "hosts $hosts np $np tp $tp zero $zero $*: planned $planned, reported $reported"
    [ -n "$planned" ] && [ "$planned" = "$reported" ] || fail "the plan is $planned bytes, the run took $reported"
}
same_bytes 1 1 0
same_bytes 2 1 0
same_bytes 4 1 1
same_bytes 2 2 0
same_bytes 4 2 1
same_bytes 2 1 2 --train.micro_batch 1 --train.batch 16
same_bytes 4 2 2 --ddp.compress bf16
same_bytes 2 1 0 --train.micro_batch 1 --model.recompute 1 --model.dtype bf16
same_bytes 3 1 1 --optim.optimizer lion --train.micro_batch 2 --train.eval_every 2 --train.ema 0.9
same_bytes 1 1 0 --train.micro_batch 1 --train.ema 0.9 --train.eval_every 2 # of which the evaluation copies the parameters
same_bytes 2 1 0 --train.check_replicas 2
elastic=(--train.deterministic elastic --train.batch 16 --train.micro_batch 2 --device cpu)
for zero in 0 2; do same_bytes 4 1 $zero "${elastic[@]}"; done
hosts=2 same_bytes 4 1 0 "${elastic[@]}" # of which the ranks send each other parts
HELIX_ALLOC=exact same_bytes 2 2 0 --model.dtype f16

# the process as the system sees it; a sanitizer's own memory is not planned
if ! grep -q __asan_init "$helix"; then
    large=(--model.ctx=128 --model.layers=8 --model.dim=384 --model.heads=6 --train.batch=8 --device cpu)
    for async in off wait; do # the copy for a save beside training is made at the last step
        "$helix" plan "${large[@]}" --ckpt.async $async --gpus 2 --json >plan.json || fail 'helix plan of a larger model'
        planned=$(plan_field 1 0 process)
        # shellcheck disable=SC2016
        used=$(mpirun --oversubscribe --bind-to none -n 2 bash -c '"$@" >/dev/null &
            while now=$(grep VmHWM /proc/$!/status 2>/dev/null); do last=$now; sleep 0.01; done
            wait $! || exit; [ "$OMPI_COMM_WORLD_RANK" != 0 ] || echo "$last"' bash \
            "$helix" train "${large[@]}" --ckpt.async $async --data.path corpus.txt --train.steps 2 --out large_$async --threads 1 |
            awk '{printf "%.0f", 1024 * $2}')
        echo "process, ckpt.async $async: planned $planned, used $used"
        awk -v a="$planned" -v b="$used" 'BEGIN {exit !(a > 0.9 * b && a < 1.1 * b)}' || fail "the plan's process is $planned bytes, the system's $used"
    done
fi

# about FIELD A B: two numbers of plans, within 3 %
about() {
    echo "$1: $2, $3"
    awk -v a="$2" -v b="$3" 'BEGIN {exit !(a > 0 && a > 0.97 * b && a < 1.03 * b)}' || fail "$1 is $2 in one plan and $3 in the other"
}
# a step of many micro-batches computes what one of few does, and ZeRO 1 sends what all-reduce sends
"$helix" plan "${small[@]}" --gpus 2 --train.batch 64 --json >plan.json
flops=$(plan_field 1 0 flops)
about dp_bytes_sent "$(plan_field 1 0 dp_bytes_sent)" "$(plan_field 1 1 dp_bytes_sent)"
sent=$(plan_field 2 0 tp_bytes_sent)
"$helix" plan "${small[@]}" --gpus 2 --train.batch 64 --train.micro_batch 4 --json >plan.json
about flops "$flops" "$(plan_field 1 0 flops)"
about tp_bytes_sent "$sent" "$(plan_field 2 0 tp_bytes_sent)"
# a step takes as long as its busiest rank: of three samples one rank has one, the other two
"$helix" plan "${small[@]}" --gpus 2 --train.batch 4 --train.micro_batch 1 --json >plan.json
flops=$(plan_field 1 0 flops)
"$helix" plan "${small[@]}" --gpus 2 --train.batch 3 --train.micro_batch 1 --json >plan.json
about flops "$flops" "$(plan_field 1 0 flops)"

# best first, and why the others are not
plan=("$helix" plan "${small[@]}")
expect 0 'best' "${plan[@]}" --hosts 2 --gpus 4
expect 0 'model.heads = 2 on 4 tensor-parallel ranks' "${plan[@]}" --gpus 4
expect 0 'a global batch of 8 samples for 16 ranks' "${plan[@]}" --gpus 16 --model.heads 4
expect 0 'does not fit' "${plan[@]}" --gpus 4 --base_mib 1 --memory_gib 0.0017
expect 0 'slower' "${plan[@]}" --gpus 2
slow=("${plan[@]}" --hosts 2 --gpus 2 --network_gbs 1e-4 --latency_us 0) # sums of gradients take longer than backward
expect 0 'slower: waits' "${slow[@]}"
"${slow[@]}" | grep 'slower: computes' && fail 'a rank that waits for its network is said to compute longer'
[ "$("${plan[@]}" --gpus 2 | awk '$1 == 2 || $1 == 1 {print $NF; exit}')" = best ] || fail 'the first line is not the best'
before=$(ls)
expect 0 '"plans"' "${plan[@]}" --hosts 3 --gpus 2 --json --train.batch 12 --out nothing --resume --init_from nowhere --data.path nowhere
[ "$before" = "$(ls)" ] || fail 'a plan leaves files'

# what cannot be
expect 2 'hosts = 0' "${plan[@]}" --hosts 0
expect 2 'gpus = 0' "${plan[@]}" --gpus 0
expect 2 'expected at most 65536' "${plan[@]}" --hosts 60000 --gpus 60000
expect 2 'no mesh of 1 x 7 GPUs' "${plan[@]}" --gpus 7 --train.batch 2
expect 2 'model.recompute 1' "${plan[@]}" --gpus 2 --memory_gib 0.5
expect 2 'expected all' "${plan[@]}" --hosts 2 --ddp.shard host
expect 2 'heads = 5 does not divide' "${plan[@]}" --model.heads 5
expect 2 'memory_gib' "${plan[@]}" --memory_gib -1
expect 2 'device = abacus' "${plan[@]}" --device abacus
expect 2 'there is no' "${plan[@]}" --no_such_option 1
finish

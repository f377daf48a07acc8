#!/usr/bin/env bash
# Elastic training: the same bits of weights, moments, losses and norms on any number of data-parallel ranks, in any stage of ZeRO.
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/elastic.sh"
numbers_of_ranks=(1 2 3 4)
if [ "$full" = 1 ]; then
    steps=30 numbers_of_ranks=(1 2 3 4 8)
    train+=(--train.steps $steps)
fi
# For people who look on.
hash_of() { "$helix" ckpt show "$1" | grep -o 'XXH3 [0-9a-f]*'; }

for dtype in f32 bf16; do
    expect 0 'elastic: 8 micro-batches of 2 samples' "${train[@]}" --model.dtype $dtype --out $dtype
    [ "$(numbers $dtype | wc -l)" -gt 20 ] || fail "few numbers in $dtype/metrics.jsonl"
    for zero in 0 1 2; do
        for n in "${numbers_of_ranks[@]}"; do
            out=${dtype}_${n}_zero$zero
            expect 0 "$steps steps" "${ranks[@]}" "$n" "${train[@]}" --model.dtype $dtype --out "$out" --ddp.zero $zero
            same_run "$dtype, $n ranks, ZeRO $zero" $dtype "$out"
            echo "$dtype, $n ranks, ZeRO $zero, $steps steps: $(hash_of "$out")"
        done
    done
done

# to step 13 with 4 ranks, on with 2, and on with 3 (kill -9: test_elastic_moves.sh)
if [ $steps -gt 13 ]; then
    for dtype in f32 bf16; do
        expect 0 '13 steps' "${ranks[@]}" 4 "${train[@]}" --model.dtype $dtype --out ${dtype}_moved --train.steps 13
        expect 0 '20 steps' "${ranks[@]}" 2 "${train[@]}" --model.dtype $dtype --out ${dtype}_moved --resume --train.steps 20 --ddp.zero 1
        expect 0 "$steps steps" "${ranks[@]}" 3 "${train[@]}" --model.dtype $dtype --out ${dtype}_moved --resume --ddp.zero 2
        same_state "$dtype, 4 ranks, then 2, then 3" $dtype ${dtype}_moved
        echo "$dtype, 4 ranks to step 13, 2 to step 20, 3 to the end: $(hash_of ${dtype}_moved)"
    done
fi

# ranks make a difference where they may
expect 0 "$steps steps" "${ranks[@]}" 3 "${train[@]}" --train.deterministic ranks --out ranks
h5diff "$(step_file f32 $steps)" "$(step_file ranks $steps)" /model >/dev/null && fail 'three ranks have the bits of one by themselves: nothing was tested'
finish

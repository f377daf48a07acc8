#!/usr/bin/env bash
# Elastic training: the same bits of weights, moments, losses and norms on any number of data-parallel ranks, in any stage of ZeRO.
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/elastic.sh"
for dtype in f32 bf16; do
    expect 0 'elastic: 8 micro-batches of 2 samples' "${train[@]}" --model.dtype $dtype --out $dtype
    [ "$(numbers $dtype | wc -l)" -gt 20 ] || fail "few numbers in $dtype/metrics.jsonl"
    for zero in 0 1 2; do
        for n in 1 2 3 4; do
            out=${dtype}_${n}_zero$zero
            expect 0 '6 steps' "${ranks[@]}" $n "${train[@]}" --model.dtype $dtype --out $out --ddp.zero $zero
            same_run "$dtype, $n ranks, ZeRO $zero" $dtype $out
        done
    done
done

# ranks make a difference where they may
expect 0 '6 steps' "${ranks[@]}" 3 "${train[@]}" --train.deterministic ranks --out ranks
h5diff f32/ckpt/step-00000006.h5 ranks/ckpt/step-00000006.h5 /model >/dev/null && fail 'three ranks have the bits of one by themselves: nothing was tested'
finish

#!/usr/bin/env bash
# Training in bf16 learns what f32 learns: the loss, averaged over stretches of steps of the same batches, stays within 1 % of f32's on the
# whole curve, and so does the held-out loss at the end. The mean of all steps of three seeds stays within 0.03 %: seeds differ by -0.011 to
# -0.002 %, on all instruction sets; kernels that cut off what they should round, by 0.029 to 0.099 %, three seeds of them by 0.06 %.
# HELIX_TEST_FULL=1: the model, the batches and the steps of quickstart.sh, one seed.
. "$(dirname "$0")/common.sh"
cat "$root"/README.md "$root"/core/*/*.h "$root"/core/*/*.c >corpus.txt # text that is at hand and not learnt by heart
train=("$helix" train --data.path corpus.txt --data.holdout 0.05 --train.log_every 1 --device cpu --progress none)
if [ -n "$full" ]; then
    train+=(--config "$root/launch/quickstart.yaml")
    stretch=100 seeds=(1234) most=1
else
    train+=(--model.ctx 64 --model.layers 2 --model.dim 96 --model.heads 3 --train.steps 300 --train.batch 16 --train.eval_every 100
        --optim.lr 1e-3 --optim.warmup 30)
    stretch=25 seeds=(1 2 3) most=0.03
fi

# figures RUN: the mean loss of each stretch, then the last held-out one; a stretch is noisier the shorter it is
figures() {
    awk -v n=$stretch 'function number(key) {
            return match($0, "\"" key "\":[-+.0-9e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : "none"
        }
        /"event":"step"/ { sum += number("loss"); if (++steps % n == 0) { printf "steps-%d %.9g\n", steps, sum / n; sum = 0 } }
        /"event":"eval"/ { held = number("loss") }
        END { print "held-out", held }' "$1/metrics.jsonl"
}
for seed in "${seeds[@]}"; do
    for dtype in f32 bf16; do
        run=$dtype-$seed
        "${train[@]}" --model.dtype $dtype --train.seed "$seed" --out "$run" >"$run.log" 2>&1 ||
            fail "training in $dtype left with $?: $(cat "$run.log")"
        figures "$run" >"$run.txt"
    done
    paste -d ' ' "f32-$seed.txt" "bf16-$seed.txt" | awk '
        { change = $4 / $2 - 1; printf "%-12s f32 %.4f  bf16 %.4f  %+.3f %%\n", $1, $2, $4, 100 * change
          if (!(change < 0.01 && change > -0.01)) bad = 1
          if (NR == 1) first = $2
          last = $2 }
        END { exit bad || NR < 11 || !(last < 0.8 * first) }' >curve.txt || fail "bf16 does not follow f32: $(cat curve.txt)"
    cat curve.txt
    cmp -s "f32-$seed.txt" "bf16-$seed.txt" && fail "bf16 computes what f32 computes"
done
paste -d ' ' <(cat f32-*.txt) <(cat bf16-*.txt) | awk -v most=$most '
    /^steps/ { f32 += $2; bf16 += $4 }
    END { change = 100 * (bf16 / f32 - 1); printf "all steps %+.4f %%, at most %g %%\n", change, most; exit !(change < most && change > -most) }' ||
    fail "bf16 has another mean loss than f32"
finish

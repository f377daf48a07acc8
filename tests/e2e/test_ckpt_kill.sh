#!/usr/bin/env bash
# A run of two ranks that saves beside training is killed at each call by which a save changes the disk, and at random moments: what
# is left is whole, nothing but the steps since the last checkpoint is lost, and the resumed run has the losses of an undisturbed one.
# HELIX_TEST_FULL=1: every call, and 100 random moments.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
options=(--model.ctx=16 --model.layers=1 --model.dim=16 --model.heads=2 --train.batch=4 --train.eval_batches=2 --train.eval_every=0
    --train.log_every=1 --data.path corpus.txt --ckpt.every 3 --ckpt.keep 1 --ckpt.async wait --train.steps 9 --optim.warmup=2
    --optim.schedule=constant --device cpu --threads 1)
seed=${HELIX_TEST_SEED:-1}
# run FOLDER RANK VARIABLE=VALUE OPTIONS...: two ranks; the variable is set on RANK alone
run() {
    local out=$1 rank=$2 setting=$3
    shift 3
    # shellcheck disable=SC2016
    timeout 60 "${two_ranks[@]}" bash -c '[ "$OMPI_COMM_WORLD_RANK" = "$1" ] && export "$2"; shift 2; exec "$@"' bash "$rank" "$setting" \
        "$helix" train "${options[@]}" --out "$out" "$@" >"$out.log" 2>&1 </dev/null
}
losses() { grep '"event":"step"' "$1/metrics.jsonl" | grep -oE '"(step|loss)":[^,]*' | paste - -; }
latest() { "$helix" ckpt list "$1" --json 2>/dev/null | grep -oE '"step":[0-9]+[^{]*"latest":true' | head -1 | grep -oE '^"step":[0-9]+' | cut -d: -f2; }

# what one save does, on rank 0 and on rank 1: its calls in the log of the middle one of three
for rank in 0 1; do run whole$rank $rank "HELIX_TEST_IO_LOG=$PWD/calls$rank" || fail "the undisturbed run: $(cat whole$rank.log)"; done
losses whole0 >whole.txt
[ "$(wc -l <whole.txt)" -eq 9 ] || fail "an undisturbed run has $(wc -l <whole.txt) losses"
begin() { grep -n 'step-00000006.h5.tmp' "calls$1" | head -1 | cut -d: -f1; }
end() { grep -n 'step-00000009.h5.tmp' "calls$1" | head -1 | cut -d: -f1; }
echo "a save is $(($(end 0) - $(begin 0))) calls of rank 0 and $(($(end 1) - $(begin 1))) of rank 1"

# the order that a power cut asks for: bytes, fsync, the name, the folder's fsync, then the link, and old files go last
sed -n "$(begin 0),$(($(end 0) - 1))p" calls0 | awk '
    {what = $3; path = $4}
    what == "write" && path ~ /step-.*tmp$/ {if (named) bad("bytes behind the name"); dirty = 1}
    what == "fsync" && path ~ /step-.*tmp$/ {dirty = 0}
    what == "rename" && path ~ /step-/ {if (dirty) bad("a name before its bytes are safe"); named = 1}
    what == "fsync" && path ~ /gen-[0-9]*$/ {if (named) synced = 1; if (linked) linksynced = 1}
    what == "rename" && path ~ /latest$/ {if (!synced) bad("latest before the file has its name for good"); linked = 1}
    what == "unlink" && path ~ /step-[0-9]*\.h5$/ {if (!linksynced) bad("an old file goes before latest is safe"); gone = 1}
    function bad(text) {print text; failed = 1}
    END {if (!named || !synced || !linked || !gone) bad("a call is missing"); exit failed}' >order.txt ||
    fail "calls in a wrong order: $(cat order.txt)"

# check NAME: what a kill has left, then a resume to the end
check() {
    local name=$1 step
    step=$(latest "$name")
    [ -z "$step" ] || "$helix" ckpt verify "$name/ckpt/latest" >/dev/null || fail "$name: the latest is damaged"
    [ -n "$2" ] && [ "${step:-0}" -lt "$2" ] && fail "$name: the latest is step ${step:-0}, expected $2 or later"
    run "$name" 0 A=b --resume || fail "$name does not go on: $(cat "$name.log")"
    [ "$(latest "$name")" = 9 ] || fail "$name: the resumed run ends at step $(latest "$name")"
    [ -z "$(find "$name" -name '*.tmp')" ] || fail "$name: $(find "$name" -name '*.tmp') is left"
    losses "$name" | diff - whole.txt >diff.txt || fail "$name: other losses: $(head -3 diff.txt)"
    rm -rf "$name" "$name.log"
}

n=0
for rank in 0 1; do
    first=$(begin $rank) last=$(($(end $rank) - 1))
    stride=$((full == 1 ? 1 : (last - first) / 3 + 1))
    for ((call = first + (full == 1 ? 0 : seed % stride); call <= last; call += stride)); do
        run k $rank HELIX_TEST_IO_KILL=$call && fail "rank $rank lives on behind call $call"
        check k 3
        n=$((n + 1))
    done
done
# the end of a save, where names change, call by call
last=$(($(end 0) - 1))
for ((call = $(grep -n 'rename.*step-00000006.h5' calls0 | cut -d: -f1); call <= last; call += full == 1 ? 1 : 3)); do
    run k 0 HELIX_TEST_IO_KILL=$call
    check k 3
    n=$((n + 1))
done
echo "$n kills at calls of a save"

# the whole job, at a random moment
RANDOM=$seed
for ((i = 0; i < (full == 1 ? 100 : 5); i++)); do
    "${two_ranks[@]}" "$helix" train "${options[@]}" --out r >r.log 2>&1 &
    job=$!
    sleep "$(awk -v r=$RANDOM 'BEGIN {print 0.2 + 1.3 * r / 32768}')"
    # shellcheck disable=SC2046
    kill -KILL $job $(pgrep -P $job) 2>/dev/null
    wait $job 2>/dev/null
    check r ''
done

# a disk that is full fails the save, not the training, and what was there stays
run full 0 "HELIX_TEST_IO_FAIL=$(($(begin 0) + 8)):ENOSPC" || fail "a full disk ends the run: $(cat full.log)"
grep -q 'step 6  CHECKPOINT NOT WRITTEN.*No space left' full.log || fail "a full disk is not told: $(cat full.log)"
grep -q '"event":"save_end","step":6.*No space left' full/metrics.jsonl || fail 'a full disk is not in the metrics'
[ "$(latest full)" = 9 ] || fail "after a full disk the latest is $(latest full)"
run last 0 "HELIX_TEST_IO_FAIL=$(($(end 0) + 3)):ENOSPC" && fail 'a run whose last save failed ends well'
[ "$(latest last)" = 6 ] && "$helix" ckpt verify last >/dev/null || fail 'a full disk has damaged what was there'
finish

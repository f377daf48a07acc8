#!/usr/bin/env bash
# Runs that are disturbed from outside: streams that are closed or full, a second run in the same folder, a command that
# is refused. Training goes on where it can, and nothing on the disk suffers.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --data.path corpus.txt --train.steps 20 --ckpt.every 10 --train.log_every 1)

# is_whole RUN: the last checkpoint is there, and the metrics are JSON objects only
is_whole() {
    "$helix" ckpt verify "$(step_file "$1" 20)" >/dev/null || fail "$1: no whole checkpoint of step 20"
    if [ ! -s "$1/metrics.jsonl" ] || grep -qv '^{.*}$' "$1/metrics.jsonl"; then fail "$1: metrics.jsonl is not JSON lines"; fi
}

# standard streams: closed, without a reader, on a full disk
"${train[@]}" --out closed >&- 2>&- || fail "a run with closed streams left with $?"
is_whole closed
# head leaves with its pipe's only reader; whether the run is through by then is no matter of its own
"${train[@]}" --out piped 2>/dev/null | head -n 1 >/dev/null
is_whole piped
for words in "ckpt show closed" "eval closed" "generate closed --tokens 3" "version"; do
    # shellcheck disable=SC2086
    "$helix" $words >/dev/full 2>full.err
    code=$?
    if [ "$code" -ne 4 ] || ! grep -q 'standard output' full.err; then fail "helix $words >/dev/full: $code $(cat full.err)"; fi
done

# a run whose log is lost went well all the same
"${train[@]}" --out full >/dev/full 2>full.err || fail "a run with its log on a full disk left with $?: $(cat full.err)"
grep -q 'standard output could not be written; the job itself went well' full.err || fail "the lost log is not told: $(cat full.err)"
is_whole full

# other data than before are named
"${train[@]}" --out other >/dev/null
(cat corpus.txt; echo 'More.') >longer.txt
expect 0 'holds other data' "${train[@]}" --out other --resume --train.steps 22 --data.path longer.txt
"${train[@]}" --out other --resume --train.steps 24 --data.path longer.txt | grep -q 'holds other data' && fail "the same data are called others"
expect 0 'data.holdout was 0.1' "${train[@]}" --out other --resume --train.steps 26 --data.path longer.txt --data.holdout 0.2
"${train[@]}" --out other --resume --train.steps 28 --data.path longer.txt --data.holdout 0.2 | grep -q 'data.holdout' && fail "the same share is called another"

# metrics that cannot be written are said once and do not end the run
mkdir metrics
ln -s /dev/full metrics/metrics.jsonl
expect 0 'METRICS NOT WRITTEN' "${train[@]}" --out metrics
"$helix" ckpt verify "$(step_file metrics 20)" >/dev/null || fail "no checkpoint where metrics could not be written"

# a history that is none is set aside; what a run did before it failed is in it
mkdir device
ln -s /dev/null device/history.h5
expect 0 '20 steps' "${train[@]}" --out device
[ -L device/history.h5.damaged ] && [ -f device/history.h5 ] || fail "the device in the history's place was not set aside"
expect 7 'not finite' "${train[@]}" --out nan --train.anomaly --optim.optimizer=sgd --optim.lr 1e3 --optim.clip 0 --optim.warmup 0
lines=$(grep -c '"event":"step"' nan/metrics.jsonl)
h5ls nan/history.h5/steps | grep -q "^step *Dataset {$lines/" ||
    fail "of $lines steps before a failure the history has: $(h5ls nan/history.h5/steps)"

# a run that is refused leaves config.yaml as it was
cp closed/config.yaml before.yaml
expect 6 'model.dim' "${train[@]}" --out closed --resume --model.dim 64
expect 4 'absent' "${train[@]}" --out closed --resume --data.path absent
cmp -s closed/config.yaml before.yaml || fail "a refused run changed config.yaml"

# weights of a run's folder
expect 0 '' "${train[@]}" --out from --init_from closed
expect 0 '' "${train[@]}" --out from2 --init_from closed/ckpt/latest
expect 4 'absent' "${train[@]}" --out from3 --init_from absent

# one run at a time in a folder; a kill frees it
"${train[@]}" --out busy --train.steps 100000000 >/dev/null 2>&1 &
first=$!
for _ in $(seq 200); do [ -e busy/ckpt/gen-0001/latest ] && break; sleep 0.05; done
expect 2 'another run is working in busy' "${train[@]}" --out busy --resume
kill -9 "$first"
{ wait "$first"; } 2>/dev/null
expect 0 'going on from' "${train[@]}" --out busy --resume --train.steps 1

# settings that would pass silently for something else
expect 2 'HELIX_GEMM=opneblas' env HELIX_GEMM=opneblas "${train[@]}" --out a
expect 2 'HELIX_CPU_ISA=v9: expected one of generic' env HELIX_CPU_ISA=v9 "${train[@]}" --out a
expect 0 'threads = 999: this process may run on' "${train[@]}" --out crowd --threads 999 --train.steps 1
expect 2 'threads = 9999 (command line): expected 0 to 4096' "${train[@]}" --out a --threads 9999
expect 2 'HELIX_STREAM=sync' env HELIX_STREAM=sync "${train[@]}" --out a
expect 2 'model.vocab = 64: expected 256' "${train[@]}" --out a --model.vocab 64
expect 2 'expected 0 to 0.9999999' "${train[@]}" --out a --optim.beta2 1
printf 'train:\n  # steps: 3\nmodel:\n' >sections.yaml
printf 'train: 3\n' >value.yaml
expect 0 '' "${train[@]}" --config sections.yaml --out b
expect 2 'train is a section' "${train[@]}" --config value.yaml --out c
finish

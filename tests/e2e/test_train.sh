#!/usr/bin/env bash
# A run from start to end: train on two ranks, look at what it leaves, evaluate, generate, look at its checkpoints.
. "$(dirname "$0")/common.sh"
make_text corpus.txt

expect 0 'held-out loss' "${two_ranks[@]}" "$helix" train "${small[@]}" --data.path corpus.txt --out run --train.steps 40 --ckpt.every 20
for file in run/config.yaml run/metrics.jsonl run/ckpt/gen-0001/latest "$(step_file run 40)"; do
    [ -s "$file" ] || fail "$file is missing"
done
grep -q '"event":"eval"' run/metrics.jsonl || fail "metrics.jsonl has no evaluation"
grep -q 'bits/byte' run/metrics.jsonl || grep -q 'bits' run/metrics.jsonl || fail "metrics.jsonl has no second unit"

expect 0 'bits/byte' "${two_ranks[@]}" "$helix" eval run

# copies that are the same are not remarked upon, and the check changes no bit
expect 0 '40 steps' "${two_ranks[@]}" "$helix" train "${small[@]}" --data.path corpus.txt --out checked --train.steps 40 --ckpt.every 20 --train.check_replicas 3
h5diff "$(step_file run 40)" "$(step_file checked 40)" /model || fail "comparing copies changes the model"
expect 2 'check_replicas' "$helix" train "${small[@]}" --data.path corpus.txt --out refused --train.check_replicas=-1

one=$("$helix" eval run --json) two=$("${two_ranks[@]}" "$helix" eval run --json)
[ "$(grep -o '"targets":[0-9]*' <<<"$one")" = "$(grep -o '"targets":[0-9]*' <<<"$two")" ] || fail "targets differ: $one $two"
[ "$(grep -o '"loss":[0-9]*\.[0-9]\{5\}' <<<"$one")" = "$(grep -o '"loss":[0-9]*\.[0-9]\{5\}' <<<"$two")" ] ||
    fail "one and two ranks evaluate differently: $one $two"
expect 0 'nats' "$helix" eval run/ckpt --data.path corpus.txt --whole

a=$("$helix" generate run --prompt 'And the ' --tokens 40 --seed 3)
b=$("$helix" generate run --prompt 'And the ' --tokens 40 --seed 3)
c=$("$helix" generate run --prompt 'And the ' --tokens 40 --seed 4)
[ "$a" = "$b" ] || fail "the same seed gave two texts: $a | $b"
[ "$a" != "$c" ] || fail "two seeds gave the same text: $a"
[ "${a:0:8}" = 'And the ' ] || fail "the prompt is not repeated: $a"
expect 0 '' "$helix" generate run --temperature 0 --tokens 80 --top_k 5

expect 0 '/model/' "$helix" ckpt show run
expect 0 'all checksums match' "$helix" ckpt verify "$(step_file run 40)"
expect 0 '"verified":true' "$helix" ckpt verify run --json
finish

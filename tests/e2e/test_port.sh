#!/usr/bin/env bash
# Weights in and out: Hugging Face's folders, safetensors, NumPy arrays; whole or not there, whatever happens.
# The long form compares with Hugging Face's own package ($PYTHON, default python3), and moves a GPT-2 of 124 million parameters.
. "$(dirname "$0")/common.sh"
hf=$root/tests/golden/hf
make_text corpus.txt
file_of() { "$helix" ckpt show "$1" --json | sed 's/.*"file":"\([^"]*\)".*/\1/'; }
# same_file TEXT A B: two checkpoints, byte for byte
same_file() { cmp "$(file_of "$2")" "$(file_of "$3")" || fail "$1: the checkpoints differ"; }

# ---- in, on, out, in again ----
for kind in gpt2 llama; do
    expect 0 '"dtype":"f32"' "$helix" ckpt import "$hf/$kind" --out in/$kind --json
    expect 0 'all checksums match' "$helix" ckpt verify in/$kind
    expect 0 'bits/byte' "$helix" eval in/$kind --data.path corpus.txt
    expect 0 'abc' "$helix" generate in/$kind --prompt abc --tokens 3
    expect 0 '"tensors"' "$helix" ckpt export in/$kind --out out/$kind/ --json
    expect 0 'parameters' "$helix" ckpt import out/$kind --out again/$kind
    same_file "$kind" in/$kind again/$kind
    cmp in/$kind/config.yaml again/$kind/config.yaml || fail "$kind: the configurations differ"
    expect 0 'held-out loss' "${two_ranks[@]}" "$helix" train --config in/$kind/config.yaml --init_from in/$kind --data.path corpus.txt \
        --out runs/$kind --train.steps 4 --train.batch 8 --train.ema 0.5 --optim.lr 1e-3
done

# the averages are what --use_ema evaluates
loss() { "$helix" eval "$@" --data.path corpus.txt --whole --train.batch 8 --json | sed 's/.*"loss":\([^,]*\),.*/\1/'; }
for ema in '' --use_ema; do
    expect 0 'tensors of' "$helix" ckpt export runs/gpt2 --out out/run$ema $ema
    expect 0 '' "$helix" ckpt import out/run$ema --out again/run$ema
    [ "$(loss runs/gpt2 $ema)" = "$(loss again/run$ema)" ] || fail "exported with '$ema', the loss is another one"
done
[ "$(loss again/run)" != "$(loss again/run--use_ema)" ] || fail "the averages are the weights themselves"

# ---- the tokenizer goes with the weights: into the run, and out again byte for byte ----
tokenizers=$root/tests/golden/tokenizer
cp -r "$hf/gpt2" with
cp "$tokenizers/gpt2.json" with/tokenizer.json
printf '{"tokenizer_class": "GPT2Tokenizer"}\n' >with/tokenizer_config.json
expect 0 'tokenizer: byte-level BPE of' "$helix" ckpt import with --out in/with
expect 0 'tokenizer: byte-level BPE of' "$helix" ckpt show in/with
expect 2 'ids, the model 256' "$helix" generate in/with --tokens 3
expect 6 'data.path = corpus.txt holds bytes' "$helix" eval in/with --data.path corpus.txt --data.tokenizer bytes
expect 0 'and its tokenizer' "$helix" ckpt export in/with --out out/with
for name in tokenizer.json tokenizer_config.json; do cmp with/$name out/with/$name || fail "$name has changed on its way"; done
expect 0 '"tokenizer_files":2' "$helix" ckpt import out/with --out again/with --json
same_file tokenizer in/with again/with
# one that Helix cannot read is carried all the same, and in the way of nothing
sed 's/"type": *"BPE"/"type": "Unigram"/' "$tokenizers/gpt2.json" >with/tokenizer.json
expect 0 "its tokenizer is carried, but cannot be used" "$helix" ckpt import with --out in/unread
expect 0 'bits/byte' "$helix" eval in/unread --data.path corpus.txt
expect 0 'and its tokenizer' "$helix" ckpt export in/unread --out out/unread
cmp with/tokenizer.json out/unread/tokenizer.json || fail 'a tokenizer that Helix cannot read has changed'

# ---- other forms ----
expect 0 '' "$helix" ckpt import "$hf/gpt2" --out in/half --dtype bf16
expect 0 'bf16 ' "$helix" ckpt show in/half
expect 0 '' "$helix" ckpt export in/half --out out/wide --dtype f32
expect 2 'add --dtype f32' "$helix" ckpt export in/half --out out/half --format npy
expect 0 '' "$helix" ckpt export in/half --out out/arrays --format npy --dtype f32
[ "$(find out/arrays -name '*.npy' | wc -l)" -eq 28 ] || fail "expected 28 arrays: $(ls out/arrays)"
expect 0 '' "$helix" train "${small[@]}" --data.path corpus.txt --out runs/own --train.steps 2 --model.bias false
expect 2 'expected bias = true' "$helix" ckpt export runs/own --out out/own
expect 0 '' "$helix" ckpt export runs/own --out out/own --names helix
grep -q 'bias: false' out/own/config.yaml || fail "the configuration is not beside the weights"

# our own names come back in, of any model: the same weights, also in another type
expect 0 'tensors' "$helix" ckpt import out/own --out again/own
[ "$(loss runs/own)" = "$(loss again/own)" ] || fail 'what was exported with our names has another loss'
expect 0 '' "$helix" ckpt export again/own --out again/own.out --names helix
cmp out/own/model.safetensors again/own.out/model.safetensors || fail 'our own names: other weights'
expect 0 '"dtype":"bf16"' "$helix" ckpt import out/own --out again/half --dtype bf16 --json
expect 0 'over' "$helix" eval again/half --data.path corpus.txt
expect 0 '' "$helix" ckpt export runs/own --out out/own_half --names helix --dtype bf16
expect 0 '' "$helix" ckpt import out/own_half --out again/own_half
[ "$(loss again/half)" = "$(loss again/own_half)" ] || fail 'converted on the way out or in, the loss is another one'
expect 4 'model.safetensors' "$helix" ckpt import runs/own --out in/none # a run is no export
# where its data and tokenizer lay is left behind: what the import says how to go on with works on another machine
cp "$tokenizers/gpt2.json" gone.json
"$helix" data pack corpus.txt --tokenizer gone.json --out gone.h5 >/dev/null
expect 0 '' "$helix" train --model.dim 16 --model.layers 1 --model.heads 2 --model.ctx 32 --train.batch 4 --model.vocab 2000 --data.path gone.h5,gone.h5 \
    --data.weights 1,2 --data.tokenizer gone.json --out runs/gone --train.steps 1
expect 0 'and its tokenizer' "$helix" ckpt export runs/gone --out out/gone --names helix
mv gone.h5 here.h5
rm gone.json
expect 0 'go on with' "$helix" ckpt import out/gone --out again/gone
expect 0 '1 steps' "$helix" train --config again/gone/config.yaml --init_from again/gone --data.path here.h5 --out runs/here --train.steps 1
expect 0 'And' "$helix" generate runs/here --prompt And --tokens 3
# dropouts that have no place are told, not lost without a word
expect 0 'not taken: attn_pdrop = 0.1; model.dropout is 0.1' "$helix" ckpt import "$hf/gpt2" --out in/dropout
expect 0 '"lost":""' "$helix" ckpt import out/gpt2 --out again/dropout --json

# ---- what is refused, and leaves nothing ----
expect 2 'needs --out' "$helix" ckpt import "$hf/gpt2"
expect 2 'already holds checkpoints' "$helix" ckpt import "$hf/llama" --out in/gpt2
expect 2 'expected an empty folder' "$helix" ckpt export in/gpt2 --out out/gpt2
expect 2 'expects HF_FOLDER' "$helix" ckpt import --out in/none
expect 4 'absent/config.json' "$helix" ckpt import absent --out in/none
expect 4 'absent' "$helix" ckpt export absent --out out/none
mkdir bad
sed 's/"rope_scaling": null/"rope_scaling": {"type": "linear", "factor": 2}/' "$hf/llama/config.json" >bad/config.json
expect 2 'rope_scaling' "$helix" ckpt import bad --out in/none
cp "$hf/gpt2/config.json" bad
head -c 40000 "$hf/gpt2/model.safetensors" >bad/model.safetensors
expect 5 'expected a range within' "$helix" ckpt import bad --out in/none
[ ! -e in/none ] && [ ! -e out/none ] || fail "a refused command has left something"
# a disk that fails, at each call that changes it
for n in $(seq 1 60); do
    HELIX_TEST_IO_FAIL=$n:ENOSPC "$helix" ckpt export in/gpt2 --out out/full >said 2>&1 && break
    grep -q 'HX_ERR_IO.*No space left' said || fail "call $n on a full disk: $(cat said)"
    [ ! -e out/full.export.tmp ] || fail "call $n on a full disk has left something"
    rm -rf out/full # only where it was whole, and the folder above could not be synced
done
[ "$n" -gt 20 ] && [ "$n" -lt 60 ] || fail "an export makes $n calls"

# ---- killed anywhere: an export is whole or not there, and can be made again ----
# killed_at N COMMAND...: what the shell says about the kill is not wanted
killed_at() (
    HELIX_TEST_IO_KILL=$1 "${@:2}"
    exit $?
) >/dev/null 2>&1
for n in $(seq 1 60); do
    if killed_at $n "$helix" ckpt export in/gpt2 --out out/killed; then break; fi
    if [ -e out/killed ]; then
        cmp out/killed/model.safetensors out/gpt2/model.safetensors && cmp out/killed/config.json out/gpt2/config.json || fail "killed at call $n: half an export"
        rm -r out/killed
    fi
done
[ "$n" -gt 20 ] && [ "$n" -lt 60 ] || fail "an export makes $n calls"
[ ! -e out/killed.export.tmp ] || fail "an export that ended has left its temporary folder"
for n in $(seq 1 60); do
    if killed_at $n "$helix" ckpt import "$hf/gpt2" --out in/killed; then break; fi
    if "$helix" ckpt show in/killed >/dev/null 2>&1; then
        expect 0 'all checksums match' "$helix" ckpt verify in/killed
        rm -r in/killed
    fi
done
same_file 'killed and made again' in/gpt2 in/killed

# ---- with Hugging Face's own package ----
if [ -n "$full" ]; then
    peer=("${PYTHON:-python3}" "$root/tests/e2e/safetensors_peer.py")
    if ! "${peer[0]}" -c 'import safetensors.torch' 2>/dev/null; then
        echo "skipped: ${peer[0]} has no safetensors or no torch"
        finish
    fi
    for kind in gpt2 llama; do expect 0 'have the same bits' "${peer[@]}" same "$hf/$kind" out/$kind; done
    "${peer[@]}" big big || fail "no model of 124 million parameters"
    # 498 MB of weights are never in memory, beside the mapped file (BLAS, loaded but not used, asks for 128 MB of its own)
    (ulimit -d 450000; TIMEFORMAT='import of 124 million parameters: %R s'; time timeout 120 "$helix" ckpt import big --out in/big) || fail "import"
    (ulimit -d 450000; TIMEFORMAT='export: %R s'; time timeout 120 "$helix" ckpt export in/big --out out/big --shard_mb 100) || fail "export"
    expect 0 'have the same bits' "${peer[@]}" same big out/big
    rm -rf big in/big out/big
fi
finish

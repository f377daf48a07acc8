#!/usr/bin/env bash
# Tokenizers from the command line: learned, looked at, text to ids and back; a model that writes by one. The long form holds 50k ids
# against Hugging Face's tokenizers, where python3 (or HELIX_TEST_PYTHON) can import them, both ways.
python=${HELIX_TEST_PYTHON:-python3}
. "$(dirname "$0")/common.sh"
golden=$root/tests/golden/tokenizer
text=$golden/text.txt

# one_line TEXT: from standard input
one_line() { grep -qxF -- "$1" || fail "expected $1"; }

expect 0 'tok: 1501 ids' "$helix" tokenize train "$golden/train.txt" --vocab 1501 --out tok --threads 2
[ "$(echo tok/*)" = 'tok/merges.txt tok/tokenizer.json tok/vocab.json' ] || fail "other files: $(echo tok/*)"
expect 0 '1501 ids, 1244 merges' "$helix" tokenize show tok
expect 0 'special     1500 <|endoftext|>' "$helix" tokenize show tok/vocab.json
expect 0 '"bytes":7022,"tokens":' "$helix" tokenize show tok "$text" --json
expect 0 'bytes a token' "$helix" tokenize show bytes "$text"
expect 0 '"vocab":1501' "$helix" tokenize train "$golden/train.txt" --vocab 1501 --out tok --json

# the ids of Hugging Face; nothing is lost; bytes that are no text come back as well
"$helix" tokenize encode "$golden/gpt2.json" "$text" | tr ' ' '\n' | cmp - <(tr ' ' '\n' <"$golden/gpt2.ids") || fail "other ids than golden"
for tokenizer in tok tok/vocab.json "$golden/gpt2.json" bytes; do
    for file in "$text" "$helix"; do
        head -c 300000 "$file" >some
        "$helix" tokenize encode "$tokenizer" some | "$helix" tokenize decode "$tokenizer" | cmp - some || fail "$tokenizer changes $file"
    done
done
printf 'a<|endoftext|>' | "$helix" tokenize encode bytes | one_line "97 60 124 101 110 100 111 102 116 101 120 116 124 62"
printf 'a<|endoftext|>' | "$helix" tokenize encode tok --json | grep -q '"tokens":2,' || fail "a special token is one id"
printf '' | "$helix" tokenize encode tok - | one_line ''
echo '104,105 10' | "$helix" tokenize decode bytes | one_line hi

expect 2 'needs a verb' "$helix" tokenize
expect 2 'did you mean encode' "$helix" tokenize encod tok
expect 2 'expects --out FOLDER' "$helix" tokenize train "$text"
expect 2 'expects FILE...' "$helix" tokenize train --out tok2
expect 4 '/absent' "$helix" tokenize train /absent --out tok2
expect 4 'tokenizer absent' "$helix" tokenize encode absent
expect 2 "vocab = 256" "$helix" tokenize train "$text" --vocab 256 --out tok2
[ -e tok2 ] && fail "a refused training left something behind"
echo '{' >broken.json
expect 5 'broken.json line' "$helix" tokenize show broken.json
expect 5 "'x' at byte 2" bash -c "echo 3 x | '$helix' tokenize decode bytes"
expect 2 'id 70000 at position 1' bash -c "echo 3 70000 | '$helix' tokenize decode tok"

# A model of more ids than bytes writes by a tokenizer, whole characters only; without one it cannot. Whose ids it learns from a file of
# nanoGPT's nobody knows, so that any will do.
make_text corpus.txt
small=(--model.dim 16 --model.layers 1 --model.heads 2 --model.ctx 32 --train.batch 4 --model.vocab 1600)
printf '\1\2%.0s' $(seq 1 3000) >ids.bin
expect 0 '' "$helix" train "${small[@]}" --data.path ids.bin --out run --train.steps 2
expect 2 'name what they stand for by --data.tokenizer' "$helix" generate run --tokens 3
expect 0 'And' "$helix" generate run --prompt And --data.tokenizer tok --tokens 200 --temperature 5
"$helix" generate run --prompt $'\u4e2d' --data.tokenizer "$golden/gpt2.json" --tokens 300 --temperature 5 | iconv -f UTF-8 -t UTF-8 >/dev/null || fail "half a character"
expect 0 '' "$helix" generate run --data.tokenizer tok --tokens 5
"$helix" tokenize train "$golden/train.txt" --vocab 1601 --out larger >/dev/null
expect 2 'larger has 1601 ids, the model 1600' "$helix" generate run --data.tokenizer larger --tokens 3
expect 4 'tokenizer absent' "$helix" generate run --data.tokenizer absent --tokens 3

# A run knows its tokenizer and carries it: what it was read from may change or go. Another one is an error that names both.
hash_of() { "$helix" data show "$1" --json | sed 's/.*"tokenizer":"\([0-9a-f]*\)".*/\1/'; }
cp -r tok mine
"$helix" data pack corpus.txt --tokenizer mine --out mine.h5 >/dev/null
"$helix" tokenize train "$text" --vocab 1401 --out other >/dev/null
"$helix" data pack corpus.txt --tokenizer other --out other.h5 >/dev/null
mine="ids of this tokenizer: byte-level BPE of 1501 ids (hash $(hash_of mine.h5))"
other="byte-level BPE of 1401 ids (hash $(hash_of other.h5))"
train=("$helix" train "${small[@]}" --data.path mine.h5)
run=("${train[@]}" --out knows)
expect 0 '2 steps' "${run[@]}" --data.tokenizer mine --train.steps 2
cmp knows/tokenizer/tokenizer.json tok/tokenizer.json && cmp knows/tokenizer/merges.txt tok/merges.txt || fail 'the run does not carry its tokenizer'
# a prompt of any length and with lines comes back whole
head -c 5000 corpus.txt >prompt.txt
"$helix" generate knows --prompt "$(cat prompt.txt)" --tokens 1 --temperature 0 >made.txt
cmp -n 4999 made.txt prompt.txt || fail 'a long prompt has changed'
expect 0 "tokenizer: ${mine#ids of this tokenizer: }" "$helix" ckpt show knows
rm -r mine
expect 0 'And' "$helix" generate knows --prompt And --tokens 3
for place in knows/ knows/ckpt/ knows/ckpt/gen-0001/ knows/ckpt/best; do expect 0 'And' "$helix" generate $place --prompt And --tokens 3; done
(cd knows && expect 0 'And' "$helix" generate ckpt/ --prompt And --tokens 3; exit $failed) || failed=1
expect 4 'mine: No such file or directory; the run carries its own: --data.tokenizer knows/tokenizer' "$helix" train --config knows/config.yaml --resume
(cd knows && expect 0 'And' "$helix" generate ckpt/latest --prompt And --tokens 3; exit $failed) || failed=1
expect 0 'over' "$helix" eval knows
expect 6 "$mine; data.tokenizer = other is $other" "$helix" generate knows --data.tokenizer other --tokens 3
expect 6 "$mine; without data.tokenizer ids are bytes" "$helix" generate knows --data.tokenizer '' --tokens 3
expect 6 "$mine; data.path = other.h5 holds $other: expected data of the same one (helix data pack --tokenizer knows/tokenizer)" \
    "$helix" eval knows --data.path other.h5 --data.tokenizer other
expect 6 "$mine; data.path = corpus.txt holds bytes" "$helix" eval knows --data.path corpus.txt --data.tokenizer '' --whole
expect 2 'make them with helix data pack --tokenizer knows/tokenizer' "$helix" eval knows --data.path corpus.txt
expect 6 "$mine; data.path = other.h5 holds $other" "$helix" train "${small[@]}" --data.path other.h5 --out knows --train.steps 4 --resume
expect 6 'data.path = corpus.txt holds bytes' "$helix" train "${small[@]}" --data.path corpus.txt --out knows --train.steps 4 --resume
expect 10 'rank 0' "${two_ranks[@]}" bash -c '"$@" || { code=$?; [ "$OMPI_COMM_WORLD_RANK" = 1 ] && echo "rank 0"; exit 10; }' sh \
    "$helix" train "${small[@]}" --data.path corpus.txt --out knows --train.steps 4 --resume
expect 0 '3 steps' "${run[@]}" --train.steps 3 --resume
cp -r knows pair
expect 0 '4 steps' "${train[@]}" --out pair --train.steps 4 --resume --data.tokenizer pair/tokenizer/vocab.json
cmp pair/tokenizer/tokenizer.json tok/tokenizer.json || fail 'named by its own pair, the tokenizer that the run carries has lost a file'
expect 0 'And' "$helix" generate knows --prompt And --tokens 3
expect 0 'WARNING' "$helix" train "${small[@]}" --data.path other.h5 --data.tokenizer other --out knows --train.steps 4 --resume --resume_partial
expect 0 "tokenizer: $other" "$helix" ckpt show knows
cmp knows/tokenizer/tokenizer.json other/tokenizer.json || fail 'the run carries another tokenizer than its last checkpoint tells'
expect 0 'And' "$helix" generate knows --prompt And --tokens 3
expect 6 "$mine; without data.tokenizer" "$helix" generate "$(step_file knows 3)" --tokens 3 # of the tokenizer that was given up
# the best of a generation that lies in another
ln -sfn "../gen-0001/$(basename "$(step_file knows 2)")" knows/ckpt/gen-0003/best
expect 6 'knows/tokenizer is byte-level' "$helix" generate knows/ckpt/gen-0003/best --tokens 3
# files that a run carries and that are not its last checkpoint's are in the way of nothing
cp -r knows stale
"$helix" data pack corpus.txt --tokenizer tok --out tok.h5 >/dev/null
expect 0 'WARNING' "$helix" train "${small[@]}" --data.path tok.h5 --out stale --train.steps 5 --resume --resume_partial
expect 0 'over' "$helix" eval stale
expect 6 'without data.tokenizer ids are bytes' "$helix" generate stale --tokens 3
# what the file of ids does not tell a checkpoint that knows it goes on telling; weights that are taken on bring their tokenizer along
expect 0 '5 steps' "$helix" train "${small[@]}" --data.path ids.bin --out knows --train.steps 5 --resume
expect 0 "tokenizer: $other" "$helix" ckpt show knows
expect 0 '1 steps' "$helix" train "${small[@]}" --data.path other.h5 --init_from knows --out tuned --train.steps 1
expect 0 'And' "$helix" generate tuned --prompt And --tokens 3
expect 0 'WARNING: the weights of knows' "$helix" train "${small[@]}" --data.path corpus.txt --init_from knows --out bytes --train.steps 1
expect 6 'ids of this tokenizer: bytes; data.tokenizer = other is' "$helix" generate bytes --data.tokenizer other --tokens 3
# killed at each change of the disk: a run that goes on has the files whole
n_calls=$(HELIX_TEST_IO_LOG=calls.txt "${train[@]}" --out calls --data.tokenizer tok --train.steps 1 >/dev/null 2>&1 && grep -c tokenizer/ calls.txt)
[ "$n_calls" -ge 9 ] || fail "a tokenizer is carried by $n_calls changes of the disk"
first=$(grep -n tokenizer calls.txt | head -1 | cut -d: -f1)
for k in $(seq "$first" $((first + n_calls))); do
    rm -rf killed
    (HELIX_TEST_IO_KILL=$k "${train[@]}" --out killed --data.tokenizer tok --train.steps 1; exit $?) >/dev/null 2>&1
    "${train[@]}" --out killed --data.tokenizer tok --train.steps 2 --resume >killed.log 2>&1 || fail "killed at $k: $(cat killed.log)"
    [ "$(cat killed/tokenizer/*)" = "$(cat tok/merges.txt tok/tokenizer.json tok/vocab.json)" ] || fail "killed at $k: the tokenizer is not whole"
done

if [ -z "$full" ]; then
    finish
elif ! "$python" -c 'import tokenizers' 2>/dev/null; then
    echo "the long form is left out: $python has no tokenizers"
    finish
fi
# seconds COMMAND...: of one core, which other work on the machine does not add to
seconds() { { TIMEFORMAT=%U; time "$@" >out 2>error; } 2>&1; }
"$python" "$golden/make.py" long long || fail "make.py"
size=$(stat -c %s long/text.txt)
for kind in gpt2 llama3; do
    took=$(seconds "$helix" tokenize show "long/$kind.json" long/text.txt)
    awk -v k=$kind -v n="$size" -v t="$took" 'BEGIN {printf "%s: helix, its start included: %.2f MB in a second of one core\n", k, n / 1e6 / t}'
    "$helix" tokenize encode "long/$kind.json" long/text.txt | tr ' ' '\n' | cmp - <(tr ' ' '\n' <"long/$kind.ids") || fail "$kind: other ids"
done
echo "learning 50257 ids: $(seconds "$helix" tokenize train long/train.txt --vocab 50257 --out long/tok) s of one core"
"$helix" tokenize encode long/tok long/text.txt >long/tok.ids
"$python" "$golden/make.py" check long/tok/tokenizer.json long/text.txt long/tok.ids || fail "what helix learned is something else to Hugging Face"
finish

#!/usr/bin/env bash
# Texts are packed, also by a pack that is killed at every change of the disk; what is packed is trained on, alone and in mixtures, and a
# run that goes on with other ranks has the losses of one that never stopped.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
for i in $(seq 1 400); do printf '{"text": "Document number %d of many, and it was \\u00e9vident."}\n' "$i"; done >lines.jsonl
for i in $(seq 1 300); do printf '{"prompt": "What is %d and %d?", "completion": " It is %d."}\n' "$i" "$i" $((2 * i)); done >chats.jsonl
head -c 3000 corpus.txt >empty_last.txt
: >nothing.txt
inputs=(corpus.txt lines.jsonl nothing.txt empty_last.txt chats.jsonl)

# what it says, and that threads do not show
expect 0 'in 702 documents' "$helix" data pack "${inputs[@]}" --out whole.h5 --threads 1
expect 0 'in 702 documents' "$helix" data pack "${inputs[@]}" --out threads.h5 --threads 3
cmp whole.h5 threads.h5 || fail 'three threads give other bytes'
expect 0 'some are no targets' "$helix" data show whole.h5
expect 0 'And the 1 of the days' "$helix" data show whole.h5
expect 0 '"documents":702' "$helix" data show whole.h5 --json
expect 0 'as they should be' "$helix" data verify whole.h5
expect 2 'is there already' "$helix" data pack "${inputs[@]}" --out whole.h5
[ -e whole.h5.pack ] && fail 'the folder of a pack that is through is still there'

# ids of another tokenizer than the one that is named
expect 0 '280 ids' "$helix" tokenize train corpus.txt --vocab 280 --out tok
expect 0 'in 1 document' "$helix" data pack corpus.txt --tokenizer tok --out ids.h5
ids=("$helix" train --model.vocab 300 --model.ctx 16 --model.dim 16 --model.heads 2 --model.layers 1 --train.steps 2 --train.batch 2 --data.tokenizer tok)
expect 0 '2 steps' "${ids[@]}" --data.path ids.h5 --out named
expect 2 'corpus.txt holds bytes, not ids of data.tokenizer = tok: make them with helix data pack --tokenizer tok' "${ids[@]}" --data.path corpus.txt --out bytes

# one large text is shared out, and has the ids of the whole
for i in $(seq 1 60); do printf 'Chapter %d.\n\n  "Then," said she, "it is so\n' "$i" && cat corpus.txt; done | head -c 1000000 >large.txt
expect 0 'in 1 document' "$helix" data pack large.txt --tokenizer tok --out large1.h5 --threads 1
expect 0 'in 1 document' "$helix" data pack large.txt --tokenizer tok --out large3.h5 --threads 3
cmp large1.h5 large3.h5 || fail 'three threads give other bytes of one text'
{ "$helix" tokenize encode tok large.txt; echo 279; } | tr ' ' '\n' >whole.ids
h5dump -d /tokens -y -w 1 large1.h5 | grep -oE '^ +[0-9]+' | tr -d ' ' | cmp - whole.ids || fail 'a text that is cut has other ids'

# damaged: told by verify
cp whole.h5 damaged.h5
offset=$(h5dump -p -H -d /tokens damaged.h5 | sed -n 's/.*OFFSET \([0-9]*\).*/\1/p')
printf 'x' | dd of=damaged.h5 bs=1 seek=$((offset + 100)) conv=notrunc status=none
expect 5 'another hash' "$helix" data verify damaged.h5
for name in documents loss_mask; do
    cp whole.h5 damaged.h5
    offset=$(h5dump -p -H -d /$name damaged.h5 | sed -n 's/.*OFFSET \([0-9]*\).*/\1/p')
    printf '\000' | dd of=damaged.h5 bs=1 seek=$((offset + 8)) conv=notrunc status=none
    expect 5 'another hash' "$helix" data verify damaged.h5
done

# killed before each change of the disk in turn, and started again: the same bytes; then failing there: whole or not there
n_calls=$(HELIX_TEST_IO_LOG=calls.txt "$helix" data pack "${inputs[@]}" --out log.h5 >/dev/null && wc -l <calls.txt)
echo "$n_calls changes of the disk"
[ "$n_calls" -gt 15 ] || fail 'too few changes of the disk for this test'
for k in $(seq 1 "$n_calls"); do
    rm -rf killed.h5 killed.h5.pack
    (HELIX_TEST_IO_KILL=$k "$helix" data pack "${inputs[@]}" --out killed.h5) >/dev/null 2>&1
    if [ -e killed.h5 ]; then cmp killed.h5 whole.h5 || fail "killed at $k: the file is there and not whole"; fi
    if [ -e killed.h5.pack/journal ] || [ ! -e killed.h5 ]; then
        "$helix" data pack "${inputs[@]}" --out killed.h5 >killed.log 2>&1 || fail "killed at $k, started again: $(cat killed.log)"
    fi
    cmp killed.h5 whole.h5 || fail "killed at $k: other bytes"
done
expect 4 'No space left' env HELIX_TEST_IO_FAIL=8:ENOSPC "$helix" data pack "${inputs[@]}" --out full.h5
[ -e full.h5 ] && fail 'a pack that failed left a file'
expect 0 'in 702 documents' "$helix" data pack "${inputs[@]}" --out full.h5
cmp full.h5 whole.h5 || fail 'after a full disk: other bytes'

# begun with other arguments; files and lines that are none
(HELIX_TEST_IO_KILL=8 "$helix" data pack "${inputs[@]}" --out other.h5) >/dev/null 2>&1
expect 2 'remove the folder' "$helix" data pack corpus.txt --out other.h5
printf 'of somebody else' >other.h5
expect 2 'not of the pack that was begun' "$helix" data pack "${inputs[@]}" --out other.h5
grep -q 'of somebody else' other.h5 && [ -e other.h5.pack/ids ] || fail 'a pack threw away what is not its own'
mkdir mine.h5.pack && printf 'mine' >mine.h5.pack/ids
expect 2 'mine.h5.pack/ids is there already' "$helix" data pack corpus.txt --out mine.h5
grep -q 'mine' mine.h5.pack/ids || fail 'a pack wrote over what is not its own'
expect 4 'No such file' "$helix" data pack absent.txt --out x.h5
expect 4 'no regular file' "$helix" data pack . --out x.h5
expect 5 'without a document' "$helix" data pack nothing.txt --out x.h5
expect 2 '--out FILE' "$helix" data pack corpus.txt
expect 2 'expects FILE' "$helix" data pack --out x.h5
expect 2 'did you mean pack' "$helix" data pakc corpus.txt
printf '{"text": "fine"}\n\n{"text": 7}\n' >bad.jsonl
expect 5 'bad.jsonl:3: expected an object with a string "text"' "$helix" data pack bad.jsonl --out x.h5
printf '{"text": "fine"}\n{"text": "a", "text": "b"}\n' >bad.jsonl
expect 5 'bad.jsonl:2: no JSON object' "$helix" data pack bad.jsonl --out x.h5
printf '{"text": "\377"}\n' >bad.jsonl
expect 5 'bad.jsonl:1: no JSON object' "$helix" data pack bad.jsonl --out x.h5
printf '{"text": "fine", "id": 123456789012345678901234567890}\n' >large_id.jsonl
expect 0 'in 1 documents' "$helix" data pack large_id.jsonl --out large_id.h5
# what corpora hold: a byte order mark, halves of surrogate pairs; a backslash that is written is none
printf '\357\273\277{"text": "a\\ud83d\\ude00b\\ud83dc\\uDE00\\ud800\\ud800\\udc00\\\\ud800"}\n{"text": "\\ud83d"}\n' >halves.jsonl
expect 0 'in 2 documents' "$helix" data pack halves.jsonl --out halves.h5
h5dump -d /tokens -b LE -o halves.bin halves.h5 >/dev/null
printf 'a\360\237\230\200b\357\277\275c\357\277\275\357\277\275\360\220\200\200\\ud800\357\277\275' | cmp - halves.bin || fail 'halves of pairs are read otherwise'
printf '{"text": "a"}\n\357\273\277{"text": "a"}\n' >bad.jsonl
expect 5 'bad.jsonl:2: no JSON object' "$helix" data pack bad.jsonl --out x.h5
printf '{"text": "\\ud83d"\n' >bad.jsonl
expect 5 'bad.jsonl:1: no JSON object' "$helix" data pack bad.jsonl --out x.h5
[ -e x.h5.pack ] && fail 'a line that is none left the folder behind'

# files that Python writes and reads
if [ -n "$full" ] && /usr/bin/python3 -c 'import h5py' 2>/dev/null; then
    /usr/bin/python3 - <<'EOF' || fail 'Python reads other tokens'
import h5py, json, numpy as np
text = b"".join([open("corpus.txt", "rb").read()] + [json.loads(line)["text"].encode() for line in open("lines.jsonl")])
f = h5py.File("whole.h5")
assert f["tokens"][:len(text)].tobytes() == text
d = f["documents"][:]
assert len(d) == 702 and d[0] == 0 and d[1] == 1200 * len("And the 1 of the days was good, and it was so.\n")
mask = f["loss_mask"][:]
assert mask[:d[402]].all() and not mask[d[402]] and bytes(f["tokens"][d[402]:][mask[d[402]:] == 1][:9].tobytes()) == b" It is 2."
with h5py.File("python.h5", "w") as g:
    g["tokens"], g["documents"] = np.arange(500, dtype=np.uint32) * 3, np.array([0, 250], np.int64)
    g.attrs.update(helix_tokens=1, vocab=1500, tokenizer=np.uint64(0), xxh3=np.uint64(1))
with h5py.File("chunked.h5", "w") as g:
    g.create_dataset("tokens", data=np.arange(500, dtype=np.uint16), chunks=True, compression="gzip")
    g.attrs.update(helix_tokens=1, vocab=1500, tokenizer=np.uint64(0), xxh3=np.uint64(1))
EOF
    expect 0 '500 tokens, 2 documents, ids below 1500' "$helix" data show python.h5
    expect 5 'does not lie in one piece' "$helix" data show chunked.h5
else
    echo 'skipped: files of Python (HELIX_TEST_FULL=1, and h5py)'
fi

# long: beyond what one entry of the journal holds
if [ -n "$full" ]; then
    for i in $(seq 1 150); do printf '{"text": "%s"}\n' "$(head -c 1000000 /dev/zero | tr '\0' "\\$(printf %o $((97 + i % 26)))")"; done >large.jsonl
    for i in $(seq 1 150); do cat large.txt; done >larger.txt # one document: a kill falls within it
    for input in large.jsonl larger.txt; do
        "$helix" data pack $input --tokenizer tok --out large.h5 >/dev/null
        for k in 25 45 60; do
            (HELIX_TEST_IO_KILL=$k "$helix" data pack $input --tokenizer tok --out large2.h5 --threads 1; exit $?) >/dev/null 2>&1
            expect 0 'went on after' "$helix" data pack $input --tokenizer tok --out large2.h5
            cmp large.h5 large2.h5 || fail "150 MB of $input, killed at $k: other bytes"
            rm -rf large2.h5 large2.h5.pack
        done
        rm -f large.h5 $input
    done
fi

# ---- training on it ----

"$helix" data pack chats.jsonl --out chats.h5 >/dev/null
mixed=("${small[@]}" --data.path "chats.h5, corpus.txt" --data.weights 0.6,0.4 --train.steps 24 --ckpt.every 12 --train.eval_every 12 --train.log_every 1
    --train.micro_batch 2 --device cpu --threads 1)
losses() { grep -E '"event": *"(step|eval)"' "$1/metrics.jsonl" | grep -oE '"(step|loss|count)":[-+.e0-9]+' | paste - - -; }
counts() { grep '"event":"step"' "$1/metrics.jsonl" | grep -o '"count":[0-9]*' | sort -u | wc -l; }

# elastic: the same bits; targets differ from step to step because prompts are none
expect 0 '24 steps' "$helix" train "${mixed[@]}" --train.deterministic elastic --out one
[ "$(counts one)" -gt 5 ] || fail 'all steps have as many targets: no prompt is masked'
expect 0 '24 steps' "${two_ranks[@]}" "$helix" train "${mixed[@]}" --train.deterministic elastic --out two
diff <(losses one) <(losses two) >diff.txt || fail "two ranks have other losses: $(head -3 diff.txt)"
mkdir -p moved/ckpt && cp -r two/ckpt/. moved/ckpt/ && find moved/ckpt -name '*24.h5' -delete
for name in latest best; do find moved/ckpt -name $name -exec ln -sfn step-00000012.h5 {} \; ; done
expect 0 'step 12' mpirun --oversubscribe --bind-to none -n 4 "$helix" train "${mixed[@]}" --train.deterministic elastic --out moved --resume
diff <(losses one | grep -E '"step":(1[3-9]|2[0-9])') <(losses moved) >diff.txt || fail "going on with four ranks: $(head -3 diff.txt)"

# not elastic: within rounding
expect 0 '24 steps' mpirun --oversubscribe --bind-to none -n 3 "$helix" train "${mixed[@]}" --out three
paste <(losses one) <(losses three) | tr ':' '\t' | awk '{d = $4 - $10; if (d < 0) d = -d; if (d > worst) worst = d}
    END {print "three ranks differ by at most " worst; exit !(NR > 20 && worst < 1e-4)}' || fail 'three ranks have other losses'
grep -q '"data_share":' three/metrics.jsonl || fail 'the wait for data is not told'

# commas in names
cp corpus.txt 'a,b.txt' && cp corpus.txt 'c, d.txt'
expect 0 '1 steps' "$helix" train "${small[@]}" --data.path 'a\,b.txt,c\, d.txt' --train.steps 1 --out commas
expect 0 'over' "$helix" eval commas
expect 0 '2 steps' "$helix" train --config commas/config.yaml --out commas --train.steps 2 --resume
expect 4 'data a: No such file or directory; commas stand between paths: that of a name, as in a,b.txt, is written \,' "$helix" train "${small[@]}" --data.path 'a,b.txt' --train.steps 1 --out bad

# what cannot be
expect 2 'data.weights = 1: 1 numbers for 2 paths' "$helix" train "${mixed[@]}" --data.weights 1 --out bad
expect 2 'weight 2 of 2' "$helix" train "${mixed[@]}" --data.weights 1,-1 --out bad
expect 2 'expected more than the largest id' "$helix" train "${small[@]}" --data.path chats.h5 --model.vocab 60 --out bad
head -c 50 corpus.txt >short.txt
expect 2 'short.txt has 50 tokens, fewer than one sample: expected model.ctx + 1 = 65 or more' \
    "$helix" train "${mixed[@]}" --data.path short.txt,corpus.txt --model.ctx 64 --data.holdout 0 --out bad
head -c 500 corpus.txt >short.txt
expect 2 'of the 500 tokens of short.txt data.holdout = 0.1 leaves 50 for evaluation, fewer than one sample (model.ctx + 1 = 65): expected 650 tokens' \
    "$helix" train "${mixed[@]}" --data.path short.txt,corpus.txt --model.ctx 64 --out bad
expect 2 'data.holdout = 0.9 leaves 50 for training' "$helix" train "${mixed[@]}" --data.path short.txt,corpus.txt --model.ctx 64 --data.holdout 0.9 --out bad
head -c 650 corpus.txt >short.txt # what was said to be enough is
expect 0 '1 steps' "$helix" train "${small[@]}" --data.path short.txt --model.ctx 64 --train.steps 1 --out enough
finish

#!/usr/bin/env bash
# helix ckpt: a run of two incarnations listed, shown, compared, checked, and made smaller.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --data.path corpus.txt --ckpt.every 5 --train.eval_every 10 --ckpt.keep 9)

# steps RUN: generation:step of all checkpoints, newest first
steps() { "$helix" ckpt list "$1" --json | grep -oE '"(generation|step)":[0-9]*' | cut -d: -f2 | paste -d: - - | paste -sd ' '; }
are() { [ "$(steps "$1")" = "$2" ] || fail "$1 holds $(steps "$1"), expected $2"; }

expect 2 'ckpt list' "$helix" ckpt list too many
expect 4 'nowhere' "$helix" ckpt list nowhere
expect 0 '20 steps' "${train[@]}" --out run --train.steps 20
expect 0 '30 steps' "${train[@]}" --out run --train.steps 30 --resume
are run '2:30 2:25 1:20 1:15 1:10 1:5'
expect 0 'latest best' "$helix" ckpt list run
expect 0 '6 checkpoints' "$helix" ckpt list run/ckpt
expect 0 '4 checkpoints' "$helix" ckpt list run/ckpt/gen-0001
expect 0 'state hash' "$helix" ckpt show run
expect 0 'by Helix' "$helix" ckpt show run/ckpt/latest
expect 0 '"step":30' "$helix" ckpt show run/ckpt/best --json
expect 0 'gen-0002/step-00000030.h5' "$helix" eval run/ckpt/best

# nothing differs, something differs: what, where, by how much
cp -r run copy
expect 0 'the same' "$helix" ckpt diff run copy
expect 0 '"same":true' "$helix" ckpt diff run copy --json
expect 6 'differ in' "$helix" ckpt diff run "$(step_file run 20)"
output=$("$helix" ckpt diff run "$(step_file run 20)" 2>&1)
grep -qE '^config +train\.steps +30 \| 20' <<<"$output" || fail "the configuration's difference is missing: $output"
grep -qE '^state +step +30 \| 20' <<<"$output" || fail "the state's difference is missing: $output"
grep -qE '^values +/model/.* of [0-9]+ elements, the first [0-9]+ \| by at most [0-9.e-]+' <<<"$output" || fail "no tensor differs: $output"
expect 0 '2 steps' "${train[@]}" --out wide --train.steps 2 --model.dim 64
output=$("$helix" ckpt diff run wide 2>&1)
grep -qE '^tensor +/model/tok.* f32 \[256,32\] \| f32 \[256,64\]' <<<"$output" || fail "other shapes are not told: $output"

# a damaged file is found, named, and told from the others
expect 0 'all checksums match' "$helix" ckpt verify run
[ "$("$helix" ckpt verify run | grep -c 'all checksums match')" -eq 6 ] || fail 'verify reads not all of a folder'
file=$(step_file copy 20)
head -c 2000 /dev/zero | tr '\0' x | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") / 2)) conv=notrunc status=none
expect 5 '1 of 6 checkpoints are damaged' "$helix" ckpt verify copy
expect 5 '"verified":false' "$helix" ckpt verify copy --json
expect 0 'all checksums match' "$helix" ckpt verify copy/ckpt/latest
truncate -s 3000 "$file"
expect 5 'DAMAGED' "$helix" ckpt verify copy
expect 0 'not whole' "$helix" ckpt list copy

# of one generation's folder: links of the others that lead into it are not left behind, and what is the best there stays the best
cp -r copy pruned
ln -sfn ../gen-0001/step-00000010.h5 pruned/ckpt/gen-0002/best
expect 0 'step-00000005.h5' "$helix" ckpt prune pruned/ckpt/gen-0001 --keep 2
[ -e pruned/ckpt/gen-0001/step-00000010.h5 ] && [ -e pruned/ckpt/gen-0001/step-00000015.h5 ] && [ -e pruned/ckpt/gen-0002/step-00000025.h5 ] || fail 'prune of a generation'
expect 2 'is none of' "$helix" ckpt delete pruned/ckpt/gen-0001 25
(cd pruned/ckpt/gen-0001 && expect 0 'removed' "$helix" ckpt delete . step-00000010.h5; exit $failed) || failed=1
[ -z "$(find pruned -xtype l)" ] || fail "links that lead nowhere: $(find pruned -xtype l)"
[ ! -L pruned/ckpt/gen-0002/best ] || fail 'the link to what is gone is still there'
expect 0 '' "$helix" ckpt delete pruned/ckpt/gen-0002 30
expect 0 'step 25' "$helix" ckpt show pruned

# removing: by step or name, never outside of the folder, never the last one
expect 0 'removed' "$helix" ckpt delete copy 20
are copy '2:30 2:25 1:15 1:10 1:5'
expect 0 'gen-0001/step-00000015.h5' "$helix" ckpt delete copy gen-0001/step-00000015.h5
cp "$(step_file run 5)" outside.h5
for word in 20 ../../outside.h5 outside.h5 "$PWD/outside.h5" gen-0001 '' /; do expect 2 'is none of' "$helix" ckpt delete copy "$word"; done
ln -s "$PWD/outside.h5" copy/ckpt/gen-0001/step-00000077.h5
ln -s "$PWD/run/ckpt/gen-0001" copy/ckpt/gen-0009
expect 4 'is a symbolic link' "$helix" ckpt delete copy 77
[ -e outside.h5 ] || fail 'a file outside of the folder is gone'
rm copy/ckpt/gen-0001/step-00000077.h5 copy/ckpt/gen-0009
are copy '2:30 2:25 1:10 1:5'
expect 0 'would remove' "$helix" ckpt prune copy --keep 1 --dry_run
are copy '2:30 2:25 1:10 1:5'
expect 0 'step-00000005.h5' "$helix" ckpt prune copy --keep 1 --keep_every 10
are copy '2:30 2:25 1:10'
expect 0 'nothing to remove' "$helix" ckpt prune copy --keep 1 --keep_every 10
expect 0 '"checkpoints":[{' "$helix" ckpt prune copy --keep 1 --json
[ ! -e copy/ckpt/gen-0001 ] || fail 'an empty generation is left'
expect 0 '' "$helix" ckpt delete copy 25
expect 2 'only whole checkpoint' "$helix" ckpt delete copy 30
expect 0 'removed' "$helix" ckpt delete copy 30 --force
expect 0 '0 checkpoints' "$helix" ckpt list copy
expect 0 'starting afresh' "${train[@]}" --out copy --train.steps 2 --resume
finish

#!/usr/bin/env bash
# What users get wrong: one message that says what and where, the documented exit code, no crash, no hang.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --data.path corpus.txt --out run --train.steps 2)
expect 0 '' "${train[@]}"

# the command line
expect 2 'did you mean train?' "$helix" trian
expect 2 'did you mean train.steps?' "$helix" train --train.stpes 3
expect 2 'expected a value' "$helix" train --train.steps
expect 2 'options begin with --' "$helix" train corpus.txt
expect 2 'expected 1 to' "$helix" train --train.batch 0
expect 2 'whole number' "$helix" train --train.steps=1e-3
expect 2 'cosine|constant' "$helix" train --optim.schedule square
expect 2 'no such option' "$helix" ckpt show run --tokens 3
expect 2 'did you mean HELIX_TRAIN_BATCH?' env HELIX_TRAIN_BATHC=3 "$helix" train
expect 2 '' "$helix"

# configuration files
printf 'model:\n\tdim: 3\n' >tab.yaml
printf 'model:\n  dim: 3\n  dim: 3\n' >twice.yaml
head -c 4096 /dev/urandom >noise.yaml
mkfifo fifo.yaml
expect 2 'tab.yaml:2:1' "$helix" train --config tab.yaml
expect 2 'given before, in line 2' "$helix" train --config twice.yaml
expect 2 'noise.yaml' "$helix" train --config noise.yaml
expect 4 'regular file' "$helix" train --config fifo.yaml
expect 4 'absent.yaml' "$helix" train --config absent.yaml

# data
: >empty.txt
printf 'short' >short.txt
mkdir -p empty_folder
expect 2 'data.path' "$helix" train --out a
expect 4 'absent.txt' "$helix" train --out a --data.path absent.txt
expect 4 'empty.txt' "$helix" train --out a --data.path empty.txt
expect 2 '' "$helix" train --out a --data.path short.txt
expect 4 'empty_folder' "$helix" train --out a --data.path empty_folder
expect 4 '/dev/zero' "$helix" train --out a --data.path /dev/zero

# models and runs
expect 2 'heads' "${train[@]}" --out b --model.heads 5
expect 9 'tpu' "${train[@]}" --out b --device tpu
expect 2 'meta' "${train[@]}" --out b --device meta
expect 2 '--resume' "${train[@]}"
expect 2 'dp' "${train[@]}" --out b --mesh.dp 3
expect 4 'not a folder' "${train[@]}" --out corpus.txt
[ "$(id -u)" -eq 0 ] || expect 4 '' "${train[@]}" --out /proc/helix

# checkpoints
printf 'not hdf5' >fake.h5
file=$(readlink -f run/ckpt/gen-0001/latest)
head -c "$(($(stat -c %s "$file") / 2))" "$file" >cut.h5
expect 4 'absent' "$helix" generate absent
expect 5 'fake.h5' "$helix" ckpt show fake.h5
expect 5 'cut.h5' "$helix" ckpt verify cut.h5
expect 5 'fake.h5' "$helix" eval fake.h5
expect 6 'model.dim' "$helix" eval run --model.dim 64

# with two ranks: the same exit code, and the message once
output=$(timeout 60 "${two_ranks[@]}" "$helix" train --out c --data.path absent.txt 2>&1)
[ "$(grep -c '^helix: .*absent.txt' <<<"$output")" -eq 1 ] || fail "expected the message once from two ranks: $output"
expect 4 'absent.txt' "${two_ranks[@]}" "$helix" train --out c --data.path absent.txt
expect 2 'did you mean' "${two_ranks[@]}" "$helix" train --train.bacth 3

# a rank that cannot write what it measures takes the others with it
expect 4 'HELIX_COMM_TIMES: nowhere/x.0.jsonl' mpirun --oversubscribe --bind-to none -n 1 -x HELIX_COMM_TIMES=nowhere/x "${train[@]}" --out c : \
    -n 1 "${train[@]}" --out c

# ranks that were told different things
expect 2 "optim.lr is '0.002' on this rank and '0.001' on rank 0" mpirun --oversubscribe --bind-to none \
    -n 1 "${train[@]}" --out c --optim.lr 0.001 : -n 1 "${train[@]}" --out c --optim.lr 0.002

compgen -G 'core*' | grep -v corpus && fail "there is a core file"
finish

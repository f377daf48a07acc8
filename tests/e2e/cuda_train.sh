#!/usr/bin/env bash
# cuda_train.sh HELIX FOLDER RANKS COMM [SEED...]: the same 20 steps on the CPU and with --device=cuda.
# Dropout, micro-batches, clipping, a checkpoint, one beside training, and a resume. The losses agree; the runs of all seeds (of the emulator's
# order of work; on a GPU they are repetitions) end with the same bits, as does a run that was resumed half way. Two ranks also share
# the work in other ways.
# HELIX_CUDA_PLUGIN names the plug-in, if it is not the installed one; COMM: auto, staged or nccl; HELIX_TEST_LAUNCHER: what
# starts several ranks, if not mpirun.
cuda_env=()
for name in "${!HELIX_CUDA_@}" "${!HELIX_EMU_@}" "${!HELIX_ALLOC@}"; do cuda_env+=("$name=${!name}"); done
launcher=${HELIX_TEST_LAUNCHER:-}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
ranks=$3
comm=$4
shift 4
seeds=("${@:-1}")
make_text corpus.txt

on=()
[ "$ranks" -gt 1 ] && on=(mpirun --oversubscribe --bind-to none -n "$ranks")
[ -n "$launcher" ] && on=("$launcher")
[ "$ranks" -gt 1 ] && options=(--comm="$comm") || options=()
train=("$helix" train "${small[@]}" --data.path corpus.txt --train.log_every=1 --train.micro_batch=2 --model.dropout=0.1
    --optim.clip=0.5 --optim.schedule=constant --ckpt.every=10)

# cuda SEED OUT ARGUMENT...
cuda() {
    local seed=$1 out=$2
    shift 2
    expect 0 'steps' env "${cuda_env[@]}" HELIX_EMU_SEED="$seed" HELIX_EMU_GPUS="$ranks" "${on[@]}" "${train[@]}" \
        "${options[@]}" --device=cuda --out "$out" "$@"
}

# losses FOLDER: one a step
losses() { sed -n 's/.*"event": *"step".*/&/p' "$1/metrics.jsonl" | grep -oE '"loss": *[-+.0-9a-zA-Z]+' | sed 's/.*: *//'; }

# compare NAME FOLDER FIRST LAST: relative distance from the CPU's losses, at most FIRST at step 1 and LAST at step 20
compare() {
    paste <(losses cpu_"$1") <(losses "$2") | awk -v what="$2" -v first="$3" -v last="$4" '
        function relative(a, b) { d = (a - b) / b; return d < 0 ? -d : d }
        NF == 2 { n++; d = relative($2, $1); if (n == 1) at_first = d; if (d > worst) worst = d; at_last = d }
        END { printf "%s: %d steps, relative distance of the loss %.2g at the first, %.2g at the last, %.2g at most\n",
                  what, n, at_first, at_last, worst
              exit !(n == 20 && at_first <= first && at_last <= last) }' || fail "$2: the losses are not the CPU run's"
}

# same A B [STEP]: the same bits in both checkpoints
same() {
    local group step=${3:-20}
    for group in /model /optim; do
        h5diff "$(step_file "$1" "$step")" "$(step_file "$2" "$step")" $group || fail "$1 and $2 differ in $group"
    done
}

# check DTYPE FIRST LAST
check() {
    local seed name=$1 first=$2 last=$3
    expect 0 '20 steps' "${train[@]}" --device=cpu --model.dtype="$name" --train.steps=20 --out "cpu_$name"
    for seed in "${seeds[@]}"; do
        cuda "$seed" "cuda_${name}_$seed" --model.dtype="$name" --train.steps=20
        compare "$name" "cuda_${name}_$seed" "$first" "$last"
        same "cuda_${name}_${seeds[0]}" "cuda_${name}_$seed"
    done
    cuda "${seeds[0]}" "resumed_$name" --model.dtype="$name" --train.steps=10
    cuda "${seeds[0]}" "resumed_$name" --model.dtype="$name" --train.steps=20 --resume
    same "cuda_${name}_${seeds[0]}" "resumed_$name"
}

# In f32 the two differ by the order of their sums. In bf16 each activation is rounded to 8 bits, and a sum in another
# order falls to the other side now and then.
check f32 1e-5 1e-4
check bf16 1e-4 1e-3

# The device's memory is copied beside the next step, on another stream; the copy begins long after the update would have.
cuda_env+=(HELIX_TEST_COPY_MS=2000)
cuda "${seeds[0]}" beside --model.dtype=f32 --train.steps=11 --ckpt.async=wait
unset 'cuda_env[-1]'
same "cuda_f32_${seeds[0]}" beside 10

# layout NAME FIRST LAST OPTION...: other ways to share the work between two ranks
layout() {
    local name=$1 first=$2 last=$3
    shift 3
    cuda "${seeds[0]}" "$name" --model.dtype=f32 --train.steps=20 "$@"
    compare f32 "$name" "$first" "$last"
}
case "$ranks $comm" in # emulated steps take their time: each layout by one transport
'2 staged')
    layout narrow 1e-5 1e-2 --ddp.compress=bf16
    layout elastic 1e-5 1e-4 --train.deterministic=elastic
    layout parts 1e-5 1e-4 --mesh.tp=2 ;;
'2 nccl')
    layout zero_2 1e-5 1e-4 --ddp.zero=2
    layout positions 1e-5 1e-4 --mesh.tp=2 --mesh.sequence=true ;;
esac
finish

#!/usr/bin/env bash
# Everything that can only be seen on a GPU, by one command and in less than eight minutes: builds Helix with its CUDA
# plug-in, then compares, sanitizes, trains and measures. Each part has a time limit and a row of its own.
set -uo pipefail

usage() {
    cat <<'TEXT'
usage: tests/gpu/run.sh [--out DIR] [--build DIR] [--deps FILE] [--parts A,B,...] [--dry]

  --out DIR      logs, table.txt and result.json (default: gpu-results)
  --build DIR    build folder (default: build/gpu)
  --deps FILE    helix-deps.tar.xz of tests/gpu/bundle.sh, for a machine that lacks libraries and has no network
  --parts LIST   only these parts; --dry tells what they are
  --dry          run nothing: list parts, limits and commands

HELIX_CUDA_PLUGIN names a plug-in other than the one that is built here, e.g. the emulated one of the tests: parts that
need a real GPU are then skipped. Exit code: 0 if nothing failed, 1 if something did, 77 if there is no GPU.
TEXT
}

root=$(cd "$(dirname "$0")/../.." && pwd)
out=$PWD/gpu-results
build=$root/build/gpu
deps='' parts='' dry=no
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$(realpath -m "$2") && shift ;;
    --build) build=$(realpath -m "$2") && shift ;;
    --deps) deps=$(realpath "$2") && shift ;;
    --parts) parts=,$2, && shift ;;
    --dry) dry=yes ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

began=$SECONDS
planned=0 # seconds: the limits of the parts so far
plugin=${HELIX_CUDA_PLUGIN:-}
is_emulated=no
[ -n "$plugin" ] && is_emulated=yes
unset "${!HELIX_@}" OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
rows=() # "name<tab>result<tab>seconds<tab>what was said"

has_gpu() { [ "$is_emulated" = yes ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }; }
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -1; }

# part NAME LIMIT COMMAND...: a row. The command's exit code decides, 77 is a skip; its last line of output is told. What
# earlier parts have left of their limits is added to this one's: together they take no longer than all limits.
part() {
    local name=$1 limit=$2 start code said result
    shift 2
    [ -n "$parts" ] && [[ $parts != *",$name,"* ]] && return 0
    if [ "$dry" = yes ]; then
        printf '%-16s %4d s  %s\n' "$name" "$limit" "$*"
        return 0
    fi
    start=$SECONDS
    planned=$((planned + limit))
    limit=$((planned - SECONDS + began))
    (export -f "${functions[@]}" && timeout -k 5 "$limit" bash -uo pipefail -c '"$@"' part "$@") >"$out/$name.log" 2>&1 </dev/null
    code=$?
    said=$(grep '[[:alnum:]]' "$out/$name.log" | tail -1 | tr -d '\t')
    said=${said#skipped: }
    [[ $said == '{'* ]] || said=${said:0:200} # what was measured is told whole
    case $code in
    0) result=pass ;;
    77) result=skipped ;;
    124 | 137) result=FAIL said="longer than $limit s; $said" ;;
    *) result=FAIL said="exit code $code: $said" ;;
    esac
    rows+=("$name"$'\t'"$result"$'\t'$((SECONDS - start))$'\t'"$said")
    printf '%-16s %-8s %4d s  %s\n' "$name" "$result" $((SECONDS - start)) "$said"
    [ "$code" -eq 0 ]
}

skip() { echo "skipped: $*" && exit 77; }
needs_gpu() { [ "$is_emulated" = no ] || skip "the device is emulated"; }

# ---- the parts ----

# What the build needs and the machine lacks: from the bundle, or from the system's packages.
get_libraries() {
    pkg-config --exists hdf5-openmpi openblas fftw3 fftw3f yaml-0.1 jansson libxxhash libpcre2-8 hwloc criterion 2>/dev/null && return 0
    if [ -n "$deps" ]; then
        mkdir -p "$out/deps" && tar -C "$out/deps" -xf "$deps" && . "$out/deps/prefix/env.sh"
    else
        . "$root/launch/common.sh" && install_missing "$BUILD_PACKAGES
$TEST_PACKAGES"
    fi
}

build_all() {
    local arch plugin_target=helix_cuda
    [ "$is_emulated" = yes ] && plugin_target=helix_emu
    get_libraries || return 1
    arch=$(query compute_cap | tr -d .)
    case $arch in 90 | 100 | 120) arch=${arch}a ;; esac
    [ "$is_emulated" = yes ] || command -v nvcc >/dev/null || { echo "no nvcc: put the CUDA toolkit on the PATH" && return 1; }
    cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release ${arch:+-DHELIX_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$arch-real"} &&
        cmake --build "$build" --target helix gpu_gpt2 conformance_ops conformance_dtypes conformance_gradients $(comm_test) \
            "$plugin_target" && "$build/helix" version
}

# The tests of collectives are built with the emulator, which is for x86-64.
comm_test() { [ "$(uname -m)" != x86_64 ] || echo emu_comm; }
needs_nccl() {
    [ -n "$(comm_test)" ] || skip "the tests of collectives are built on x86-64 only"
    [ "$is_emulated" = yes ] || grep -qa 'libnccl\.so\.2' "$HELIX_CUDA_PLUGIN" || skip "the plug-in is without NCCL"
}

# battery PROGRAM ARGUMENT...: cuda against ref, outputs full of NaN before each op, inputs drawn anew
battery() {
    local program=$1
    shift
    HELIX_TEST_BACKEND=cuda HELIX_TEST_SEED=$((RANDOM * 32768 + RANDOM)) "$build/tests/conformance_$program" -j1 "$@"
}
all_batteries() { battery ops && battery dtypes && battery gradients; }

# sanitize TOOL: small shapes are enough to see accesses out of bounds and races
sanitize() {
    needs_gpu
    command -v compute-sanitizer >/dev/null || skip "compute-sanitizer is not installed"
    HELIX_TEST_BACKEND=cuda HELIX_ALLOC=exact compute-sanitizer --tool "$1" --error-exitcode 9 --require-cuda-init no --target-processes all \
        "$build/tests/conformance_ops" -j1 --filter "$2" 2>&1 | tee "$out/$1.txt" | tail -40
}

# train RANKS COMM ON_ONE_GPU: 20 steps against the CPU, twice
train() { "$root/tests/e2e/cuda_train.sh" "$build/helix" "$out/train_$1_$2" "$1" "$2" 1 2; }
share_gpu() { HELIX_CUDA_SHARE=1 train "$@"; }
# communicate FILTER LAUNCHER...: a test of the collectives, with its ranks on this GPU
communicate() {
    local filter=$1
    shift
    HELIX_CUDA_SHARE=1 "$@" "$build/tests/emu_comm" -j1 --filter "emu_comm/$filter"
}
collectives_alone() {
    needs_nccl
    communicate nccl_collectives_equal_those_on_host_memory mpirun --oversubscribe --bind-to none -n 1
}

# NCCL refuses two ranks on one GPU, unless it takes them for two hosts
nccl_pair() {
    local said
    needs_gpu
    needs_nccl
    said=$(communicate nccl_collectives_equal_those_on_host_memory "$root/tests/gpu/nccl2on1.sh" 2>&1) || {
        echo "$said"
        grep -qiE 'ncclCommInit|duplicate GPU|invalid usage|cannot be loaded' <<<"$said" && skip "NCCL does not start two ranks on this GPU"
        return 1
    }
    HELIX_TEST_LAUNCHER=$root/tests/gpu/nccl2on1.sh share_gpu 2 nccl
}

gpt2() {
    needs_gpu
    "$build/tests/gpu_gpt2" --device=cuda --train.batch="$1" --train.steps="$2"
}

torch() {
    needs_gpu
    command -v python3 >/dev/null || skip "no Python"
    python3 "$root/tests/gpu/torch_gpt2.py" "$1" "$2" 2>"$out/torch_$1.err"
}
mapfile -t functions < <(compgen -A function | grep -vE '^(usage|part|report)$')

# ---- the table ----

json_text() { sed 's/\\/\\\\/g; s/"/\\"/g' <<<"$1" | tr -d '\000-\037'; }

report() {
    local row name result seconds said sep=
    {
        printf '{"device": "%s", "driver": "%s", "seconds": %d, "parts": [' "$(json_text "$(query name)")" "$(query driver_version)" $((SECONDS - began))
        for row in "${rows[@]}"; do
            IFS=$'\t' read -r name result seconds said <<<"$row"
            printf '%s\n  {"name": "%s", "result": "%s", "seconds": %d, ' "$sep" "$name" "$result" "$seconds"
            if [[ $said == '{'* ]]; then printf '"measured": %s}' "$said"; else printf '"said": "%s"}' "$(json_text "$said")"; fi
            sep=,
        done
        printf '\n]}\n'
    } >"$out/result.json"
    {
        printf '%-16s %-8s %6s  %s\n' part result s 'last words'
        for row in "${rows[@]}"; do
            IFS=$'\t' read -r name result seconds said <<<"$row"
            printf '%-16s %-8s %6d  %s\n' "$name" "$result" "$seconds" "$said"
        done
        printf '%d s in all\n' $((SECONDS - began))
    } | tee "$out/table.txt"
}

if [ "$dry" = no ]; then
    has_gpu || { echo 'skipped: no GPU' && exit 77; }
    mkdir -p "$out"
fi
export root out build deps plugin is_emulated
# less than 480 s in all
part build 140 build_all || { report && exit 1; }
[ -f "$out/deps/prefix/env.sh" ] && . "$out/deps/prefix/env.sh"
export HELIX_CUDA_PLUGIN=${plugin:-$build/libhelix_cuda.so}
part battery 60 all_batteries
part train 25 train 1 auto
part gpt2_b64 30 gpt2 64 25
part torch_b64 40 torch 64 25
part gpt2_b8 20 gpt2 8 40
part torch_b8 25 torch 8 40
part collectives_1 15 collectives_alone
part two_on_one 20 share_gpu 2 staged
part nccl_pair 25 nccl_pair
part memcheck 35 sanitize memcheck '*'
part racecheck 30 sanitize racecheck '*'
[ "$dry" = yes ] && exit 0
report
printf '%s\n' "${rows[@]}" | grep -q $'\tFAIL\t' && exit 1
exit 0

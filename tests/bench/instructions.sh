#!/bin/sh
# Counts the instructions of a few training steps by valgrind and compares them with tests/bench/instructions.txt: where a step takes
# 3 % more, this fails; where it takes 3 % less, the record is stale, which is told. Unlike time, the count is the same on a busy
# machine and on another CPU: valgrind shows every x86-64 CPU with AVX2 as the same one, with the same caches; the number of cores, the
# environment and where memory lies change it by less than 0.1 %. Another compiler or library brings other code: then it is skipped.
#     tests/bench/instructions.sh BUILD_FOLDER [--record]
set -eu
usage() { echo "usage: tests/bench/instructions.sh BUILD_FOLDER [--record]" >&2; exit 2; }
build=${1:-} mode=${2:---compare}
if [ $# -gt 2 ] || [ -z "$build" ]; then usage; fi
case $mode in --record | --compare) ;; *) usage ;; esac
record=$(dirname "$0")/instructions.txt
program=$build/tests/bench_steps
skip() { echo "skipped: $*" >&2; exit 77; }
[ -x "$program" ] || { echo "$program is missing: build the target bench_steps" >&2; exit 2; }
command -v valgrind >/dev/null || skip "there is no valgrind"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# The kernels that valgrind can follow, whatever is set outside: Helix's own products, and OpenBLAS's where few rows go there. One thread, or
# threads that wait would count too.
export HELIX_CPU_ISA=avx2 HELIX_STREAM=inline HELIX_GEMM=own HELIX_ALLOC=cached
export OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1
unset OPENBLAS_L2_SIZE GLIBC_TUNABLES LD_PRELOAD

# count CASE DTYPE STEPS: instructions of a step
count() {
    valgrind --tool=callgrind --callgrind-out-file="$work/$1.$2" --toggle-collect=counted_steps "$program" "$@" >"$work/log" 2>&1 || {
        grep -q 'this CPU does not have it' "$work/log" && skip "kernels of $HELIX_CPU_ISA do not run here"
        cat "$work/log" >&2
        exit 1
    }
    awk -v n="$3" '$1 == "summary:" { printf "%.0f\n", $2 / n }' "$work/$1.$2"
}

# case, dtype, steps
cases='gpt-small f32 1
gpt-small bf16 1
mlp-small f32 20
mlp-784 f32 1'

surroundings=$("$program")
if [ "$mode" = --compare ]; then
    recorded=$(sed -n 's/^# with //p' "$record")
    [ "$surroundings" = "$recorded" ] || skip "recorded with $recorded; here are $surroundings"
fi
echo "$cases" | while read -r name dtype steps; do
    n=$(count "$name" "$dtype" "$steps")
    echo "$name $dtype $n"
done >"$work/counts"
if [ "$mode" = --record ]; then
    {
        echo "# Instructions of a training step of \`helix bench cpu\`'s cases, one thread: tests/bench/instructions.sh BUILD_FOLDER --record"
        echo "# with $surroundings"
        cat "$work/counts"
    } >"$record"
    cat "$record"
    exit 0
fi
awk 'FNR == NR { if ($1 != "#") old[$1 " " $2] = $3; next }
    {
        name = $1 " " $2
        if (!(name in old)) { printf "%s: no record\n", name; failed = 1; next }
        change = 100 * ($3 / old[name] - 1)
        printf "%-16s %12d instructions a step, recorded %12d: %+.2f %%%s\n", name, $3, old[name], change,
            (change > 3 ? "  MORE" : change < -3 ? "  fewer: the record is stale" : "")
        if (change > 3) failed = 1
        if (change < -3) stale = 1
    }
    END {
        if (failed) print "a step takes over 3 % more instructions than recorded, or has no record"
        if (failed || stale) print "to record anew: tests/bench/instructions.sh BUILD_FOLDER --record"
        exit failed
    }' "$record" "$work/counts"

#!/bin/sh
# Checkpoints beside the disk itself: 1.5 GB of state saved and loaded by two ranks, and the same bytes written and read by two plain
# processes, in turns; medians. Then torch.save and torch.load, where PyTorch is installed; and what a step of two seconds stands still for
# when the state is saved beside it, by the time of a save that is waited for: the first save and a later one.
#     tests/bench/ckpt.sh <build folder> [rounds] [folder on the disk to be measured]
set -eu
build=${1:?usage: ckpt.sh BUILD_FOLDER [rounds] [folder]}
rounds=${2:-5}
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$build" && pwd)
work=$(mktemp -d "${3:-${TMPDIR:-/tmp}}/helix-ckpt-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT

# keep NAME COMMAND...: a line of figures under NAME
keep() {
    name=$1
    shift
    "$@" >>"$work/$name.txt" 2>"$work/log" || { cat "$work/log" >&2; return 1; }
}
# median NAME FIELD: of the word behind FIELD
median() {
    awk -v f="$2" '{ for (i = 1; i < NF; i++) if ($i == f) print $(i + 1) }' "$work/$1.txt" | sort -g |
        awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

bytes=0 has_torch=yes
i=0
while [ "$i" -lt "$rounds" ]; do
    for way in flat columns copies async; do
        keep "$way" mpirun --oversubscribe --bind-to none -n 2 "$build/tests/bench_ckpt" "$work/ckpt" $way
        rm -rf "$work/ckpt"
    done
    bytes=$(median flat bytes)
    keep raw "$build/tests/raw_write" "$work/raw" "$bytes"
    rm -f "$work/raw"
    if [ $has_torch = yes ]; then keep torch python3 "$here/torch_ckpt.py" "$work/torch.pt" "$bytes" 2>/dev/null || has_torch=no; fi
    rm -f "$work/torch.pt"
    i=$((i + 1))
done

# row NAME WORDS
row() {
    awk -v b="$bytes" -v w="$(median "$1" write)" -v r="$(median "$1" read)" -v rw="$(median raw write)" -v rr="$(median raw read)" -v t="$2" 'BEGIN {
        printf "  %-34s write %7.0f MB/s  %.3f of plain   read %7.0f MB/s  %.3f of plain\n", t, b / w / 1e6, rw / w, b / r / 1e6, rr / r }'
}
echo "$bytes bytes, medians of $rounds"
row raw 'two plain processes'
row flat 'two ranks, flat shares'
row columns 'two ranks, matrices by columns'
row copies 'two ranks, a copy of all each'
if [ $has_torch = yes ]; then row torch 'torch.save, torch.load, one process'; fi
awk -v e="$(median flat extra)" -v c="$(median columns extra)" -v d="$(median copies extra)" 'BEGIN {
    printf "most memory of a rank beside its state: %.1f MB, by columns %.1f MB, copies %.1f MB\n", e / 1e6, c / 1e6, d / 1e6 }'
# share FIELD: of the async runs, each by the save that was waited for in the same run: median, and from the least to the most
share() {
    awk -v f="$1" '{ for (i = 1; i < NF; i++) { if ($i == f) s = $(i + 1); if ($i == "save") w = $(i + 1) }; print s, 100 * s / w }' "$work/async.txt" | sort -g |
        awk '{ s[NR] = $1; p[NR] = $2 } END { m = int((NR + 1) / 2); printf "stall %.1f ms = %.2f %% of the synchronous save (%.1f to %.1f ms)", 1e3 * s[m], p[m], 1e3 * s[1], 1e3 * s[NR] }'
}
echo "async: $(share stall2), the first save: $(share stall1)"
awk -v a="$(median async slower1)" -v b="$(median async slower2)" 'BEGIN { printf "async: the computation beside the first save takes %.3f times as long as alone, beside a later one %.3f\n", a, b }'

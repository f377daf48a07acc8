#!/bin/sh
# Plants a fault in each barrier and shuffle of the kernels in turn and expects the battery to see it.
#   plant.sh PROGRAM FILE     sites of backends/cuda/FILE; all: every site, ten minutes, only with HELIX_TEST_FULL=1
# PROGRAM is emu_kernels; the plug-in is in HELIX_CUDA_PLUGIN. A fault that no seed shows is printed as "survived".
program=$1
file=$2
if [ "$file" = all ]; then
    [ "${HELIX_TEST_FULL:-}" = 1 ] || { echo "skipped: HELIX_TEST_FULL is not 1"; exit 77; }
    file=
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export HELIX_ALLOC=exact HELIX_TEST_SEED=1 HELIX_EMU_CHECK=0

ops=$(OPENBLAS_NUM_THREADS=1 "$program" 2>"$work/log") || { cat "$work/log"; exit 1; }
for op in $ops; do
    HELIX_EMU_SITES=$work/$op.sites "$program" "$op" >"$work/log" 2>&1 || { echo "$op fails without a fault"; cat "$work/log"; exit 1; }
done

export HELIX_EMU_CHECK=1
n=0
n_survived=0
for site in $(cat "$work"/*.sites 2>/dev/null | grep -F "/$file" | sort -u); do
    n=$((n + 1))
    red=
    for seed in 1 2 3; do
        for list in $(grep -lxF "$site" "$work"/*.sites); do
            HELIX_EMU_SEED=$seed HELIX_EMU_PLANT=$site "$program" "$(basename "$list" .sites)" >"$work/log" 2>&1 || { red=$list; break 2; }
        done
    done
    [ -n "$red" ] || { echo "survived: $site"; n_survived=$((n_survived + 1)); }
done
echo "$n sites, $n_survived survived"
[ "$n" -gt 0 ] && [ "$n_survived" -eq 0 ]

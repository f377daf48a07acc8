#!/bin/sh
# Helix beside PyTorch, as installed and tuned (torch_peer.py), on the cases of `helix bench cpu`: in turn, so that a disturbance meets
# all, each in a process of its own, and then one table of medians.
#     [PYTHONS="/usr/bin/python3 /opt/venv/bin/python"] tests/bench/compare.sh BUILD_FOLDER [--threads N] [--rounds N]
#         [--only PART,...] [--bf16] [--json FILE]
# PYTHONS are interpreters with PyTorch; without one, and where python3 has none, the table has Helix alone.
set -eu
usage="usage: compare.sh BUILD_FOLDER [--threads N] [--rounds N] [--only PART,...] [--bf16] [--json FILE]"
build=${1:?$usage}
shift
threads=$(nproc) rounds=3 only='' bf16='' json=''
while [ "$#" -gt 0 ]; do
    case $1 in
    --bf16) bf16=--bf16 && shift && continue ;;
    --threads | --rounds | --only | --json) [ "$#" -gt 1 ] || { echo "$1: a value is missing; $usage" >&2; exit 2; } ;;
    esac
    case $1 in
    --threads) threads=$2 ;;
    --rounds) rounds=$2 ;;
    --only) only=$2 ;;
    --json) json=$2 ;;
    *) echo "$1: $usage" >&2 && exit 2 ;;
    esac
    shift 2
done
case $rounds in '' | 0* | *[!0-9]*) echo "--rounds $rounds: expected a whole number from 1; $usage" >&2 && exit 2 ;; esac
if [ -n "$json" ] && ! (: >>"$json") 2>/dev/null; then echo "--json: $json cannot be written" >&2 && exit 2; fi
command -v python3 >/dev/null || { echo "there is no python3, which makes the table" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
helix=$build/helix
[ -x "$helix" ] || { echo "$helix is missing: build the target helix" >&2; exit 2; }
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE # some shells set them, and halve the speed of both
cases=$("$helix" bench cpu --list --only "$only") || exit
peers=''
for python in ${PYTHONS:-python3}; do
    if "$python" -c 'import torch' 2>/dev/null; then peers="$peers $python"; else echo "$python has no torch" >&2; fi
done
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
trap 'exit 1' INT TERM
for name in $(echo "$cases" | cut -f 1); do
    i=0
    while [ "$i" -lt "$rounds" ]; do
        set -- --threads "$threads" --rounds 3 --only "$name" $bf16
        "$helix" bench cpu --json "$@" >>"$lines"
        for python in $peers; do
            "$python" "$here/torch_peer.py" "$@" >>"$lines"
            "$python" "$here/torch_peer.py" --tuned "$@" >>"$lines"
        done
        i=$((i + 1))
    done
done
python3 "$here/compare_table.py" "$lines" "$json"

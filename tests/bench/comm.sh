#!/bin/sh
# Collectives of Helix, of plain MPI and of PyTorch's gloo on this host: bytes per second and ratios.
#     [PYTHON=/usr/bin/python3] tests/bench/comm.sh <build folder> [ranks] [options of helix bench comm]
set -eu
build=${1:?usage: comm.sh BUILD_FOLDER [ranks] [options of helix bench comm]}
ranks=${2:-2}
shift
[ "$#" -eq 0 ] || shift
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$build/helix" ] || { echo "$build/helix is missing: build the target helix" >&2; exit 2; }
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
result=$(mktemp)
trap 'rm -f "$result"' EXIT
mpirun --oversubscribe -n "$ranks" "$build/helix" bench comm --json "$@" >"$result"
"${PYTHON:-python3}" "$here/gloo_peer.py" "$result"

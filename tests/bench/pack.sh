#!/bin/sh
# MB/s of `helix data pack` and of Python's tokenizers doing the same, on all cores, in turns; eight lines of the text are a document.
#     [PYTHON=python3] tests/bench/pack.sh <build folder> TEXT TOKENIZER.JSON [rounds]
set -eu
build=${1:?usage: pack.sh BUILD_FOLDER TEXT TOKENIZER.JSON [rounds]}
text=$2
tokenizer=$3
rounds=${4:-3}
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$build/helix" ] || { echo "$build/helix is missing: build the target helix" >&2; exit 2; }
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" "$here/pack_peer.py" lines "$text" "$work/lines.jsonl"
for _ in $(seq "$rounds"); do
    rm -f "$work/helix.h5"
    "$build/helix" data pack "$work/lines.jsonl" --tokenizer "$tokenizer" --out "$work/helix.h5" --json | sed 's/.*"mb_per_s":\([0-9.]*\).*/helix      \1 MB\/s/'
    "${PYTHON:-python3}" "$here/pack_peer.py" pack "$work/lines.jsonl" "$tokenizer" "$work/peer.bin"
done
"${PYTHON:-python3}" "$here/pack_peer.py" compare "$work/helix.h5" "$work/peer.bin"

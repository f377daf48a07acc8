#!/usr/bin/env bash
# From a fresh clone to a trained model: installs what is missing, builds, trains a small GPT on two ranks, evaluates
# it, and lets it write.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: launch/quickstart.sh [--data PATH] [--no-install] [-- HELIX OPTION...]

  --data PATH     train on this text file or folder instead of the King James Bible (Debian package bible-kjv)
  --no-install    install nothing; fail if something is missing
  -- OPTION...    passed on to `helix train`, e.g. -- --train.steps=50
The settings are in launch/quickstart.yaml. Every call makes a new folder runs/quickstart-N.
TEXT
}

data=
NO_INSTALL=no
while [ $# -gt 0 ]; do
    case $1 in
    --data) [ $# -ge 2 ] || { usage >&2; exit 2; }; data=$(realpath -- "$2") || exit 2; shift 2 ;;
    --data=*) data=$(realpath -- "${1#--data=}") || exit 2; shift ;;
    --no-install) NO_INSTALL=yes; shift ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
. launch/common.sh
# A shell that forces OpenBLAS to older kernels halves the speed of training.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

# The text is printed by a program of the package, which lives in /usr/games on some systems.
print_bible() {
    local program
    program=$(PATH=$PATH:/usr/games command -v bible) || return 1
    "$program" gen1:1-rev22:21
}

# fetch_corpus FILE: the King James Bible, 4.3 MB, once. Returns 1 where the package cannot be had.
fetch_corpus() {
    [ -s "$1" ] && return 0
    mkdir -p "$(dirname "$1")"
    if ! is_installed bible-kjv; then
        say "missing: bible-kjv (the text to train on)"
        [ "$NO_INSTALL" = no ] && command -v apt-get >/dev/null || return 1
        apt_install bible-kjv || return 1
    fi
    print_bible >"$1.tmp" || return 1
    [ "$(wc -c <"$1.tmp")" -gt 4000000 ] || return 1
    mv "$1.tmp" "$1"
}

# The repository's own sources and pages: less text, but always there.
own_corpus() {
    mkdir -p "$(dirname "$1")"
    find core dist backends io launch tests examples README.md -type f \
        \( -name '*.[ch]' -o -name '*.inc' -o -name '*.md' -o -name '*.sh' \) | LC_ALL=C sort | xargs cat >"$1"
}

new_run_folder() {
    local n=1
    mkdir -p runs
    while ! mkdir "runs/quickstart-$n" 2>/dev/null; do n=$((n + 1)); done
    echo "runs/quickstart-$n"
}

install_missing "$BUILD_PACKAGES"
build release helix -DHELIX_TESTS=OFF
helix=build/release/helix

prompt="And God said"
if [ -z "$data" ]; then
    data=build/corpus/bible-kjv.txt
    if ! fetch_corpus "$data"; then
        data=build/corpus/helix.txt
        prompt="static hx_status "
        say "bible-kjv cannot be had here: training on Helix's own sources and pages instead"
        own_corpus "$data"
    fi
fi

allow_root
out=$(new_run_folder)
progress=lines
[ -t 1 ] && progress=bar
say "training on $data with two ranks, into $out"
mpirun --oversubscribe --bind-to none -n 2 "$helix" train --config launch/quickstart.yaml --data.path="$data" \
    --out="$out" --progress="$progress" "$@"
say "evaluating on text that was held out"
mpirun --oversubscribe --bind-to none -n 2 "$helix" eval "$out"
say "a sample"
"$helix" generate "$out" --prompt "$prompt" --tokens 400 --temperature 0.7
say "go on with it:  $helix train --config $out/config.yaml --resume --train.steps=5000"

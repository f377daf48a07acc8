#!/usr/bin/env bash
# The installed library serves a program outside of the tree: header, pkg-config file, versioned shared library.
. "$(dirname "$0")/common.sh"
build=$(dirname "$helix")
cmake --install "$build" --prefix "$folder/prefix" >install.log 2>&1 || fail "cmake --install: $(tail -5 install.log)"
PKG_CONFIG_PATH=$(dirname "$(find prefix -name helix.pc)")
export PKG_CONFIG_PATH
cp "$root/examples/tensor_tour.c" .
# shellcheck disable=SC2046
gcc -std=gnu11 -o tour tensor_tour.c $(pkg-config --cflags --libs helix) -lm || fail "a program does not build against the installed library"
library=$(dirname "$(find "$folder/prefix" -name 'libhelix.so.0')")
LD_LIBRARY_PATH=$library ./tour >tour.txt || fail "the program does not run"
[ -s tour.txt ] || fail "the program printed nothing"
[ "$(pkg-config --modversion helix)" = "$("$helix" version --json | grep -oE '"(helix|version)": *"[^"]*"' | head -1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+')" ] ||
    fail "helix.pc says $(pkg-config --modversion helix), helix says $("$helix" version --json)"
finish

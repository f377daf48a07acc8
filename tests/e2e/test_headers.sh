#!/usr/bin/env bash
# The umbrella header alone is enough, in C11 and in C++17.
. "$(dirname "$0")/common.sh"
printf '#include "launch/helix.h"\nint main(void) { return hx_version() == 0; }\n' >user.c
cp user.c user.cc
gcc -std=gnu11 -Wall -Wextra -Werror -I"$root" -fsyntax-only user.c || fail "the headers do not compile as C"
if command -v g++ >/dev/null; then
    g++ -std=gnu++17 -Wall -I"$root" -fsyntax-only user.cc || fail "the headers do not compile as C++"
else
    echo "skipped: no g++"
fi
finish

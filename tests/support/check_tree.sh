#!/usr/bin/env bash
# The rules of the tree that a compiler does not see: who may include whom, no unfinished work, no stray prints.
# usage: check_tree.sh ROOT
set -u
cd "$1" || exit 2
failed=0
# report TEXT HITS: fail if there are hits
report() {
    [ -z "$2" ] && return
    printf '%s\n%s\n\n' "$1" "$2"
    failed=1
}
# includes DIR PATTERN: includes in DIR that match PATTERN
includes() { grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($2)" --include='*.[ch]' --include='*.cu' --include='*.cuh' --include='*.inc' --include='*.def' "$1"; }

report "core knows libc and libm only:" "$(includes core 'mpi|hdf5|H5|cuda|nccl|cblas|openblas|fftw|yaml|jansson|pcre2|hwloc|dist/|backends/|io/|launch/')"
report "backends may include core only:" "$(includes backends 'mpi|hdf5|H5|yaml|jansson|pcre2|hwloc|dist/|io/|launch/')"
report "dist may include core only:" "$(includes dist 'hdf5|H5|cblas|fftw|yaml|jansson|pcre2|hwloc|backends/|io/|launch/')"
report "io may include core and dist/comm/comm.h only:" "$(includes io 'cblas|fftw|yaml|hwloc|backends/|launch/|dist/' | grep -v '"dist/comm/comm\.h"')"
for folder in core dist backends io launch; do
    others=$(printf 'core dist backends io launch' | tr ' ' '\n' | grep -vx $folder | paste -sd'|')
    case $folder in core) continue ;; esac
    # *_impl.h stays inside its folder
    report "$folder includes another folder's inside:" "$(grep -rnE "include \"($others)/.*_impl\.h\"" --include='*.[ch]' --include='*.cu' --include='*.cuh' $folder)"
done
report "unfinished work:" "$(grep -rnwE 'TODO|FIXME|XXX|HACK|placeholder' --include='*.[ch]' --include='*.cu' --include='*.cuh' --include='*.cc' --include='*.py' --include='*.inc' --include='*.sh' --include='*.cmake' --include='*.md' . 2>/dev/null | grep -v 'check_tree\.sh' | grep -v '^\./build/')"
report "the library never prints or exits:" "$(grep -rnE '\b(printf|puts|putchar|perror|exit|abort|_exit) *\(|fprintf *\( *(stdout|stderr)' --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' --include='*.inc' core dist backends io | grep -vE 'snprintf|\* |//')"
report "includes are written from the root:" "$(grep -rnE '#[[:space:]]*include[[:space:]]*"(\.\./|[a-z_0-9]+\.(h|inc|def)")' --include='*.[ch]' --include='*.inc' core dist backends io launch)"
exit $failed

#!/usr/bin/env bash
# Builds Helix and runs its tests.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: launch/test.sh [--full] [--sanitize] [--no-install]

  --full         the long forms of tests that have one (HELIX_TEST_FULL=1; needs 5 GB of memory)
  --sanitize     afterwards also under AddressSanitizer with UBSan, and under ThreadSanitizer; then what reads files is fuzzed by
                 libFuzzer, 30 seconds each, with --full 20 minutes
  --no-install   install nothing; fail if something is missing
TEXT
}

full=no
sanitize=no
NO_INSTALL=no
for option in "$@"; do
    case $option in
    --full) full=yes ;;
    --sanitize) sanitize=yes ;;
    --no-install) NO_INSTALL=yes ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
. launch/common.sh
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
[ "$full" = yes ] && export HELIX_TEST_FULL=1
allow_root
support=$PWD/tests/support

# fuzz PROGRAM SECONDS: libFuzzer from the committed corpus; an input that fails is kept, and named, in build/fuzz/failed.
fuzz() {
    local name=${1##*/fuzz_} found log
    found=build/fuzz/found/$name log=build/fuzz/$name.log
    rm -rf "$found"
    mkdir -p "$found" build/fuzz/failed
    if "$1" -seed=1 -max_total_time="$2" -max_len=65536 -rss_limit_mb=2048 -timeout=60 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/failed/$name-" "$found" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        printf '%s: %s inputs, of which %s reached something new\n' "$name" "$(awk '/number_of_executed_units/ { print $2 }' "$log")" \
            "$(awk '/new_units_added/ { print $2 }' "$log")"
    else
        tail -n 60 "$log"
        printf '%s FAILED; all it said is in %s\n' "$name" "$log"
        return 1
    fi
}

install_missing "$BUILD_PACKAGES
$TEST_PACKAGES"

build release all -DHELIX_TESTS=ON
failed=0
say "tests"
ctest --preset release -j "$(nproc)" || failed=1

if [ "$sanitize" = yes ]; then
    # Programs under mpirun are left out: Open MPI's progress threads and shared-memory queues are not instrumented, so
    # every run reports hundreds of races and leaks of its own, which would hide ours. The code that runs on a rank is
    # covered by the unit and conformance tests, which use the same communication thread, queues and pool.
    labels='unit|conformance|golden|fuzz'
    export OPENBLAS_NUM_THREADS=1
    build asan-ubsan all -DHELIX_TESTS=ON
    say "tests under AddressSanitizer and UBSan"
    ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1 LSAN_OPTIONS="suppressions=$support/lsan.supp:print_suppressions=0" \
        UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 ctest --preset asan-ubsan -j "$(nproc)" -L "$labels" || failed=1
    # Criterion cannot start under ThreadSanitizer (both want fixed addresses), so races are looked for in whole programs.
    build tsan all -DHELIX_TESTS=ON
    say "programs under ThreadSanitizer"
    TSAN_OPTIONS="allocator_may_return_null=1:suppressions=$support/tsan.supp:halt_on_error=1:second_deadlock_stack=1" \
        ctest --preset tsan -j "$(nproc)" -R '^(e2e/threads|e2e/example_.*_tour|fuzz/)' || failed=1
    if [ "$NO_INSTALL" = yes ] && ! command -v clang >/dev/null; then
        say "no libFuzzer: there is no clang"
    else
        install_missing "$FUZZ_PACKAGES"
        build fuzz fuzzers -DHELIX_TESTS=ON
        say "fuzzing with libFuzzer"
        seconds=30
        [ "$full" = yes ] && seconds=1200
        export -f fuzz
        # the harness of checkpoints waits for every fsync, which takes no time in memory
        if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
        printf '%s\n' build/fuzz/tests/fuzz_* |
            ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1 LSAN_OPTIONS="suppressions=$support/lsan.supp:print_suppressions=0" \
                UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 xargs -P "$(nproc)" -I{} bash -c 'fuzz {} '"$seconds" || failed=1
    fi
fi

if [ "$failed" -ne 0 ]; then
    say "some tests FAILED (see above)"
    exit 1
fi
say "all tests passed"

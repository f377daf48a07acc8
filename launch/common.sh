# shellcheck shell=bash disable=SC2034
# Shared by quickstart.sh and test.sh, which use the lists below; sourced, not run.

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Debian packages that Helix is built from, and why. One line each: package, what it brings.
BUILD_PACKAGES='cmake              the build system
ninja-build        the build tool that cmake drives
gcc                the C compiler
pkg-config         finds the libraries below
libopenmpi-dev     MPI: the ranks talk through it
openmpi-bin        mpirun
libopenblas-dev    matrix products
libfftw3-dev       Fourier transforms
libhdf5-openmpi-dev  checkpoints, written by all ranks together
libyaml-dev        configuration files
libjansson-dev     metrics as JSON lines
libxxhash-dev      checksums of checkpoints
libpcre2-dev       splits text into words for tokenizers
libhwloc-dev       which cores this process may use'
TEST_PACKAGES='libcriterion-dev   the test framework
g++                the headers from C++, and the emulator of CUDA
hdf5-tools         looks at checkpoints from outside
valgrind           counts the instructions of training steps'
FUZZ_PACKAGES='clang              the compiler that has libFuzzer
libclang-rt-dev    libFuzzer and the sanitizers of clang
llvm               names of functions in what the sanitizers print'

is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: run as root  $*"
    fi
}

# apt_install PACKAGE...: update the lists once, then install.
apt_install() {
    if [ -z "${APT_IS_FRESH:-}" ]; then
        as_root apt-get update -q || die "apt-get update failed"
        APT_IS_FRESH=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# install_missing LIST: install what of a list like BUILD_PACKAGES is not there; with NO_INSTALL=yes only tell.
install_missing() {
    local missing=() package purpose
    while read -r package purpose; do
        is_installed "$package" && continue
        missing+=("$package")
        say "missing: $package ($purpose)"
    done <<<"$1"
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || die "no apt-get here; install the equivalents of: ${missing[*]}"
    [ "${NO_INSTALL:-no}" = yes ] && die "not installed because of --no-install: apt-get install ${missing[*]}"
    apt_install "${missing[@]}" || die "the packages could not be installed: ${missing[*]}"
}

# build PRESET TARGET [CMAKE ARGUMENT...]: configure, and compile into build/PRESET.
build() {
    local preset=$1 target=$2 log
    shift 2
    log=$(mktemp)
    say "building (preset $preset, folder build/$preset)"
    cmake --preset "$preset" "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        rm -f "$log"
        die "cmake failed"
    }
    rm -f "$log"
    cmake --build --preset "$preset" --target "$target" || die "the build failed"
}

# Open MPI refuses to run as root unless told; containers usually are root.
allow_root() {
    [ "$(id -u)" -eq 0 ] || return 0
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

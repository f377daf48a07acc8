#!/usr/bin/env bash
# bundle.sh [DIR]: what Helix is built from and run with, as a prefix that works wherever it lies, for a machine that has
# a GPU but neither these libraries nor a network. Run it on Debian 12, x86-64, with network; needs apt-get, dpkg-deb.
#   DIR/helix-deps.tar.xz   to be carried there: tests/gpu/run.sh --deps helix-deps.tar.xz
#   DIR/prefix           the same, unpacked; `. prefix/env.sh` makes a shell use it
# C and C++ runtimes are left out: those of the machine, which CUDA's libraries go with, must win. So are CUDA and gcc.
set -euo pipefail
trap 'echo "bundle.sh: failed at line $LINENO" >&2' ERR
out=$(realpath -m "${1:-helix-deps}")
triple=x86_64-linux-gnu
prefix=$out/prefix
lib=$prefix/usr/lib/$triple
packages=(openmpi-bin openmpi-common libopenmpi3 libopenmpi-dev libpmix2
    libhdf5-openmpi-103-1 libhdf5-openmpi-hl-100 libhdf5-openmpi-dev hdf5-tools
    libopenblas0-pthread libopenblas-pthread-dev libfftw3-double3 libfftw3-single3 libfftw3-dev
    libyaml-0-2 libyaml-dev libjansson4 libjansson-dev libxxhash0 libxxhash-dev libhwloc15 libhwloc-dev
    libpcre2-8-0 libpcre2-16-0 libpcre2-32-0 libpcre2-posix3 libpcre2-dev
    libcriterion3 libcriterion-dev cmake cmake-data ninja-build pkgconf pkgconf-bin libpkgconf3)
runtimes='^(libc6|libgcc-s1|libstdc\+\+6|gcc-12-base|libc-bin)$'
fabrics='libfabric|libpsm|libuc[pstm]|libibverbs|librdmacm|libnl-|libslurm|libflux' # their plugins of Open MPI are removed

# get PACKAGE...: download and unpack.
get() {
    local deb
    apt-get -qq download "$@" >/dev/null
    for deb in "$@"; do dpkg-deb -x "${deb}"_*.deb "$prefix"; done
}

# Debian's /lib is /usr/lib; documentation, static libraries and what belongs to fabrics or Fortran goes.
prune() {
    if [ -d "$prefix/lib" ] && [ ! -L "$prefix/lib" ]; then
        cp -a "$prefix/lib/." "$prefix/usr/lib/"
        rm -rf "${prefix:?}/lib"
    fi
    rm -rf "$prefix"/usr/share/{doc,man,lintian,bug,locale,info,gdb,bash-completion,emacs,vim} "$prefix"/usr/share/cmake-*/Help
    rm -rf "$lib"/{fortran,pmix2/include} "$lib"/openblas-pthread/lib{blas,lapack}.* "$lib"/openblas-pthread/pkgconfig/{blas,lapack}*
    rm -f "$lib"/openmpi/lib/openmpi3/mca_*{ofi,ucx,openib,psm,psm2,slurm,flux,netlink,gridengine,jsm}*.so
    rm -f "$lib"/libmpi{_usempi*,_mpifh,_java,_cxx}* "$lib"/openmpi/lib/libmpi_{usempi,mpifh,java,cxx}*
    rm -f "$lib"/lib{hdf5*fortran*,hdf5*cpp*,oshmem,mca_common_ucx,mca_common_verbs,mca_common_ofi}* "$lib"/lib{fftw3*_omp,fftw3l,fftw3q}*
    rm -f "$prefix"/usr/bin/{cpack,ctest,osh*,shmem*,*fort*,mpif*,ortecc,mpijavac*}
    find "$prefix" \( -name '*.a' -o -name '*.la' -o -name '*.mod' \) -delete
}

# libraries that objects of the prefix ask for
needed() {
    { find "$prefix" -type f \( -name '*.so*' -o -path '*/bin/*' \) -print0 | xargs -0 -r readelf -d 2>/dev/null || true; } |
        sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | sort -u
}

# package_of LIBRARY: the package of this machine that it comes from
package_of() {
    local file
    file=$(ldconfig -p | awk -v name="$1" '$1 == name && /x86-64/ && !n++ { print $NF }')
    [ -n "$file" ] || { echo "bundle.sh: $1 is needed; install the packages that Helix is built from first" >&2; return 1; }
    { dpkg -S "$file" "/usr$file" "${file#/usr}" "$(readlink -f "$file")" 2>/dev/null || true; } | awk -F: '!n++ { print $1 }'
}

# The packages behind what is still needed, until nothing is.
complete() {
    local library package more
    for _ in 1 2 3 4 5 6 7 8; do
        more=()
        for library in $(needed); do
            [[ $library =~ $fabrics ]] && { echo "bundle.sh: unexpected $library of a fabric" >&2; return 1; }
            case $library in lib[cm].so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | libresolv.so.2 | ld-linux*) continue ;; esac
            [ -z "$(find "$prefix" -name "$library" -print -quit)" ] || continue
            package=$(package_of "$library") || return 1
            [[ $package =~ $runtimes ]] || ls "${package}"_*.deb >/dev/null 2>&1 || more+=("$package")
        done
        [ ${#more[@]} -gt 0 ] || return 0
        mapfile -t more < <(printf '%s\n' "${more[@]}" | sort -u)
        get "${more[@]}"
        prune
    done
    echo "bundle.sh: still incomplete after 8 rounds" >&2
    return 1
}

# What Debian leaves to update-alternatives.
choose() {
    [ -e "$lib/libmpi.so" ] || ln -sf openmpi/lib/libmpi.so "$lib/libmpi.so"
    mkdir -p "$prefix/usr/include/$triple"
    ln -sfn "../../lib/$triple/openmpi/include" "$prefix/usr/include/$triple/mpi"
    ln -sf openblas-pthread/libopenblas.so.0 "$lib/libopenblas.so.0"
    ln -sf libopenblas.so.0 "$lib/libopenblas.so"
    cp "$lib/openblas-pthread/pkgconfig/openblas.pc" "$lib/pkgconfig/"
    local link
    for link in mpirun:orterun mpiexec:orterun mpicc:opal_wrapper mpicxx:opal_wrapper pkg-config:pkgconf h5pcc:h5pcc.openmpi; do
        ln -sf "${link#*:}" "$prefix/usr/bin/${link%%:*}"
    done
}

# Scripts, .pc files and objects find the prefix relative to themselves.
relocate() {
    local object relative
    find "$lib" -name '*.pc' -type f -exec sed -i 's|^prefix=/usr *$|prefix=${pcfiledir}/../../..|; s|=/usr/|=${prefix}/|
        s|-I/usr/|-I${prefix}/|g; s|-L/usr/|-L${prefix}/|g' {} +
    sed -i '/^Requires.private/d' "$lib"/pkgconfig/*.pc # what a static library would need
    grep -L '^prefix=' "$lib"/pkgconfig/*.pc | xargs -r sed -i '1i prefix=${pcfiledir}/../../..'
    find "$prefix/usr" -type f \( -name '*.so*' -o -path '*/bin/*' \) | while read -r object; do
        head -c4 "$object" | grep -q ELF || continue
        relative=$(realpath --relative-to="$(dirname "$object")" "$lib")
        "$out/tools/usr/bin/patchelf" --set-rpath "\$ORIGIN/$relative:\$ORIGIN" "$object"
    done
    find "$prefix" -xtype l -delete
    rm -rf "${prefix:?}"/usr/{sbin,lib/systemd} "${prefix:?}"/var "$prefix"/usr/share/{menu,applications}
}

# Open MPI on one machine: no fabric, no remote shell.
configure() {
    mkdir -p "$prefix/etc/openmpi"
    printf '%s\n' btl_base_warn_component_unused=0 plm=isolated btl=self,vader,tcp pml=ob1 'osc=^ucx,pt2pt' \
        mca_base_component_show_load_errors=0 oob_tcp_if_include=lo btl_tcp_if_include=lo >"$prefix/etc/openmpi/openmpi-mca-params.conf"
    cat >"$prefix/env.sh" <<'TEXT'
# Source this file; it finds itself.
HELIX_PREFIX=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OPAL_PREFIX=$HELIX_PREFIX/usr OPAL_SYSCONFDIR=$HELIX_PREFIX/etc/openmpi
export PMIX_INSTALL_PREFIX=$HELIX_PREFIX/usr PMIX_MCA_mca_base_component_show_load_errors=0
export PMIX_PKGLIBDIR=$HELIX_PREFIX/usr/lib/x86_64-linux-gnu/pmix2/lib/pmix
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export PATH=$HELIX_PREFIX/usr/bin:$PATH
export CMAKE_PREFIX_PATH=$HELIX_PREFIX/usr${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
export PKG_CONFIG_PATH=$HELIX_PREFIX/usr/lib/x86_64-linux-gnu/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export LIBRARY_PATH=$HELIX_PREFIX/usr/lib/x86_64-linux-gnu LD_LIBRARY_PATH=$HELIX_PREFIX/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
unset HELIX_PREFIX # the program would take it for an option
TEXT
}

rm -rf "$out"
mkdir -p "$out/debs" "$out/tools" "$prefix"
cd "$out/debs"
apt-get -qq download patchelf >/dev/null
dpkg-deb -x patchelf_*.deb "$out/tools"
get "${packages[@]}"
prune
complete
choose
relocate
configure
XZ_OPT="-6 -T0" tar -C "$out" -cJf "$out/helix-deps.tar.xz" --owner=0 --group=0 prefix # half of what gzip leaves
newest=$({ find "$prefix" -type f -name '*.so*' -print0 | xargs -0 readelf -V 2>/dev/null || true; } | grep -o 'GLIBC_2\.[0-9]*' | sort -t. -k2 -nu | tail -1)
echo "$(ls ./*.deb | wc -l) packages, $(($(stat -c %s "$out/helix-deps.tar.xz") >> 20)) MiB in $out/helix-deps.tar.xz; they need $newest"

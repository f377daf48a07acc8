#!/usr/bin/env bash
# wheelcuda.sh DEST [SITE]: DEST/include and DEST/lib, made of links into NVIDIA's Python wheels (SITE/nvidia/*; default: the
# site of python3), with the unversioned names lib*.so that linkers and CMake look for and the wheels leave out.
# Then: cmake -DCMAKE_PREFIX_PATH=DEST -DNCCL_INCLUDE_DIR=DEST/include
set -euo pipefail
dest=${1:?usage: wheelcuda.sh DEST [SITE]}
site=${2:-$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')}
mkdir -p "$dest/lib" "$dest/include"
for library in "$site"/nvidia/*/lib/*.so*; do
    [ -f "$library" ] || continue
    name=$(basename "$library")
    ln -sfn "$library" "$dest/lib/$name"
    [ -e "$dest/lib/${name%%.so*}.so" ] || ln -s "$name" "$dest/lib/${name%%.so*}.so"
done
for header in "$site"/nvidia/*/include/*; do
    name=$(basename "$header")
    [ -e "$header" ] && [ ! -e "$dest/include/$name" ] && ln -s "$header" "$dest/include/$name"
done
for name in cudart cublasLt nccl; do
    [ -e "$dest/lib/lib$name.so" ] || { echo "wheelcuda.sh: no lib$name below $site/nvidia" >&2; exit 1; }
done

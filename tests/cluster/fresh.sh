#!/usr/bin/env bash
# What a new user meets: a bare Debian, a clone, the two commands. Makes a root folder with debootstrap from the package
# sources that this machine itself uses, clones this repository into it, and runs launch/quickstart.sh and launch/test.sh
# there. Needs root and debootstrap; leaves nothing behind unless --keep is given.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: tests/cluster/fresh.sh [--keep] [--root FOLDER] [quickstart] [test]
  --root FOLDER   where the bare system is made (default: a new folder below /var/tmp)
  --keep          leave it there afterwards
Without names both commands are run.
TEXT
}

keep=no
root=
steps=()
while [ $# -gt 0 ]; do
    case $1 in
    --keep) keep=yes; shift ;;
    --root) [ $# -ge 2 ] || { usage >&2; exit 2; }; root=$2; shift 2 ;;
    quickstart | test) steps+=("$1"); shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
[ ${#steps[@]} -gt 0 ] || steps=(quickstart test)
[ "$(id -u)" -eq 0 ] || { echo "this needs root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "missing: apt-get install debootstrap" >&2; exit 2; }
repository=$(cd "$(dirname "$0")/../.." && pwd)
[ -n "$root" ] || root=$(mktemp -d /var/tmp/helix-fresh.XXXXXX)
mkdir -p "$root"
[ -z "$(ls -A "$root")" ] || { echo "$root is not empty" >&2; exit 2; }

cleanup() {
    local point
    for point in sys dev proc; do
        if mountpoint -q "$root/$point"; then umount -R -l "$root/$point"; fi
    done
    # never delete through a mount that could not be taken away
    if [ "$keep" = no ] && ! grep -q " $root/" /proc/mounts; then rm -rf --one-file-system "$root"; fi
}
trap cleanup EXIT

# The first address that apt would ask for this release, whatever the format of the sources.
. /etc/os-release
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' 2>/dev/null | awk -v c="$VERSION_CODENAME" '$2 == c {print $1; exit}')
[ -n "$mirror" ] || mirror=$(awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null)
[ -n "$mirror" ] || { echo "no package source in /etc/apt" >&2; exit 2; }

seconds() { date +%s.%N; }
took() { awk -v a="$1" -v b="$(seconds)" 'BEGIN {printf "%.0f s", b - a}'; }

echo "==> bare system in $root"
start=$(seconds)
debootstrap --variant=minbase --include=ca-certificates "$VERSION_CODENAME" "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
# The machine's own way to its packages: sources, proxy, keys, certificates.
rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/. "$root/etc/apt/"
for folder in /usr/share/keyrings /usr/local/share/ca-certificates /etc/ssl/certs; do
    [ -d "$folder" ] && mkdir -p "$root$folder" && cp -a "$folder/." "$root$folder/"
done
cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
cp -L /etc/hosts "$root/etc/hosts" 2>/dev/null || true
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
echo "    $(took "$start")"

run_inside() {
    local pass=() name
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -n "${!name:-}" ] && pass+=("$name=${!name}")
    done
    chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        "${pass[@]}" /bin/bash -euo pipefail -c "$1"
}

# A clone, not a copy: what is not committed is not there.
git clone -q --no-hardlinks "$repository" "$root/root/helix"
failed=0
for step in "${steps[@]}"; do
    case $step in
    quickstart) command=./launch/quickstart.sh ;;
    test) command=./launch/test.sh ;;
    esac
    echo "==> $command"
    start=$(seconds)
    run_inside "cd /root/helix && $command" || { failed=1; echo "==> $command FAILED"; }
    echo "==> $command: $(took "$start")"
done
exit $failed

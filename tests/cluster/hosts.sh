#!/usr/bin/env bash
# Hosts of their own on one machine: each has its network, host name, processes, mounts and shared memory, and the files of this
# machine. They hang on one bridge, which has a namespace of its own: the machine's network is not touched. See README.md.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: tests/cluster/hosts.sh COMMAND
  up [N]                start hosts hx1 .. hxN (default 2) and hxctl, from which jobs are started; those that run already are
                        left alone, but where one does not start all are ended
  down                  end all of them, with whatever runs there
  run HOST COMMAND ...  run a command on a host
  mpirun ARGUMENT ...   mpirun on hxctl over all hosts, by TCP; 2 slots each, or $SLOTS at `up`
  kill HOST             end a host as a power cut does; `up` starts it again
  cut HOST, join HOST   pull its network cable, and plug it in again
  rate HOST RATE|off    limit what it sends, e.g. 1gbit
  loss HOST N|off       lose N in 1000 of the packets it gets (needs nft)
Their state is in the folder $HX_HOSTS (default: helix-hosts below $TMPDIR or /tmp). Needs root and iproute2.
TEXT
}

state=$(realpath -m "${HX_HOSTS:-${TMPDIR:-/tmp}/helix-hosts}")
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
net=10.77.0 # hx1 is 10.77.0.1, and so on
control=254

pid_of() { cat "$state/$1.pid"; }
is_up() { [ -s "$state/$1.pid" ] && [ -e "/proc/$(pid_of "$1")/ns/net" ]; } # a zombie has no ns/net
in_net() { # HOST COMMAND ...: with the host's network only
    local pid
    pid=$(pid_of "$1")
    shift
    nsenter -t "$pid" -n "$@"
}

# ---- starting ----

# boot HOST: start the host's first process, and note its pid as this machine sees it.
boot() {
    local processes=(--pid --mount-proc) starter i
    [ "$1" = hxctl ] && processes=() # it must see the other hosts' processes, to enter them
    rm -f "$state/$1.ready" "$state/$1.pid"
    # shellcheck disable=SC2016
    setsid unshare --net --uts --mount --ipc "${processes[@]}" --fork --kill-child bash -c '
        set -e
        hostname "$1"
        mount --bind "$2/etc_hosts" /etc/hosts
        mount -t tmpfs -o mode=1777 tmpfs /dev/shm
        mount -t sysfs sysfs /sys
        ip link set lo up
        : >"$2/$1.ready"
        trap "exit 0" TERM
        while :; do sleep 3600 & wait $! || true; done' init "$1" "$state" </dev/null >"$state/$1.log" 2>&1 &
    starter=$!
    echo "$starter" >"$state/$1.pid" # what `down` ends if this does not come to its end
    for i in $(seq 250); do
        [ -e "$state/$1.ready" ] && break
        [ -e "/proc/$starter/ns/net" ] || { cat "$state/$1.log" >&2; return 1; }
        sleep 0.02
    done
    [ -e "$state/$1.ready" ] || { echo "$1 did not start within 5 s" >&2; return 1; }
    cut -d' ' -f1 "/proc/$starter/task/$starter/children" >"$state/$1.pid"
    rm "$state/$1.ready"
}

# plug HOST NUMBER: start it, and connect it with the bridge.
plug() {
    local pid
    is_up "$1" && return
    boot "$1"
    pid=$(pid_of "$1")
    in_net switch ip link del "p-$1" 2>/dev/null || true
    in_net switch ip link add "p-$1" type veth peer name eth0 netns "$pid"
    in_net switch ip link set "p-$1" master br0 up
    in_net "$1" ip addr add "$net.$2/24" dev eth0
    in_net "$1" ip link set eth0 up
}

up() {
    local n=${1:-2} i
    if is_up switch; then
        i=$(wc -l <"$state/hostfile")
        [ "$i" -eq "$n" ] || { echo "there are $i hosts already: expected $n" >&2; exit 2; }
    fi
    trap '[ $? -eq 0 ] || down' EXIT
    trap 'exit 1' HUP INT TERM
    if ! is_up switch; then
        rm -rf "$state"
        mkdir -p "$state"
        {
            echo '127.0.0.1 localhost'
            for i in $(seq "$n"); do echo "$net.$i hx$i"; done
            echo "$net.$control hxctl"
        } >"$state/etc_hosts"
        for i in $(seq "$n"); do echo "hx$i slots=${SLOTS:-2}"; done >"$state/hostfile"
        boot switch
        in_net switch ip link add br0 type bridge forward_delay 0
        in_net switch ip link set br0 up
    fi
    for i in $(seq "$n"); do plug "hx$i" "$i"; done
    plug hxctl $control
}

down() {
    local file pid i
    for file in "$state"/*.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill -9 "$pid" 2>/dev/null || true
        for i in $(seq 100); do
            [ -e "/proc/$pid/ns/net" ] || break
            sleep 0.02
        done
    done
    rm -rf "$state"
}

# ---- running ----

run() {
    local processes=(-p) host=$1
    [ "$host" = hxctl ] && processes=()
    shift
    exec nsenter -t "$(pid_of "$host")" -n -u -m -i "${processes[@]}" --wd="$PWD" -- "$@"
}

run_mpi() {
    export HX_HOSTS=$state OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    run hxctl mpirun --hostfile "$state/hostfile" --mca plm rsh --mca plm_rsh_agent "$self rsh" --mca oob_tcp_if_include eth0 \
        --mca btl tcp,self --mca btl_tcp_if_include eth0 --mca pml ob1 --mca mpi_yield_when_idle 1 --bind-to none "$@"
}

# What ssh does for mpirun: a shell on a host, which may be given by its address, with a clean environment.
remote_shell() {
    local host
    while [[ $1 == -* ]]; do shift; done
    host=$(awk -v h="$1" '$1 == h || $2 == h { print $2; exit }' "$state/etc_hosts")
    [ -n "$host" ] || { echo "there is no host $1" >&2; exit 2; }
    shift
    exec nsenter -t "$(pid_of "$host")" -n -u -m -i -p --wd=/ -- \
        env -i HOME="$HOME" USER=root LOGNAME=root SHELL=/bin/bash PATH="$PATH" HX_HOSTS="$state" bash -c "$*"
}

# ---- faults ----

limit_rate() {
    in_net "$1" tc qdisc del dev eth0 root 2>/dev/null || true
    [ "$2" = off ] || in_net "$1" tc qdisc add dev eth0 root tbf rate "$2" burst 256kb latency 50ms
}

lose_packets() {
    in_net "$1" nft delete table inet fault 2>/dev/null || true
    [ "$2" = off ] || in_net "$1" nft "add table inet fault; add chain inet fault in { type filter hook input priority 0; }
        add rule inet fault in iifname eth0 numgen random mod 1000 < $2 counter drop"
}

# at_least N ARGUMENT ...: that many arguments, the first a host that is up
at_least() {
    [ $# -gt "$1" ] || { usage >&2; exit 2; }
    is_up "$2" || { echo "$2 is not up" >&2; exit 2; }
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
--help | -h) usage; exit 0 ;;
esac
[ "$(id -u)" -eq 0 ] || { echo "hosts.sh $command: this needs root" >&2; exit 2; }
case $command in
up) up "$@" ;;
down) down ;;
run) at_least 2 "$@"; run "$@" ;;
mpirun) at_least 1 hxctl; run_mpi "$@" ;;
rsh) remote_shell "$@" ;;
kill) at_least 1 "$@"; kill -9 "$(pid_of "$1")" ;;
cut) at_least 1 "$@"; in_net switch ip link set "p-$1" down ;;
join) at_least 1 "$@"; in_net switch ip link set "p-$1" up ;;
rate) at_least 2 "$@"; limit_rate "$@" ;;
loss) at_least 2 "$@"; lose_packets "$@" ;;
*) usage >&2; exit 2 ;;
esac

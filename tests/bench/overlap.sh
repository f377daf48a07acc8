#!/bin/sh
# How much of data parallelism's communication backward hides, over a link of limited rate between two hosts of their own
# (tests/cluster/hosts.sh; needs root). `helix train` with one rank on each host, one thread each, on a core of its own:
#     alone    both at once, each by itself, on what would be its share of the batch: no communication, the same load
#     overlap  2 ranks; buckets are sent while backward goes on
#     after    2 ranks; one bucket as large as the model, which is sent when backward is through
# hidden = 1 - (overlap - alone) / (after - alone), of medians over the steps of all rounds, which take turns; and by what a step
# waits for communication of all that it communicates. The timeline is of one step: when each bucket was full, begun and done.
#     tests/bench/overlap.sh <build folder> [rate, e.g. 1gbit] [rounds] [steps]
set -eu
build=${1:?usage: overlap.sh BUILD_FOLDER [rate] [rounds] [steps]}
rate=${2:-1gbit} rounds=${3:-3} steps=${4:-20}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/bench/train.sh
. "$here/train.sh"
hosts=$here/../cluster/hosts.sh
open_bench "$build"
export HX_HOSTS="$work/hosts"
trap '"$hosts" down; rm -rf "$work"' EXIT
SLOTS=1 "$hosts" up 2
for host in hx1 hx2; do "$hosts" rate $host "$rate"; done

alone() { "$hosts" run "$1" taskset -c "$2" "$helix" train --config "$work/run.yaml" --train.steps "$steps" --out "$work/$1" >"$work/$1.log" 2>&1; }
# together OUT BUCKET_BYTES
together() {
    "$hosts" mpirun -n 2 -x HELIX_COMM_TIMES="$work/$1.times" "$work/pinned" "$helix" train --config "$work/run.yaml" --train.steps "$steps" --train.batch 16 \
        --out "$work/$1" --ddp.bucket_bytes "$2" --progress lines >"$work/$1.log" 2>&1
}
# keep RUN NAME: seconds of its steps, and of their waiting for communication
keep() {
    step_values "$work/$1/metrics.jsonl" seconds >>"$work/$2.s"
    step_values "$work/$1/metrics.jsonl" 'seconds * comm_share' >>"$work/$2.wait"
}

i=0
while [ "$i" -lt "$rounds" ]; do
    rm -rf "$work/hx1" "$work/hx2" "$work/overlap" "$work/after"
    alone hx1 0 &
    good=yes
    alone hx2 1 || good=no
    wait $! || good=no
    [ $good = yes ] || { cat "$work/hx1.log" "$work/hx2.log" >&2; exit 1; }
    together overlap 1Mi || { cat "$work/overlap.log" >&2; exit 1; }
    together after 1Gi || { cat "$work/after.log" >&2; exit 1; }
    for host in hx1 hx2; do keep $host alone; done
    for run in overlap after; do keep $run $run; done
    i=$((i + 1))
done

bytes=$(sed -n 's/^\([0-9]*\) parameters.*/\1/p' "$work/overlap.log" | awk '{ print 4 * $1 }')
"$hosts" mpirun -n 2 "$work/pinned" "$helix" bench comm --min "$bytes" --max "$bytes" --json >"$work/comm.json"
comm=$(sed 's/.*"all_reduce","bytes":[0-9]*,"seconds":\([-+.0-9e]*\).*/\1/' "$work/comm.json")

echo "2 hosts, $rate, $bytes bytes of gradients, $rounds rounds of $steps steps"
awk -v bytes="$bytes" -v comm="$comm" -v a="$(median "$work/alone.s")" -v b="$(median "$work/overlap.s")" -v c="$(median "$work/after.s")" \
    -v wb="$(median "$work/overlap.wait")" -v wc="$(median "$work/after.wait")" 'BEGIN {
    printf "alone     %8.1f ms a step\n", 1e3 * a
    printf "overlap   %8.1f ms a step, of which it waits for communication %8.1f ms (%.0f %%)\n", 1e3 * b, 1e3 * wb, 100 * wb / b
    printf "after     %8.1f ms a step, of which it waits for communication %8.1f ms (%.0f %%)\n", 1e3 * c, 1e3 * wc, 100 * wc / c
    printf "all-reduce%8.1f ms by itself\n", 1e3 * comm
    if (c > a) printf "hidden by step times     %5.1f %%\n", 100 * (1 - (b - a) / (c - a))
    else print "hidden by step times: not known, a step with communication after it takes no longer than one without"
    if (wc > 0) printf "hidden by waiting times  %5.1f %%\n", 100 * (1 - wb / wc) }'
# Large collectives of the last training: those of a step follow a pause.
python3 - "$work/overlap.times.0.jsonl" <<'END'
import json, sys
calls = [c for c in map(json.loads, open(sys.argv[1])) if c["kind"] == "all_reduce" and c["bytes"] > 100000]
n = len({i for i, c in enumerate(calls) if c["bytes"] == calls[0]["bytes"]}) and next(
    (p for p in range(1, len(calls)) if [c["bytes"] for c in calls[:p]] * (len(calls) // p) == [c["bytes"] for c in calls[: p * (len(calls) // p)]]), len(calls))
step = calls[len(calls) // n // 2 * n:][:n]
start = step[0]["called"]
print("a step of rank 0, ms since its first bucket was full:\nbucket      bytes     full    begun     done")
for i, c in enumerate(step):
    print(f"{i:6d} {c['bytes']:10d} " + " ".join(f"{1e3 * (c[k] - start):8.1f}" for k in ("called", "began", "ended")))
END

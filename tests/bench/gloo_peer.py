#!/usr/bin/env python3
"""The collectives that `helix bench comm --json` has timed, by torch.distributed with gloo, and one table of all three.

usage: gloo_peer.py HELIX.json    (comm.sh calls it)
Gloo has no all_to_all and no reduce_scatter. Without torch the table has the other two columns only.
"""
import json
import os
import statistics
import sys
import time

try:
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
except ImportError:
    torch = None

BUDGET_S, MIN_RUNS, MAX_RUNS = 0.5, 5, 41


def collective(name, n_floats, size):
    """A function that runs it once on buffers of its own, or None."""
    data = torch.zeros(n_floats // size * size)
    if name == "all_reduce":
        return lambda: dist.all_reduce(data)
    if name == "broadcast":
        return lambda: dist.broadcast(data, 0)
    if name == "all_gather":
        blocks = list(data.chunk(size))
        own = blocks[dist.get_rank()].clone()
        return lambda: dist.all_gather(blocks, own)
    return None


def timed(run):
    dist.barrier()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_seconds(run):
    timed(run)
    once = torch.tensor([timed(run)])
    dist.all_reduce(once, op=dist.ReduceOp.MAX)  # all ranks repeat it as often
    n_runs = int(min(MAX_RUNS, max(MIN_RUNS, BUDGET_S / once.item())))
    return statistics.median(timed(run) for _ in range(n_runs))


def rank_main(rank, size, rows, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29631")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    for i, row in enumerate(rows):
        run = collective(row["collective"], row["bytes"] // 4, size)
        seconds = median_seconds(run) if run else 0.0
        if rank == 0:
            results[i] = seconds
    dist.destroy_process_group()


def measure_gloo(helix):
    results = mp.get_context("fork").Array("d", len(helix["rows"]))
    mp.start_processes(rank_main, (helix["ranks"], helix["rows"], results), nprocs=helix["ranks"], start_method="fork")
    return list(results)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        helix = json.load(f)
    gloo = measure_gloo(helix) if torch else [0.0] * len(helix["rows"])
    print(f"{helix['ranks']} ranks, helix by {helix['transport']}; GB/s are bytes of a rank's buffer by median time")
    print(f"{'collective':<15} {'bytes':>10} {'helix':>9} {'MPI':>9} {'gloo':>9} {'helix/MPI':>10} {'helix/gloo':>10}")
    for row, g in zip(helix["rows"], gloo):
        h, m = row["seconds"], row["mpi_seconds"]
        rates = [f"{row['bytes'] / t / 1e9:9.3f}" if t else f"{'-':>9}" for t in (h, m, g)]
        print(f"{row['collective']:<15} {row['bytes']:>10}", *rates, f"{m / h:>10.2f}", f"{g / h:>10.2f}" if g else f"{'-':>10}")
    if not torch:
        print("torch not installed (Debian: apt-get install python3-torch): no gloo")


if __name__ == "__main__":
    main()

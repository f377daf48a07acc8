#!/usr/bin/env python3
"""One table of what `helix bench cpu --json` and torch_peer.py printed.

    compare_table.py LINES [JSON]    (compare.sh calls it)

LINES has an object a line, several of a case and library, of which medians are taken. JSON, if it is given, gets the same for programs.
"""
import json
import statistics
import sys


def time_text(seconds):
    for unit in ("s", "ms", "us"):
        if seconds >= 1 or unit == "us":
            return f"{seconds:.4g} {unit}"
        seconds *= 1000
    return ""


def read(path):
    """Limits of all runs, and rows by (case, dtype), then by library."""
    limits, rows = [], {}
    with open(path, encoding="utf-8") as f:
        for line in map(json.loads, f):
            if "limits" in line:
                limits.append(line)
            else:
                rows.setdefault((line["case"], line["dtype"]), {}).setdefault(line["library"], []).append(line)
    return limits, rows


def summarise(case, dtype, by_library):
    seconds = {name: statistics.median(line["seconds"] for line in lines) for name, lines in by_library.items()}
    peak = {name: max(line["peak_bytes"] for line in lines) for name, lines in by_library.items()}
    helix = next(name for name in seconds if name.startswith("helix"))
    peers = [name for name in seconds if name != helix]
    fastest = min(peers, key=seconds.get) if peers else None
    return {"case": case, "dtype": dtype, "seconds": seconds, "peak_bytes": peak, "fastest_peer": fastest,
            "times_as_fast": seconds[fastest] / seconds[helix] if fastest else None,
            "share": statistics.median(line["share"] for line in by_library[helix]), "bound": by_library[helix][0]["bound"]}


def print_table(limits, rows):
    libraries = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    widths = [max(11, len(name) + 1) for name in libraries]
    print(f"{limits[0]['device']}, {limits[0]['threads']} threads; medians")
    print(f"{'case':<14} {'type':<4}", *(f"{name:>{w}}" for name, w in zip(libraries, widths)), " times as fast  of the limit")
    for row in rows:
        times = [f"{time_text(row['seconds'][name]) if name in row['seconds'] else '-':>{w}}" for name, w in zip(libraries, widths)]
        ratio = f"{row['times_as_fast']:14.2f}" if row["times_as_fast"] else f"{'-':>14}"
        print(f"{row['case']:<14} {row['dtype']:<4}", *times, ratio, f" {100 * row['share']:.1f} % {row['bound']}")


def main():
    limits, rows = read(sys.argv[1])
    rows = [summarise(*key, by_library) for key, by_library in rows.items()]
    print_table(limits, rows)
    if len(sys.argv) > 2 and sys.argv[2]:
        with open(sys.argv[2], "w", encoding="utf-8") as f:
            json.dump({"device": limits[0]["device"], "threads": limits[0]["threads"], "limits": [line["limits"] for line in limits],
                       "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()

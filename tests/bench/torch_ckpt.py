#!/usr/bin/env python3
"""Seconds of torch.save with fsync, and of torch.load from the disk, of as many bytes as bench_ckpt.c has, by one process.

    torch_ckpt.py FILE BYTES

exit code 77 if PyTorch is not installed.
"""
import os
import sys
import time

try:
    import torch
except ImportError:
    print("torch not installed (Debian: apt-get install python3-torch)")
    sys.exit(77)

path, left = sys.argv[1], int(sys.argv[2]) // 4
state = {}
while left > 0:
    n = min(left, 768 * 3072)
    state[f"tensor.{len(state)}"] = torch.arange(n, dtype=torch.float32)
    left -= n
begin = time.monotonic()
with open(path, "wb") as f:
    torch.save(state, f)
    f.flush()
    os.fsync(f.fileno())
write_s = time.monotonic() - begin
with open(path, "rb") as f:
    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
begin = time.monotonic()
torch.load(path, map_location="cpu")
print(f"write {write_s:.4f} read {time.monotonic() - begin:.4f}")

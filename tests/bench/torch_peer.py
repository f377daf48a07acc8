#!/usr/bin/env python3
"""The cases of `helix bench cpu` in PyTorch, by the same names: the same models and shapes, timed in the same way.

    torch_peer.py [--threads N] [--rounds N] [--only PART,...] [--bf16] [--tuned]

prints a JSON object a line, as `helix bench cpu --json` does, with null for what only Helix counts. Several cases run in a process
each, so that a peak of memory is a case's own. Stock is PyTorch as it is installed. --tuned is what somebody does who knows where it
loses: malloc keeps its pages instead of asking the system for new ones in each step, and the optimizer is the fused one where there is
one. bf16 is autocast over parameters in f32, which is how PyTorch trains in it. Exit code 77 if PyTorch is not installed.
"""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

SAMPLE_S, MOST_CALLS = 0.02, 100000
# a block is never mapped by itself, memory never goes back, and is asked for in large pieces
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
              "MALLOC_TOP_PAD_": str(256 << 20)}


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # NAME:DTYPE, in a process of its own
    return parser.parse_args()


def set_environment(args):
    """Start again with what malloc, OpenMP and BLAS only read when a process starts."""
    env = {"OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads), **(KEEP_PAGES if args.tuned else {})}
    if any(os.environ.get(name) != value for name, value in env.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **env})


ARGS = parse()
set_environment(ARGS)
try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("torch not installed (Debian: apt-get install python3-torch)", file=sys.stderr)
    sys.exit(77)


# ---- models ----


def attend(q, k, v, mask):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v


class Block(nn.Module):
    def __init__(self, dim, heads, ctx):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.register_buffer("mask", torch.ones(ctx, ctx, dtype=torch.bool).triu(1))

    def forward(self, x):
        b, t, dim = x.shape
        q, k, v = (p.view(b, t, self.heads, dim // self.heads).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(dim, 2))
        x = x + self.proj(attend(q, k, v, self.mask).transpose(1, 2).reshape(b, t, dim))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers, dim, heads, ctx, vocab):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(ctx, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, ctx) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def mlp(*widths):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn():
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(64 * 14 * 14, 10))


def make_ids(shape, first, n_ids):
    i = torch.arange(math.prod(shape)) + first
    return (i * (i + 7) // 3 % n_ids).view(shape)


# ---- cases: each makes (prepare or None, call) ----


def train(args, model, x, targets):
    fused = {"fused": True} if args.tuned and has_fused() else {}
    params = list(model.parameters())
    optim = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)

    def step():
        optim.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            y = model(x)
            loss = F.cross_entropy(y.view(-1, y.shape[-1]), targets.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optim.step()
        return loss.item()

    return None, step


def has_fused():
    try:
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    except (RuntimeError, TypeError):
        return False
    return True


def train_gpt(batch, ctx, vocab, **sizes):
    shape = batch, ctx
    return lambda args: train(args, GPT(ctx=ctx, vocab=vocab, **sizes), make_ids(shape, 0, vocab), make_ids(shape, 1, vocab))


def train_images(model, *shape):
    return lambda args: train(args, model(), torch.rand(shape), make_ids(shape[:1], 1, 10))


def op(run, part, *operands, grads=7):
    """An op of the operands, numbers of a shape or tensors, of which those of the bits `grads` are differentiated."""

    def make(_args):
        x = [o if torch.is_tensor(o) else torch.rand(o) * 2 - 1 for o in (o() if callable(o) else o for o in operands)]
        leaves = [t for i, t in enumerate(x) if part != "forward" and grads >> i & 1]
        with torch.no_grad():
            y = run(*x)
            seed = torch.rand(y.shape) * 2 - 1 if y.ndim else None
        kept = {"y": y}
        for t in leaves:
            t.requires_grad_(True)

        def forward():
            kept["y"] = None
            if part == "forward":
                with torch.no_grad():
                    kept["y"] = run(*x)
            else:
                kept["y"] = run(*x)

        def backward():
            for t in leaves:
                t.grad = None
            kept["y"].backward(seed)

        def both():
            forward()
            backward()

        return (forward if part == "backward" else None), {"forward": forward, "backward": backward, "both": both}[part]

    return make


def fft_conv(x, h):
    n = x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, 2 * n) * torch.fft.rfft(h, 2 * n), 2 * n)[..., :n]


def adamw(args):
    fused = {"fused": True} if args.tuned and has_fused() else {}
    params = list(GPT(layers=12, dim=768, heads=12, ctx=1024, vocab=50257).parameters())
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    return None, torch.optim.AdamW(params, lr=1e-4, **fused).step


def layernorm(x, w, b):
    return F.layer_norm(x, (x.shape[-1],), w, b)


def gelu(x):
    return F.gelu(x, approximate="tanh")


def attention(q, k, v):
    """Of [batch, tokens, heads, dim], as a model's linear layers leave them."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return attend(q, k, v, mask).transpose(1, 2)


def both_ways(name, run, *operands, **options):
    return {f"{name}-fwd": op(run, "forward", *operands, **options), f"{name}-bwd": op(run, "backward", *operands, **options)}


CASES = {  # training: what a step does, and how many
    "gpt-6l": (train_gpt(8, 256, 256, layers=6, dim=384, heads=6), "tokens", 8 * 256),
    "gpt2-t256": (train_gpt(4, 256, 50257, layers=12, dim=768, heads=12), "tokens", 4 * 256),
    "gpt2-t64": (train_gpt(4, 64, 50257, layers=12, dim=768, heads=12), "tokens", 4 * 64),
    "gpt-small": (train_gpt(2, 64, 256, layers=2, dim=64, heads=2), "tokens", 2 * 64),
    "mlp-784": (train_images(lambda: mlp(784, 512, 512, 10), 128, 784), "steps", 1),
    "mlp-small": (train_images(lambda: mlp(32, 64, 10), 8, 32), "steps", 1),
    "cnn": (train_images(cnn, 64, 1, 28, 28), "steps", 1),
}
OPS = {
    "fft-conv": op(fft_conv, "both", (8, 256, 4096), (256, 4096)),
    **both_ways("layernorm", layernorm, (8192, 768), (768,), (768,)),
    **both_ways("attention", attention, (4, 256, 12, 64), (4, 256, 12, 64), (4, 256, 12, 64)),
    "softmax-ce": op(lambda x, t: F.cross_entropy(x, t, reduction="sum"), "both", (1024, 50304), lambda: torch.arange(1024) * 37 % 50304,
                     grads=1),
    **both_ways("gelu", gelu, (16 << 20,)),
    "adamw": adamw,
    "add": op(torch.add, "both", (1,), (1,)),
    "gemm-1024": op(torch.matmul, "forward", (1024, 1024), (1024, 1024)),
    "gemm-2048": op(torch.matmul, "forward", (2048, 2048), (2048, 2048)),
    "gemm-qkv": op(F.linear, "forward", (1024, 768), (2304, 768)),
    "gemm-proj": op(F.linear, "forward", (1024, 768), (768, 768)),
    **both_ways("gemm-up", F.linear, (1024, 768), (3072, 768)),
    "gemm-down": op(F.linear, "forward", (1024, 3072), (768, 3072)),
    **both_ways("gemm-head", F.linear, (1024, 768), (50257, 768)),
}


# ---- timing ----


def time_calls(prepare, call, n):
    total, start = 0.0, time.perf_counter()
    for _ in range(n):
        if prepare:
            prepare()
            start = time.perf_counter()
        call()
        if prepare:
            total += time.perf_counter() - start
    return (total if prepare else time.perf_counter() - start) / n


def measure(args, make):
    prepare, call = make(args)
    best, begin, n = math.inf, time.perf_counter(), 0
    while n < 2 or time.perf_counter() - begin < SAMPLE_S:
        best, n = min(best, time_calls(prepare, call, 1)), n + 1
    n_calls = int(min(MOST_CALLS, max(1, SAMPLE_S / best)))
    samples = sorted(time_calls(prepare, call, n_calls) for _ in range(args.rounds))
    quarter = len(samples) // 4
    median = statistics.median(samples)
    return median, (samples[len(samples) - 1 - quarter] - samples[quarter]) / 2 / median


def run_case(args, name):
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    make, unit, n_units = CASES.get(name) or (OPS[name], None, 0)
    seconds, spread = measure(args, make)
    library = f"torch {torch.__version__.split('+')[0]} {'tuned' if args.tuned else 'stock'}"
    print(json.dumps({"case": name, "dtype": args.dtype, "library": library, "threads": args.threads, "rounds": args.rounds,
                      "seconds": seconds, "spread": spread, "gflops": None, "gbytes_per_s": None, "share": None, "bound": None,
                      "rate": n_units / seconds if unit else None, "unit": unit,
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


def chosen(args):
    """(name, dtype) of all cases that are asked for."""
    names = list(CASES) + list(OPS)
    words = [w.strip() for w in args.only.split(",") if w.strip()]
    for word in words:
        if not any(word in name for name in names):
            sys.exit(f"--only {word}: no case has that in its name: {', '.join(names)}")
    for name in names:
        if not words or any(word in name for word in words):
            yield name, "f32"
            if args.bf16 and name in CASES:
                yield name, "bf16"


def main():
    cases = [tuple(ARGS.case.split(":"))] if ARGS.case else list(chosen(ARGS))
    if len(cases) == 1:
        name, ARGS.dtype = cases[0]
        run_case(ARGS, name)
        return
    for name, dtype in cases:
        subprocess.run([sys.executable, *sys.argv, "--case", f"{name}:{dtype}"], check=True)


if __name__ == "__main__":
    main()

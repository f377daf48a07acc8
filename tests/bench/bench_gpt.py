#!/usr/bin/env python3
"""Tokens per second of training the GPT of bench_gpt.c in PyTorch: the same sizes, f32, forward, backward and AdamW.

    bench_gpt.py [threads] [steps]

prints the median over the steps, after two that warm up; exit code 77 if PyTorch is not installed.
"""
import math
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("torch not installed (Debian: apt-get install python3-torch)")
    sys.exit(77)

BATCH, CONTEXT, VOCAB, LAYERS, DIM, HEADS, WARM_UP = 8, 256, 256, 6, 384, 6, 2


def attend(q, k, v, mask):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, HEADS, DIM // HEADS).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(DIM, 2))
        x = x + self.proj(attend(q, k, v, self.mask).transpose(1, 2).reshape(b, t, DIM))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, DIM), nn.Embedding(CONTEXT, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(DIM)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def make_ids(first):
    i = torch.arange(BATCH * CONTEXT) + first
    return (i * (i + 7) // 3 % VOCAB).view(BATCH, CONTEXT)


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    n_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.manual_seed(1)
    model, ids, targets = GPT(), make_ids(0), make_ids(1)
    optim = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    seconds = []
    for _ in range(WARM_UP + n_steps):
        start = time.perf_counter()
        optim.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(ids).view(-1, VOCAB), targets.view(-1))
        loss.backward()
        optim.step()
        value = loss.item()
        seconds.append(time.perf_counter() - start)
    rate = BATCH * CONTEXT / statistics.median(seconds[WARM_UP:])
    print(f"torch tokens_per_s {rate:.1f} loss {value:.4f}")


if __name__ == "__main__":
    main()

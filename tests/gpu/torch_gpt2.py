#!/usr/bin/env python3
"""Tokens per second of training GPT-2 124M in PyTorch, beside gpt2.c: the same sizes, bf16, compiled, with fused attention
and the fused AdamW, clipping, and the loss on the host after each step.

    torch_gpt2.py BATCH [STEPS]

prints one line of JSON; exit code 77 if there is no PyTorch with a GPU.
"""
import json
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("PyTorch is not installed")
    sys.exit(77)

VOCAB, CONTEXT, LAYERS, DIM, HEADS, WARM_UP, N_SAMPLES = 50304, 1024, 12, 768, 12, 5, 256


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, HEADS, DIM // HEADS).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(DIM, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, DIM))
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

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def main():
    batch = int(sys.argv[1])
    n_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 25
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        sys.exit(77)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = GPT().cuda()
    step = torch.compile(model)
    optim = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(VOCAB, (N_SAMPLES, CONTEXT + 1)).pin_memory()
    seconds = []
    for i in range(n_steps):
        start = time.perf_counter()
        rows = ids[torch.arange(i * batch, (i + 1) * batch) % N_SAMPLES].cuda(non_blocking=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = step(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        value = loss.item()
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({"framework": "torch " + torch.__version__, "device": torch.cuda.get_device_name(), "batch": batch,
                      "ms": round(1e3 * median, 3), "tokens_per_s": round(batch * CONTEXT / median, 1),
                      "loss": round(value, 5), "peak_bytes": torch.cuda.max_memory_allocated()}))


if __name__ == "__main__":
    main()

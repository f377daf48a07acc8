#!/usr/bin/env python3
"""Makes golden.h5, the numbers that the tests of this folder compare with: outputs and gradients of ops, trajectories
of optimizers, schedules, losses and gradients of two small language models, all in float64.

    python3 tests/golden/make.py        (PyTorch 1.13 or later, h5py)

The file holds in its attributes the version of PyTorch and the seed it was made with. No test runs this program.
"""
import math
import os

import h5py
import torch
from torch import nn
from torch.nn import functional as F

SEED = 20261122
torch.manual_seed(SEED)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
OUT = h5py.File(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.h5"), "w", libver="latest")
OUT.attrs["torch"] = str(torch.__version__)
OUT.attrs["seed"] = SEED


def put(path, value):
    """A dataset; complex numbers become a last dim of 2."""
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value)
    OUT.create_dataset(path, data=value.contiguous().numpy())


# ---- ops: inputs in0.., outputs out0.., a weight for each output, and the gradients of sum(weight * out) ----


def case(name, fn, *inputs, fixed=()):
    """fixed: inputs without a gradient, by index"""
    leaves = []
    for i, x in enumerate(inputs):
        put(f"/ops/{name}/in{i}", x)
        differentiable = i not in fixed and (x.is_floating_point() or x.is_complex())
        leaves.append(x.clone().requires_grad_(True) if differentiable else x)
    outs = fn(*leaves)
    outs = outs if isinstance(outs, tuple) else (outs,)
    total = 0
    for i, y in enumerate(outs):
        put(f"/ops/{name}/out{i}", y)
        if not (y.is_floating_point() or y.is_complex()):
            continue
        y = torch.view_as_real(y) if y.is_complex() else y
        weight = torch.randn(y.shape)
        put(f"/ops/{name}/weight{i}", weight)
        total = total + (weight * y).sum()
    if not isinstance(total, torch.Tensor) or not total.requires_grad:
        return
    total.backward()
    for i, x in enumerate(leaves):
        if x.requires_grad:
            put(f"/ops/{name}/grad{i}", x.grad)


def rand(*shape, low=-2.0, high=2.0):
    return low + (high - low) * torch.rand(*shape)


def ids(high, *shape):
    return torch.randint(0, high, shape, dtype=torch.int64)


def ops():
    for name in "exp expm1 abs sign square floor ceil round sin cos tan atan sinh cosh tanh asinh erf sigmoid relu".split():
        case(name, getattr(torch, name), rand(4, 5, low=-1.9, high=1.9))
    for name in "log log1p sqrt reciprocal".split():
        case(name, getattr(torch, name), rand(4, 5, low=0.3))
    for name in "asin acos atanh".split():
        case(name, getattr(torch, name), rand(4, 5, low=-0.9, high=0.9))
    case("acosh", torch.acosh, rand(4, 5, low=1.2))
    case("softplus", F.softplus, rand(4, 5, low=-15, high=15))
    case("silu", F.silu, rand(4, 5))
    case("swiglu", lambda x: F.silu(x[..., :5]) * x[..., 5:], rand(2, 4, 10))
    case("gelu_erf", F.gelu, rand(4, 5))
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), rand(4, 5))
    case("clamp", lambda x: x.clamp(-0.5, 0.7), rand(4, 5))
    case("leaky_relu", lambda x: F.leaky_relu(x, 0.1), rand(4, 5))
    case("affine", lambda x: 1.5 * x - 0.25, rand(4, 5))
    for name in "add sub mul div maximum minimum".split():
        case(name, getattr(torch, name), rand(3, 4, 5), rand(4, 1, low=0.3))
    case("pow", torch.pow, rand(3, 4, 5, low=0.2), rand(4, 1))
    case("where", lambda c, a, b: torch.where(c > 1, a, b), ids(4, 3, 4, 5), rand(3, 4, 5), rand(5))

    case("sum", lambda x: x.sum((0, 2)), rand(3, 4, 5))
    case("mean", lambda x: x.mean(1, keepdim=True), rand(3, 4, 5))
    case("max", lambda x: x.amax((0, 2)), rand(3, 4, 5))
    case("min", lambda x: x.amin(1), rand(3, 4, 5))
    case("var", lambda x: x.var((0, 2), unbiased=True), rand(3, 4, 5))
    case("std", lambda x: x.std(1, unbiased=False, keepdim=True), rand(3, 4, 5))
    case("norm1", lambda x: torch.linalg.vector_norm(x, 1, (0, 2)), rand(3, 4, 5))
    case("norm2", lambda x: torch.linalg.vector_norm(x, 2, 1), rand(3, 4, 5))
    case("norm3", lambda x: torch.linalg.vector_norm(x, 3, 1), rand(3, 4, 5))
    case("norm_inf", lambda x: torch.linalg.vector_norm(x, math.inf, 1), rand(3, 4, 5))
    case("argmax", lambda x: x.argmax(1), rand(3, 4, 5))
    case("argmin", lambda x: x.argmin(1), rand(3, 4, 5))
    case("topk", lambda x: tuple(x.topk(3)), rand(4, 7))
    case("softmax", lambda x: x.softmax(1), rand(3, 4, 5))
    case("log_softmax", lambda x: x.log_softmax(-1), rand(3, 4, 5))

    case("cat", lambda a, b, c: torch.cat((a, b, c), 1), rand(2, 3, 4), rand(2, 1, 4), rand(2, 2, 4))
    case("stack", lambda a, b: torch.stack((a, b), 1), rand(2, 3), rand(2, 3))
    case("gather", lambda x, i: x.gather(1, i), rand(3, 4, 5), ids(4, 3, 6, 5))
    case("slice", lambda x: x[:, 1:4:2], rand(3, 4, 5))
    case("permute", lambda x: x.permute(2, 0, 1), rand(3, 4, 5))
    for mode in "reflect replicate circular".split():
        case(f"pad_{mode}", lambda x, m=mode: F.pad(x, (2, 1), mode=m), rand(2, 3, 5))
    case("pad_zero", lambda x: F.pad(x, (2, 1, 0, 3), value=0.5), rand(2, 3, 5))

    case("matmul", torch.matmul, rand(2, 1, 3, 4), rand(5, 4, 6))
    case("matmul_row", torch.matmul, rand(4), rand(5, 4, 6))
    case("linear", F.linear, rand(2, 3, 5), rand(4, 5), rand(4))
    case("embedding", F.embedding, ids(7, 2, 6), rand(7, 4))
    case("conv1d", lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=3, dilation=2), rand(2, 3, 11), rand(4, 3, 3), rand(4))
    case("conv2d", lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
         rand(2, 4, 7, 6), rand(6, 2, 3, 3), rand(6))
    case("conv2d_depthwise", lambda x, w: F.conv2d(x, w, padding=1, groups=4), rand(2, 4, 5, 6), rand(8, 1, 3, 3))
    case("conv3d", lambda x, w, b: F.conv3d(x, w, b, stride=(1, 2, 1), padding=1), rand(1, 2, 4, 5, 4), rand(3, 2, 2, 3, 3), rand(3))
    case("max_pool2d", lambda x: F.max_pool2d(x, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), rand(2, 3, 7, 6))
    case("avg_pool2d", lambda x: F.avg_pool2d(x, (3, 2), stride=2, padding=1), rand(2, 3, 7, 6))
    case("avg_pool1d", lambda x: F.avg_pool1d(x, 3, stride=2, padding=1, count_include_pad=False), rand(2, 3, 8))
    case("layernorm", lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-5), rand(3, 4, 5), rand(5), rand(5))
    case("rmsnorm", lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w, rand(3, 4, 5), rand(5))
    case("batchnorm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5), rand(3, 4, 5), rand(4), rand(4))

    case("attention", lambda q, k, v: attend(q, k, v, causal(4, 6)), rand(2, 4, 4, 6), rand(2, 6, 2, 6), rand(2, 6, 2, 6))
    visible = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], dtype=torch.uint8)
    case("attention_mask", lambda q, k, v, m: attend(q, k, v, m > 0), rand(2, 3, 2, 4), rand(2, 5, 2, 4), rand(2, 5, 2, 4), visible)
    case("rope", lambda x: rope(x, 10000.0, 3), rand(2, 5, 3, 8))

    case("fft", torch.fft.fft, torch.complex(rand(3, 7), rand(3, 7)))
    case("ifft", lambda z: torch.fft.ifft(z, dim=0), torch.complex(rand(6, 2), rand(6, 2)))
    case("rfft", torch.fft.rfft, rand(3, 8))
    case("rfft_odd", torch.fft.rfft, rand(3, 9))
    case("irfft", lambda z: torch.fft.irfft(z, 8), torch.complex(rand(3, 5), rand(3, 5)))
    case("irfft_odd", lambda z: torch.fft.irfft(z, 9), torch.complex(rand(3, 5), rand(3, 5)))


def losses():
    for reduction in "none mean sum".split():
        for name, fn in (("mse", F.mse_loss), ("l1", F.l1_loss)):
            case(f"{name}_{reduction}", lambda p, t, f=fn, r=reduction: f(p, t, reduction=r), rand(3, 4), rand(3, 4), fixed=(1,))
        case(f"smooth_l1_{reduction}", lambda p, t, r=reduction: F.smooth_l1_loss(p, t, reduction=r, beta=0.7), rand(3, 4), rand(3, 4),
             fixed=(1,))
        case(f"huber_{reduction}", lambda p, t, r=reduction: F.huber_loss(p, t, reduction=r, delta=1.5), rand(3, 4), rand(3, 4),
             fixed=(1,))
        case(f"bce_{reduction}", lambda p, t, r=reduction: F.binary_cross_entropy(p, t, reduction=r), rand(3, 4, low=0.1, high=0.9),
             rand(3, 4, low=0, high=1), fixed=(1,))
        case(f"bce_logits_{reduction}", lambda p, t, w, r=reduction: F.binary_cross_entropy_with_logits(p, t, reduction=r, pos_weight=w),
             rand(3, 4), rand(3, 4, low=0, high=1), rand(4, low=0.5), fixed=(1, 2))
        target = ids(5, 6)
        target[2] = -100
        case(f"cross_entropy_{reduction}", lambda z, t, r=reduction: F.cross_entropy(z, t, reduction=r), rand(6, 5), target)
        case(f"cross_entropy_weighted_{reduction}",
             lambda z, t, w, r=reduction: F.cross_entropy(z, t, w, reduction=r), rand(6, 5), target, rand(5, low=0.5), fixed=(2,))
        case(f"cross_entropy_smooth_{reduction}",
             lambda z, t, r=reduction: F.cross_entropy(z, t, reduction=r, label_smoothing=0.1), rand(6, 5), target)
    case("cross_entropy_soft_mean", F.cross_entropy, rand(6, 5), rand(6, 5).softmax(-1), fixed=(1,))
    case("kl_div_batchmean", lambda p, q: F.kl_div(p, q, reduction="batchmean"), rand(6, 5).log_softmax(-1), rand(6, 5).softmax(-1), fixed=(1,))


# ---- optimizers: 20 steps, two parameter groups with their own rates and decays ----


def optimizers():
    rows = {
        "adamw": (torch.optim.AdamW, dict(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)),
        "adam": (torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)),
        "sgd": (torch.optim.SGD, dict(lr=0.1, weight_decay=0.1)),
        "sgd_momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1)),
        "sgd_nesterov": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
        "rmsprop": (torch.optim.RMSprop, dict(lr=0.01, weight_decay=0.1)),
        "rmsprop_centered": (torch.optim.RMSprop, dict(lr=0.01, centered=True, momentum=0.9, weight_decay=0.1)),
    }
    start = [torch.randn(3, 4), torch.randn(5)]
    grads = [[torch.randn_like(p) for p in start] for _ in range(20)]
    for i, p in enumerate(start):
        put(f"/optim/start{i}", p)
        put(f"/optim/grads{i}", torch.stack([g[i] for g in grads]))
    for name, (make, options) in rows.items():
        params = [p.clone().requires_grad_(True) for p in start]
        # the second group: a tenth of the rate, no decay
        optim = make([{"params": params[:1]}, {"params": params[1:], "lr": options["lr"] / 10, "weight_decay": 0}], **options)
        track = [[], []]
        for step in range(20):
            for i, p in enumerate(params):
                p.grad = grads[step][i].clone()
                if i == 1 and step == 7:
                    p.grad.zero_()
            optim.step()
            for i, p in enumerate(params):
                track[i].append(p.detach().clone())
        for i in range(2):
            put(f"/optim/{name}/param{i}", torch.stack(track[i]))


# ---- schedules: the rate of 25 updates ----


def schedules():
    S = torch.optim.lr_scheduler
    rows = {
        "constant": lambda o: S.ConstantLR(o, factor=1.0),
        "linear": lambda o: S.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=20),
        "step": lambda o: S.StepLR(o, step_size=6, gamma=0.5),
        "exponential": lambda o: S.ExponentialLR(o, gamma=0.9),
        "cosine": lambda o: S.CosineAnnealingLR(o, T_max=24, eta_min=0.01),
        "warmup_cosine": lambda o: S.SequentialLR(
            o, [S.LinearLR(o, start_factor=0.2, end_factor=1.0, total_iters=4), S.CosineAnnealingLR(o, T_max=20, eta_min=0.01)], [4]),
    }
    for name, make in rows.items():
        optim = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule, rates = make(optim), []
        for _ in range(25):
            rates.append(optim.param_groups[0]["lr"])
            optim.step()
            schedule.step()
        put(f"/schedule/{name}", torch.tensor(rates))
    optim = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = S.ReduceLROnPlateau(optim, factor=0.5, patience=2, threshold=1e-2, cooldown=1, min_lr=0.02)
    metric = [5, 4, 3.99, 3.98, 3.97, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, 3.4, 3.4, 3.4, 3.4, 3.4, 3.4, 3.4, 3.4, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    rates = []
    for x in metric:
        schedule.step(x)
        rates.append(optim.param_groups[0]["lr"])
    put("/schedule/plateau", torch.tensor(rates))
    put("/schedule/plateau_metric", torch.tensor(metric))


# ---- language models; tensors are [B,T,H,D] ----

VOCAB, CONTEXT, DIM, HEADS, LAYERS, BATCH = 31, 12, 16, 4, 2, 3


def causal(t, s):
    return torch.ones(t, s, dtype=torch.bool).tril(s - t)


def attend(q, k, v, visible):
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~visible, -math.inf).softmax(-1), v)


def rope(x, base, start):
    half = x.shape[-1] // 2
    angle = (start + torch.arange(x.shape[1]))[:, None] * base ** (-torch.arange(half) / half)
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * c - b * s, b * c + a * s), -1)


class Norm(nn.Module):
    """Root-mean-square normalisation, which PyTorch 1.13 lacks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, kv_heads, bias, rotary):
        super().__init__()
        self.kv_heads, self.rotary, width = kv_heads, rotary, DIM // HEADS
        self.q = nn.Linear(DIM, DIM, bias)
        self.k, self.v = nn.Linear(DIM, kv_heads * width, bias), nn.Linear(DIM, kv_heads * width, bias)
        self.proj = nn.Linear(DIM, DIM, bias)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, n, -1) for f, n in ((self.q, HEADS), (self.k, self.kv_heads), (self.v, self.kv_heads)))
        if self.rotary:
            q, k = rope(q, 10000.0, 0), rope(k, 10000.0, 0)
        return self.proj(attend(q, k, v, causal(t, t)).reshape(b, t, DIM))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        setattr(self, "in", nn.Linear(DIM, 4 * DIM))
        self.out = nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        return self.out(F.gelu(getattr(self, "in")(x), approximate="tanh"))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.out = nn.Linear(DIM, 40, False), nn.Linear(DIM, 40, False), nn.Linear(40, DIM, False)

    def forward(self, x):
        return self.out(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, llama):
        super().__init__()
        self.norm1, self.norm2 = (Norm() if llama else nn.LayerNorm(DIM) for _ in range(2))
        self.attn = Attention(2 if llama else HEADS, not llama, llama)
        self.mlp = SwiGLU() if llama else Plain()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, llama):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, DIM)
        self.pos = None if llama else nn.Embedding(CONTEXT, DIM)
        self.blocks = nn.Sequential(*(Block(llama) for _ in range(LAYERS)))
        self.norm = Norm() if llama else nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, VOCAB, False) if llama else None

    def forward(self, tokens):
        x = self.tok(tokens)
        if self.pos is not None:
            x = x + self.pos.weight[: tokens.shape[1]]
        x = self.norm(self.blocks(x))
        return F.linear(x, self.tok.weight) if self.head is None else self.head(x)


def language_model(name, llama):
    model = Model(llama)
    for key, p in model.named_parameters():
        nn.init.normal_(p, mean=1.0 if "norm" in key and key.endswith("weight") else 0.0, std=0.1)
        put(f"/{name}/start/{key}", p)
    tokens, targets = ids(VOCAB, 10, BATCH, CONTEXT), ids(VOCAB, 10, BATCH, CONTEXT)
    targets[:, 1, 5] = -100
    put(f"/{name}/tokens", tokens)
    put(f"/{name}/targets", targets)
    optim, track = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1), []
    for step in range(10):
        optim.zero_grad()
        loss = F.cross_entropy(model(tokens[step]).view(-1, VOCAB), targets[step].view(-1))
        loss.backward()
        track.append(loss.detach())
        if step == 0:
            for key, p in model.named_parameters():
                put(f"/{name}/grad/{key}", p.grad)
        optim.step()
    put(f"/{name}/losses", torch.stack(track))


ops()
losses()
optimizers()
schedules()
language_model("gpt", False)
language_model("llama", True)

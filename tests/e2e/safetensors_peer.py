#!/usr/bin/env python3
"""Hugging Face's own package as the other side of helix ckpt import and export (the long form of test_port.sh).

    safetensors_peer.py big FOLDER           a GPT-2 of 124 million parameters with random weights
    safetensors_peer.py same A B             folders A and B hold the same tensors, bit for bit; B may lack masks and a prefix
"""
import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file


def big(folder):
    C, V, T, L = 768, 50257, 1024, 12
    torch.manual_seed(1)
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for i in range(L):
        for name, shape in ("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("mlp.c_fc", (C, 4 * C)), ("mlp.c_proj", (4 * C, C)):
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = shape, shape[1:]
        for name in "ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias":
            shapes[f"h.{i}.{name}"] = (C,)
    os.makedirs(folder, exist_ok=True)
    save_file({k: torch.randn(*s) * 0.02 for k, s in shapes.items()}, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    config = {"model_type": "gpt2", "vocab_size": V, "n_positions": T, "n_embd": C, "n_layer": L, "n_head": 12}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)


def tensors(folder):
    files = glob.glob(os.path.join(folder, "model*.safetensors"))
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index, encoding="utf-8") as f:
            named = {os.path.join(folder, name) for name in json.load(f)["weight_map"].values()}
        assert named == set(files), "the index names other files"
    return {k: v for name in files for k, v in load_file(name).items()}


def same(a, b):
    left = {k: v for k, v in tensors(a).items() if not k.endswith((".attn.bias", ".masked_bias"))}
    right = {k if k in left else k.removeprefix("transformer."): v for k, v in tensors(b).items()}
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())[:4]
    for name, x in left.items():
        y = right[name]
        assert x.dtype == y.dtype and x.shape == y.shape, name
        assert bytes(x.contiguous().numpy().view("u1")) == bytes(y.contiguous().numpy().view("u1")), name
    print(f"{len(left)} tensors have the same bits")


{"big": big, "same": same}[sys.argv[1]](*sys.argv[2:])

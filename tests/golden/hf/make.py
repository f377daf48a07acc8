#!/usr/bin/env python3
"""Makes the folders beside it: a tiny GPT-2 and a tiny LLaMA with random weights, as Hugging Face's library lays them out, and what
PyTorch computes from them.

    python3 tests/golden/hf/make.py        (PyTorch 1.13 or later, safetensors; transformers, if there, checks the two models)

    gpt2/   config.json, model.safetensors: names without "transformer.", masks among the tensors, as in the first GPT-2 files
    llama/  config.json, two shards and their index: grouped-query attention, an output projection of its own
    */logits.safetensors: ids [2,9], logits [2,9,256]

No test runs this program.
"""
import json
import math
import os

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
META = {"format": "pt"}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_layer": 2,
        "n_head": 2, "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1,
        "embd_pdrop": 0.1, "attn_pdrop": 0.1, "tie_word_embeddings": True, "initializer_range": 0.02}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 256, "max_position_embeddings": 16, "hidden_size": 16,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "hidden_act": "silu",
         "rms_norm_eps": 1e-6, "rope_theta": 5000.0, "rope_scaling": None, "attention_bias": False, "tie_word_embeddings": False,
         "torch_dtype": "float32"}


def attend(q, k, v):
    """q [B,H,T,D], k and v of as many heads; causal."""
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-1, -2) / math.sqrt(D)
    hidden = torch.ones(T, T).triu(1).bool()
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


def heads(x, n):
    B, T, C = x.shape
    return x.view(B, T, n, C // n).transpose(1, 2)


def joined(x):
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def gpt2(c, w, ids):
    """Radford et al. 2019; the weights of linear layers are [in, out] there."""
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], c["layer_norm_epsilon"])

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
    for i in range(c["n_layer"]):
        q, k, v = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(c["n_embd"], -1)
        x = x + linear(joined(attend(*(heads(t, c["n_head"]) for t in (q, k, v)))), f"h.{i}.attn.c_proj")
        wide = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        wide = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        x = x + linear(wide, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def llama(c, w, ids):
    """Touvron et al. 2023; rotary positions by halves of a head, as Hugging Face's rotate_half."""
    H, G = c["num_attention_heads"], c["num_key_value_heads"]
    D = c["hidden_size"] // H
    angle = torch.arange(ids.shape[1])[:, None] * c["rope_theta"] ** (-torch.arange(0, D, 2) / D)[None, :]
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def turn(x):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def norm(x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + c["rms_norm_eps"]) * w[name + ".weight"]

    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}."
        y = norm(x, name + "input_layernorm")
        q, k, v = (heads(y @ w[f"{name}self_attn.{p}_proj.weight"].T, n) for p, n in (("q", H), ("k", G), ("v", G)))
        k, v = (t.repeat_interleave(H // G, 1) for t in (turn(k), v))
        x = x + joined(attend(turn(q), k, v)) @ w[name + "self_attn.o_proj.weight"].T
        y = norm(x, name + "post_attention_layernorm")
        wide = F.silu(y @ w[name + "mlp.gate_proj.weight"].T) * (y @ w[name + "mlp.up_proj.weight"].T)
        x = x + wide @ w[name + "mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ w["lm_head.weight"].T


def matrix(*shape):
    return torch.randn(*shape) * 0.3


def vector(n, around):
    return around + 0.2 * torch.randn(n)


def gpt2_weights(c):
    C = c["n_embd"]
    w = {"wte.weight": matrix(c["vocab_size"], C), "wpe.weight": matrix(c["n_positions"], C)}
    for i in range(c["n_layer"]):
        for name, shape in ("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("mlp.c_fc", (C, 4 * C)), ("mlp.c_proj", (4 * C, C)):
            w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"] = matrix(*shape), vector(shape[1], 0)
        for name in "ln_1", "ln_2":
            w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"] = vector(C, 1), vector(C, 0)
    w["ln_f.weight"], w["ln_f.bias"] = vector(C, 1), vector(C, 0)
    return w


def llama_weights(c):
    C, V, M = c["hidden_size"], c["vocab_size"], c["intermediate_size"]
    K = C // c["num_attention_heads"] * c["num_key_value_heads"]
    w = {"model.embed_tokens.weight": matrix(V, C)}
    for i in range(c["num_hidden_layers"]):
        shapes = {"self_attn.q_proj": (C, C), "self_attn.k_proj": (K, C), "self_attn.v_proj": (K, C), "self_attn.o_proj": (C, C),
                  "mlp.gate_proj": (M, C), "mlp.up_proj": (M, C), "mlp.down_proj": (C, M)}
        for name, shape in shapes.items():
            w[f"model.layers.{i}.{name}.weight"] = matrix(*shape)
        for name in "input_layernorm", "post_attention_layernorm":
            w[f"model.layers.{i}.{name}.weight"] = vector(C, 1)
    w["model.norm.weight"] = vector(C, 1)
    w["lm_head.weight"] = matrix(V, C)
    return w


def check(config, weights, ids, logits):
    """Against the library itself, where it is there."""
    try:
        import transformers
    except ImportError:
        print("transformers is not there: the reference is not checked against it")
        return
    kind = config["model_type"]
    config_class, model_class = {"gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
                                 "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM)}[kind]
    model = model_class(config_class(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})).eval()
    prefix = "transformer." if kind == "gpt2" else ""
    state = {prefix + k: v for k, v in weights.items()}
    if kind == "gpt2":
        state["lm_head.weight"] = weights["wte.weight"]
    lacking = [k for k in model.load_state_dict(state, strict=False).missing_keys if not k.endswith(("attn.bias", "masked_bias", "inv_freq"))]
    assert not lacking, lacking
    with torch.no_grad():
        print(f"{kind}: differs from transformers {transformers.__version__} by at most {(model(ids).logits - logits).abs().max():.1e}")


def write(config, forward, weights, files):
    folder = os.path.join(HERE, config["model_type"])
    os.makedirs(folder, exist_ok=True)
    ids = torch.randint(0, config["vocab_size"], (2, 9))
    logits = forward(config, weights, ids)
    check(config, weights, ids, logits)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(config, indent=2) + "\n")
    for name, tensors in files.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, name), META)
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(4 * v.numel() for v in weights.values())},
                 "weight_map": {k: name for name, tensors in files.items() for k in tensors}}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
            f.write(json.dumps(index, indent=2) + "\n")
    save_file({"ids": ids.int(), "logits": logits.contiguous()}, os.path.join(folder, "logits.safetensors"))


def main():
    torch.manual_seed(20261123)
    w = gpt2_weights(GPT2)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)}
    masks["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    write(GPT2, gpt2, w, {"model.safetensors": {**w, **masks}})
    w = llama_weights(LLAMA)
    half = len(w) // 2
    first, second = dict(list(w.items())[:half]), dict(list(w.items())[half:])
    write(LLAMA, llama, w, {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second})


main()

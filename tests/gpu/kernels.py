#!/usr/bin/env python3
"""What a training step of GPT-2 124M asks of an H100, kernel by kernel, and what the compiler made of the kernels.

    kernels.py [--batch 64] [--arch sm_90a] [--jobs N] [FILE.cu ...]      (default: backends/cuda/*.cu)

prints Markdown: bytes and operations of each op of the step with its two floors (bytes / 3.0 TB/s, operations /
798 TFLOP/s: what has been seen on such a GPU), then registers, shared memory and spills of each kernel from ptxas.
Needs nvcc, no GPU. Exit code 1 if a hot kernel spills or a file does not compile, 77 without nvcc.
"""
import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BYTES_PER_S, FLOP_PER_S = 3.0e12, 798e12
CONTEXT, LAYERS, DIM, HEADS, VOCAB = 1024, 12, 768, 12, 50304
HALF, WIDE = 2, 4  # bytes of an activation or parameter (bf16), and of its gradient, moments and master (f32)
# Files whose kernels run in every step; instances for f64 are not what a step runs.
HOT = {"elementwise.cu", "swiglu.cu", "norm.cu", "loss.cu", "embedding.cu", "flash.cu", "optim.cu", "normpart.cu", "reduce.cu", "random.cu"}


def step(batch):
    """Rows (op, calls, operations of a call, bytes of a call): each operand read once, each result written once."""
    n, d = batch * CONTEXT, DIM
    rows = []

    def add(name, calls, flops, n_bytes):
        rows.append((name, calls, flops, n_bytes))

    def linear(name, calls, n_in, n_out):
        flops, x, y, w = 2 * n * n_in * n_out, n * n_in * HALF, n * n_out * HALF, n_in * n_out
        add(f"{name}: forward", calls, flops, x + y + w * HALF)
        add(f"{name}: gradient of x", calls, flops, x + y + w * HALF)
        add(f"{name}: gradient of w", calls, flops, x + y + 2 * w * WIDE)

    def pointwise(name, calls, reads, writes, width=d):
        add(name, calls, 0, (reads + writes) * n * width * HALF)

    linear("qkv", LAYERS, d, 3 * d)
    linear("attention out", LAYERS, d, d)
    linear("feed-forward up", LAYERS, d, 4 * d)
    linear("feed-forward down", LAYERS, 4 * d, d)
    linear("logits", 1, d, VOCAB)
    # causal: half of the T^2 scores; two products forward, five backward
    scores = batch * HEADS * CONTEXT * CONTEXT / 2 * (d // HEADS) * 2
    add("attention: forward", LAYERS, 2 * scores, 4 * n * d * HALF + n * HEADS * WIDE)
    add("attention: backward", LAYERS, 5 * scores, 8 * n * d * HALF + 2 * n * HEADS * WIDE)
    # a block's second norm makes the residual sum before it, and its derivative adds what arrives at the sum
    pointwise("residual and layernorm: forward", LAYERS, 2, 2)
    pointwise("residual and layernorm: backward", LAYERS, 3, 1)
    pointwise("layernorm: forward", LAYERS + 1, 1, 1)
    pointwise("layernorm: backward", LAYERS + 1, 2, 1)
    pointwise("residual: add", LAYERS, 2, 1)
    pointwise("residual: sum of gradients", LAYERS, 2, 1)
    pointwise("gelu: forward", LAYERS, 1, 1, 4 * d)
    pointwise("gelu: backward", LAYERS, 2, 1, 4 * d)
    pointwise("bias gradients", LAYERS, 1, 0, 3 * d + d + 4 * d + d)
    add("cross-entropy: forward", 1, 0, n * VOCAB * HALF)
    add("cross-entropy: backward", 1, 0, 2 * n * VOCAB * HALF)
    pointwise("embeddings: forward", 2, 1, 1)
    pointwise("embeddings: backward", 2, 1, 1)
    n_params = VOCAB * d + CONTEXT * d + LAYERS * (12 * d * d + 13 * d) + 2 * d
    add("gradient norm", 1, 0, n_params * WIDE)
    add("adamw", 1, 0, n_params * (WIDE + 2 * 3 * WIDE + HALF))  # gradient; moments and master read, written; parameter
    return rows


def print_step(batch):
    total = 0.0
    print(f"## A step of GPT-2 124M, {batch} x {CONTEXT} tokens, bf16\n")
    print("| op | calls | GB | TFLOP | ms by bytes | ms by operations | floor, ms |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, calls, flops, n_bytes in step(batch):
        by_bytes, by_flops = 1e3 * calls * n_bytes / BYTES_PER_S, 1e3 * calls * flops / FLOP_PER_S
        total += max(by_bytes, by_flops)
        print(f"| {name} | {calls} | {calls * n_bytes / 1e9:.2f} | {calls * flops / 1e12:.2f} "
              f"| {by_bytes:.2f} | {by_flops:.2f} | {max(by_bytes, by_flops):.2f} |")
    tokens = batch * CONTEXT
    print(f"| all | | | | | | {total:.1f} |\n\nNo op overlaps another: {1e3 * tokens / total:,.0f} tokens/s at the floors.\n")


def compile_one(source, arch, nvcc):
    """What ptxas says of a file: (kernels, error text)."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([nvcc, "-std=c++17", f"-arch={arch}", f"-I{ROOT}", "-Xptxas", "-v", "-c", str(source),
                                 "-o", f"{folder}/x.o"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return [], result.stderr
    kernels, name, stack = [], None, (0, 0, 0)
    for line in result.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name, stack = match[1], (0, 0, 0)
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack = tuple(int(x) for x in match.groups())
        elif name and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append((name, int(match[1]), int(shared[1]) if shared else 0, *stack))
            name = None
    return kernels, ""


def plain_names(mangled):
    if not mangled or not shutil.which("c++filt"):
        return dict(zip(mangled, mangled))
    text = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    return dict(zip(mangled, text.splitlines()))


def family_of(name):
    """A kernel without namespaces, types and arguments: the row it belongs to."""
    name = re.sub(r"\(anonymous namespace\)::|^void |^static ", "", name)
    return re.match(r"[\w:]+", name)[0]


def print_kernels(sources, arch, jobs, nvcc):
    """One row a kernel, with the worst of its instances. Returns what is wrong."""
    wrong = []
    print(f"## Kernels for {arch}\n\n| file | kernel | instances | registers | shared, bytes | stack | spilled, bytes |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        compiled = list(pool.map(lambda source: compile_one(source, arch, nvcc), sources))
    for source, (kernels, error) in zip(sources, compiled):
        if error:
            wrong.append(f"{source.name} does not compile: {error.strip().splitlines()[0]}")
        names, families = plain_names([k[0] for k in kernels]), {}
        for mangled, *numbers in kernels:
            families.setdefault(family_of(names[mangled]), []).append(numbers)
            spilled = numbers[3] + numbers[4]
            if spilled and source.name in HOT and "double" not in names[mangled]:
                wrong.append(f"{source.name}: {names[mangled]} spills {spilled} bytes")
        for family, found in sorted(families.items()):
            registers, shared, stack = (max(x[i] for x in found) for i in range(3))
            spilled = max(x[3] + x[4] for x in found)
            print(f"| {source.name} | {family} | {len(found)} | {registers} | {shared} | {stack} | {spilled} |")
    print("\nShared memory that is chosen at launch is not in the table.")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    print_step(args.batch)
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if not nvcc:
        print("skipped: no nvcc")
        sys.exit(77)
    wrong = print_kernels(args.files or sorted((ROOT / "backends/cuda").glob("*.cu")), args.arch, args.jobs, nvcc)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

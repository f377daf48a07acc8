"""Python's tokenizers at the work of `helix data pack`, for tests/bench/pack.sh: a file of JSON lines becomes a file of u16 or u32 ids."""
import json
import sys
import time

import numpy as np


def lines(text, out):
    """Eight lines of the text, and their ends, are a document, as in real data of a few hundred bytes."""
    with open(text, encoding="utf-8", errors="replace") as f, open(out, "w") as to:
        batch = []
        for line in f:
            batch.append(line)
            if len(batch) == 8:
                to.write(json.dumps({"text": "".join(batch)}) + "\n")
                batch = []


def pack(path, tokenizer, out):
    from tokenizers import Tokenizer

    began, n_bytes = time.time(), 0
    t = Tokenizer.from_file(tokenizer)
    dtype = np.uint16 if t.get_vocab_size() <= 65536 else np.uint32
    end = t.token_to_id("<|endoftext|>")
    with open(path, "rb") as f, open(out, "wb") as to:
        while batch := f.readlines(1 << 23):
            n_bytes += sum(map(len, batch))
            encodings = t.encode_batch_fast([json.loads(line)["text"] for line in batch], add_special_tokens=False)
            for e in encodings:
                np.array(e.ids + ([end] if end is not None else []), dtype).tofile(to)
    print(f"tokenizers {n_bytes / 1e6 / (time.time() - began):.1f} MB/s")


def compare(ours, peer):
    import h5py

    tokens = h5py.File(ours)["tokens"][:]
    theirs = np.fromfile(peer, tokens.dtype if tokens.dtype != np.uint8 else np.uint16)
    print("the same ids" if np.array_equal(tokens, theirs) else "OTHER IDS")


{"lines": lines, "pack": pack, "compare": compare}[sys.argv[1]](*sys.argv[2:])
